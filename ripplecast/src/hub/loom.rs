//! Models of the concurrent core: what threads may do to each other, in every order (up to three preemptions of each run).
//!
//! They run the types that ship; only the shard's turn is written down here once more, without sockets and callbacks. Run
//! them with `cargo xtask test --only models`.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
};

use ::loom::{model::Builder, sync::Notify, thread};
use bytes::Bytes;

use super::{
    Socket,
    batch::Dialect,
    clients::Clients,
    command::Command,
    connection::{Connection, Local, Sent},
    core::{Core, Fault, Profile, Wire},
    ledger::Ledger,
    mailbox::{Alarm, Mailbox, NO_SECOND_LOOK},
    outbox::Overflow,
    room::{Registry, RoomCore},
    shards::{Counters, ShardHandle},
};
use crate::{CloseCode, Error, Frame, limits::MAILBOX_BYTES};

/// Tries every interleaving.
fn explore(name: &str, model: impl Fn() + Send + Sync + 'static) {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let mut builder = Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let runs = runs.load(Ordering::Relaxed);
    println!("{name}: {runs} interleavings");
    assert!(runs > 1, "nothing races in this model");
}

/// A socket that takes everything, or nothing while it is stuck.
#[derive(Clone, Default)]
struct Pipe {
    taken: Arc<std::sync::Mutex<Vec<u8>>>,
    stuck: Arc<std::sync::atomic::AtomicBool>,
}

impl Wire for Pipe {
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.stuck.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.taken.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
}

impl Pipe {
    /// The payloads that it has taken, which are all short.
    fn received(&self) -> Vec<String> {
        let written = self.taken.lock().unwrap();
        let (mut received, mut rest) = (Vec::new(), &written[..]);
        while let [_, len, frame @ ..] = rest {
            let (payload, behind) = frame.split_at(usize::from(*len));
            received.push(String::from_utf8_lossy(payload).into_owned());
            rest = behind;
        }
        received
    }
}

/// Wakes a shard, as a task or as a thread.
#[derive(Default)]
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

impl Alarm for Bell {
    fn ring(&self) {
        self.0.notify();
    }
}

/// A shard without sockets and callbacks.
struct Shard {
    core: Core<Pipe>,
    mailbox: Arc<Mailbox<Pipe>>,
    todo: VecDeque<Command<Pipe>>,
    /// The number of the latest message of the room; a model has one room.
    offset: u64,
    stopping: bool,
    /// The shard that is to be told to shed.
    pass_on: Option<usize>,
}

impl Shard {
    fn new(index: usize, mailboxes: &[Arc<Mailbox<Pipe>>]) -> Self {
        Self::with_ledger(index, mailboxes, Arc::new(Ledger::new(1 << 20, mailboxes.len())))
    }

    fn with_ledger(index: usize, mailboxes: &[Arc<Mailbox<Pipe>>], ledger: Arc<Ledger>) -> Self {
        let mailbox = mailboxes[index].clone();
        Self {
            core: Core::new(index as u8, ledger, false),
            mailbox,
            todo: VecDeque::new(),
            offset: 0,
            stopping: false,
            pass_on: None,
        }
    }

    /// As the shard adopts a socket.
    fn open(&mut self) -> (Local, Pipe) {
        self.open_under(Overflow::Disconnect)
    }

    fn open_under(&mut self, overflow: Overflow) -> (Local, Pipe) {
        let who = self.core.reserve(8).unwrap();
        let pipe = Pipe::default();
        self.core.open(
            who,
            pipe.clone(),
            Dialect::WebSocket,
            Profile { outbox: 1 << 20, overflow, compress_above: usize::MAX },
        );
        self.mailbox.lock().state.open(who);
        (who, pipe)
    }

    /// As the shard begins to close: nobody reaches the connection any more, but its socket is still there.
    fn begin_close(&mut self, who: Local) {
        self.core.catch_up(who.slot);
        self.no_longer_live(who);
        self.core.append(who.slot, b"\x88\x03bye");
        self.core.mute(who.slot);
    }

    /// As the shard takes a connection out of everything, also out of rooms that count it already while its join waits.
    fn no_longer_live(&mut self, who: Local) {
        let mut mailbox = self.mailbox.lock();
        mailbox.state.close(who);
        let mut joining = Vec::new();
        if self.mailbox.has_joins() {
            joining.extend(
                self.todo.iter().chain(mailbox.state.commands()).filter_map(|command| command.joins(who)),
            );
        }
        drop(mailbox);
        for room in joining {
            room.forget(who);
        }
        self.core.leave_all(who);
    }

    /// As the shard drops the socket.
    fn finish(&mut self, who: Local) {
        self.no_longer_live(who);
        drop(self.core.detach(who));
        self.core.release(who);
    }

    /// As `hub::shard` takes a turn.
    fn turn(&mut self) {
        self.mailbox.drain_into(&mut self.todo);
        while let Some(command) = self.todo.pop_front() {
            self.mailbox.taken_up();
            if matches!(command, Command::Join { .. }) {
                self.mailbox.join_taken_up();
            }
            match command {
                Command::Push { to, frame, of } => self.core.push(to, &frame, of),
                Command::Cast { room, frame, offset } => {
                    assert!(offset > self.offset, "the room's numbers are not in its order");
                    self.offset = offset;
                    self.core.cast(&room, &frame, offset);
                }
                Command::Join { who, room } => self.core.join(who, &room),
                Command::Leave { who, room } => self.core.leave(who, &room),
                Command::Close { who, .. } => self.begin_close(who),
                Command::Shed => self.pass_on = self.core.shed().or(self.pass_on),
                Command::Shutdown => self.stopping = true,
                Command::End { .. } | Command::Adopt(_) | Command::Tap { .. } | Command::Done { .. } => {
                    unreachable!("no model posts one")
                }
            }
        }
        while self.core.is_dirty() {
            self.core.walk();
        }
        self.pass_on = self.core.shed_if_over().or(self.pass_on);
        while let Some((who, fault)) = self.core.next_fault() {
            assert_eq!(fault, Fault::Shed);
            self.finish(who);
        }
    }

    /// A turn, and the word to the shard that has a slower connection.
    fn turn_and_tell(&mut self, mailboxes: &[Arc<Mailbox<Pipe>>]) {
        self.turn();
        if let Some(shard) = self.pass_on.take() {
            mailboxes[shard].post(Command::Shed);
        }
    }

    /// As `hub::driver` drives a task: every turn until it is told to stop, and asleep whenever there is nothing to do.
    fn run_as_task(mut self) -> Self {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        loop {
            self.turn();
            if self.stopping {
                return self;
            }
            while self.mailbox.poll_ready(&mut Context::from_waker(&waker)).is_pending() {
                bell.0.wait();
            }
            self.mailbox.awake();
        }
    }

    /// As `hub::driver` drives a thread.
    fn run_as_thread(mut self) -> Self {
        let bell = Arc::new(Bell::default());
        let alarm: Arc<dyn Alarm> = bell.clone();
        while !self.stopping {
            let asleep = self.mailbox.try_sleep(&alarm);
            if asleep {
                bell.0.wait();
            }
            self.turn();
            if asleep {
                self.mailbox.awake();
            }
        }
        self
    }
}

fn mailboxes(shards: usize) -> Arc<[Arc<Mailbox<Pipe>>]> {
    (0..shards).map(|_| Arc::new(Mailbox::new())).collect()
}

/// One shard, and rooms.
fn one_shard() -> (Shard, Arc<Registry<Pipe>>) {
    let mailboxes = mailboxes(1);
    (Shard::new(0, &mailboxes), Arc::new(Registry::new(mailboxes, Arc::default())))
}

fn push(mailbox: &Mailbox<Pipe>, to: Local, text: &'static str) {
    mailbox.post(Command::Push { to, frame: text.into(), of: None });
}

// ----- no command is left unseen -----

fn wakeups(name: &str, run: fn(Shard) -> Shard) {
    explore(name, move || {
        let (mut shard, _registry) = one_shard();
        let (who, pipe) = shard.open();
        let mailbox = shard.mailbox.clone();
        let shard = thread::spawn(move || run(shard));
        let other = mailbox.clone();
        let poster = thread::spawn(move || push(&other, who, "a"));
        push(&mailbox, who, "b");
        poster.join().unwrap();
        mailbox.post(Command::Shutdown);
        // A shard that sleeps on would be found as a deadlock here.
        let shard = shard.join().unwrap();
        assert!(shard.mailbox.is_quiet());
        let mut received = pipe.received();
        received.sort();
        assert_eq!(received, ["a", "b"]);
    });
}

#[test]
fn wakeups_of_a_task() {
    wakeups("wakeups_of_a_task", Shard::run_as_task);
}

#[test]
fn wakeups_of_a_thread() {
    wakeups("wakeups_of_a_thread", Shard::run_as_thread);
}

/// Proves that the look is needed, and that these models would notice a lost wake-up.
#[test]
#[should_panic(expected = "deadlock")]
fn wakeups_of_a_task_need_the_second_look() {
    NO_SECOND_LOOK.set(true);
    wakeups("wakeups_of_a_task_need_the_second_look", Shard::run_as_task);
}

#[test]
#[should_panic(expected = "deadlock")]
fn wakeups_of_a_thread_need_the_second_look() {
    NO_SECOND_LOOK.set(true);
    wakeups("wakeups_of_a_thread_need_the_second_look", Shard::run_as_thread);
}

/// A handler's own push goes straight to the socket when the mailbox is quiet. Then everything that was posted before,
/// by whatever the handler has heard from, must have been taken up.
#[test]
fn quiet_means_taken_up() {
    explore("quiet_means_taken_up", || {
        let (mut shard, _registry) = one_shard();
        let (who, _pipe) = shard.open();
        let mailbox = shard.mailbox.clone();
        let taken = Arc::new(::loom::sync::atomic::AtomicUsize::new(0));
        let posters = ["a", "b"].map(|text| {
            let (mailbox, taken) = (mailbox.clone(), taken.clone());
            thread::spawn(move || {
                push(&mailbox, who, text);
                if mailbox.is_quiet() {
                    // Its own was taken up at the least.
                    assert!(taken.load(Ordering::Relaxed) > 0);
                }
            })
        });
        for _ in 0..2 {
            shard.mailbox.drain_into(&mut shard.todo);
            while shard.todo.pop_front().is_some() {
                taken.fetch_add(1, Ordering::Relaxed);
                shard.mailbox.taken_up();
            }
        }
        for poster in posters {
            poster.join().unwrap();
        }
        let all_taken = taken.load(Ordering::Relaxed) == 2;
        assert_eq!(mailbox.is_quiet(), all_taken);
        shard.turn();
        assert!(mailbox.is_quiet());
    });
}

#[test]
fn the_end_of_a_shard_races_posts() {
    explore("the_end_of_a_shard_races_posts", || {
        let (mut shard, registry) = one_shard();
        let (who, _pipe) = shard.open();
        let mailbox = shard.mailbox.clone();
        let room = registry.room("a");
        let joiner = thread::spawn(move || {
            let joined = room.join(who, None);
            assert!(joined.is_ok() || matches!(joined, Err(Error::Closed)));
        });
        let poster = thread::spawn(move || push(&mailbox, who, "a"));
        shard.finish(who);
        shard.mailbox.end();
        joiner.join().unwrap();
        poster.join().unwrap();
        assert!(shard.mailbox.is_quiet(), "what was dropped does not wait");
        assert!(matches!(shard.mailbox.lock().check(1), Err(Error::Closed)));
        assert_eq!(registry.len(), 0);
    });
}

// ----- joining, leaving, closing -----

#[test]
fn join_races_close() {
    explore("join_races_close", || {
        let (mut shard, registry) = one_shard();
        let (who, first) = shard.open();
        let room = registry.room("a");
        let joiner = thread::spawn({
            let room = room.clone();
            move || room.join(who, Some("snapshot".into()))
        });
        shard.turn();
        shard.begin_close(who);
        shard.turn();
        let joined = joiner.join().unwrap();
        assert!(joined.is_ok() || matches!(joined, Err(Error::Closed)));
        shard.turn();
        assert_eq!(
            room.len(),
            0,
            "a closing connection is a member of nothing, even while its socket is still there"
        );
        let received = first.received();
        assert!(received == ["bye"] || (joined.is_ok() && received == ["snapshot", "bye"]), "{received:?}");
        drop(room);
        assert_eq!(registry.len(), 0, "the room leaks");
        shard.finish(who);
    });
}

#[test]
fn join_races_a_lost_socket_and_the_next_connection_of_the_slot() {
    explore("join_races_a_lost_socket_and_the_next_connection_of_the_slot", || {
        let (mut shard, registry) = one_shard();
        let (who, _first) = shard.open();
        let room = registry.room("a");
        let joiner = thread::spawn({
            let room = room.clone();
            move || {
                let joined = room.join(who, None);
                let _ = room.push(&Frame::from("x"));
                joined
            }
        });
        shard.turn();
        shard.finish(who);
        let (next, second) = shard.open();
        assert_eq!(next.slot, who.slot);
        shard.turn();
        let joined = joiner.join().unwrap();
        assert!(joined.is_ok() || matches!(joined, Err(Error::Closed)));
        shard.turn();
        assert_eq!(room.members(), []);
        assert!(second.received().is_empty());
        drop(room);
        assert_eq!(registry.len(), 0, "the room leaks");
    });
}

#[test]
fn leave_races_push() {
    explore("leave_races_push", || {
        let (mut shard, registry) = one_shard();
        let (who, pipe) = shard.open();
        let mailbox = shard.mailbox.clone();
        let room = registry.room("a");
        room.join(who, None).unwrap();
        shard.turn();
        let pusher = thread::spawn({
            let room = room.clone();
            move || assert_eq!(room.push(&Frame::from("x")), Sent::Queued)
        });
        let leaver = thread::spawn({
            let room = room.clone();
            move || {
                assert!(room.leave(who));
                push(&mailbox, who, "behind");
            }
        });
        shard.turn();
        pusher.join().unwrap();
        leaver.join().unwrap();
        shard.turn();
        let received = pipe.received();
        assert!(received == ["behind"] || received == ["x", "behind"], "{received:?}");
        drop(room);
        assert_eq!(registry.len(), 0, "the room leaks");
    });
}

/// Who joins with a snapshot gets everything that was pushed after it, and nothing that was pushed before.
#[test]
fn join_with_a_snapshot_races_pushes() {
    explore("join_with_a_snapshot_races_pushes", || {
        let (mut shard, registry) = one_shard();
        let (member, _pipe) = shard.open();
        let (who, pipe) = shard.open();
        let room = registry.room("a");
        room.join(member, None).unwrap();
        shard.turn();
        // A counter as `LiveCounter` has it: it changes, and is pushed, under one lock.
        let counter = Arc::new(crate::sync::Mutex::new(0));
        let bump = |room: &Arc<RoomCore<Pipe>>, counter: &crate::sync::Mutex<u8>| {
            let mut value = counter.lock();
            *value += 1;
            assert_eq!(room.push(&Frame::text(value.to_string())), Sent::Queued);
        };
        let bumper = thread::spawn({
            let (room, counter) = (room.clone(), counter.clone());
            move || {
                bump(&room, &counter);
                bump(&room, &counter);
            }
        });
        shard.turn();
        let value = counter.lock();
        room.join(who, Some(Frame::text(value.to_string()))).unwrap();
        drop(value);
        shard.turn();
        bumper.join().unwrap();
        shard.turn();
        let received = pipe.received();
        let first: u8 = received[0].parse().unwrap();
        assert_eq!(received, (first..=2).map(|value| value.to_string()).collect::<Vec<_>>());
    });
}

// ----- one order -----

/// Two shards with a member of one room each.
fn two_members() -> ([Shard; 2], Arc<RoomCore<Pipe>>, [Pipe; 2]) {
    let mailboxes = mailboxes(2);
    let registry = Arc::new(Registry::new(mailboxes.clone(), Arc::default()));
    let room = registry.room("a");
    let mut shards = [0, 1].map(|index| Shard::new(index, &mailboxes));
    let pipes = [0, 1].map(|index: usize| {
        let (who, pipe) = shards[index].open();
        room.join(who, None).unwrap();
        shards[index].turn();
        pipe
    });
    (shards, room, pipes)
}

#[test]
fn push_order_across_two_shards() {
    explore("push_order_across_two_shards", || {
        let (shards, room, pipes) = two_members();
        let publisher = thread::spawn({
            let room = room.clone();
            move || {
                assert_eq!(room.push(&Frame::from("a1")), Sent::Queued);
                assert_eq!(room.push(&Frame::from("a2")), Sent::Queued);
            }
        });
        let [mut one, mut two] = shards;
        let one = thread::spawn(move || {
            one.turn();
            one
        });
        assert_eq!(room.push(&Frame::from("b")), Sent::Queued);
        two.turn();
        publisher.join().unwrap();
        for mut shard in [one.join().unwrap(), two] {
            shard.turn();
        }
        let [one, two] = pipes.map(|pipe| pipe.received());
        assert_eq!(one, two);
        let of_a: Vec<_> = one.iter().map(String::as_str).filter(|text| text.starts_with('a')).collect();
        assert_eq!((one.len(), of_a), (3, vec!["a1", "a2"]));
    });
}

#[test]
fn a_push_is_refused_by_all_shards_or_by_none() {
    static ZEROS: [u8; MAILBOX_BYTES - 1] = [0; MAILBOX_BYTES - 1];
    explore("a_push_is_refused_by_all_shards_or_by_none", || {
        let ([mut one, mut two], room, pipes) = two_members();
        // One more byte fits into the second shard's mailbox, until the shard takes its commands.
        let nobody = Local { shard: 1, slot: 7, generation: 1 };
        let filler = Frame::binary(Bytes::from_static(&ZEROS));
        two.mailbox.post(Command::Push { to: nobody, frame: filler, of: None });
        let publisher = thread::spawn({
            let room = room.clone();
            move || room.push(&Frame::from("a"))
        });
        let second = thread::spawn(move || {
            two.turn();
            two
        });
        let b = room.push(&Frame::from("b"));
        one.turn();
        let a = publisher.join().unwrap();
        let mut two = second.join().unwrap();
        one.turn();
        two.turn();
        let [one, two] = pipes.map(|pipe| pipe.received());
        assert_eq!(one, two);
        for (sent, text) in [(a, "a"), (b, "b")] {
            assert_eq!(sent.is_queued(), one.iter().any(|received| received == text));
        }
        assert!(!one.is_empty(), "there was space for one");
    });
}

// ----- handles -----

/// The handle of a shard whose mailbox carries real sockets. None is sent in these models.
fn handle() -> Arc<ShardHandle> {
    let mailbox = Arc::new(Mailbox::<Socket>::new());
    Arc::new(ShardHandle {
        mailbox,
        node: 1,
        shards: Weak::new(),
        counters: Counters::default(),
        setup: Arc::default(),
    })
}

/// Applies what was sent through handles to a core without sockets.
fn take_up(handle: &ShardHandle, shard: &mut Shard) {
    let mut todo = VecDeque::new();
    handle.mailbox.drain_into(&mut todo);
    for command in todo {
        handle.mailbox.taken_up();
        match command {
            Command::Push { to, frame, of } => shard.core.push(to, &frame, of),
            Command::Close { who, .. } if shard.core.is_open(who) => shard.begin_close(who),
            Command::Close { .. } => {}
            _ => unreachable!("these models push and close"),
        }
    }
}

fn open(handle: &ShardHandle, shard: &mut Shard) -> (Local, Pipe) {
    let (who, pipe) = shard.open();
    handle.mailbox.lock().state.open(who);
    (who, pipe)
}

#[test]
fn push_says_closed() {
    explore("push_says_closed", || {
        let (mut shard, _registry) = one_shard();
        let handle = handle();
        let (local, first) = open(&handle, &mut shard);
        let connection = Connection { shard: handle.clone(), local };
        let pusher = thread::spawn({
            let connection = connection.clone();
            move || [connection.push("a"), connection.push("b")]
        });
        let closer = thread::spawn({
            let connection = connection.clone();
            move || {
                assert_eq!(connection.close(CloseCode::NORMAL, ""), Sent::Queued);
                assert_eq!(connection.close(CloseCode::NORMAL, ""), Sent::Closed);
                assert_eq!(connection.push("late"), Sent::Closed);
            }
        });
        take_up(&handle, &mut shard);
        let sent = pusher.join().unwrap();
        closer.join().unwrap();
        take_up(&handle, &mut shard);
        assert!(!connection.is_open());
        let mut expected: Vec<&str> = ["a", "b"].into_iter().zip(sent).filter_map(queued).collect();
        expected.push("bye");
        assert_eq!(first.received(), expected, "what was queued comes, and before the close frame");
        assert_ne!(sent, [Sent::Closed, Sent::Queued]);
    });
}

#[test]
fn push_never_reaches_the_next_connection_of_the_slot() {
    explore("push_never_reaches_the_next_connection_of_the_slot", || {
        let (mut shard, _registry) = one_shard();
        let handle = handle();
        let (local, first) = open(&handle, &mut shard);
        let connection = Connection { shard: handle.clone(), local };
        let pusher = thread::spawn({
            let connection = connection.clone();
            move || [connection.push("a"), connection.push("b")]
        });
        let closer = thread::spawn(move || connection.close(CloseCode::NORMAL, ""));
        take_up(&handle, &mut shard);
        // The socket is lost.
        let was_open = handle.mailbox.lock().state.close(local);
        shard.finish(local);
        let (next, second) = open(&handle, &mut shard);
        assert_eq!((next.slot, next.generation), (local.slot, local.generation + 1));
        take_up(&handle, &mut shard);
        let sent = pusher.join().unwrap();
        let closed = closer.join().unwrap();
        take_up(&handle, &mut shard);
        assert_eq!(closed.is_closed(), was_open, "it was closed by one of the two");
        assert!(second.received().is_empty());
        assert!(handle.mailbox.is_live(next));
        for text in first.received().iter().filter(|text| *text != "bye") {
            assert!(["a", "b"].into_iter().zip(sent).filter_map(queued).any(|queued| queued == text));
        }
    });
}

fn queued<'a>((text, sent): (&'a str, Sent)) -> Option<&'a str> {
    sent.is_queued().then_some(text)
}

// ----- clients -----

/// As the shard makes a connection one that is closed, and then forgets it.
fn close_identified(handle: &ShardHandle, clients: &Clients, who: Local) {
    let mut mailbox = handle.mailbox.lock();
    mailbox.state.close(who);
    let client = mailbox.state.details.client(who);
    drop(mailbox);
    if let Some(client) = client {
        clients.remove(&client, who);
    }
    let details = handle.mailbox.lock().state.details.remove(who);
    drop(details);
}

const WHO: Local = Local { shard: 0, slot: 0, generation: 1 };

#[test]
fn identify_races_close() {
    explore("identify_races_close", || {
        let (handle, clients) = (handle(), Arc::new(Clients::new(Arc::default())));
        handle.mailbox.lock().state.open(WHO);
        let identifier = thread::spawn({
            let (handle, clients) = (handle.clone(), clients.clone());
            move || {
                let once = clients.identify(&handle, WHO, "one");
                let again = clients.identify(&handle, WHO, "one");
                assert!(!(once.is_err() && again.is_ok()));
            }
        });
        close_identified(&handle, &clients, WHO);
        identifier.join().unwrap();
        assert_eq!(clients.connections("one"), []);
        assert_eq!(handle.mailbox.lock().state.details.client(WHO), None);
    });
}

#[test]
fn identify_races_identify() {
    explore("identify_races_identify", || {
        let (handle, clients) = (handle(), Arc::new(Clients::new(Arc::default())));
        handle.mailbox.lock().state.open(WHO);
        clients.identify(&handle, WHO, "one").unwrap();
        let other = thread::spawn({
            let (handle, clients) = (handle.clone(), clients.clone());
            move || clients.identify(&handle, WHO, "two").unwrap()
        });
        clients.identify(&handle, WHO, "one").unwrap();
        other.join().unwrap();
        let client = handle.mailbox.lock().state.details.client(WHO).unwrap();
        for id in ["one", "two"] {
            let expected: &[Local] = if *client == *id { &[WHO] } else { &[] };
            assert_eq!(clients.connections(id), expected, "as {id}, while it is {client}");
        }
    });
}

// ----- rooms by name -----

#[test]
fn a_name_has_one_room() {
    explore("a_name_has_one_room", || {
        let (mut shard, registry) = one_shard();
        let (who, _pipe) = shard.open();
        let first = registry.room("a");
        // loom does not see the counts of an Arc, but it sees a lock: with one before each drop, it tries all orders.
        let dropper = thread::spawn({
            let registry = registry.clone();
            move || {
                assert_eq!(registry.len(), 1);
                drop(first);
            }
        });
        let finder = thread::spawn({
            let registry = registry.clone();
            move || {
                let room = registry.room("a");
                assert_eq!(registry.len(), 1);
                drop(room);
            }
        });
        let room = registry.room("a");
        room.join(who, None).unwrap();
        let kept = Arc::downgrade(&room);
        drop(room);
        shard.turn();
        dropper.join().unwrap();
        finder.join().unwrap();
        let again = registry.room("a");
        assert!(
            Weak::ptr_eq(&Arc::downgrade(&again), &kept),
            "a second room of the name, beside one with a member"
        );
        assert_eq!((again.len(), registry.len()), (1, 1));
        assert!(again.leave(who));
        drop(again);
        shard.turn();
        assert_eq!((registry.len(), kept.strong_count()), (0, 0), "the room leaks");
    });
}

// ----- slow readers -----

#[test]
fn the_newest_of_a_key_is_what_waits_whoever_pushed_it() {
    explore("the_newest_of_a_key_is_what_waits_whoever_pushed_it", || {
        let (mut shard, registry) = one_shard();
        let room = registry.room("a");
        let (who, pipe) = shard.open_under(Overflow::LatestPerKey);
        room.join(who, None).unwrap();
        shard.turn();
        pipe.stuck.store(true, Ordering::Relaxed);
        let counter = Arc::new(crate::sync::Mutex::new(0_u8));
        let bump = |room: &Arc<RoomCore<Pipe>>, counter: &crate::sync::Mutex<u8>| {
            let mut value = counter.lock();
            *value += 1;
            assert!(room.push(&Frame::text(value.to_string()).with_key("value")).is_queued());
        };
        let publisher = thread::spawn({
            let (room, counter) = (room.clone(), counter.clone());
            move || bump(&room, &counter)
        });
        let other = thread::spawn(move || {
            shard.turn();
            shard
        });
        bump(&room, &counter);
        publisher.join().unwrap();
        let mut shard = other.join().unwrap();
        shard.turn();
        pipe.stuck.store(false, Ordering::Relaxed);
        shard.core.flush(who.slot);
        assert_eq!(pipe.received(), ["2"], "the newest, and nothing else");
        assert_eq!(shard.core.counts.drops.replaced, 1);
    });
}

#[test]
fn shards_that_shed_at_once_keep_the_bound_and_come_to_an_end() {
    explore("shards_that_shed_at_once_keep_the_bound_and_come_to_an_end", || {
        const LIMIT: usize = 500;
        let mailboxes = mailboxes(2);
        let ledger = Arc::new(Ledger::new(LIMIT, 2));
        let mut shards = [0, 1].map(|index| Shard::with_ledger(index, &mailboxes, ledger.clone()));
        for (shard, frames) in shards.iter_mut().zip([1, 2]) {
            let (who, pipe) = shard.open();
            pipe.stuck.store(true, Ordering::Relaxed);
            for _ in 0..frames {
                push(
                    &shard.mailbox,
                    who,
                    concat!(
                        "0123456789012345678901234567890123456789",
                        "0123456789012345678901234567890123456789"
                    ),
                );
            }
        }
        let [mut one, mut two] = shards;
        let second = thread::spawn({
            let mailboxes = mailboxes.clone();
            move || {
                two.turn_and_tell(&mailboxes);
                two
            }
        });
        one.turn_and_tell(&mailboxes);
        let mut two = second.join().unwrap();
        let mut turns = 0;
        while !(one.mailbox.is_quiet() && two.mailbox.is_quiet()) {
            one.turn_and_tell(&mailboxes);
            two.turn_and_tell(&mailboxes);
            turns += 1;
            assert!(turns < 4, "the word goes round for ever");
        }
        assert!(!ledger.is_over(), "{} bytes wait", ledger.used());
        let dropped = one.core.counts.drops.shed + two.core.counts.drops.shed;
        assert!(dropped > 0, "what waits is more than may");
        drop((one, two));
        assert_eq!(ledger.used(), 0);
    });
}
