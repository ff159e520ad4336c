//! Compares what a node knows with a model of Redis. Messages arrive late or never, reads are in progress
//! meanwhile, failovers lose changes, and anybody may publish. In the end the node knows the true state, and
//! an observer never receives an older value after a newer one of the same epoch.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;

/// What observers received.
type ReceivedLog = Arc<Mutex<Vec<(u64, Version)>>>;

/// A value and the log of its observer.
#[derive(Default)]
struct TestModel {
    value: Option<u64>,
    received: ReceivedLog,
}

impl HistoryModel for TestModel {
    type Change<'a> = u64;
    type State = u64;

    fn parse(payload: &[u8]) -> Option<u64> {
        std::str::from_utf8(payload).ok()?.parse().ok()
    }

    fn agrees(&self, value: &u64) -> bool {
        self.value == Some(*value)
    }

    fn apply(&mut self, value: u64, version: Version) {
        self.value = Some(value);
        self.received.lock().push((value, version));
    }

    fn replace(&mut self, value: u64, version: Version, notify: bool) {
        let before = self.value.replace(value);
        if notify && before != Some(value) {
            self.received.lock().push((value, version));
        }
    }

    fn digest(&self) -> String {
        self.value.map(|value| value.to_string()).unwrap_or_default()
    }
}

/// Returns an epoch that is the same each time.
fn epoch(number: u64) -> Epoch {
    format!("{number:016x}").parse().unwrap()
}

fn moment(of: u64, number: u64) -> Moment {
    Moment { epoch: epoch(of), number }
}

fn message(of: u64, number: u64, value: u64) -> Vec<u8> {
    format!("{} {number} {value}", epoch(of)).into_bytes()
}

/// Creates a history whose value has been read.
fn known(at: Moment, value: u64) -> (Known<TestModel>, ReceivedLog) {
    let model = TestModel::default();
    let received = Arc::clone(&model.received);
    let mut known = Known::new(model);
    let _ = known.begin();
    assert!(!known.take(at, value));
    assert_eq!(known.end(), Ok(()));
    assert!(received.lock().is_empty(), "the first state is not a change");
    (known, received)
}

fn values(received: &ReceivedLog) -> Vec<u64> {
    received.lock().iter().map(|(value, _)| *value).collect()
}

#[test]
fn the_next_change_is_applied_and_an_old_one_ignored() {
    let (mut known, received) = known(moment(1, 5), 50);
    for (number, value) in [(6, 60), (6, 60), (5, 50), (1, 10), (7, 60), (8, 80)] {
        assert_eq!(known.receive(&message(1, number, value)), Ok(()), "{number}");
    }
    assert_eq!(values(&received), [60, 60, 80], "setting the same value is a change");
    assert!(received.lock().iter().all(|(_, version)| version.epoch.is_none()));
}

#[test]
fn a_message_out_of_sequence_only_triggers_a_read() {
    let (mut known, received) = known(moment(1, 5), 50);
    for doubtful in
        [message(1, 7, 666), message(1, u64::MAX, 666), message(2, 6, 666), message(1, 5, 666), b"?".to_vec()]
    {
        assert_eq!(known.receive(&doubtful), Err(Doubt::Read), "{}", doubtful.escape_ascii());
    }
    for foreign in [
        &b""[..],
        b"18446744073709551615 666",
        b"0000000000000001 6",
        b"0000000000000001 0 666",
        b"0000000000000001 -6 666",
        b"0000000000000001 6 x",
        b"000000000000000G 6 1",
        b"1 6 1",
        b"\xff 6 1",
        b"??",
    ] {
        assert_eq!(known.receive(foreign), Err(Doubt::Foreign), "{}", foreign.escape_ascii());
    }
    assert_eq!(known.receive(&message(1, 6, 60)), Ok(()));
    assert_eq!(values(&received), [60]);
}

#[test]
fn messages_wait_during_a_read_and_are_compared_with_it() {
    let (mut known, received) = known(moment(1, 5), 50);
    let basis = known.begin();
    assert_eq!((basis.at, basis.digest.as_str()), (Some(moment(1, 5)), "50"));
    for (of, number) in [(1, 8), (1, 9), (2, 6), (1, 10)] {
        assert_eq!(known.receive(&message(of, number, number * 10)), Ok(()));
    }
    assert!(values(&received).is_empty());
    assert!(!known.take(moment(1, 8), 80));
    assert_eq!(known.end(), Err(Doubt::Read), "a message of another epoch");
    assert_eq!(values(&received), [80, 90, 100]);
    // A read that fails changes nothing.
    let _ = known.begin();
    assert_eq!(known.receive(&message(1, 11, 110)), Ok(()));
    assert_eq!(known.end(), Ok(()));
    assert_eq!(values(&received), [80, 90, 100, 110]);
}

#[test]
fn a_read_overrides_the_known_state_and_reports_a_new_epoch() {
    let (mut known, received) = known(moment(1, 5), 50);
    let _ = known.begin();
    assert!(known.take(moment(2, 3), 30), "the epoch has changed");
    assert_eq!(known.end(), Ok(()));
    assert_eq!(known.receive(&message(1, 6, 60)), Err(Doubt::Read));
    assert_eq!(known.receive(&message(2, 4, 40)), Ok(()));
    let version = |number| Version { number, epoch: Some(epoch(2)) };
    assert_eq!(*received.lock(), [(30, version(3)), (40, version(4))]);
}

#[test]
fn a_waiting_observer_receives_the_first_state() {
    let model = TestModel::default();
    let received = Arc::clone(&model.received);
    let mut known = Known::new(model);
    assert_eq!(known.receive(&message(1, 7, 70)), Ok(()), "the first read is still pending");
    assert_eq!(known.version_or_await(), None);
    let _ = known.begin();
    assert!(!known.take(moment(1, 7), 70));
    assert_eq!(known.end(), Ok(()));
    let version = Version { number: 7, epoch: Some(epoch(1)) };
    assert_eq!(*received.lock(), [(70, version)]);
    assert_eq!(known.version_or_await(), Some(version));
}

#[test]
fn the_messages_waiting_during_a_read_are_limited() {
    let (mut known, received) = known(moment(1, 5), 50);
    let _ = known.begin();
    let long = vec![b' '; WAITING / 4];
    for _ in 0..4 {
        assert_eq!(known.receive(&long), Ok(()));
    }
    assert!(known.waiting.as_ref().unwrap().messages.is_empty());
    assert_eq!(known.receive(&message(1, 7, 70)), Ok(()));
    assert!(!known.take(moment(1, 6), 60));
    assert_eq!(known.end(), Err(Doubt::Read), "some messages were dropped");
    assert_eq!(values(&received), [60]);
}

// ----- compared with a model of Redis -----

/// The next action of Redis, the network, an attacker or the node.
#[derive(Clone, Debug)]
enum WorldStep {
    /// The value changes.
    Change(u64),
    Receive,
    /// The node reads if it has a reason, and Redis answers.
    Ask,
    Answer,
    Fail,
    /// The subscription is lost, with the messages in transit.
    Lose,
    /// A failover to a replica that lacks that many of the last changes. The subscription is lost, too.
    Rewind(usize),
    /// The key is removed. The subscription is not lost.
    Forget,
    /// Somebody publishes an epoch, a distance from the number, and a value.
    Forge(bool, i8),
}

fn step() -> impl Strategy<Value = WorldStep> {
    prop_oneof![
        8 => (0..5_u64).prop_map(WorldStep::Change),
        8 => Just(WorldStep::Receive),
        4 => Just(WorldStep::Ask),
        4 => Just(WorldStep::Answer),
        1 => Just(WorldStep::Fail),
        1 => Just(WorldStep::Lose),
        1 => (0..4_usize).prop_map(WorldStep::Rewind),
        1 => Just(WorldStep::Forget),
        2 => (any::<bool>(), -2..4_i8).prop_map(|(own, by)| WorldStep::Forge(own, by)),
    ]
}

/// The point and value stored in Redis.
type Stored = Option<(Moment, u64)>;

struct HistoryWorld {
    stored: Stored,
    /// The stored state before each of the last changes.
    past: Vec<Stored>,
    /// The last epoch assigned.
    epochs: u64,
    published: VecDeque<Vec<u8>>,
    answer: Option<(Moment, u64)>,
    is_reading: bool,
    must_read: bool,
    node: Known<TestModel>,
    received: ReceivedLog,
}

impl HistoryWorld {
    fn new() -> Self {
        let (node, received) = known(moment(1, 1), 0);
        Self {
            stored: Some((moment(1, 1), 0)),
            past: vec![],
            epochs: 1,
            published: VecDeque::new(),
            answer: None,
            is_reading: false,
            must_read: false,
            node,
            received,
        }
    }

    fn new_epoch(&mut self) -> Epoch {
        self.epochs += 1;
        epoch(self.epochs)
    }

    fn write(&mut self, at: Moment, value: u64) {
        self.past.push(self.stored);
        self.stored = Some((at, value));
        self.published.push_back(format!("{} {} {value}", at.epoch, at.number).into_bytes());
    }

    /// Mirrors `counter.lua`.
    fn change(&mut self, value: u64) {
        let at = match self.stored {
            Some((Moment { epoch, number }, _)) => Moment { epoch, number: number + 1 },
            None => Moment { epoch: self.new_epoch(), number: 1 },
        };
        self.write(at, value);
    }

    /// Mirrors `look` of `counter.lua`.
    fn look(&mut self, basis: &Basis) -> (Moment, u64) {
        let known = basis.at.unwrap();
        let (is_lost, number, value) = match self.stored {
            None => (true, 0, 0),
            Some((at, value)) => {
                let is_fork = at.number == known.number && value.to_string() != basis.digest;
                (at.epoch == known.epoch && (at.number < known.number || is_fork), at.number, value)
            }
        };
        if is_lost {
            let at = Moment { epoch: self.new_epoch(), number: number.max(known.number) + 1 };
            self.write(at, value);
        }
        self.stored.unwrap()
    }

    fn settle(&mut self, outcome: Result<(), Doubt>) {
        self.must_read |= outcome == Err(Doubt::Read);
    }

    fn receive(&mut self) {
        if let Some(message) = self.published.pop_front() {
            let outcome = self.node.receive(&message);
            self.settle(outcome);
        }
    }

    fn ask(&mut self) {
        if self.must_read && !self.is_reading {
            (self.must_read, self.is_reading) = (false, true);
            let basis = self.node.begin();
            self.answer = Some(self.look(&basis));
        }
    }

    fn answer(&mut self, succeeds: bool) {
        if !std::mem::take(&mut self.is_reading) {
            return;
        }
        let (moment, value) = self.answer.take().unwrap();
        if succeeds {
            self.node.take(moment, value);
        } else {
            self.must_read = true;
        }
        let ended = self.node.end();
        self.settle(ended);
    }

    fn step(&mut self, step: &WorldStep) {
        match *step {
            WorldStep::Change(value) => self.change(value),
            WorldStep::Receive => self.receive(),
            WorldStep::Ask => self.ask(),
            WorldStep::Answer => self.answer(true),
            WorldStep::Fail => self.answer(false),
            WorldStep::Lose => self.lose(),
            WorldStep::Rewind(changes) => {
                for _ in 0..changes {
                    if let Some(before) = self.past.pop() {
                        self.stored = before;
                    }
                }
                self.lose();
            }
            WorldStep::Forget => {
                self.stored = None;
                self.past.clear();
                self.published.push_back(LOST.to_vec());
            }
            WorldStep::Forge(own, by) => {
                let at = self.stored.map_or_else(|| moment(1, 1), |(at, _)| at);
                let of = if own { at.epoch } else { epoch(u64::MAX) };
                let number = at.number.saturating_add_signed(by.into());
                self.published.push_back(format!("{of} {number} 666").into_bytes());
            }
        }
    }

    /// Loses the connection, and with it the answer of a read.
    fn lose(&mut self) {
        self.published.clear();
        self.answer(false);
        self.must_read = true;
    }

    /// Delivers everything and reads as long as the node has a reason. Returns the number of reads.
    fn calm(&mut self) -> usize {
        let mut reads = 0;
        loop {
            self.answer(true);
            while !self.published.is_empty() {
                self.receive();
            }
            if !self.must_read {
                return reads;
            }
            self.ask();
            reads += 1;
            assert!(reads < 10, "the reads never end");
        }
    }
}

proptest! {
    #[test]
    fn a_node_converges_to_the_true_state(steps in prop::collection::vec(step(), 0..150)) {
        let mut world = HistoryWorld::new();
        for step in &steps {
            world.step(step);
        }
        world.calm();
        // A value forged as the next change may last until the next real change, but not longer.
        for value in [7, 8, 9] {
            world.change(value);
        }
        world.calm();
        let (at, value) = world.stored.unwrap();
        prop_assert_eq!((world.node.at, world.node.model.value), (Some(at), Some(value)));
    }

    #[test]
    fn numbers_increase_within_an_epoch_and_a_new_epoch_is_reported(
        steps in prop::collection::vec(step().prop_filter("no forgery", |step| !matches!(step, WorldStep::Forge(..))), 0..150),
    ) {
        let mut world = HistoryWorld::new();
        for step in &steps {
            world.step(step);
        }
        world.calm();
        prop_assert_eq!(world.node.model.value, world.stored.map_or(world.node.model.value, |(_, value)| Some(value)));
        let (mut epoch, mut number) = (None, 1);
        for &(_, version) in world.received.lock().iter() {
            if version.epoch == epoch {
                prop_assert!(version.number > number, "{} after {}", version.number, number);
            } else {
                prop_assert!(version.epoch.is_some(), "once a version carries an epoch, all later ones do");
            }
            (epoch, number) = (version.epoch, version.number);
        }
    }
}
