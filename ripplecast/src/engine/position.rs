//! The room of a message, and the message's position in it.

use super::outbox::Overflow;

/// The room that a message comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RoomSource {
    /// The room's epoch, in which its keys count.
    pub(crate) scope: u64,
    /// The policy when one of its messages does not fit an outbox; `None` for the endpoint's.
    pub(crate) overflow: Option<Overflow>,
}

/// Describes a message that is part of a room's state, for a connection that joins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Snapshot {
    pub(crate) source: RoomSource,
    /// The room's position, if the message is its whole state.
    pub(crate) position: Option<Position>,
    /// Whether it is the first part of the state. Later messages must not replace messages queued before it.
    pub(crate) is_first: bool,
}

/// A position in a room's stream of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    /// Changes when the room is forgotten and created again.
    pub(crate) epoch: u64,
    /// The number of messages pushed to the room in this epoch.
    pub(crate) offset: u64,
}
