//! The engine: moves bytes between sockets and rooms.
//!
//! It knows local connection ids, messages, sockets and a trait of callbacks. It does not know HTTP, Redis or the public handles.

mod admission;
mod adoption;
mod batch;
mod bridge;
mod budget;
mod command;
pub(crate) mod cork;
mod delivery;
mod drops;
pub(crate) mod event_loop;
mod extras;
mod mailbox;
#[cfg(all(test, ripplecast_loom))]
mod models;
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
    adoption::{Adoption, Socket},
    batch::Dialect,
    bridge::{Bridge, Group, Later, Place},
    budget::Ledger,
    command::Command,
    drops::{DropHook, DropLog},
    node::{Counter, Node, ShardHandle},
    outbox::Profile,
    room::{RoomCore, RoomRules, Setup},
    route::{Callbacks, Called, MakeCallbacks, Route, Takes},
    shard::Shard,
    socket::tune,
};
pub use self::{
    bridge::{Reach, RemoteStats},
    drops::{DropReport, Drops},
    outbox::Overflow,
    room::RoomOptions,
    tap::{Direction, FrameKind, Tap, TappedFrame},
};
