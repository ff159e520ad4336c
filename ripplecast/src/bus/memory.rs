//! The bus within this process: subscriptions and their queues.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::{BusBackend, BusHandler, BusMessage, BusOptions, QUEUE_BYTES, QUEUE_MESSAGES, Subscription};
use crate::{
    glob::{Glob, Pattern},
    log::{cut, limited},
    panics::caught,
    reply::Reply,
};

/// Topics of one pattern that are handled at once: enough that a slow one does not hold up the others, and
/// few enough for a handler that queries a database.
const TOPICS_AT_ONCE: usize = 16;

/// Delivers messages to the subscriptions of this process.
#[derive(Default)]
pub(super) struct MemoryBus {
    /// Shared with the subscriptions, which remove themselves.
    listeners: Arc<RwLock<Listeners>>,
}

#[derive(Default)]
struct Listeners {
    /// Subscriptions to a single topic, by its name.
    topics: HashMap<Box<str>, Vec<Arc<Backlog>>>,
    /// Subscriptions to a pattern; each is tried for each message.
    patterns: Vec<(Glob, Arc<Backlog>)>,
    /// Whether new subscriptions are refused.
    closed: bool,
}

impl Listeners {
    fn remove(&mut self, topic: Option<&str>, queue: &Arc<Backlog>) {
        let Some(topic) = topic else {
            self.patterns.retain(|(_, other)| !Arc::ptr_eq(other, queue));
            return;
        };
        if let Some(queues) = self.topics.get_mut(topic) {
            queues.retain(|other| !Arc::ptr_eq(other, queue));
            if queues.is_empty() {
                self.topics.remove(topic);
            }
        }
    }

    /// Ends all subscriptions.
    fn close(&mut self) {
        self.closed = true;
        let patterns = self.patterns.drain(..).map(|(_, queue)| queue);
        for queue in self.topics.drain().flat_map(|(_, queues)| queues).chain(patterns) {
            queue.close();
        }
    }
}

impl BusBackend for MemoryBus {
    fn publish<'a>(&'a self, topic: &'a str, payload: Bytes) -> Reply<'a, usize> {
        let listeners = self.listeners.read();
        let of_topic = listeners.topics.get(topic).into_iter().flatten();
        let patterns =
            listeners.patterns.iter().filter(|(glob, _)| glob.matches(topic)).map(|(_, queue)| queue);
        let mut message: Option<BusMessage> = None;
        let mut taken = 0;
        let mut overflowing = Vec::new();
        for queue in of_topic.chain(patterns) {
            let message =
                message.get_or_insert_with(|| BusMessage { topic: topic.into(), payload: payload.clone() });
            match queue.push(message.clone()) {
                BacklogPush::Queued => taken += 1,
                BacklogPush::Dropped { first: true } => overflowing.push(Arc::clone(queue)),
                BacklogPush::Dropped { first: false } => {}
            }
        }
        // Log without holding the lock: a log subscriber may do anything.
        drop(listeners);
        for queue in overflowing {
            limited!(
                WARN,
                subscription = %cut(&queue.pattern),
                topic = %cut(topic),
                "a subscription's queue is full; messages are dropped until its handler catches up"
            );
        }
        Reply::now::<crate::Error>(Ok(taken))
    }

    fn subscribe(&self, pattern: &str, options: BusOptions, handler: BusHandler) -> Reply<'_, Subscription> {
        let queue = Arc::new(Backlog::new(pattern.into()));
        let pattern = Pattern::parse(pattern);
        let of_topic = options.concurrency;
        let at_once =
            if matches!(pattern, Pattern::Exact(_)) { of_topic } else { of_topic.max(TOPICS_AT_ONCE) };
        let task = tokio::spawn(run(Arc::clone(&queue), handler, of_topic, at_once));
        let topic = if let Pattern::Exact(topic) = &pattern { Some(topic.clone()) } else { None };
        let mut listeners = self.listeners.write();
        match pattern {
            _ if listeners.closed => queue.close(),
            Pattern::Exact(topic) => {
                listeners.topics.entry(topic).or_default().push(Arc::clone(&queue));
            }
            Pattern::Glob(glob) => listeners.patterns.push((glob, Arc::clone(&queue))),
        }
        drop(listeners);
        let (weak, own): (Weak<RwLock<Listeners>>, _) = (Arc::downgrade(&self.listeners), Arc::clone(&queue));
        let leave = move || {
            if let Some(listeners) = weak.upgrade() {
                listeners.write().remove(topic.as_deref(), &own);
            }
        };
        Reply::now::<crate::Error>(Ok(Subscription { queue, task, leave: Some(Box::new(leave)), keep: None }))
    }

    fn close(&self) {
        self.listeners.write().close();
    }
}

impl Drop for MemoryBus {
    fn drop(&mut self) {
        self.close();
    }
}

/// What happened to a message at one subscription.
enum BacklogPush {
    /// Queued for the handler.
    Queued,
    /// Dropped, either the first of a burst or a later one.
    Dropped { first: bool },
}

/// Messages of a subscription that wait for its handler.
pub(super) struct Backlog {
    /// For the log.
    pattern: Box<str>,
    waiting: Mutex<BacklogState>,
    /// Wakes the task after a push or a close. Stores the wake-up if the task is not waiting.
    wake: Notify,
    dropped: AtomicU64,
}

/// The state of a [`Backlog`].
#[derive(Default)]
struct BacklogState {
    /// Oldest first.
    messages: VecDeque<BusMessage>,
    /// Total size of the payloads.
    bytes: usize,
    /// Whether messages are being dropped, which has been logged. Reset when the queue is half empty.
    overflowing: bool,
    closed: bool,
}

impl Backlog {
    fn new(pattern: Box<str>) -> Self {
        Self { pattern, waiting: Mutex::default(), wake: Notify::new(), dropped: AtomicU64::new(0) }
    }

    /// Adds a message if there is room.
    fn push(&self, message: BusMessage) -> BacklogPush {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return BacklogPush::Dropped { first: false };
        }
        let bytes = waiting.bytes + message.payload.len();
        if waiting.messages.len() < QUEUE_MESSAGES && bytes <= QUEUE_BYTES {
            waiting.bytes = bytes;
            waiting.messages.push_back(message);
            drop(waiting);
            self.wake.notify_one();
            return BacklogPush::Queued;
        }
        self.dropped.fetch_add(1, Relaxed);
        BacklogPush::Dropped { first: !std::mem::replace(&mut waiting.overflowing, true) }
    }

    /// Waits for a message of a topic with fewer than `of_topic` busy handlers, and returns the oldest. Returns
    /// `None` once the subscription has ended.
    async fn pop(&self, busy: &HashMap<Arc<str>, usize>, of_topic: usize) -> Option<BusMessage> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                if waiting.closed {
                    return None;
                }
                let is_free =
                    |message: &BusMessage| busy.get(&message.topic).is_none_or(|&running| running < of_topic);
                let next = waiting.messages.iter().position(is_free);
                if let Some(message) = next.and_then(|next| waiting.messages.remove(next)) {
                    waiting.bytes -= message.payload.len();
                    if waiting.messages.len() <= QUEUE_MESSAGES / 2 && waiting.bytes <= QUEUE_BYTES / 2 {
                        waiting.overflowing = false;
                    }
                    return Some(message);
                }
            }
            self.wake.notified().await;
        }
    }

    /// Drops all waiting messages. The task ends after its current message.
    pub(super) fn close(&self) {
        let mut waiting = self.waiting.lock();
        *waiting = BacklogState { closed: true, ..BacklogState::default() };
        drop(waiting);
        self.wake.notify_one();
    }

    /// Returns how many messages were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// Runs a subscription's task: up to `of_topic` messages of each topic at once, and up to `at_once` in total.
async fn run(queue: Arc<Backlog>, handler: BusHandler, of_topic: usize, at_once: usize) {
    // By topic: the number of its messages that are being handled, never zero.
    let (mut running, mut busy) = (FuturesUnordered::new(), HashMap::<Arc<str>, usize>::new());
    loop {
        let may_begin = running.len() < at_once;
        tokio::select! {
            biased;
            Some(topic) = running.next() => {
                if let Some(count) = busy.get_mut(&topic) {
                    *count -= 1;
                    if *count == 0 {
                        busy.remove(&topic);
                    }
                }
            }
            message = queue.pop(&busy, of_topic), if may_begin => {
                let Some(message) = message else { break };
                *busy.entry(Arc::clone(&message.topic)).or_default() += 1;
                running.push(handle(&handler, message));
            }
        }
        // Lets other tasks run even if messages never run out and the handler never waits.
        tokio::task::coop::consume_budget().await;
    }
    while running.next().await.is_some() {}
}

/// Runs the handler for a message and returns the message's topic.
async fn handle(handler: &BusHandler, message: BusMessage) -> Arc<str> {
    let topic = Arc::clone(&message.topic);
    if let Err(panic) = caught(|| handler(message)).await {
        limited!(
            ERROR,
            topic = %cut(&topic),
            panic = %cut(panic),
            "a bus handler panicked; continuing with the next message"
        );
    }
    topic
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use crate::bus::{Bus, BusHandler, BusOptions, Subscription};

    /// Subscribes with a handler that owns the receiver's sender, so the receiver ends when the handler is
    /// dropped.
    async fn listen(bus: &Bus, pattern: &str) -> (Subscription, tokio::sync::mpsc::UnboundedReceiver<()>) {
        let (sender, receiver) = unbounded_channel();
        let handler: BusHandler = Box::new(move |_| {
            sender.send(()).unwrap();
            Box::pin(async {})
        });
        (bus.backend.subscribe(pattern, BusOptions::new(), handler).await.unwrap(), receiver)
    }

    #[tokio::test]
    async fn subscriptions_end_with_the_bus() {
        for pattern in ["a", "a*"] {
            let bus = Bus::memory();
            let (detached, mut one) = listen(&bus, pattern).await;
            let (_held, mut two) = listen(&bus, pattern).await;
            detached.detach();
            assert_eq!(bus.publish("a", "").await.unwrap(), 2);
            assert!(one.recv().await.is_some() && two.recv().await.is_some());
            drop(bus);
            assert!(one.recv().await.is_none() && two.recv().await.is_none());
        }
    }

    #[tokio::test]
    async fn a_closed_bus_accepts_no_subscription() {
        let bus = Bus::memory();
        let (_before, mut before) = listen(&bus, "a").await;
        bus.close();
        let (after, mut never) = listen(&bus, "a").await;
        assert_eq!(bus.publish("a", "").await.unwrap(), 0);
        assert!(before.recv().await.is_none() && never.recv().await.is_none());
        after.unsubscribe().await;
    }
}
