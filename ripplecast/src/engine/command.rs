//! The commands of a shard.

use std::sync::Arc;

use super::{
    mailbox::Posted, new_connection::NewConnection, position::Snapshot, room::RoomCore, tap::TapSender,
};
use crate::{Close, Message, id::Local};

/// One command in a shard's mailbox. A command for a connection that has been closed and released is dropped.
pub(crate) enum Command<W> {
    /// Opens a connection on a socket.
    Open(Box<NewConnection<W>>),
    /// Sends a message to one connection; `of` names the room if the message is part of that room's state.
    Push { to: Local, message: Message, of: Option<Snapshot> },
    /// Sends a message to every member of a room on this shard.
    Broadcast { room: Arc<RoomCore<W>>, message: Message, offset: u64 },
    /// Adds a connection to a room, which already counts it.
    Join { who: Local, room: Arc<RoomCore<W>> },
    /// Removes a connection from a room, which no longer counts it.
    Leave { who: Local, room: Arc<RoomCore<W>> },
    /// Reports a connection's frames to a tap.
    Tap { who: Local, sender: TapSender },
    /// Begins to close; the connection already counts as closed.
    Close { who: Local, close: Close },
    /// Begins the close that the shard has noted, behind messages pushed before. Posted by the shard itself.
    End { who: Local },
    /// Reports that a callback that had to wait has ended.
    Done { who: Local, outcome: CallbackOutcome },
    /// Sheds load, if the slowest connection of the hub is on this shard.
    Shed,
    /// Closes every connection and ends the shard.
    Shutdown,
}

/// How a callback ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CallbackOutcome {
    /// It returned, without an error.
    Good,
    /// It returned an error, panicked or was cancelled, which was logged.
    Failed,
    /// A backend that it needed was unavailable, which was logged.
    Unavailable,
}

impl<W> Command<W> {
    /// Returns the room, if this is a join of `joining`.
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
            Self::Push { message, .. } | Self::Broadcast { message, .. } => message.len(),
            _ => 0,
        }
    }

    fn is_join(&self) -> bool {
        matches!(self, Self::Join { .. })
    }
}
