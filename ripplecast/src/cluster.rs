//! The bridge between nodes: what is pushed on one reaches the members on all.
//!
//! What a hub asks of it stands in `engine/bridge.rs`. `cluster/wire.rs` says how messages look, `cluster/sequence.rs` how a gap is
//! found, `cluster/sign.rs` how they are signed; `cluster/redis.rs` carries them.

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
