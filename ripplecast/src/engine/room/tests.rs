use std::sync::Weak;

use super::{RoomState, *};
use crate::{
    engine::{command::Command, mailbox::Mailbox},
    id::Local,
    sync::MutexGuard,
};

fn registry(shards: usize) -> Arc<Registry<()>> {
    {
        let mailboxes = (0..shards).map(|_| Arc::new(Mailbox::new())).collect();
        Arc::new(Registry::new(mailboxes, Arc::default()))
    }
}

/// Opens a connection.
fn open(registry: &Registry<()>, shard: u8, slot: u32) -> Local {
    let who = Local { shard, slot, generation: 1 };
    registry.mailboxes[who.shard()].lock().open(who);
    who
}

/// Returns the commands that wait for a shard: `j`oin, `l`eave, `b`roadcast, `p`ush.
fn waiting(registry: &Registry<()>, shard: usize) -> String {
    let mut todo = std::collections::VecDeque::new();
    registry.mailboxes[shard].drain_into(&mut todo);
    let letter = |command: Command<()>| {
        registry.mailboxes[shard].taken_up();
        match command {
            Command::Join { .. } => 'j',
            Command::Leave { .. } => 'l',
            Command::Broadcast { .. } => 'b',
            Command::Push { .. } => 'p',
            _ => '?',
        }
    };
    todo.into_iter().map(letter).collect()
}

#[test]
fn a_room_lives_as_long_as_a_handle_or_a_member() {
    let registry = registry(1);
    let first = registry.room("a");
    assert!(Arc::ptr_eq(&first, &registry.room("a")));
    let epoch = first.epoch;
    let who = open(&registry, 0, 0);
    first.join(who, None).unwrap();
    drop(first);
    assert_eq!(registry.len(), 1, "the waiting join keeps it alive");
    assert_eq!(registry.room("a").epoch, epoch);
    assert_eq!(waiting(&registry, 0), "j");
    assert_eq!(registry.len(), 0, "no shard has added the member, so nothing keeps it alive");
    assert_ne!(registry.room("a").epoch, epoch, "a new room has a new epoch");
    assert_eq!(registry.len(), 0);
}

#[test]
fn a_room_dropped_late_does_not_remove_its_successor() {
    let registry = registry(1);
    let first = registry.room("a");
    let stale = Weak::new();
    // As between the drop of the last handle and the removal of the name.
    registry.stripe("a").lock().insert("a".into(), stale);
    let second = registry.room("a");
    assert!(!Arc::ptr_eq(&first, &second));
    drop(first);
    assert!(Arc::ptr_eq(&second, &registry.room("a")));
    drop(second);
    assert_eq!(registry.len(), 0);
}

#[test]
fn only_shards_with_members_receive_pushes() {
    let registry = registry(3);
    let room = registry.room("a");
    assert!(room.push(&Message::from("to nobody")).is_queued());
    let (one, two) = (open(&registry, 0, 0), open(&registry, 2, 0));
    room.join(one, None).unwrap();
    room.join(two, Some("snapshot".into())).unwrap();
    room.join(two, None).unwrap();
    assert!(room.push(&Message::from("x")).is_queued());
    assert!(room.leave(one));
    assert!(!room.leave(one));
    assert!(room.push(&Message::from("y")).is_queued());
    let all: Vec<_> = (0..3).map(|shard| waiting(&registry, shard)).collect();
    assert_eq!(all, ["jbl", "", "jpbb"]);
}

#[test]
fn a_closed_connection_cannot_join() {
    let registry = registry(1);
    let room = registry.room("a");
    let who = open(&registry, 0, 0);
    let later = Local { generation: 2, ..who };
    assert!(matches!(room.join(later, None), Err(Error::Closed)));
    registry.mailboxes[0].lock().close(who);
    assert!(matches!(room.join(who, None), Err(Error::Closed)));
    assert_eq!((room.len(), waiting(&registry, 0).as_str()), (0, ""));
}

#[test]
fn a_push_that_one_shard_rejects_reaches_none_and_takes_no_offset() {
    let registry = registry(3);
    let room = registry.room("a");
    for shard in 0..3 {
        room.join(open(&registry, shard, 0), None).unwrap();
        waiting(&registry, usize::from(shard));
    }
    let offset = |room: &RoomCore<()>| room.state.lock().offset;
    assert!(room.push(&Message::from("x")).is_queued());
    let to = Local { shard: 1, slot: 0, generation: 1 };
    static ZEROS: [u8; crate::limits::MAILBOX_BYTES] = [0; crate::limits::MAILBOX_BYTES];
    let message = Message::binary(bytes::Bytes::from_static(&ZEROS));
    registry.mailboxes[1].post(Command::Push { to, message, of: None });
    assert_eq!(room.push(&Message::from("y")), Sent::Dropped(crate::Dropped::Overloaded));
    assert_eq!(offset(&room), 1);
    let all: Vec<_> = (0..3).map(|shard| waiting(&registry, shard)).collect();
    assert_eq!(all, ["b", "bp", "b"]);
}

#[test]
fn an_empty_room_keeps_no_memory_of_how_large_it_was() {
    let registry = registry(1);
    let room = registry.room("a");
    for slot in 0..100 {
        room.enter(Local { shard: 0, slot, generation: 1 });
    }
    for slot in 0..100 {
        room.forget(Local { shard: 0, slot, generation: 1 });
    }
    let state: MutexGuard<'_, RoomState> = room.state.lock();
    assert_eq!((state.members.capacity(), &*state.per_shard), (0, &[0][..]));
}

#[test]
fn all_rooms_are_listed() {
    let registry = registry(1);
    let kept = [registry.room("a"), registry.room("b")];
    drop(registry.room("c"));
    let mut names: Vec<_> = registry.all().iter().map(|room| room.name().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["a", "b"]);
    drop(kept);
    assert!(registry.all().is_empty());
}
