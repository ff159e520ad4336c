//! Rooms: members join, leave and close while messages arrive in one order for all.

use super::*;

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
        assert_eq!(room.len(), 0, "a closing connection is still a member, though its socket is open");
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
                let _ = room.push(&Message::from("x"));
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
            move || assert_eq!(room.push(&Message::from("x")), Sent::Queued)
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

/// A connection that joins with a snapshot receives everything pushed after it, and nothing pushed before.
#[test]
fn join_with_a_snapshot_races_pushes() {
    explore("join_with_a_snapshot_races_pushes", || {
        let (mut shard, registry) = one_shard();
        let (member, _pipe) = shard.open();
        let (who, pipe) = shard.open();
        let room = registry.room("a");
        room.join(member, None).unwrap();
        shard.turn();
        // Like `LiveCounter`, changes and pushes the value under one lock.
        let counter = Arc::new(crate::sync::Mutex::new(0));
        let bump = |room: &Arc<RoomCore<Pipe>>, counter: &crate::sync::Mutex<u8>| {
            let mut value = counter.lock();
            *value += 1;
            assert_eq!(room.push(&Message::text(value.to_string())), Sent::Queued);
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
        room.join(who, Some(Message::text(value.to_string()))).unwrap();
        drop(value);
        shard.turn();
        bumper.join().unwrap();
        shard.turn();
        let received = pipe.received();
        let first: u8 = received[0].parse().unwrap();
        assert_eq!(received, (first..=2).map(|value| value.to_string()).collect::<Vec<_>>());
    });
}

/// Creates two shards with one member each, in the same room.
fn two_members() -> ([ModelShard; 2], Arc<RoomCore<Pipe>>, [Pipe; 2]) {
    let mailboxes = mailboxes(2);
    let registry = Arc::new(Registry::new(mailboxes.clone(), Arc::default()));
    let room = registry.room("a");
    let mut shards = [0, 1].map(|index| ModelShard::new(index, &mailboxes));
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
                assert_eq!(room.push(&Message::from("a1")), Sent::Queued);
                assert_eq!(room.push(&Message::from("a2")), Sent::Queued);
            }
        });
        let [mut one, mut two] = shards;
        let one = thread::spawn(move || {
            one.turn();
            one
        });
        assert_eq!(room.push(&Message::from("b")), Sent::Queued);
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
fn a_push_is_rejected_by_all_shards_or_by_none() {
    static ZEROS: [u8; MAILBOX_BYTES - 1] = [0; MAILBOX_BYTES - 1];
    explore("a_push_is_rejected_by_all_shards_or_by_none", || {
        let ([mut one, mut two], room, pipes) = two_members();
        // One more byte fits into the second shard's mailbox, until the shard takes its commands.
        let nobody = Local { shard: 1, slot: 7, generation: 1 };
        let filler = Message::binary(Bytes::from_static(&ZEROS));
        two.mailbox.post(Command::Push { to: nobody, message: filler, of: None });
        let publisher = thread::spawn({
            let room = room.clone();
            move || room.push(&Message::from("a"))
        });
        let second = thread::spawn(move || {
            two.turn();
            two
        });
        let b = room.push(&Message::from("b"));
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
        assert!(!one.is_empty(), "there was space for one push");
    });
}

#[test]
fn a_name_has_one_room() {
    explore("a_name_has_one_room", || {
        let (mut shard, registry) = one_shard();
        let (who, _pipe) = shard.open();
        let first = registry.room("a");
        // loom does not track the counts of an Arc, but it tracks locks: a lock before each drop makes it try all orders.
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
            "the name has a second room, although the first has a member"
        );
        assert_eq!((again.len(), registry.len()), (1, 1));
        assert!(again.leave(who));
        drop(again);
        shard.turn();
        assert_eq!((registry.len(), kept.strong_count()), (0, 0), "the room leaks");
    });
}
