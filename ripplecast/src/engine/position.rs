//! Which room a frame is of, and where the room stood.

use super::outbox::Overflow;

/// What a room says of its frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Source {
    /// The room's epoch, in which its keys count.
    pub(crate) scope: u64,
    /// What happens when one of its frames does not fit an outbox; `None` for what the endpoint says.
    pub(crate) overflow: Option<Overflow>,
}

/// What a room says of a frame that is a part of its state, for a connection that joins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Snapshot {
    /// The room.
    pub(crate) source: Source,
    /// Where the room stood, when the frame is its whole state.
    pub(crate) cursor: Option<Cursor>,
    /// It is the first of the state: what comes later must not take the place of what was queued before.
    pub(crate) is_first: bool,
}

/// A position in a room's stream: which life of the room, and how many messages into it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cursor {
    /// Changes when the room is forgotten and made anew.
    pub(crate) epoch: u64,
    /// Messages pushed to the room in this epoch.
    pub(crate) offset: u64,
}
