//! Reads a request's headers without I/O: its host, its origin, and the addresses that proxies forward.

mod authority;
pub(crate) mod base_path;
mod forwarded;
pub(crate) mod origin;

pub use self::{authority::Authority, forwarded::TrustedProxies, origin::OriginPolicy};
pub(crate) use self::{authority::BadAuthority, base_path::BasePath, forwarded::ForwardedPeer};

/// A request extension: our own server received the request over TLS.
#[derive(Clone, Copy)]
pub(crate) struct OverTls;
