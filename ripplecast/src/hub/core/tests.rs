//! The core against a naive model: whatever happens in whatever order, each connection gets exactly the frames that it
//! should, in one order, and the core's own books agree with each other.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use proptest::prelude::*;

use super::*;
use crate::limits::SENDS_PER_TURN;
use crate::{
    ConnectionId, Error, Frame, Sent,
    hub::{
        batch::Tag,
        command::{Command, Cursor},
        ledger::Ledger,
        mailbox::Mailbox,
        outbox::PIECE,
        room::{Registry, RoomCore},
        tap::Tap,
    },
};

/// A socket whose peer takes what the test lets it take.
#[derive(Clone, Default)]
struct Peer(Rc<Pipe>);

#[derive(Default)]
struct Pipe {
    /// Bytes that it takes before it is full.
    space: Cell<usize>,
    /// Whether it has failed.
    lost: Cell<bool>,
    /// What it has taken.
    written: RefCell<Vec<u8>>,
    /// How often it was asked to take something.
    writes: Cell<usize>,
}

impl Wire for Peer {
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!bytes.is_empty(), "a write of nothing is a wasted system call");
        self.0.writes.set(self.0.writes.get() + 1);
        if self.0.lost.get() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = bytes.len().min(self.0.space.get());
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.space.set(self.0.space.get() - n);
        self.0.written.borrow_mut().extend_from_slice(&bytes[..n]);
        Ok(n)
    }
}

impl Peer {
    /// How often it was written to since this was asked last.
    fn writes(&self) -> usize {
        self.0.writes.take()
    }

    /// What it has taken since this was asked last.
    fn take(&self) -> Vec<u8> {
        self.0.written.take()
    }
}

/// How a frame looks on the wire, written down a second time and plainly.
fn encoded(dialect: Dialect, text: &str, cursor: Option<Cursor>) -> Vec<u8> {
    match dialect {
        // Nothing is compressed here: the same bytes.
        Dialect::WebSocket | Dialect::Deflate => {
            let mut bytes = vec![0x81];
            match text.len() {
                len @ 0..=125 => bytes.push(len as u8),
                len => bytes.extend_from_slice(&[126, (len >> 8) as u8, len as u8]),
            }
            [&bytes, text.as_bytes()].concat()
        }
        Dialect::Sse => {
            let id = cursor.map_or(String::new(), |c| format!("id: {:x}:{}\n", c.epoch, c.offset));
            format!("{id}data: {text}\n\n").into_bytes()
        }
        Dialect::SseChunked => in_a_chunk(&encoded(Dialect::Sse, text, cursor)),
    }
}

/// A chunk, written down a second time and plainly.
fn in_a_chunk(event: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", event.len()).as_bytes(), event, b"\r\n"].concat()
}

/// Splits what was written into whole frames or events, and what is left.
fn units(dialect: Dialect, mut bytes: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut units = Vec::new();
    loop {
        let len = match dialect {
            Dialect::WebSocket | Dialect::Deflate => match bytes {
                [_, 126, a, b, ..] => Some(4 + (usize::from(*a) << 8 | usize::from(*b))),
                [_, 126, ..] => None,
                [_, len, ..] => Some(2 + usize::from(*len)),
                _ => None,
            },
            Dialect::Sse => bytes.windows(2).position(|pair| pair == b"\n\n").map(|at| at + 2),
            Dialect::SseChunked => bytes.windows(2).position(|pair| pair == b"\r\n").map(|at| {
                let size = std::str::from_utf8(&bytes[..at]).expect("digits");
                at + 4 + usize::from_str_radix(size, 16).expect("the size of a chunk")
            }),
        };
        match len {
            Some(len) if len <= bytes.len() => {
                units.push(bytes[..len].to_vec());
                bytes = &bytes[len..];
            }
            _ => return (units, bytes.to_vec()),
        }
    }
}

/// How far the end of a connection has come, as the shard would have it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
enum Phase {
    Open,
    Closing,
    Detached,
    Released,
}

/// A connection as the naive model has it.
struct Expected {
    who: Local,
    peer: Peer,
    dialect: Dialect,
    profile: Profile,
    phase: Phase,
    /// The rooms that it is in.
    rooms: Vec<usize>,
    /// All frames for it, in order.
    frames: Vec<Vec<u8>>,
    /// What the shard appended.
    control: Vec<Vec<u8>>,
    /// Something ended its stream early, so that it gets only the first of its frames.
    cut: bool,
}

impl Expected {
    fn lossy(&self) -> bool {
        self.profile.overflow == Overflow::DropOldest
    }

    /// What it has received agrees with what it should, so far. How many frames and control units never came.
    fn check(&self, all_must_be_there: bool) -> usize {
        let written = self.peer.0.written.borrow();
        let (units, tail) = units(self.dialect, &written);
        let (mut frames, mut control) = (self.frames.iter(), self.control.iter());
        let mut missing = 0;
        for unit in &units {
            let is_control = self.control.contains(unit);
            let expected = if is_control { &mut control } else { &mut frames };
            if self.lossy() {
                let skipped = expected.position(|other| other == unit);
                missing += skipped.unwrap_or_else(|| panic!("not expected (again): {}", show(unit)));
            } else if is_control && self.cut {
                // A backlog that was dropped may have had control bytes in it.
                assert!(expected.any(|other| other == unit), "out of order: {}", show(unit));
            } else {
                let next = expected.next();
                assert_eq!(next.map(|next| show(next)), Some(show(unit)), "to {:?}", self.who);
            }
        }
        if !tail.is_empty() {
            let begins = |other: &Vec<u8>| other.starts_with(&tail);
            let next = if self.lossy() || self.cut { usize::MAX } else { 1 };
            assert!(
                frames.clone().take(next).any(begins) || control.clone().take(next).any(begins),
                "begun, but not expected: {}",
                show(&tail)
            );
        }
        if all_must_be_there && !self.cut {
            assert_eq!(tail, b"");
            missing += frames.len() + control.len();
            if self.lossy() {
                assert_eq!(frames.len(), 0, "the newest must be kept");
            } else {
                assert_eq!(
                    missing,
                    0,
                    "frames never came: {:?}",
                    frames.map(|f| show(f)).collect::<Vec<_>>()
                );
            }
        }
        missing
    }
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned()
}

/// One thing that may happen. Numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
enum Op {
    Open {
        sse: bool,
        lossy: bool,
        space: usize,
    },
    Join {
        who: usize,
        room: usize,
        snapshot: bool,
    },
    Leave {
        who: usize,
        room: usize,
    },
    Cast {
        room: usize,
        len: usize,
    },
    Push {
        who: usize,
        len: usize,
    },
    /// What its own callback pushed, in one.
    Own {
        who: usize,
        frames: u32,
    },
    Append {
        who: usize,
    },
    CatchUp {
        who: usize,
    },
    Space {
        who: usize,
        bytes: usize,
    },
    Flush {
        who: usize,
    },
    Walk {
        budget: usize,
    },
    Apply {
        commands: usize,
    },
    Faults,
    Lose {
        who: usize,
    },
    Mute {
        who: usize,
    },
    /// Somebody looks into it, or does no more.
    Tap {
        who: usize,
        keep: bool,
    },
    Close {
        who: usize,
    },
    Detach {
        who: usize,
    },
    Release,
}

const ROOMS: usize = 4;
const CONNECTIONS: usize = 7;
const CROWD: usize = 14;
const LIMIT: usize = 400;

/// What happens to connections that stay; each is `lossy` or not.
fn calm(lossy: impl Strategy<Value = bool> + Clone + 'static) -> impl Strategy<Value = Op> + Clone {
    let (who, room) = (0..CONNECTIONS, 0..ROOMS);
    let space = prop_oneof![3 => Just(0), 3 => 1..200_usize, 6 => Just(1 << 40)];
    let len = prop_oneof![9 => 0..20_usize, 1 => 100..300_usize];
    let snapshot = prop::bool::weighted(0.3);
    prop_oneof![
        6 => (any::<bool>(), lossy, space.clone()).prop_map(|(sse, lossy, space)| Op::Open { sse, lossy, space }),
        12 => (who.clone(), room.clone(), snapshot)
            .prop_map(|(who, room, snapshot)| Op::Join { who, room, snapshot }),
        6 => (who.clone(), room.clone()).prop_map(|(who, room)| Op::Leave { who, room }),
        20 => (room, len).prop_map(|(room, len)| Op::Cast { room, len }),
        8 => (who.clone(), 0..20_usize).prop_map(|(who, len)| Op::Push { who, len }),
        4 => (who.clone(), 1..4_u32).prop_map(|(who, frames)| Op::Own { who, frames }),
        2 => who.clone().prop_map(|who| Op::Append { who }),
        2 => who.clone().prop_map(|who| Op::CatchUp { who }),
        6 => (who.clone(), space).prop_map(|(who, bytes)| Op::Space { who, bytes }),
        6 => who.clone().prop_map(|who| Op::Flush { who }),
        3 => (who, any::<bool>()).prop_map(|(who, keep)| Op::Tap { who, keep }),
        14 => (1..6_usize).prop_map(|budget| Op::Walk { budget }),
        24 => (1..6_usize).prop_map(|commands| Op::Apply { commands }),
    ]
}

/// The same, and what ends connections.
fn any_op() -> impl Strategy<Value = Op> {
    let who = 0..CONNECTIONS;
    prop_oneof![
        110 => calm(any::<bool>()),
        3 => Just(Op::Faults),
        1 => who.clone().prop_map(|who| Op::Lose { who }),
        1 => who.clone().prop_map(|who| Op::Mute { who }),
        3 => who.clone().prop_map(|who| Op::Close { who }),
        3 => who.prop_map(|who| Op::Detach { who }),
        4 => Just(Op::Release),
    ]
}

/// Members come and go while the rooms are walked.
fn churn() -> impl Strategy<Value = Op> {
    let (who, room) = (0..CROWD, 0..2_usize);
    let open = (any::<bool>(), any::<bool>());
    prop_oneof![
        4 => open.prop_map(|(sse, lossy)| Op::Open { sse, lossy, space: usize::MAX }),
        6 => (who.clone(), room.clone()).prop_map(|(who, room)| Op::Join { who, room, snapshot: false }),
        6 => (who.clone(), room.clone()).prop_map(|(who, room)| Op::Leave { who, room }),
        4 => room.prop_map(|room| Op::Cast { room, len: 1 }),
        2 => who.clone().prop_map(|who| Op::Push { who, len: 1 }),
        12 => (1..5_usize).prop_map(|budget| Op::Walk { budget }),
        12 => (1..4_usize).prop_map(|commands| Op::Apply { commands }),
        3 => who.prop_map(|who| Op::Detach { who }),
        3 => Just(Op::Release),
    ]
}

/// The core, the way into it, and the naive model beside it.
struct World {
    core: Core<Peer>,
    mailbox: Arc<Mailbox<Peer>>,
    _registry: Arc<Registry<Peer>>,
    rooms: Vec<Arc<RoomCore<Peer>>>,
    /// Messages that each room has had.
    pushed: [u64; ROOMS],
    /// Messages that each room's members here have been cast.
    cast: [u64; ROOMS],
    todo: VecDeque<Command<Peer>>,
    /// Those that look into connections.
    taps: Vec<Tap>,
    /// Faults of the core that have been looked at.
    faults: usize,
    /// All connections that there ever were.
    all: Vec<Expected>,
    /// How many there may be at a time.
    max: usize,
    /// Makes each frame different from all others.
    number: usize,
}

impl World {
    #[expect(
        clippy::arc_with_non_send_sync,
        reason = "the test has one thread; the types are those that ship"
    )]
    fn new() -> Self {
        let mailbox = Arc::new(Mailbox::new());
        let registry = Arc::new(Registry::new([mailbox.clone()].into(), Arc::default()));
        let rooms = (0..ROOMS).map(|n| registry.room(&n.to_string())).collect();
        Self {
            core: Core::new(0, Arc::new(Ledger::new(1 << 30, 1)), false),
            mailbox,
            _registry: registry,
            rooms,
            pushed: [0; ROOMS],
            cast: [0; ROOMS],
            todo: VecDeque::new(),
            taps: Vec::new(),
            faults: 0,
            all: Vec::new(),
            max: CONNECTIONS,
            number: 0,
        }
    }

    fn text(&mut self, len: usize) -> String {
        self.number += 1;
        format!("{}:{}", self.number, "x".repeat(len))
    }

    /// One of the connections that have not gone altogether.
    fn pick(&self, number: usize) -> Option<usize> {
        let there: Vec<_> = (0..self.all.len()).filter(|&i| self.all[i].phase != Phase::Released).collect();
        (!there.is_empty()).then(|| there[number % there.len()])
    }

    /// One that has a socket.
    fn pick_open(&self, number: usize) -> Option<usize> {
        self.pick(number).filter(|&i| self.all[i].phase != Phase::Detached)
    }

    fn find(&mut self, who: Local) -> &mut Expected {
        self.all.iter_mut().find(|e| e.who == who).expect("commands are posted for known connections")
    }

    fn room_number(&self, room: &Arc<RoomCore<Peer>>) -> usize {
        self.rooms.iter().position(|other| Arc::ptr_eq(other, room)).expect("the rooms are kept")
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Open { sse, lossy, space } => {
                if self.all.iter().filter(|e| e.phase != Phase::Released).count() < self.max {
                    let dialect = match (sse, self.all.len() % 3) {
                        (true, 0) => Dialect::Sse,
                        (true, _) => Dialect::SseChunked,
                        (false, 0) => Dialect::Deflate,
                        (false, _) => Dialect::WebSocket,
                    };
                    self.open(
                        dialect,
                        if lossy { Overflow::DropOldest } else { Overflow::Disconnect },
                        space,
                    );
                }
            }
            Op::Join { who, room, snapshot } => {
                let Some(i) = self.pick(who) else { return };
                let frame = snapshot.then(|| Frame::text(self.text(5)));
                let joined = self.rooms[room].join(self.all[i].who, frame);
                let open = self.all[i].phase == Phase::Open;
                assert!(if open { joined.is_ok() } else { matches!(joined, Err(Error::Closed)) });
            }
            Op::Leave { who, room } => {
                let Some(i) = self.pick(who) else { return };
                self.rooms[room].leave(self.all[i].who);
            }
            Op::Cast { room, len } => {
                let text = self.text(len);
                assert_eq!(self.rooms[room].push(&Frame::text(text)), Sent::Queued);
                self.pushed[room] += 1;
            }
            Op::Push { who, len } => {
                let Some(i) = self.pick(who) else { return };
                let frame = Frame::text(self.text(len));
                if self.mailbox.is_live(self.all[i].who) {
                    self.mailbox.post(Command::Push { to: self.all[i].who, frame, of: None });
                }
            }
            Op::Own { who, frames } => {
                let Some(i) = self.pick(who) else { return };
                let texts: Vec<_> = (0..frames).map(|_| self.text(3)).collect();
                let expected = &mut self.all[i];
                let units: Vec<_> = texts.iter().map(|t| encoded(expected.dialect, t, None)).collect();
                let mut own = Joined::default();
                for unit in &units {
                    own.bytes.extend_from_slice(unit);
                    own.end(Tag::default());
                }
                if expected.phase == Phase::Open {
                    expected.frames.extend(units);
                }
                if expected.phase != Phase::Released {
                    self.core.send_encoded(expected.who.slot, &mut own);
                    assert!(own.bytes.is_empty() && own.ends.is_empty());
                }
            }
            Op::Append { who } => {
                let Some(i) = self.pick_open(who) else { return };
                // Control bytes are not dropped for frames, so that with a few of them a small outbox has no space for any.
                if !self.all[i].lossy() {
                    self.append(i);
                }
            }
            Op::CatchUp { who } => {
                let Some(i) = self.pick_open(who) else { return };
                self.core.catch_up(self.all[i].who.slot);
            }
            Op::Space { who, bytes } => {
                let Some(i) = self.pick_open(who) else { return };
                self.all[i].peer.0.space.set(bytes);
            }
            Op::Flush { who } => {
                let Some(i) = self.pick_open(who) else { return };
                self.core.flush(self.all[i].who.slot);
            }
            Op::Walk { budget } => self.core.visit(budget),
            Op::Apply { commands } => self.apply(commands),
            Op::Faults => self.faults(),
            Op::Lose { who } => {
                let Some(i) = self.pick_open(who) else { return };
                self.all[i].peer.0.lost.set(true);
                self.all[i].cut = true;
            }
            Op::Mute { who } => {
                let Some(i) = self.pick_open(who) else { return };
                self.core.mute(self.all[i].who.slot);
            }
            Op::Tap { who, keep } => {
                let Some(i) = self.pick_open(who) else { return };
                let (tap, ear) = Tap::new();
                self.core.tap(self.all[i].who, ear);
                if keep {
                    self.taps.push(tap);
                } else {
                    self.taps.pop();
                }
            }
            Op::Close { who } => {
                let Some(i) = self.pick_open(who) else { return };
                self.close(i);
            }
            Op::Detach { who } => {
                let Some(i) = self.pick_open(who) else { return };
                self.detach(i);
            }
            Op::Release => {
                let Some(expected) = self.all.iter_mut().find(|e| e.phase == Phase::Detached) else { return };
                expected.phase = Phase::Released;
                self.core.release(expected.who);
            }
        }
    }

    fn open(&mut self, dialect: Dialect, overflow: Overflow, space: usize) {
        let who = self.core.reserve(usize::MAX).expect("there are slots");
        let profile = Profile { outbox: LIMIT, overflow, compress_above: usize::MAX };
        let peer = Peer::default();
        peer.0.space.set(space);
        assert!(self.all.iter().all(|e| e.who != who), "an id was used twice");
        self.core.open(who, peer.clone(), dialect, profile);
        self.mailbox.lock().state.open(who);
        self.all.push(Expected {
            who,
            peer,
            dialect,
            profile,
            phase: Phase::Open,
            rooms: Vec::new(),
            frames: Vec::new(),
            control: Vec::new(),
            cut: false,
        });
    }

    fn append(&mut self, i: usize) {
        let number = self.text(0);
        let expected = &mut self.all[i];
        let bytes = match expected.dialect {
            Dialect::WebSocket | Dialect::Deflate => {
                [&[0x8a, number.len() as u8], number.as_bytes()].concat()
            }
            Dialect::Sse => format!(":{number}\n\n").into_bytes(),
            Dialect::SseChunked => in_a_chunk(format!(":{number}\n\n").as_bytes()),
        };
        self.core.append(expected.who.slot, &bytes);
        expected.control.push(bytes);
    }

    /// As the shard begins to close.
    fn close(&mut self, i: usize) {
        if self.all[i].phase != Phase::Open {
            return;
        }
        let who = self.all[i].who;
        self.core.catch_up(who.slot);
        self.all[i].cut |= self.core.is_mute(who.slot);
        self.mailbox.lock().state.close(who);
        self.core.leave_all(who);
        self.append(i);
        self.core.mute(who.slot);
        self.all[i].rooms.clear();
        self.all[i].phase = Phase::Closing;
    }

    /// As the shard drops a socket.
    fn detach(&mut self, i: usize) {
        let who = self.all[i].who;
        self.mailbox.lock().state.close(who);
        assert!(self.core.detach(who).is_some());
        self.all[i].rooms.clear();
        self.all[i].phase = Phase::Detached;
        self.all[i].cut = true;
    }

    /// As the shard closes those that have a fault.
    fn faults(&mut self) {
        while let Some((who, fault)) = self.core.next_fault() {
            self.faults = self.faults.min(self.core.faults.len());
            if !self.core.is_open(who) {
                continue;
            }
            let i = self.all.iter().position(|e| e.who == who).expect("a fault of a known connection");
            let expected = &self.all[i];
            match fault {
                Fault::Lost => {
                    assert!(expected.peer.0.lost.get());
                    self.detach(i);
                }
                Fault::SlowConsumer => {
                    if expected.phase == Phase::Open {
                        self.core.discard_backlog(who.slot, Dropped::SlowConsumer);
                        self.close(i);
                    }
                }
                Fault::Shed | Fault::Cut | Fault::Unfinished => unreachable!("the test sheds nothing"),
            }
        }
    }

    /// Applies commands, here and in the model.
    fn apply(&mut self, commands: usize) {
        self.mailbox.drain_into(&mut self.todo);
        for _ in 0..commands {
            let Some(command) = self.todo.pop_front() else { return };
            self.mailbox.taken_up();
            match command {
                Command::Push { to, frame, of } => {
                    let cursor = of.and_then(|of| of.cursor);
                    let expected = self.find(to);
                    if expected.phase == Phase::Open {
                        let text = frame.as_text().unwrap();
                        expected.frames.push(encoded(expected.dialect, text, cursor));
                    }
                    self.core.push(to, &frame, of);
                }
                Command::Cast { room, frame, offset } => {
                    let number = self.room_number(&room);
                    assert!(offset > self.cast[number] && offset <= self.pushed[number]);
                    self.cast[number] = offset;
                    let cursor = Some(room.cursor(offset));
                    for expected in self.all.iter_mut().filter(|e| e.rooms.contains(&number)) {
                        let text = frame.as_text().unwrap();
                        expected.frames.push(encoded(expected.dialect, text, cursor));
                    }
                    self.core.cast(&room, &frame, offset);
                }
                Command::Join { who, room } => {
                    let number = self.room_number(&room);
                    if self.core.is_open(who) && !self.core.is_mute(who.slot) {
                        let expected = self.find(who);
                        assert!(!expected.rooms.contains(&number), "joined twice");
                        expected.rooms.push(number);
                    }
                    self.core.join(who, &room);
                }
                Command::Leave { who, room } => {
                    let number = self.room_number(&room);
                    self.find(who).rooms.retain(|&other| other != number);
                    self.core.leave(who, &room);
                }
                Command::End { .. }
                | Command::Adopt(_)
                | Command::Tap { .. }
                | Command::Close { .. }
                | Command::Done { .. }
                | Command::Shed
                | Command::Shutdown => {
                    unreachable!("the test posts none")
                }
            }
        }
    }

    /// Nobody is called a slow consumer for nothing.
    fn check_new_faults(&mut self) {
        for (who, fault) in &self.core.faults[self.faults..] {
            let expected = self.all.iter().find(|e| e.who == *who).expect("a fault of a known connection");
            if *fault == Fault::SlowConsumer {
                let all: usize = expected.frames.iter().chain(&expected.control).map(Vec::len).sum();
                let waiting = all - expected.peer.0.written.borrow().len();
                // Each piece that waits costs some bytes of its own, whatever is in it.
                let cost = waiting + PIECE * (expected.frames.len() + expected.control.len());
                assert!(cost > LIMIT && !expected.lossy(), "closed as slow, with {waiting} bytes waiting");
            }
        }
        self.faults = self.core.faults.len();
    }

    /// What must be true at any moment.
    fn check(&mut self) {
        self.check_new_faults();
        check_books(&self.core);
        for expected in &mut self.all {
            let open = matches!(expected.phase, Phase::Open | Phase::Closing);
            assert_eq!(self.core.is_open(expected.who), open);
            if expected.phase == Phase::Open {
                expected.cut |= self.core.is_mute(expected.who.slot);
            }
            expected.check(false);
        }
        if self.todo.is_empty() && self.mailbox.is_quiet() {
            for (number, room) in self.rooms.iter().enumerate() {
                let mut counted: Vec<_> = room.members().into_iter().map(Local::pack).collect();
                let members = self.all.iter().filter(|e| e.rooms.contains(&number));
                let mut expected: Vec<_> = members.map(|e| e.who.pack()).collect();
                counted.sort_unstable();
                expected.sort_unstable();
                assert_eq!(counted, expected);
            }
        }
    }

    /// Lets everything out, and looks whether it all came. Frames and control units that never came.
    fn finish(&mut self) -> usize {
        while !self.todo.is_empty() || !self.mailbox.is_quiet() {
            self.apply(usize::MAX);
        }
        self.check();
        let mut turns = 0;
        while self.core.is_dirty() {
            self.core.visit(3);
            self.check();
            turns += 1;
            assert!(turns < 1000, "it never ends");
        }
        assert_eq!(self.core.waiting(), 0);
        for expected in &mut self.all {
            if matches!(expected.phase, Phase::Open | Phase::Closing) {
                expected.peer.0.space.set(usize::MAX);
                self.core.flush(expected.who.slot);
                assert_eq!(self.core.backlog(expected.who.slot), 0);
            }
        }
        self.check();
        self.all.iter().map(|expected| expected.check(true)).sum()
    }
}

/// The core's books agree with each other.
fn check_books<W: Wire>(core: &Core<W>) {
    let mut waiting = 0;
    let mut free_rooms = core.free_rooms.clone();
    let mut dirty: Vec<_> = core.dirty.iter().copied().collect();
    for list in [&mut free_rooms, &mut dirty] {
        list.sort_unstable();
        let len = list.len();
        list.dedup();
        assert_eq!(list.len(), len, "a room is listed twice");
    }
    for (place, room) in core.rooms.iter().enumerate() {
        let place = place as u32;
        waiting += room.pending.bytes() + room.walk.as_ref().map_or(0, |walk| walk.batch.bytes());
        assert_eq!(room.queued, dirty.contains(&place));
        assert_eq!(room.shared.is_none(), free_rooms.contains(&place));
        let Some(shared) = &room.shared else {
            assert!(
                room.members.is_empty() && !room.queued && room.pending.is_empty() && room.walk.is_none()
            );
            continue;
        };
        assert!(!room.members.is_empty() || room.queued, "a room is kept for nothing");
        assert!(room.queued || (room.pending.is_empty() && room.walk.is_none()));
        assert_eq!(shared.place(usize::from(core.shard)), Some(place));
        for dialect in Dialect::ALL {
            let speakers = room.members.iter().filter(|&&slot| core.dialect(slot) == dialect).count();
            assert_eq!(room.speakers[dialect as usize] as usize, speakers);
        }
        if let Some(walk) = &room.walk {
            assert!(walk.next <= walk.end && walk.end <= room.members.len());
        }
        for (index, &slot) in room.members.iter().enumerate() {
            let mut of_room = core.slots[slot as usize].memberships().filter(|m| m.room == place);
            assert_eq!(of_room.next().map(|m| m.index as usize), Some(index));
            assert!(of_room.next().is_none());
        }
    }
    assert_eq!(core.waiting, waiting);
    for (number, slot) in core.slots.iter().enumerate() {
        let tapped = core.taps.iter().any(|(who, _)| {
            *who == Local { shard: core.shard, slot: number as u32, generation: slot.generation }
        });
        assert_eq!(slot.flags.has(Flags::TAPPED), tapped);
    }
    for (number, slot) in core.slots.iter().enumerate() {
        let number = number as u32;
        let mut count = 0;
        for membership in slot.memberships() {
            count += 1;
            let room = &core.rooms[membership.room as usize];
            assert_eq!(room.members.get(membership.index as usize), Some(&number));
            assert!(membership.seen <= core.stamp);
            if !slot.flags.has(Flags::AHEAD | Flags::MUTE) {
                check_fast_path(core, number, membership);
            }
        }
        assert_eq!(slot.flags.has(Flags::SEVERAL), count > 1);
        assert!(slot.more_rooms.as_ref().is_none_or(|more| !more.0.is_empty()), "memory is kept for nothing");
        assert!(
            slot.outbox.as_ref().is_none_or(|outbox| outbox.bytes() > 0),
            "an outbox is kept for nothing"
        );
        if slot.wire.is_none() {
            assert!(count == 0 && slot.outbox.is_none());
        }
        assert!(!core.free.contains(&number) || slot.wire.is_none());
    }
}

/// Who is not ahead is to get every frame that waits for it, since a walk gives it all without a look at the stamps.
fn check_fast_path<W: Wire>(core: &Core<W>, slot: u32, membership: &Membership) {
    let room = &core.rooms[membership.room as usize];
    let walk = room.walk.as_ref();
    let to_visit = walk.filter(|walk| (walk.next..walk.end).contains(&(membership.index as usize)));
    for batch in [Some(&room.pending), to_visit.map(|walk| &walk.batch)].into_iter().flatten() {
        let mut parts = Vec::new();
        batch.since(membership.seen, core.dialect(slot), room.source(), &mut parts);
        assert_eq!(parts.len(), batch.ends(core.dialect(slot), room.source()).count());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_connection_gets_its_frames_in_order(ops in prop::collection::vec(any_op(), 1..120)) {
        let mut world = World::new();
        for op in ops {
            world.run(op);
            world.check();
        }
        world.finish();
    }

    /// Without anything that ends a connection, so that each has to get everything.
    #[test]
    fn who_reads_gets_everything(ops in prop::collection::vec(calm(Just(false)), 1..120)) {
        let mut world = World::new();
        for op in ops {
            world.run(match op {
                Op::Open { sse, lossy, .. } => Op::Open { sse, lossy, space: usize::MAX },
                Op::Space { who, .. } => Op::CatchUp { who },
                op => op,
            });
            world.check();
        }
        world.finish();
        assert!(world.all.iter().all(|expected| !expected.cut));
        assert_eq!(world.core.counts.drops.total(), 0);
    }

    #[test]
    fn members_come_and_go_during_a_walk(ops in prop::collection::vec(churn(), 1..120)) {
        let mut world = crowd(8, 2);
        world.max = CROWD;
        world.run(Op::Cast { room: 0, len: 1 });
        for op in ops {
            world.run(op);
            world.check();
        }
        world.finish();
        assert!(world.all.iter().all(|expected| !expected.cut || expected.phase >= Phase::Detached));
    }

    #[test]
    fn what_is_dropped_by_policy_is_counted(ops in prop::collection::vec(calm(Just(true)), 1..120)) {
        let mut world = World::new();
        for op in ops {
            world.run(op);
            world.check();
        }
        let missing = world.finish();
        assert_eq!(world.core.counts.drops.total(), missing as u64);
    }
}

// ----- what a walk costs -----

/// A core with `sockets` WebSockets and `streams` event streams, all in the first room.
fn crowd(sockets: usize, streams: usize) -> World {
    let mut world = World::new();
    for n in 0..sockets + streams {
        let dialect = if n < sockets { Dialect::WebSocket } else { Dialect::Sse };
        world.open(dialect, Overflow::Disconnect, usize::MAX);
        world.rooms[0].join(world.all[n].who, None).unwrap();
    }
    world.apply(usize::MAX);
    world
}

impl World {
    /// Walks until nothing waits; the number of turns.
    fn walk_out(&mut self) -> usize {
        let mut turns = 0;
        while self.core.is_dirty() {
            self.core.walk();
            self.check();
            turns += 1;
        }
        turns
    }

    fn casts(&mut self, room: usize, count: usize) {
        for _ in 0..count {
            self.run(Op::Cast { room, len: 10 });
        }
        self.apply(usize::MAX);
    }

    /// How often each connection was written to since this was asked last.
    fn writes(&self) -> Vec<usize> {
        self.all.iter().map(|expected| expected.peer.writes()).collect()
    }

    fn ahead(&self) -> usize {
        self.core.slots.iter().filter(|slot| slot.flags.has(Flags::AHEAD)).count()
    }
}

#[test]
fn a_burst_is_one_write_a_member_and_is_encoded_once_for_each_transport() {
    let mut world = crowd(90, 20);
    world.casts(0, 16);
    assert_eq!(world.writes(), [0; 110]);
    let turns = world.walk_out();
    assert_eq!(world.writes(), [1; 110]);
    assert_eq!(turns, 110_usize.div_ceil(SENDS_PER_TURN));
    assert_eq!(world.core.counts.encoded_frames, 2 * 16);
    world.finish();
}

#[test]
fn a_transport_without_members_is_not_encoded_for() {
    let mut world = crowd(3, 0);
    world.casts(0, 5);
    world.walk_out();
    assert_eq!(world.core.counts.encoded_frames, 5);
}

#[test]
fn a_burst_in_each_of_two_rooms_is_one_write_a_member_of_both() {
    let mut world = crowd(40, 0);
    for who in 0..40 {
        world.run(Op::Join { who, room: 1, snapshot: false });
    }
    world.apply(usize::MAX);
    for _ in 0..8 {
        world.casts(0, 1);
        world.casts(1, 1);
    }
    world.walk_out();
    assert_eq!(world.writes(), [1; 40]);
    assert_eq!(world.ahead(), 0);
    world.finish();
}

#[test]
fn the_turn_of_a_large_room_does_not_keep_a_small_one_waiting() {
    let mut world = crowd(100, 0);
    world.open(Dialect::WebSocket, Overflow::Disconnect, usize::MAX);
    world.run(Op::Join { who: 100, room: 1, snapshot: false });
    world.apply(usize::MAX);
    world.casts(0, 1);
    world.casts(1, 1);
    world.core.walk();
    world.core.walk();
    assert_eq!(world.all[100].peer.writes(), 1);
}

/// Whatever is done with the rooms of a connection takes work in proportion to their number, and what is done with one of
/// them, or beside them, takes the same however many there are.
#[test]
fn the_work_for_a_connection_in_many_rooms_is_linear() {
    const MANY: usize = 40_000;
    let World { mut core, _registry: registry, .. } = World::new();
    let open = |core: &mut Core<Peer>| {
        let peer = Peer::default();
        peer.0.space.set(usize::MAX);
        let who = core.reserve(2).unwrap();
        let profile = Profile { outbox: LIMIT, overflow: Overflow::Disconnect, compress_above: usize::MAX };
        core.open(who, peer.clone(), Dialect::WebSocket, profile);
        (who, peer)
    };
    let ((many, peer), (other, _)) = (open(&mut core), open(&mut core));
    let rooms: Vec<_> = (0..MANY).map(|n| registry.room(&n.to_string())).collect();
    let (last, frame) = (registry.room("last"), Frame::text("x"));
    let steps = |per_room: u64, what: &str| {
        let steps = work::take();
        assert!(steps <= per_room * MANY as u64, "{what}: {steps} steps for {MANY} rooms");
    };
    work::take();
    for room in &rooms {
        core.join(many, room);
        core.join(many, room); // a second time changes nothing
    }
    steps(2, "joining");
    assert_eq!(core.slots[many.slot as usize].room_count(), MANY);

    // A room of somebody else's waits; then one of its own.
    core.join(other, &last);
    core.cast(&last, &frame, 1);
    for _ in 0..MANY {
        core.push(many, &frame, None);
    }
    core.cast(&rooms[MANY - 1], &frame, 1);
    for _ in 0..MANY {
        core.push(many, &frame, None);
    }
    steps(4, "pushing");

    rooms.iter().for_each(|room| core.cast(room, &frame, 2));
    while core.is_dirty() {
        core.walk();
    }
    steps(5, "delivering");
    assert_eq!(peer.take(), b"\x81\x01x".repeat(3 * MANY + 1));

    // Whoever leaves makes the other one move in the room's members.
    rooms.iter().for_each(|room| core.join(other, room));
    rooms.iter().rev().for_each(|room| core.leave(many, room));
    steps(3, "leaving");
    assert!(core.slots[many.slot as usize].more_rooms.is_none(), "memory is kept for nothing");
    core.leave_all(other);
    steps(1, "leaving at the end");
    assert!(core.slots[other.slot as usize].more_rooms.is_none() && core.free_rooms.len() == MANY + 1);
}

#[test]
fn who_was_ahead_once_is_walked_like_everybody_again() {
    let mut world = crowd(3, 1);
    world.casts(0, 2);
    world.run(Op::Push { who: 1, len: 1 });
    world.apply(usize::MAX);
    assert_eq!(world.ahead(), 1);
    world.casts(0, 1);
    world.walk_out();
    assert_eq!(world.ahead(), 0);
    assert_eq!(world.writes(), [1, 2, 1, 1]);
    world.casts(0, 2);
    world.walk_out();
    assert_eq!(world.writes(), [1; 4]);
    world.finish();
}

#[test]
fn who_was_ahead_once_is_walked_like_everybody_again_also_when_messages_never_cease() {
    let mut world = crowd(100, 0);
    world.casts(0, 1);
    world.core.walk();
    world.run(Op::Push { who: 99, len: 1 });
    world.casts(0, 1);
    assert_eq!(world.ahead(), 1);
    for _ in 0..20 {
        // More is always pending when a walk comes to a member.
        world.core.walk();
        world.casts(0, 1);
    }
    assert_eq!(world.ahead(), 0);
    world.finish();
}

#[test]
fn who_joins_while_a_room_waits_is_walked_like_everybody_afterwards() {
    let mut world = crowd(3, 0);
    world.casts(0, 1);
    world.open(Dialect::Sse, Overflow::Disconnect, usize::MAX);
    world.run(Op::Join { who: 3, room: 0, snapshot: false });
    world.casts(0, 1);
    world.walk_out();
    assert_eq!(world.writes(), [1; 4]);
    assert_eq!(world.ahead(), 0);
    world.finish();
}

#[test]
fn a_full_socket_is_left_alone_until_it_takes_more() {
    let mut world = crowd(2, 0);
    world.all[0].peer.0.space.set(0);
    for _ in 0..4 {
        world.casts(0, 1);
        world.walk_out();
    }
    assert_eq!(world.writes(), [1, 4]);
    world.finish();
}

// ----- too much waits -----

#[test]
fn no_more_are_cut_than_have_to_be_though_each_holds_only_a_half_written_frame() {
    let ledger = Arc::new(Ledger::new(4000, 1));
    let mut core = Core::new(0, ledger.clone(), false);
    let profile = Profile { outbox: LIMIT, overflow: Overflow::Disconnect, compress_above: usize::MAX };
    for _ in 0..8 {
        let who = core.reserve(8).unwrap();
        let peer = Peer::default();
        peer.0.space.set(10);
        core.open(who, peer, Dialect::WebSocket, profile);
        core.push(who, &Frame::text("x".repeat(1000)), None);
    }
    assert!(ledger.is_over());
    assert_eq!(core.shed_if_over(), None);
    assert!(ledger.is_eased());
    let cut = core.faults.iter().filter(|(_, fault)| *fault == Fault::Cut).count();
    assert_eq!((core.faults.len(), cut), (5, 5), "three frames of some 1,100 bytes fit");
    assert_eq!(core.counts.drops.shed, 5);
}

// ----- the end of a connection -----

#[test]
fn a_join_that_arrives_while_the_connection_closes_is_forgotten() {
    let mut world = crowd(1, 0);
    world.run(Op::Join { who: 0, room: 1, snapshot: false });
    world.run(Op::Close { who: 0 });
    world.apply(usize::MAX);
    assert_eq!(world.rooms[1].len(), 0);
    world.check();
}

#[test]
fn a_slot_whose_generations_are_used_up_is_retired() {
    let mut world = World::new();
    let first = world.core.reserve(2).unwrap();
    world.core.slots[first.slot as usize].generation = u32::MAX - 1;
    world.core.slots[first.slot as usize].wire = None;
    let last_but_one = Local { generation: u32::MAX - 1, ..first };
    world.core.release(last_but_one);
    let last = world.core.reserve(2).unwrap();
    assert_eq!(last, Local { generation: u32::MAX, ..first });
    let profile = Profile { outbox: LIMIT, overflow: Overflow::Disconnect, compress_above: usize::MAX };
    world.core.open(last, Peer::default(), Dialect::WebSocket, profile);
    assert!(world.core.detach(last).is_some());
    world.core.release(last);
    let next = world.core.reserve(2).unwrap();
    assert_ne!(next.slot, first.slot);
    assert!(world.core.reserve(2).is_none(), "a retired slot still counts as one");
}

#[test]
fn what_the_scratch_buffer_held_is_not_kept_for_ever() {
    let mut world = crowd(1, 0);
    world.all[0].peer.take();
    let mut large = Joined { bytes: vec![0; crate::limits::READ_BUFFER + 1], ends: Vec::new() };
    large.end(Tag::default());
    world.core.send_encoded(0, &mut large);
    assert!(world.core.scratch.bytes.capacity() <= crate::limits::READ_BUFFER);
    assert_eq!(world.all[0].peer.take().len(), crate::limits::READ_BUFFER + 1);
}

// ----- ids -----

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_id_reads_back(node: u64, shard: u8, slot in 0..crate::limits::SLOTS as u32, generation: u32) {
        let local = Local { shard, slot, generation };
        prop_assert_eq!(Local::unpack(local.pack()), local);
        let id = ConnectionId::new(node, local);
        prop_assert_eq!(id.to_string().parse::<ConnectionId>().unwrap(), id);
        prop_assert_eq!(id.on(node), Some(local));
        prop_assert_eq!(id.on(node.wrapping_add(1)), None);
    }

    #[test]
    fn different_connections_have_different_ids(a: (u8, u32, u32), b: (u8, u32, u32)) {
        let local = |(shard, slot, generation)| Local { shard, slot: slot & 0xff_ffff, generation };
        prop_assert_eq!(local(a) == local(b), local(a).pack() == local(b).pack());
    }

    #[test]
    fn a_text_is_an_id_only_if_it_prints_as_it_reads(text in "[0-9a-fF+ ]{15,17}-[0-9a-fF+]{15,17}") {
        if let Ok(id) = text.parse::<ConnectionId>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }
}

#[test]
fn the_largest_of_each_part_of_an_id_fits() {
    let slot = (crate::limits::SLOTS - 1) as u32;
    let largest = Local { shard: u8::MAX, slot, generation: u32::MAX };
    assert_eq!(largest.pack(), u64::MAX);
    assert_eq!(Local::unpack(u64::MAX), largest);
}
