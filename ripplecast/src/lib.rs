#![doc = include_str!("../../docs/crate.md")]

mod app;
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
mod redis_client;
mod relay;
mod reply;
mod request;
mod response;
mod same_origin;
mod server;
pub mod sse;
mod state;
mod sync;
mod text;
pub mod ws;

pub use app::{App, AppBuilder, Bound};
pub use bus::{BusMessage, Subscription};
pub use close::{Close, CloseCode};
pub use cluster::GapReport;
pub use engine::{
    Direction, DropReport, Drops, FrameKind, Overflow, Reach, RemoteStats, RoomOptions, Tap, TappedFrame,
};
pub use error::{BackendError, BusError, Error, Result, StoreError, StreamError};
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
pub use server::{FileOptions, Tls, shutdown_signal};
pub use state::{Counter, Cursor, Page, Table, TableBuilder, TableIter};

/// The guides and the README: their code is compiled and run with the tests.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../../README.md")]
    mod readme {}
    #[doc = include_str!("../../docs/state.md")]
    mod state {}
    #[doc = include_str!("../../docs/streams.md")]
    mod streams {}
    #[doc = include_str!("../../docs/scaling.md")]
    mod scaling {}
    #[doc = include_str!("../../docs/slow-readers.md")]
    mod slow_readers {}
    #[doc = include_str!("../../docs/compression.md")]
    mod compression {}
    #[doc = include_str!("../../docs/tls.md")]
    mod tls {}
    #[doc = include_str!("../../docs/quick-start.md")]
    mod quick_start {}
    #[doc = include_str!("../../docs/websocket.md")]
    mod websocket {}
    #[doc = include_str!("../../docs/sse.md")]
    mod sse {}
    #[doc = include_str!("../../docs/rooms.md")]
    mod rooms {}
    #[doc = include_str!("../../docs/bus.md")]
    mod bus {}
    #[doc = include_str!("../../docs/auth.md")]
    mod auth {}
    #[doc = include_str!("../../docs/htmx.md")]
    mod htmx {}
    #[doc = include_str!("../../docs/deploy.md")]
    mod deploy {}
    #[doc = include_str!("../../docs/testing.md")]
    mod testing {}
    #[doc = include_str!("../../docs/close-codes.md")]
    mod close_codes {}
    #[doc = include_str!("../../docs/metrics.md")]
    mod metrics {}
    #[doc = include_str!("../../docs/from-axum-ws.md")]
    mod from_axum_ws {}
    #[doc = include_str!("../../docs/from-socketio.md")]
    mod from_socketio {}
    #[doc = include_str!("../../docs/from-phoenix-channels.md")]
    mod from_phoenix_channels {}
}
