//! The queue of messages to publish: bounded, with the task that empties it.
//!
//! The queue has one lane for each slot of a Cluster, or a single lane elsewhere. A lane has one round trip
//! in progress at a time, which keeps its order. Lanes do not wait for each other, so an unresponsive shard
//! delays only its own.

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

use crate::{
    Message,
    cluster::{
        sequence::SeqSource,
        sign::Signer,
        wire::{Body, Envelope},
    },
    engine::RemoteStats,
    log::limited,
    redis_client::{Link, Redis},
};

/// Messages that may wait: about a second of what one Redis accepts.
const MESSAGES: usize = 1 << 16;
const BYTES: usize = 64 << 20;
/// Maximum bytes of one message: half of the output buffer at which Redis disconnects a subscriber (32 MiB by
/// default).
const MESSAGE: usize = 16 << 20;
/// Messages sent to Redis in one round trip.
const BATCH: usize = 512;
/// Bytes after which a round trip accepts no more messages.
const BATCH_BYTES: usize = 1 << 20;
/// Time after which a round trip counts as stuck, because the shard hangs. Its lane may then use only the
/// first half of the space, so that the other half remains for the others.
const STUCK: Duration = Duration::from_millis(500);

/// The queue of messages to publish.
pub(super) struct Outgoing {
    redis: Redis,
    waiting: Mutex<OutgoingQueue>,
    /// Notified when messages wait.
    wake: Notify,
    /// Notified when no messages wait any more.
    emptied: Notify,
    sent: AtomicU64,
    /// Messages not published.
    unsent: AtomicU64,
}

struct OutgoingQueue {
    /// Messages that wait or are in progress, by the slot of their channel. Empty lanes are removed.
    lanes: HashMap<u16, Lane>,
    /// Lanes with waiting messages and no round trip in progress.
    ready: VecDeque<u16>,
    /// In all lanes.
    messages: usize,
    /// In all lanes.
    bytes: usize,
    /// Assigns sequence numbers to pushes, by room. Unsent pushes receive numbers, too, so that other nodes
    /// can detect what they missed.
    sequence: SeqSource,
    /// The name under which broadcasts are numbered.
    everyone: Arc<str>,
    /// Whether messages are accepted; false while Redis is unavailable.
    is_open: bool,
}

/// Messages that wait for one slot.
#[derive(Default)]
struct Lane {
    /// Channel and message, oldest first.
    queue: VecDeque<(String, Bytes)>,
    /// When the round trip in progress began.
    since: Option<Instant>,
}

/// Messages of one round trip.
struct OutgoingBatch {
    slot: u16,
    /// Channel and message, oldest first.
    messages: Vec<(String, Bytes)>,
    /// Total size of the messages.
    bytes: usize,
}

impl Outgoing {
    /// Creates an empty queue.
    pub(super) fn new(redis: Redis) -> Self {
        let is_open = *redis.link().borrow() != Link::Down;
        // No room has a name this long, so these numbers are separate from those of every room.
        let everyone = "*".repeat(crate::limits::NAME + 1).into();
        let waiting = OutgoingQueue {
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            messages: 0,
            bytes: 0,
            sequence: SeqSource::new(),
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

    /// Numbers a push to a room and queues it.
    pub(super) fn push_message(
        &self,
        node: u64,
        signer: &Signer,
        room: Option<&Arc<str>>,
        channel: String,
        message: &Message,
    ) {
        let slot = self.redis.slot(channel.as_bytes());
        let mut waiting = self.waiting.lock();
        let name = room.unwrap_or(&waiting.everyone).clone();
        let sequence = waiting.sequence.next(&name);
        if waiting.has_space(slot, message.len()) {
            let envelope = Envelope { node, sequence, body: Body::Message { message: message.clone() } };
            let signed = signer.sign_envelope(&channel, &envelope);
            waiting.push(slot, channel, signed);
            drop(waiting);
            self.wake.notify_one();
        } else {
            drop(waiting);
            self.unsent.fetch_add(1, Relaxed);
        }
    }

    /// Queues a message without a sequence number.
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

    /// Counts messages that were published without the queue.
    pub(super) fn count_sent(&self, messages: u64) {
        self.sent.fetch_add(messages, Relaxed);
    }

    /// Returns whether a message of that length may be published without the queue. Counts one that may not.
    pub(super) fn admit(&self, len: usize) -> bool {
        let fits = len <= MESSAGE;
        self.unsent.fetch_add(u64::from(!fits), Relaxed);
        fits
    }

    /// Adds the counters of this queue to the statistics.
    pub(super) fn report(&self, stats: &mut RemoteStats) {
        stats.sent = self.sent.load(Relaxed);
        stats.unsent = self.unsent.load(Relaxed);
        stats.queued_bytes = self.waiting.lock().bytes;
    }

    /// Waits until all messages queued so far have been published.
    pub(super) async fn flush(&self) {
        loop {
            let emptied = self.emptied.notified(); // receives every notification from here on
            if self.waiting.lock().lanes.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Takes the oldest messages of a ready lane.
    fn take(&self) -> Option<OutgoingBatch> {
        let mut waiting = self.waiting.lock();
        let slot = waiting.ready.pop_front()?;
        let lane = waiting.lanes.get_mut(&slot)?;
        lane.since = Some(Instant::now());
        let mut batch = OutgoingBatch { slot, messages: Vec::new(), bytes: 0 };
        while batch.messages.len() < BATCH && batch.bytes < BATCH_BYTES {
            let Some((channel, message)) = lane.queue.pop_front() else { break };
            batch.bytes += message.len();
            batch.messages.push((channel, message));
        }
        Some(batch)
    }

    /// Ends a round trip.
    fn complete(&self, batch: &OutgoingBatch) {
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
        self.notify_if_empty(&waiting);
    }

    /// Notifies waiting callers if the queue is empty.
    fn notify_if_empty(&self, waiting: &OutgoingQueue) {
        if waiting.lanes.is_empty() {
            self.emptied.notify_waiters();
        }
    }

    /// Accepts messages again.
    fn open(&self) {
        self.waiting.lock().is_open = true;
    }

    /// Stops accepting messages and drops the waiting ones. They would be outdated when Redis is available
    /// again.
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
        self.notify_if_empty(&waiting);
        drop(waiting);
        self.unsent.fetch_add(messages as u64, Relaxed);
    }
}

impl OutgoingQueue {
    /// Returns whether a message of that length may wait for that slot.
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

/// Publishes waiting messages, in the order of each lane, until aborted.
pub(super) async fn run(out: Arc<Outgoing>) {
    let mut link = out.redis.link();
    // At most one for each slot.
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
    /// Publishes a batch in one round trip.
    async fn publish(&self, batch: OutgoingBatch) {
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
                // Some of them may have been published. A node that missed one detects it by the sequence
                // numbers.
                limited!(DEBUG, %error, messages, "messages to other nodes could not be published");
                self.unsent.fetch_add(messages, Relaxed)
            }
        };
        self.complete(&batch);
    }
}
