//! The cost of a fan-out.

use super::*;

impl DeliveryWorld {
    /// Delivers until nothing waits. Returns the number of turns.
    fn fan_out_all(&mut self) -> usize {
        let mut turns = 0;
        while self.delivery.is_dirty() {
            self.delivery.fan_out();
            self.check();
            turns += 1;
        }
        turns
    }

    fn broadcasts(&mut self, room: usize, count: usize) {
        for _ in 0..count {
            self.run(Op::Broadcast { room, len: 10 });
        }
        self.apply(usize::MAX);
    }

    /// Returns the number of writes to each connection since the last call.
    fn writes(&self) -> Vec<usize> {
        self.all.iter().map(|expected| expected.peer.writes()).collect()
    }

    /// Returns the number of members that are ahead.
    fn ahead(&self) -> usize {
        self.delivery.sender.slots().iter().filter(|(_, slot)| slot.flags().has(Flags::AHEAD)).count()
    }
}

#[test]
fn a_burst_is_one_write_per_member_and_is_encoded_once_per_transport() {
    let mut world = crowd(90, 20);
    world.broadcasts(0, 16);
    assert_eq!(world.writes(), [0; 110]);
    let turns = world.fan_out_all();
    assert_eq!(world.writes(), [1; 110]);
    assert_eq!(turns, 110_usize.div_ceil(SENDS_PER_TURN));
    assert_eq!(world.delivery.take_counts().encoded_frames, 2 * 16);
    world.finish();
}

#[test]
fn nothing_is_encoded_for_a_transport_without_members() {
    let mut world = crowd(3, 0);
    world.broadcasts(0, 5);
    world.fan_out_all();
    assert_eq!(world.delivery.take_counts().encoded_frames, 5);
}

#[test]
fn a_burst_in_two_rooms_is_one_write_per_member_of_both() {
    let mut world = crowd(40, 0);
    for who in 0..40 {
        world.run(Op::Join { who, room: 1, snapshot: false });
    }
    world.apply(usize::MAX);
    for _ in 0..8 {
        world.broadcasts(0, 1);
        world.broadcasts(1, 1);
    }
    world.fan_out_all();
    assert_eq!(world.writes(), [1; 40]);
    assert_eq!(world.ahead(), 0);
    world.finish();
}

#[test]
fn a_large_room_does_not_delay_a_small_one() {
    let mut world = crowd(100, 0);
    world.open(Encoding::WebSocket, Overflow::Disconnect, usize::MAX);
    world.run(Op::Join { who: 100, room: 1, snapshot: false });
    world.apply(usize::MAX);
    world.broadcasts(0, 1);
    world.broadcasts(1, 1);
    world.delivery.fan_out();
    world.delivery.fan_out();
    assert_eq!(world.all[100].peer.writes(), 1);
}

/// An operation on all rooms of a connection takes work in proportion to their number. Any other operation takes the same
/// work however many rooms there are.
#[test]
fn the_work_for_a_connection_in_many_rooms_is_linear() {
    const MANY: usize = 4_000; // few enough that quadratic work ends, and fails the test
    let DeliveryWorld { mut delivery, _registry: registry, .. } = DeliveryWorld::new();
    let open = |delivery: &mut Delivery<FakeSocket>| {
        let peer = FakeSocket::default();
        peer.0.space.store(usize::MAX, Relaxed);
        let who = delivery.reserve(2).unwrap();
        let policy =
            OutboxPolicy { outbox: LIMIT, overflow: Overflow::Disconnect, compress_above: usize::MAX };
        delivery.open(who, peer.clone(), Encoding::WebSocket, policy);
        (who, peer)
    };
    let ((many, peer), (other, _)) = (open(&mut delivery), open(&mut delivery));
    let rooms: Vec<_> = (0..MANY).map(|n| registry.room(&n.to_string())).collect();
    let (last, message) = (registry.room("last"), Message::text("x"));
    let steps = |per_room: u64, what: &str| {
        let steps = work::take();
        assert!(steps <= per_room * MANY as u64, "{what}: {steps} steps for {MANY} rooms");
    };
    work::take();
    for room in &rooms {
        delivery.join(many, room);
        delivery.join(many, room); // joining again changes nothing
    }
    steps(2, "joining");
    assert_eq!(delivery.sender.slots().get(many.slot).memberships().len(), MANY);

    // First only a room of another connection waits, then also one of its own.
    delivery.join(other, &last);
    delivery.broadcast(&last, &message, 1);
    for _ in 0..MANY {
        delivery.push(many, &message, None);
    }
    delivery.broadcast(&rooms[MANY - 1], &message, 1);
    for _ in 0..MANY {
        delivery.push(many, &message, None);
    }
    steps(4, "pushing");

    rooms.iter().for_each(|room| delivery.broadcast(room, &message, 2));
    while delivery.is_dirty() {
        delivery.fan_out();
    }
    steps(5, "delivering");
    assert_eq!(peer.take(), b"\x81\x01x".repeat(3 * MANY + 1));

    // Leaving moves the other member within the room's members.
    rooms.iter().for_each(|room| delivery.join(other, room));
    rooms.iter().rev().for_each(|room| delivery.leave(many, room));
    steps(3, "leaving");
    assert!(
        !delivery.sender.slots().get(many.slot).memberships().has_table(),
        "an empty table was not freed"
    );
    delivery.leave_all(other);
    steps(1, "leaving at the end");
    assert!(
        !delivery.sender.slots().get(other.slot).memberships().has_table()
            && delivery.rooms.free_rooms() == MANY + 1
    );
}

#[test]
fn a_member_that_was_ahead_returns_to_the_fast_path() {
    let mut world = crowd(3, 1);
    world.broadcasts(0, 2);
    world.run(Op::Push { who: 1, len: 1 });
    world.apply(usize::MAX);
    assert_eq!(world.ahead(), 1);
    world.broadcasts(0, 1);
    world.fan_out_all();
    assert_eq!(world.ahead(), 0);
    assert_eq!(world.writes(), [1, 2, 1, 1]);
    world.broadcasts(0, 2);
    world.fan_out_all();
    assert_eq!(world.writes(), [1; 4]);
    world.finish();
}

#[test]
fn a_member_that_was_ahead_returns_to_the_fast_path_while_messages_keep_coming() {
    let mut world = crowd(100, 0);
    world.broadcasts(0, 1);
    world.delivery.fan_out();
    world.run(Op::Push { who: 99, len: 1 });
    world.broadcasts(0, 1);
    assert_eq!(world.ahead(), 1);
    for _ in 0..20 {
        // Each fan-out reaches its members while more frames are pending.
        world.delivery.fan_out();
        world.broadcasts(0, 1);
    }
    assert_eq!(world.ahead(), 0);
    world.finish();
}

#[test]
fn a_member_that_joins_while_a_room_waits_takes_the_fast_path_afterwards() {
    let mut world = crowd(3, 0);
    world.broadcasts(0, 1);
    world.open(Encoding::Sse, Overflow::Disconnect, usize::MAX);
    world.run(Op::Join { who: 3, room: 0, snapshot: false });
    world.broadcasts(0, 1);
    world.fan_out_all();
    assert_eq!(world.writes(), [1; 4]);
    assert_eq!(world.ahead(), 0);
    world.finish();
}

#[test]
fn a_full_socket_is_not_written_until_it_has_space() {
    let mut world = crowd(2, 0);
    world.all[0].peer.0.space.store(0, Relaxed);
    for _ in 0..4 {
        world.broadcasts(0, 1);
        world.fan_out_all();
    }
    assert_eq!(world.writes(), [1, 4]);
    world.finish();
}
