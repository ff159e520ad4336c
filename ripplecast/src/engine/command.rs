//! What a shard can be told to do.

use std::sync::Arc;

use super::{adoption::Adoption, mailbox::Posted, position::Snapshot, room::RoomCore, tap::Ear};
use crate::{Close, Frame, id::Local};

/// One command in a shard's mailbox. A command for a generation that is gone is dropped.
pub(crate) enum Command<W> {
    /// Take over a socket.
    Adopt(Box<Adoption<W>>),
    /// A frame for one connection; `of` says of which room, when it is a part of that room's state.
    Push { to: Local, frame: Frame, of: Option<Snapshot> },
    /// A frame for every member of a room on this shard.
    Cast { room: Arc<RoomCore<W>>, frame: Frame, offset: u64 },
    /// A connection joins a room; the room already counts it.
    Join { who: Local, room: Arc<RoomCore<W>> },
    /// A connection leaves a room; the room no longer counts it.
    Leave { who: Local, room: Arc<RoomCore<W>> },
    /// Tell of a connection's frames.
    Tap { who: Local, ear: Ear },
    /// Begin to close; the connection already counts as closed.
    Close { who: Local, close: Close },
    /// Begin to close as the shard has noted, behind what was pushed before; posted by the shard itself.
    End { who: Local },
    /// A handler that had to wait has ended.
    Done { who: Local, outcome: Outcome },
    /// Too much waits on the hub: see whether the slowest connection is here.
    Shed,
    /// Close every connection and end.
    Shutdown,
}

/// How a handler ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It returned, without an error.
    Good,
    /// It returned an error, panicked or was cancelled; what is to be said was logged.
    Failed,
    /// The backend did not do what it needed, which was logged.
    Unavailable,
}

impl<W> Command<W> {
    /// The room, if this is `who` joining one.
    pub(crate) fn joins(&self, joining: Local) -> Option<Arc<RoomCore<W>>> {
        match self {
            Self::Join { who, room } if *who == joining => Some(room.clone()),
            _ => None,
        }
    }
}

impl<W> Posted for Command<W> {
    fn bytes(&self) -> usize {
        match self {
            Self::Push { frame, .. } | Self::Cast { frame, .. } => frame.len(),
            _ => 0,
        }
    }

    fn is_join(&self) -> bool {
        matches!(self, Self::Join { .. })
    }
}
