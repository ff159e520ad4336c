#![doc = include_str!("docs/crate.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_debug_implementations)]
// Code that only some features use would need a condition on each item. With all features nothing is unused.
#![cfg_attr(
    not(all(feature = "deflate", feature = "redis", feature = "server", feature = "tls")),
    allow(unused)
)]

#[cfg(feature = "server")]
mod app;
mod assemble;
mod backend;
pub mod bus;
mod close;
mod cluster;
pub mod codec;
mod engine;
pub mod error;
mod glob;
mod hand_off;
mod headers;
mod hub;
mod id;
mod limits;
mod live;
pub mod log;
mod message;
mod name;
mod outcome;
mod panics;
pub mod queue;
#[cfg(feature = "redis")]
mod redis_client;
mod relay;
mod reply;
pub mod request;
mod response;
pub mod same_origin;
mod serve;
#[cfg(feature = "server")]
mod server;
mod signals;
pub mod sse;
pub mod state;
mod sync;
#[cfg(feature = "test")]
#[cfg_attr(docsrs, doc(cfg(feature = "test")))]
pub mod test;
mod text;
pub mod ws;

#[cfg(feature = "server")]
#[cfg_attr(docsrs, doc(cfg(feature = "server")))]
pub use app::{App, AppBuilder, Bound, ListenAddr};
pub use backend::Backend;
pub use bus::Bus;
pub use close::{Close, CloseCode};
pub use engine::{Overflow, Reach, RoomOptions};
pub use error::{Error, Result};
pub use headers::TrustedProxies;
pub use hub::{Connection, Hub, HubBuilder, Room, User};
pub use id::{ConnectionId, NodeId};
pub use live::{LiveCounter, LiveTable};
pub use message::Message;
pub use outcome::{Dropped, Sent};
pub use queue::Queue;
pub use request::{Accept, IntoAccept, Request};
pub use same_origin::SameOrigin;
pub use serve::{serve, serve_with_shutdown};
#[cfg(feature = "server")]
#[cfg_attr(docsrs, doc(cfg(feature = "server")))]
pub use server::FileOptions;
#[cfg(all(feature = "server", feature = "tls"))]
#[cfg_attr(docsrs, doc(cfg(all(feature = "server", feature = "tls"))))]
pub use server::Tls;
pub use signals::shutdown_signal;
pub use state::{Counter, Table};

/// What a hub counts, drops and misses.
pub mod stats {
    pub use crate::{
        cluster::GapReport,
        engine::{DropReport, Drops, RemoteStats},
        hub::Stats,
    };
}

/// Observing the frames of a connection; see [`Connection::tap`].
pub mod tap {
    pub use crate::engine::{Direction, FrameKind, Tap, TappedFrame};
}
