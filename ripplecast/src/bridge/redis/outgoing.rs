//! What is to be published: a bounded queue, and the task that empties it.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Inner;
use crate::{
    Frame,
    bridge::{
        numbers::Given,
        seal::Sealer,
        wire::{Body, Message},
    },
    hub::RemoteStats,
    redis::{Link, Redis},
};

/// Messages that may wait: a second of what one Redis takes.
const MESSAGES: usize = 1 << 16;
/// Bytes that may wait.
const BYTES: usize = 64 << 20;
/// Bytes of one message: half of what Redis lets wait for a subscriber before it ends its connection (32 MiB by default).
const MESSAGE: usize = 16 << 20;
/// Messages that go to Redis in one round trip.
const BATCH: usize = 512;
/// Bytes after which a round trip takes no more messages.
const BATCH_BYTES: usize = 1 << 20;

/// See the module.
pub(super) struct Outgoing {
    /// Where it goes.
    redis: Redis,
    /// What waits.
    waiting: Mutex<Waiting>,
    /// Something waits.
    wake: Notify,
    /// Messages that were published.
    sent: AtomicU64,
    /// Messages that were not.
    unsent: AtomicU64,
}

/// What waits.
struct Waiting {
    /// Channel and message, oldest first.
    queue: VecDeque<(String, Bytes)>,
    /// The bytes of it.
    bytes: usize,
    /// The numbers of frames, by room. They are given also to what is not sent, so that others see what they missed.
    given: Given,
    /// The name under which frames for all connections are numbered.
    everyone: Arc<str>,
    /// Whether anything is taken: not while Redis is away.
    is_open: bool,
}

impl Outgoing {
    /// Nothing waits.
    pub(super) fn new(redis: Redis) -> Self {
        let is_open = *redis.link().borrow() != Link::Down;
        // No room has a name that long, so no room's numbers are mixed with these.
        let everyone = "*".repeat(crate::limits::NAME + 1).into();
        let waiting = Waiting { queue: VecDeque::new(), bytes: 0, given: Given::new(), everyone, is_open };
        Self {
            redis,
            waiting: Mutex::new(waiting),
            wake: Notify::new(),
            sent: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
        }
    }

    /// Numbers a frame of a room and lets it wait.
    pub(super) fn push_frame(
        &self,
        node: u64,
        sealer: &Sealer,
        room: Option<&Arc<str>>,
        channel: String,
        frame: &Frame,
    ) {
        let mut waiting = self.waiting.lock();
        let name = room.unwrap_or(&waiting.everyone).clone();
        let number = waiting.given.next(&name);
        if waiting.has_space(frame.len()) {
            let message = Message { node, number, body: Body::Frame { frame: frame.clone() } };
            let sealed = sealer.seal(&channel, &message);
            waiting.push(channel, sealed);
            drop(waiting);
            self.wake.notify_one();
        } else {
            drop(waiting);
            self.unsent.fetch_add(1, Relaxed);
        }
    }

    /// Lets a message wait that has no number.
    pub(super) fn push(&self, channel: String, message: Bytes) {
        let mut waiting = self.waiting.lock();
        if waiting.has_space(message.len()) {
            waiting.push(channel, message);
            drop(waiting);
            self.wake.notify_one();
        } else {
            drop(waiting);
            self.unsent.fetch_add(1, Relaxed);
        }
    }

    /// Counts messages that were published past the queue.
    pub(super) fn count_sent(&self, messages: u64) {
        self.sent.fetch_add(messages, Relaxed);
    }

    /// Fills in what is known here.
    pub(super) fn report(&self, stats: &mut RemoteStats) {
        stats.sent = self.sent.load(Relaxed);
        stats.unsent = self.unsent.load(Relaxed);
        stats.queued_bytes = self.waiting.lock().bytes;
    }

    /// The oldest messages; none if nothing waits.
    fn take(&self) -> Vec<(String, Bytes)> {
        let mut waiting = self.waiting.lock();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let Some((channel, message)) = waiting.queue.pop_front() else { break };
            bytes += message.len();
            batch.push((channel, message));
        }
        waiting.bytes -= bytes;
        batch
    }

    /// Takes messages again.
    fn open(&self) {
        self.waiting.lock().is_open = true;
    }

    /// Takes no more messages, and throws away what waits: when Redis is back, it would be old.
    fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.is_open = false;
        waiting.bytes = 0;
        let thrown_away = std::mem::take(&mut waiting.queue).len();
        drop(waiting);
        self.unsent.fetch_add(thrown_away as u64, Relaxed);
    }
}

impl Waiting {
    /// Whether a message of that length may wait.
    fn has_space(&self, len: usize) -> bool {
        self.is_open && len <= MESSAGE && self.queue.len() < MESSAGES && self.bytes + len <= BYTES
    }

    /// Lets it wait.
    fn push(&mut self, channel: String, message: Bytes) {
        self.bytes += message.len();
        self.queue.push_back((channel, message));
    }
}

/// Publishes what waits, in order, until it is aborted.
pub(super) async fn run(inner: Arc<Inner>) {
    let out = &inner.out;
    let mut link = out.redis.link();
    loop {
        if *link.borrow_and_update() == Link::Down {
            out.close();
            if link.changed().await.is_err() {
                return;
            }
            continue;
        }
        out.open();
        let batch = out.take();
        if batch.is_empty() {
            tokio::select! {
                () = out.wake.notified() => {}
                changed = link.changed() => if changed.is_err() { return },
            }
            continue;
        }
        let messages = batch.len() as u64;
        let publish = |(channel, message): &(String, Bytes)| {
            let mut command = redis::cmd(out.redis.publish_command());
            command.arg(channel).arg(&message[..]);
            command
        };
        let commands: Vec<_> = batch.iter().map(publish).collect();
        match out.redis.all(&commands).await {
            Ok(()) => out.sent.fetch_add(messages, Relaxed),
            Err(error) => {
                // Some of them may have been published. Whoever missed one sees it by the numbers.
                tracing::debug!(%error, messages, "messages to other nodes could not be published");
                out.unsent.fetch_add(messages, Relaxed)
            }
        };
    }
}
