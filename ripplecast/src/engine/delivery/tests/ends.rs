//! Shedding, and closing connections.

use super::*;

#[test]
fn shedding_half_written_frames_cuts_no_more_connections_than_needed() {
    let budget = Arc::new(MemoryBudget::new(4000, 1));
    let mut delivery = Delivery::new(0, budget.clone(), false);
    let policy = OutboxPolicy { outbox: LIMIT, overflow: Overflow::Disconnect, compress_above: usize::MAX };
    for _ in 0..8 {
        let who = delivery.reserve(8).unwrap();
        let peer = FakeSocket::default();
        peer.0.space.store(10, Relaxed);
        delivery.open(who, peer, Encoding::WebSocket, policy);
        delivery.push(who, &Message::text("x".repeat(1000)), None);
    }
    assert!(budget.is_over());
    assert_eq!(delivery.shed_if_over(), None);
    assert!(budget.is_eased());
    let faults = delivery.sender.faults();
    let cut = faults.iter().filter(|(_, fault)| *fault == DeliveryFault::Cut).count();
    assert_eq!((faults.len(), cut), (5, 5), "three frames of about 1,100 bytes fit");
    assert_eq!(delivery.take_counts().drops.shed, 5);
}

#[test]
fn a_join_that_arrives_while_the_connection_closes_is_undone() {
    let mut world = crowd(1, 0);
    world.run(Op::Join { who: 0, room: 1, snapshot: false });
    world.run(Op::Close { who: 0 });
    world.apply(usize::MAX);
    assert_eq!(world.rooms[1].len(), 0);
    world.check();
}
