//! Compares delivery with a naive model under random operations: each connection receives exactly the frames that it
//! should, in order, and the parts of delivery stay consistent.

mod ends;
mod expected;
mod fan_outs;
mod ids;
mod ops;
mod peer;
mod world;

use std::{
    collections::VecDeque,
    io,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use proptest::prelude::*;

use self::{
    expected::{Expected, ModelPhase},
    ops::{CONNECTIONS, CROWD, LIMIT, Op, ROOMS, any_op, calm, churn},
    peer::{FakeSocket, encoded, in_a_chunk, units},
    world::DeliveryWorld,
};
use super::{memberships::work, *};
use crate::{
    Error, Message,
    engine::{
        batch::Tag,
        budget::PIECE,
        command::Command,
        mailbox::Mailbox,
        outbox::Overflow,
        position::Position,
        room::{Registry, RoomCore},
        tap::Tap,
    },
    id::ConnectionId,
    limits::SENDS_PER_TURN,
    outcome::Sent,
};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_connection_receives_its_frames_in_order(ops in prop::collection::vec(any_op(), 1..120)) {
        let mut world = DeliveryWorld::new();
        for op in ops {
            world.run(op);
            world.check();
        }
        world.finish();
    }

    /// No operation here ends a connection, so each must receive everything.
    #[test]
    fn a_connection_that_reads_receives_everything(ops in prop::collection::vec(calm(Just(false)), 1..120)) {
        let mut world = DeliveryWorld::new();
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
        assert_eq!(world.delivery.take_counts().drops.total(), 0);
    }

    #[test]
    fn members_join_and_leave_during_a_fan_out(ops in prop::collection::vec(churn(), 1..120)) {
        let mut world = crowd(8, 2);
        world.max = CROWD;
        world.run(Op::Broadcast { room: 0, len: 1 });
        for op in ops {
            world.run(op);
            world.check();
        }
        world.finish();
        assert!(world.all.iter().all(|expected| !expected.cut || expected.phase >= ModelPhase::Detached));
    }

    #[test]
    fn frames_dropped_by_policy_are_counted(ops in prop::collection::vec(calm(Just(true)), 1..120)) {
        let mut world = DeliveryWorld::new();
        for op in ops {
            world.run(op);
            world.check();
        }
        let missing = world.finish();
        assert_eq!(world.delivery.take_counts().drops.total(), missing as u64);
    }
}

/// Creates a shard with `sockets` WebSockets and `streams` event streams, all in the first room.
fn crowd(sockets: usize, streams: usize) -> DeliveryWorld {
    let mut world = DeliveryWorld::new();
    for n in 0..sockets + streams {
        let encoding = if n < sockets { Encoding::WebSocket } else { Encoding::Sse };
        world.open(encoding, Overflow::Disconnect, usize::MAX);
        world.rooms[0].join(world.all[n].who, None).unwrap();
    }
    world.apply(usize::MAX);
    world
}
