//! Random operations.

use super::*;

/// An operation. Indices are taken modulo the number of connections.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
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
    Broadcast {
        room: usize,
        len: usize,
    },
    Push {
        who: usize,
        len: usize,
    },
    /// Frames that the connection's own callback pushed, joined.
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
    FanOut {
        limit: usize,
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
    /// Adds a tap, and drops an earlier one unless `keep`.
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

pub(super) const ROOMS: usize = 4;
pub(super) const CONNECTIONS: usize = 7;
pub(super) const CROWD: usize = 14;
pub(super) const LIMIT: usize = 400;

/// Operations that end no connection. `lossy` decides for each new connection whether its frames may be dropped.
pub(super) fn calm(
    lossy: impl Strategy<Value = bool> + Clone + 'static,
) -> impl Strategy<Value = Op> + Clone {
    let (who, room) = (0..CONNECTIONS, 0..ROOMS);
    let space = prop_oneof![3 => Just(0), 3 => 1..200_usize, 6 => Just(1 << 40)];
    let len = prop_oneof![9 => 0..20_usize, 1 => 100..300_usize];
    let snapshot = prop::bool::weighted(0.3);
    prop_oneof![
        6 => (any::<bool>(), lossy, space.clone()).prop_map(|(sse, lossy, space)| Op::Open { sse, lossy, space }),
        12 => (who.clone(), room.clone(), snapshot)
            .prop_map(|(who, room, snapshot)| Op::Join { who, room, snapshot }),
        6 => (who.clone(), room.clone()).prop_map(|(who, room)| Op::Leave { who, room }),
        20 => (room, len).prop_map(|(room, len)| Op::Broadcast { room, len }),
        8 => (who.clone(), 0..20_usize).prop_map(|(who, len)| Op::Push { who, len }),
        4 => (who.clone(), 1..4_u32).prop_map(|(who, frames)| Op::Own { who, frames }),
        2 => who.clone().prop_map(|who| Op::Append { who }),
        2 => who.clone().prop_map(|who| Op::CatchUp { who }),
        6 => (who.clone(), space).prop_map(|(who, bytes)| Op::Space { who, bytes }),
        6 => who.clone().prop_map(|who| Op::Flush { who }),
        3 => (who, any::<bool>()).prop_map(|(who, keep)| Op::Tap { who, keep }),
        14 => (1..6_usize).prop_map(|limit| Op::FanOut { limit }),
        24 => (1..6_usize).prop_map(|commands| Op::Apply { commands }),
    ]
}

/// All operations, including those that end connections.
pub(super) fn any_op() -> impl Strategy<Value = Op> {
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

/// Operations in which members join and leave during fan-outs.
pub(super) fn churn() -> impl Strategy<Value = Op> {
    let (who, room) = (0..CROWD, 0..2_usize);
    let open = (any::<bool>(), any::<bool>());
    prop_oneof![
        4 => open.prop_map(|(sse, lossy)| Op::Open { sse, lossy, space: usize::MAX }),
        6 => (who.clone(), room.clone()).prop_map(|(who, room)| Op::Join { who, room, snapshot: false }),
        6 => (who.clone(), room.clone()).prop_map(|(who, room)| Op::Leave { who, room }),
        4 => room.prop_map(|room| Op::Broadcast { room, len: 1 }),
        2 => who.clone().prop_map(|who| Op::Push { who, len: 1 }),
        12 => (1..5_usize).prop_map(|limit| Op::FanOut { limit }),
        12 => (1..4_usize).prop_map(|commands| Op::Apply { commands }),
        3 => who.prop_map(|who| Op::Detach { who }),
        3 => Just(Op::Release),
    ]
}
