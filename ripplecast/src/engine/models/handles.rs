//! Connection handles, and the users of connections.

use super::*;

/// Creates the handle of a shard. Its mailbox could carry real sockets; these models send none.
fn handle() -> Arc<ShardHandle> {
    let mailbox = Arc::new(Mailbox::<Command<ConnectionSocket>>::new());
    Arc::new(ShardHandle::new(mailbox, 1, Weak::new(), Arc::default()))
}

/// Applies the commands sent through handles to a delivery without sockets.
fn take_up(handle: &ShardHandle, shard: &mut ModelShard) {
    let mut todo = VecDeque::new();
    handle.mailbox().drain_into(&mut todo);
    for command in todo {
        handle.mailbox().taken_up();
        match command {
            Command::Push { to, message, of } => shard.delivery.push(to, &message, of),
            Command::Close { who, .. } if shard.delivery.is_open(who) => shard.begin_close(who),
            Command::Close { .. } => {}
            _ => unreachable!("these models only push and close"),
        }
    }
}

fn open(handle: &ShardHandle, shard: &mut ModelShard) -> (Local, Pipe) {
    let (who, pipe) = shard.open();
    handle.mailbox().lock().open(who);
    (who, pipe)
}

/// A connection to which another thread pushes twice.
struct PushRace {
    shard: ModelShard,
    handle: Arc<ShardHandle>,
    first: Pipe,
    connection: Connection,
    pusher: thread::JoinHandle<[Sent; 2]>,
}

impl PushRace {
    fn new() -> Self {
        let (mut shard, _registry) = one_shard();
        let handle = handle();
        let (local, first) = open(&handle, &mut shard);
        let connection = Connection::new(handle.clone(), local);
        let pusher = thread::spawn({
            let connection = connection.clone();
            move || [connection.push("a"), connection.push("b")]
        });
        Self { shard, handle, first, connection, pusher }
    }
}

#[test]
fn push_reports_closed() {
    explore("push_reports_closed", || {
        let PushRace { mut shard, handle, first, connection, pusher } = PushRace::new();
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
        assert_eq!(first.received(), expected, "queued frames arrive, before the close frame");
        assert_ne!(sent, [Sent::Closed, Sent::Queued]);
    });
}

#[test]
fn push_never_reaches_the_next_connection_of_the_slot() {
    explore("push_never_reaches_the_next_connection_of_the_slot", || {
        let PushRace { mut shard, handle, first, connection, pusher } = PushRace::new();
        let local = connection.local();
        let closer = thread::spawn(move || connection.close(CloseCode::NORMAL, ""));
        take_up(&handle, &mut shard);
        // The socket fails.
        let was_open = handle.mailbox().lock().close(local);
        shard.finish(local);
        let (next, second) = open(&handle, &mut shard);
        assert_eq!((next.slot, next.generation), (local.slot, local.generation + 1));
        take_up(&handle, &mut shard);
        let sent = pusher.join().unwrap();
        let closed = closer.join().unwrap();
        take_up(&handle, &mut shard);
        assert_eq!(closed.is_closed(), was_open, "exactly one of the two closed it");
        assert!(second.received().is_empty());
        assert!(handle.mailbox().is_live(next));
        for text in first.received().iter().filter(|text| *text != "bye") {
            assert!(["a", "b"].into_iter().zip(sent).filter_map(queued).any(|queued| queued == text));
        }
    });
}

fn queued<'a>((text, sent): (&'a str, Sent)) -> Option<&'a str> {
    sent.is_queued().then_some(text)
}

/// Closes an identified connection and removes its data, as the shard does.
fn close_identified(handle: &ShardHandle, users: &Users, who: Local) {
    let mut mailbox = handle.mailbox().lock();
    mailbox.close(who);
    let user = mailbox.user(who);
    drop(mailbox);
    if let Some(user) = user {
        users.remove(&user, who);
    }
    let extras = handle.mailbox().lock().take_extras(who);
    drop(extras);
}

const WHO: Local = Local { shard: 0, slot: 0, generation: 1 };

#[test]
fn identify_races_close() {
    explore("identify_races_close", || {
        let (handle, users) = (handle(), Arc::new(Users::new(Arc::default())));
        handle.mailbox().lock().open(WHO);
        let identifier = thread::spawn({
            let (handle, users) = (handle.clone(), users.clone());
            move || {
                let once = users.identify(handle.mailbox(), WHO, "one");
                let again = users.identify(handle.mailbox(), WHO, "one");
                assert!(!(once.is_err() && again.is_ok()));
            }
        });
        close_identified(&handle, &users, WHO);
        identifier.join().unwrap();
        assert_eq!(users.connections("one"), []);
        assert_eq!(handle.mailbox().lock().user(WHO), None);
    });
}

#[test]
fn identify_races_identify() {
    explore("identify_races_identify", || {
        let (handle, users) = (handle(), Arc::new(Users::new(Arc::default())));
        handle.mailbox().lock().open(WHO);
        users.identify(handle.mailbox(), WHO, "one").unwrap();
        let other = thread::spawn({
            let (handle, users) = (handle.clone(), users.clone());
            move || users.identify(handle.mailbox(), WHO, "two").unwrap()
        });
        users.identify(handle.mailbox(), WHO, "one").unwrap();
        other.join().unwrap();
        let user = handle.mailbox().lock().user(WHO).unwrap();
        for id in ["one", "two"] {
            let expected: &[Local] = if *user == *id { &[WHO] } else { &[] };
            assert_eq!(users.connections(id), expected, "as {id}, while it is {user}");
        }
    });
}
