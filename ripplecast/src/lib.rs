#![doc = include_str!("docs/crate.md")]

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
pub use backend::Backend;
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
