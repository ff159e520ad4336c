//! A socket on its way from the HTTP server to a shard.

use std::{any::Any, sync::Arc};

use bytes::Bytes;

use super::{admission::Permit, batch::Dialect, callbacks::Route};

/// Everything that a shard needs to take a socket over.
pub(crate) struct Adoption<W> {
    /// The socket, non-blocking.
    pub(crate) wire: W,
    /// What the peer sent right behind its request.
    pub(crate) rest: Bytes,
    /// What is to be written first, such as the head of an event stream.
    pub(crate) preface: Bytes,
    /// How its frames are encoded.
    pub(crate) dialect: Dialect,
    /// The endpoint.
    pub(crate) route: Arc<Route>,
    /// Its place among the connections.
    pub(crate) permit: Permit,
    /// State that the upgrade hook wants to be kept with the connection.
    pub(crate) states: Vec<Arc<dyn Any + Send + Sync>>,
}
