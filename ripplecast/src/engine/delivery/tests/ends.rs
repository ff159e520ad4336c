//! Shedding, and the end of a connection.

use super::*;

#[test]
fn no_more_are_cut_than_have_to_be_though_each_holds_only_a_half_written_frame() {
    let ledger = Arc::new(Ledger::new(4000, 1));
    let mut core = Core::new(0, ledger.clone(), false);
    let profile = Profile { outbox: LIMIT, overflow: Overflow::Disconnect, compress_above: usize::MAX };
    for _ in 0..8 {
        let who = core.reserve(8).unwrap();
        let peer = Peer::default();
        peer.0.space.store(10, Relaxed);
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
fn what_the_scratch_buffer_held_is_not_kept_for_ever() {
    let mut world = crowd(1, 0);
    world.all[0].peer.take();
    let mut large = Joined { bytes: vec![0; crate::limits::READ_BUFFER + 1], ends: Vec::new() };
    large.end(Tag::default());
    world.core.send_encoded(0, &mut large);
    assert!(world.core.scratch.bytes.capacity() <= crate::limits::READ_BUFFER);
    assert_eq!(world.all[0].peer.take().len(), crate::limits::READ_BUFFER + 1);
}
