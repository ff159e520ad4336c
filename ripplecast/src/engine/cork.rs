//! Gathers the frames that a callback pushes to its own connection while the shard polls it, and sends them in one
//! write.
//!
//! This applies only while the shard's mailbox is empty. Otherwise the frame is posted behind the earlier commands.

use std::cell::{Cell, RefCell};

use super::{
    batch::{Dialect, Joined},
    node::ShardHandle,
};
use crate::{Message, id::Local, limits::READ_BUFFER, outcome::Sent};

thread_local! {
    static CURRENT: Current = const {
        Current {
            node: Cell::new(0),
            local: Cell::new(0),
            dialect: Cell::new(Dialect::WebSocket),
            compress_above: Cell::new(usize::MAX),
            open: Cell::new(false),
            frames: RefCell::new(Joined { bytes: Vec::new(), ends: Vec::new() }),
        }
    };
}

/// The connection whose callback this thread is polling.
struct Current {
    /// The connection's node: several nodes may run in one process.
    node: Cell<u64>,
    /// The connection, packed; 0 when no callback is being polled.
    local: Cell<u64>,
    /// How its frames are encoded.
    dialect: Cell<Dialect>,
    /// The length above which they are compressed, if the connection has negotiated it.
    compress_above: Cell<usize>,
    /// Whether frames for it are still accepted.
    open: Cell<bool>,
    /// Its frames, encoded. They stay here after the callback until the shard takes them.
    frames: RefCell<Joined>,
}

/// A guard: while it lives, the thread polls a callback of a connection.
pub(super) struct Entered(());

/// Notes that the shard is about to poll a callback of `who`.
pub(super) fn enter(node: u64, who: Local, dialect: Dialect, compress_above: usize, open: bool) -> Entered {
    CURRENT.with(|current| {
        current.node.set(node);
        current.local.set(who.pack());
        current.dialect.set(dialect);
        current.compress_above.set(compress_above);
        current.open.set(open);
    });
    Entered(())
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.with(|current| current.local.set(0));
    }
}

/// Takes a frame that a callback pushes to its own connection; `None` when it has to go through the mailbox.
pub(crate) fn push(shard: &ShardHandle, to: Local, frame: &Message) -> Option<Sent> {
    CURRENT.with(|current| {
        if current.local.get() != to.pack() || current.node.get() != shard.node {
            return None;
        }
        if !shard.mailbox.is_quiet() {
            return None;
        }
        if !current.open.get() {
            return Some(Sent::Closed);
        }
        let mut frames = current.frames.borrow_mut();
        if !frames.bytes.is_empty() && frames.bytes.len() + frame.len() > READ_BUFFER {
            return None;
        }
        frames.push(current.dialect.get(), frame, None, current.compress_above.get());
        Some(Sent::Queued)
    })
}

/// Takes the frames that were pushed. The shard returns the buffer with [`give_back`].
pub(super) fn take() -> Joined {
    CURRENT.with(|current| current.frames.take())
}

/// Keeps an emptied buffer for the next callback.
pub(super) fn give_back(mut buffer: Joined) {
    buffer.clear();
    CURRENT.with(|current| current.frames.replace(buffer));
}
