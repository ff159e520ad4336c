//! Communication between nodes: a push on one node reaches the members on all nodes.
//!
//! The interface for the engine is in `engine/bridge.rs`. `cluster/wire.rs` encodes the messages,
//! `cluster/sequence.rs` detects gaps, `cluster/sign.rs` signs, and `cluster/redis.rs` transports them.

mod gaps;
mod redis;
mod sequence;
mod sign;
mod wire;

pub use self::gaps::GapReport;
pub(crate) use self::{
    gaps::{GapHook, GapLog},
    redis::RedisBridge,
    sign::{Once, Sealer, check_secret},
    wire::Body,
};
