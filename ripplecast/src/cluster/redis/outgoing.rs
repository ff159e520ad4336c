//! What is to be published: a bounded queue, and the task that empties it.
//!
//! The queue has a lane for each slot of a Cluster, and one in all elsewhere. A lane has one round trip under way at a time, so
//! the order in it is kept; lanes don't wait for each other, so a shard that does not answer holds up nobody else.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Inner;
use crate::{
    Frame,
    cluster::{
        sequence::Given,
        sign::Sealer,
        wire::{Body, Message},
    },
    engine::RemoteStats,
    log::limited,
    redis_client::{Link, Redis},
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
/// A round trip of a lane that takes longer is that of a shard which hangs. Its lane gets no more than the first half of the
/// space, so that the other half is there for the others.
const STUCK: Duration = Duration::from_millis(500);

/// See the module.
pub(super) struct Outgoing {
    /// Where it goes.
    redis: Redis,
    /// What waits.
    waiting: Mutex<Waiting>,
    /// Something waits.
    wake: Notify,
    /// Nothing waits any more.
    emptied: Notify,
    /// Messages that were published.
    sent: AtomicU64,
    /// Messages that were not.
    unsent: AtomicU64,
}

/// What waits.
struct Waiting {
    /// What waits or is under way, by the slot of its channel. There is no lane without either.
    lanes: HashMap<u16, Lane>,
    /// Lanes in which something waits and nothing is under way.
    ready: VecDeque<u16>,
    /// Messages in all lanes.
    messages: usize,
    /// The bytes of them.
    bytes: usize,
    /// The numbers of frames, by room. They are given also to what is not sent, so that others see what they missed.
    given: Given,
    /// The name under which frames for all connections are numbered.
    everyone: Arc<str>,
    /// Whether anything is taken: not while Redis is away.
    is_open: bool,
}

/// What waits for one slot.
#[derive(Default)]
struct Lane {
    /// Channel and message, oldest first.
    queue: VecDeque<(String, Bytes)>,
    /// Since when a round trip is under way, if one is.
    since: Option<Instant>,
}

/// What goes in one round trip.
struct Batch {
    /// Of which lane.
    slot: u16,
    /// Channel and message, oldest first.
    messages: Vec<(String, Bytes)>,
    /// The bytes of the messages.
    bytes: usize,
}

impl Outgoing {
    /// Nothing waits.
    pub(super) fn new(redis: Redis) -> Self {
        let is_open = *redis.link().borrow() != Link::Down;
        // No room has a name that long, so no room's numbers are mixed with these.
        let everyone = "*".repeat(crate::limits::NAME + 1).into();
        let waiting = Waiting {
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            messages: 0,
            bytes: 0,
            given: Given::new(),
            everyone,
            is_open,
        };
        Self {
            redis,
            waiting: Mutex::new(waiting),
            wake: Notify::new(),
            emptied: Notify::new(),
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
        let slot = self.redis.slot(channel.as_bytes());
        let mut waiting = self.waiting.lock();
        let name = room.unwrap_or(&waiting.everyone).clone();
        let number = waiting.given.next(&name);
        if waiting.has_space(slot, frame.len()) {
            let message = Message { node, number, body: Body::Frame { frame: frame.clone() } };
            let sealed = sealer.seal(&channel, &message);
            waiting.push(slot, channel, sealed);
            drop(waiting);
            self.wake.notify_one();
        } else {
            drop(waiting);
            self.unsent.fetch_add(1, Relaxed);
        }
    }

    /// Lets a message wait that has no number.
    pub(super) fn push(&self, channel: String, message: Bytes) {
        let slot = self.redis.slot(channel.as_bytes());
        let mut waiting = self.waiting.lock();
        if waiting.has_space(slot, message.len()) {
            waiting.push(slot, channel, message);
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

    /// Whether a message of that length may go past the queue; one that may not is counted.
    pub(super) fn may_pass(&self, len: usize) -> bool {
        let may_pass = len <= MESSAGE;
        self.unsent.fetch_add(u64::from(!may_pass), Relaxed);
        may_pass
    }

    /// Fills in what is known here.
    pub(super) fn report(&self, stats: &mut RemoteStats) {
        stats.sent = self.sent.load(Relaxed);
        stats.unsent = self.unsent.load(Relaxed);
        stats.queued_bytes = self.waiting.lock().bytes;
    }

    /// Waits until nothing waits and nothing is under way, of what was there before.
    pub(super) async fn flush(&self) {
        loop {
            let emptied = self.emptied.notified(); // hears of what happens from here on
            if self.waiting.lock().lanes.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// The oldest messages of a lane that is ready.
    fn take(&self) -> Option<Batch> {
        let mut waiting = self.waiting.lock();
        let slot = waiting.ready.pop_front()?;
        let lane = waiting.lanes.get_mut(&slot)?;
        lane.since = Some(Instant::now());
        let mut batch = Batch { slot, messages: Vec::new(), bytes: 0 };
        while batch.messages.len() < BATCH && batch.bytes < BATCH_BYTES {
            let Some((channel, message)) = lane.queue.pop_front() else { break };
            batch.bytes += message.len();
            batch.messages.push((channel, message));
        }
        Some(batch)
    }

    /// A round trip is over.
    fn landed(&self, batch: &Batch) {
        let mut waiting = self.waiting.lock();
        waiting.messages -= batch.messages.len();
        waiting.bytes -= batch.bytes;
        let Some(lane) = waiting.lanes.get_mut(&batch.slot) else { return };
        lane.since = None;
        if lane.queue.is_empty() {
            waiting.lanes.remove(&batch.slot);
        } else {
            waiting.ready.push_back(batch.slot);
        }
        self.tell_if_empty(&waiting);
    }

    /// Tells those who wait for it that nothing is left.
    fn tell_if_empty(&self, waiting: &Waiting) {
        if waiting.lanes.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    /// Takes messages again.
    fn open(&self) {
        self.waiting.lock().is_open = true;
    }

    /// Takes no more messages, and throws away what waits: when Redis is back, it would be old.
    fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.is_open = false;
        waiting.ready.clear();
        let (mut messages, mut bytes) = (0, 0);
        waiting.lanes.retain(|_, lane| {
            let thrown_away = std::mem::take(&mut lane.queue);
            messages += thrown_away.len();
            bytes += thrown_away.iter().map(|(_, message)| message.len()).sum::<usize>();
            lane.since.is_some()
        });
        waiting.messages -= messages;
        waiting.bytes -= bytes;
        self.tell_if_empty(&waiting);
        drop(waiting);
        self.unsent.fetch_add(messages as u64, Relaxed);
    }
}

impl Waiting {
    /// Whether a message of that length may wait for that slot.
    fn has_space(&self, slot: u16, len: usize) -> bool {
        let is_stuck = || {
            let since = self.lanes.get(&slot).and_then(|lane| lane.since);
            since.is_some_and(|since| since.elapsed() > STUCK)
        };
        let is_half_full = self.messages >= MESSAGES / 2 || self.bytes >= BYTES / 2;
        self.is_open
            && len <= MESSAGE
            && self.messages < MESSAGES
            && self.bytes + len <= BYTES
            && !(is_half_full && self.lanes.len() > 1 && is_stuck())
    }

    /// Lets it wait.
    fn push(&mut self, slot: u16, channel: String, message: Bytes) {
        self.messages += 1;
        self.bytes += message.len();
        let lane = self.lanes.entry(slot).or_default();
        lane.queue.push_back((channel, message));
        if lane.queue.len() == 1 && lane.since.is_none() {
            self.ready.push_back(slot);
        }
    }
}

/// Publishes what waits, in the order of each lane, until it is aborted.
pub(super) async fn run(inner: Arc<Inner>) {
    let out = &inner.out;
    let mut link = out.redis.link();
    // One at the most for each slot.
    let mut under_way = FuturesUnordered::new();
    loop {
        if *link.borrow_and_update() == Link::Down {
            out.close();
        } else {
            out.open();
            while let Some(batch) = out.take() {
                under_way.push(out.publish(batch));
            }
        }
        tokio::select! {
            Some(()) = under_way.next() => {}
            () = out.wake.notified() => {}
            changed = link.changed() => if changed.is_err() { return },
        }
    }
}

impl Outgoing {
    /// Publishes in one round trip.
    async fn publish(&self, batch: Batch) {
        let publish = |(channel, message): &(String, Bytes)| {
            let mut command = redis::cmd(self.redis.publish_command());
            command.arg(channel).arg(&message[..]);
            command
        };
        let messages = batch.messages.len() as u64;
        let commands: Vec<_> = batch.messages.iter().map(publish).collect();
        match self.redis.all(&commands).await {
            Ok(()) => self.sent.fetch_add(messages, Relaxed),
            Err(error) => {
                // Some of them may have been published. Whoever missed one sees it by the numbers.
                limited!(DEBUG, %error, messages, "messages to other nodes could not be published");
                self.unsent.fetch_add(messages, Relaxed)
            }
        };
        self.landed(&batch);
    }
}
