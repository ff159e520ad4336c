//! The engine: moves bytes between sockets and rooms.
//!
//! It knows local connection ids, messages, sockets and a trait of callbacks. It does not know HTTP, Redis or the public handles.

mod admission;
mod batch;
mod budget;
mod cluster;
mod command;
pub(crate) mod cork;
mod delivery;
mod drops;
pub(crate) mod event_loop;
mod extras;
mod mailbox;
#[cfg(all(test, ripplecast_loom))]
mod models;
mod new_connection;
mod node;
mod outbox;
mod poller;
mod position;
mod room;
mod route;
mod shard;
mod socket;
mod tap;
mod users;

pub(crate) use self::{
    admission::{Admissions, Permit, Refused, is_loopback},
    batch::Encoding,
    budget::MemoryBudget,
    cluster::{Audience, Cluster, PageStart},
    command::Command,
    drops::{DropHook, DropLog},
    new_connection::{ConnectionSocket, NewConnection},
    node::{Node, ShardCounter, ShardHandle},
    outbox::OutboxPolicy,
    room::{RoomCore, RoomRules, Setup},
    route::{Called, EndpointPath, MakeCallbacks, MessageKinds, Route, ShardCallbacks},
    shard::Shard,
    socket::tune,
};
pub use self::{
    cluster::{Reach, RemoteStats},
    drops::{DropReport, Drops},
    outbox::Overflow,
    room::RoomOptions,
    tap::{Direction, FrameKind, Tap, TappedFrame},
};
