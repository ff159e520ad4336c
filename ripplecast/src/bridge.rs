//! The bridge between nodes: what is pushed on one reaches the members on all.
//!
//! What a hub asks of it stands in `hub/bridge.rs`. `bridge/wire.rs` says how messages look, `bridge/numbers.rs` how a gap is
//! found, `bridge/seal.rs` how they are signed; `bridge/redis.rs` carries them.

mod numbers;
mod redis;
mod seal;
mod wire;

pub(crate) use self::{
    redis::RedisBridge,
    seal::{Once, Sealer, check_secret},
    wire::Body,
};
