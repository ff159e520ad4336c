#![doc = include_str!("docs/crate.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
// Code that only some features use would need a condition on each item. With all features nothing is unused.
#![cfg_attr(
    not(all(feature = "deflate", feature = "redis", feature = "server", feature = "tls")),
    allow(unused)
)]

#[cfg(feature = "server")]
mod app;
mod assemble;
mod backend;
mod bus;
mod close;
mod cluster;
pub mod codec;
mod engine;
mod error;
mod frame;
mod glob;
mod hand_off;
mod headers;
mod hub;
mod id;
mod limits;
mod live;
pub mod log;
mod name;
mod outcome;
mod panics;
mod queue;
#[cfg(feature = "redis")]
mod redis_client;
mod relay;
mod reply;
mod request;
mod response;
mod same_origin;
#[cfg(feature = "server")]
mod server;
pub mod sse;
mod state;
mod sync;
mod text;
pub mod ws;

#[cfg(feature = "server")]
#[cfg_attr(docsrs, doc(cfg(feature = "server")))]
pub use app::{App, AppBuilder, Bound};
pub use backend::Backend;
pub use bus::{BusMessage, Subscription};
pub use close::{Close, CloseCode};
pub use cluster::GapReport;
pub use engine::{
    Direction, DropReport, Drops, FrameKind, Overflow, Reach, RemoteStats, RoomOptions, Tap, TappedFrame,
};
pub use error::{BackendError, BusError, Error, ParseIdError, Result, StoreError, StreamError};
pub use frame::Frame;
pub use headers::{Authority, TrustedProxies};
pub use hub::{Client, Connection, Hub, HubBuilder, Room, Stats};
pub use id::{ConnectionId, NodeId};
pub use live::{LiveCounter, LiveTable};
pub use outcome::{Dropped, Sent};
pub use queue::{
    DeadLetter, GroupStatus, ReliableCounts, ReliableOptions, ReliableStream, ReliableSubscription, StreamId,
    StreamMessage, StreamStatus,
};
pub use request::{Accept, IntoAccept, Request, bearer_token, cookie};
pub use same_origin::{SameOrigin, SameOriginService};
#[cfg(all(feature = "server", feature = "tls"))]
#[cfg_attr(docsrs, doc(cfg(all(feature = "server", feature = "tls"))))]
pub use server::Tls;
#[cfg(feature = "server")]
#[cfg_attr(docsrs, doc(cfg(feature = "server")))]
pub use server::{FileOptions, shutdown_signal};
pub use state::{Counter, Cursor, Page, Table, TableBuilder, TableIter};
