//! Gathers the frames that a callback pushes to its own connection while the shard polls it, and sends them in one
//! write.
//!
//! This applies only while the shard's mailbox is empty. Otherwise the frame is posted behind the earlier commands.

use std::cell::{Cell, RefCell};

use super::{
    batch::{Encoding, Joined},
    node::ShardHandle,
};
use crate::{Message, id::Local, limits::READ_BUFFER, outcome::Sent};

thread_local! {
    static CORK: Cork = const {
        Cork {
            node: Cell::new(0),
            local: Cell::new(0),
            encoding: Cell::new(Encoding::WebSocket),
            compress_above: Cell::new(usize::MAX),
            open: Cell::new(false),
            frames: RefCell::new(Joined { bytes: Vec::new(), ends: Vec::new() }),
        }
    };
}

/// The connection whose callback this thread is polling, and the frames that the callback pushed to it.
struct Cork {
    /// The id of the connection's node, because several nodes may run in one process.
    node: Cell<u64>,
    /// The connection, packed; 0 when no callback is being polled.
    local: Cell<u64>,
    /// How its frames are encoded.
    encoding: Cell<Encoding>,
    /// The length above which they are compressed, if the connection has negotiated it.
    compress_above: Cell<usize>,
    /// Whether frames for it are still accepted.
    open: Cell<bool>,
    /// The frames, encoded. They stay here after the callback until the shard takes them.
    frames: RefCell<Joined>,
}

/// Ends the cork when dropped, after the callback was polled.
pub(super) struct CorkGuard(());

/// Notes that the shard is about to poll a callback of `who`.
pub(super) fn enter(
    node: u64,
    who: Local,
    encoding: Encoding,
    compress_above: usize,
    open: bool,
) -> CorkGuard {
    CORK.with(|cork| {
        cork.node.set(node);
        cork.local.set(who.pack());
        cork.encoding.set(encoding);
        cork.compress_above.set(compress_above);
        cork.open.set(open);
    });
    CorkGuard(())
}

impl Drop for CorkGuard {
    fn drop(&mut self) {
        CORK.with(|cork| cork.local.set(0));
    }
}

/// Takes a frame that a callback pushes to its own connection; `None` when it has to go through the mailbox.
pub(crate) fn push(shard: &ShardHandle, to: Local, message: &Message) -> Option<Sent> {
    CORK.with(|cork| {
        if cork.local.get() != to.pack() || cork.node.get() != shard.node_id() {
            return None;
        }
        if !shard.mailbox().is_quiet() {
            return None;
        }
        if !cork.open.get() {
            return Some(Sent::Closed);
        }
        let mut frames = cork.frames.borrow_mut();
        if !frames.bytes.is_empty() && frames.bytes.len() + message.len() > READ_BUFFER {
            return None;
        }
        frames.push(cork.encoding.get(), message, None, cork.compress_above.get());
        Some(Sent::Queued)
    })
}

/// Takes the frames that were pushed. The shard returns the buffer with [`give_back`].
pub(super) fn take() -> Joined {
    CORK.with(|cork| cork.frames.take())
}

/// Keeps an emptied buffer for the next callback.
pub(super) fn give_back(mut buffer: Joined) {
    buffer.clear();
    CORK.with(|cork| cork.frames.replace(buffer));
}
