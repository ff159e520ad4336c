//! Queues within this process, which last as long as it does. A queue's messages and groups are in
//! `memory/log.rs`.

mod log;

use std::{
    collections::HashMap,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use self::log::{Log, LogEntry, LogState};
use super::{
    DEAD, DEAD_LETTERS,
    backend::{Consumer, QueueBackend, QueueDelivery, Redelivery},
    id::MessageId,
    message::{DeadLetter, QueueMessage, QueueStatus},
    options::QueueOptions,
    runner::Control,
};
use crate::{Error, Result, reply::Reply};

/// Maximum number of queues, not counting queues of dead letters; each is kept until deleted. More than a program
/// names, but too few for one queue per user.
const MAX_QUEUES: usize = 10_000;

/// The queues of this process.
#[derive(Default)]
pub(super) struct MemoryQueues {
    /// Shared with the consumers, which add dead letters here.
    logs: Arc<Logs>,
    /// The number of the next consumer.
    next: AtomicU64,
}

/// The queues by name.
#[derive(Default)]
struct Logs(Mutex<HashMap<Arc<str>, Arc<Log>>>);

impl Logs {
    /// Returns the queue with that name, created if necessary.
    fn open(&self, name: &str) -> Result<Arc<Log>> {
        let mut logs = self.0.lock();
        if let Some(log) = logs.get(name) {
            return Ok(Arc::clone(log));
        }
        // There must always be a place for dead letters.
        if logs.len() >= MAX_QUEUES && !name.ends_with(DEAD) {
            return Err(Error::Overloaded { what: "the memory for queues", limit: MAX_QUEUES });
        }
        let (name, log): (Arc<str>, _) = (name.into(), Arc::<Log>::default());
        logs.insert(name, Arc::clone(&log));
        Ok(log)
    }

    /// Returns the queue with that name, if it exists.
    fn find(&self, name: &str) -> Option<Arc<Log>> {
        self.0.lock().get(name).cloned()
    }
}

impl QueueBackend for MemoryQueues {
    fn publish<'a>(&'a self, queue: &'a str, payload: Bytes, max_len: usize) -> Reply<'a, MessageId> {
        let published = self.logs.open(queue).and_then(|log| {
            let id = log.state.lock().publish(queue, payload, max_len)?;
            log.changed.notify_waiters();
            Ok(id)
        });
        Reply::now(published)
    }

    fn status<'a>(&'a self, queue: &'a str) -> Reply<'a, QueueStatus> {
        let mut status = self.logs.find(queue).map(|log| log.state.lock().status()).unwrap_or_default();
        let dead = self.logs.find(&format!("{queue}{DEAD}"));
        status.dead = dead.map_or(0, |log| log.state.lock().len() as u64);
        Reply::now::<Error>(Ok(status))
    }

    fn remove_group<'a>(&'a self, queue: &'a str, group: &'a str) -> Reply<'a, bool> {
        let removed = self.logs.find(queue).is_some_and(|log| {
            let removed = log.state.lock().remove_group(group);
            log.changed.notify_waiters(); // its subscriptions start again
            removed
        });
        Reply::now::<Error>(Ok(removed))
    }

    fn delete<'a>(&'a self, queue: &'a str) -> Reply<'a, bool> {
        let mut logs = self.logs.0.lock();
        let Some(log) = logs.get(queue) else { return Reply::now::<Error>(Ok(false)) };
        let existed = log.state.lock().clear();
        // Otherwise, subscriptions still hold the queue and continue to use it.
        if Arc::strong_count(log) == 1 {
            logs.remove(queue);
        }
        Reply::now::<Error>(Ok(existed))
    }

    fn join<'a>(
        &'a self,
        queue: &'a Arc<str>,
        group: &'a Arc<str>,
        _options: &'a QueueOptions,
        control: &'a Arc<Control>,
    ) -> Reply<'a, Arc<dyn Consumer>> {
        let joined = self.logs.open(queue).map(|log| {
            log.state.lock().group(group).consumers += 1;
            let member = MemoryConsumer {
                number: self.next.fetch_add(1, Relaxed),
                queue: Arc::clone(queue),
                group: Arc::clone(group),
                log,
                logs: Arc::clone(&self.logs),
                control: Arc::clone(control),
                stopped: AtomicBool::new(false),
            };
            Arc::new(member) as Arc<dyn Consumer>
        });
        Reply::now(joined)
    }
}

/// A consumer of a group.
struct MemoryConsumer {
    /// Identifies the consumer.
    number: u64,
    queue: Arc<str>,
    group: Arc<str>,
    log: Arc<Log>,
    /// All queues, for the dead letters.
    logs: Arc<Logs>,
    /// Shared with the handle.
    control: Arc<Control>,
    stopped: AtomicBool,
}

impl MemoryConsumer {
    /// Takes up to `count` available messages.
    fn take_now(&self, count: usize) -> Vec<QueueDelivery> {
        let mut state = self.log.state.lock();
        let taken = state.take(&self.group, self.number, count);
        drop(state);
        self.control.counters.trimmed.fetch_add(taken.trimmed, Relaxed);
        let message = |entry: &LogEntry, deliveries| QueueMessage {
            id: entry.id,
            queue: Arc::clone(&self.queue),
            payload: entry.payload.clone(),
            deliveries,
            dead: entry.dead.clone(),
        };
        let deliveries = taken.entries.iter();
        deliveries
            .map(|(entry, deliveries)| QueueDelivery {
                message: message(entry, *deliveries),
                claimed: *deliveries > 1,
                fault: None,
            })
            .collect()
    }

    /// Changes the queue under its lock.
    fn with<T: Unpin>(&self, change: impl FnOnce(&mut LogState) -> T) -> Reply<'_, T> {
        Reply::now::<Error>(Ok(change(&mut self.log.state.lock())))
    }
}

impl Consumer for MemoryConsumer {
    fn take(&self, count: usize) -> Pin<Box<dyn Future<Output = Vec<QueueDelivery>> + Send + '_>> {
        Box::pin(async move {
            loop {
                let mut changed = pin!(self.log.changed.notified());
                changed.as_mut().enable(); // no change from here on is missed
                if self.stopped.load(Relaxed) {
                    return Vec::new();
                }
                let taken = self.take_now(count);
                if !taken.is_empty() {
                    return taken;
                }
                changed.await;
            }
        })
    }

    fn redeliver<'a>(&'a self, message: &'a QueueMessage) -> Reply<'a, Redelivery> {
        self.with(|state| state.redeliver(&self.group, self.number, message.id))
    }

    fn acknowledge<'a>(&'a self, message: &'a QueueMessage) -> Reply<'a, ()> {
        self.with(|state| state.acknowledge(&self.group, message.id))
    }

    fn bury<'a>(&'a self, message: &'a QueueMessage, reason: &'a str) -> Reply<'a, bool> {
        let buried = self.logs.open(&format!("{}{DEAD}", self.queue)).map(|dead| {
            // Locks both queues, so that the message is always seen on exactly one. A queue is locked
            // before its dead letters.
            let mut state = self.log.state.lock();
            if !state.is_last_chance(&self.group, self.number, message.id) {
                return false;
            }
            let letter = DeadLetter {
                id: message.id,
                group: self.group.to_string(),
                reason: reason.to_owned(),
                deliveries: message.deliveries,
            };
            dead.state.lock().bury(message.payload.clone(), letter, DEAD_LETTERS);
            state.acknowledge(&self.group, message.id);
            drop(state);
            dead.changed.notify_waiters();
            true
        });
        Reply::now(buried)
    }

    fn release<'a>(&'a self, message: &'a QueueMessage, seen: bool) -> Reply<'a, ()> {
        self.log.state.lock().release(&self.group, self.number, message.id, seen);
        self.log.changed.notify_waiters();
        Reply::now::<Error>(Ok(()))
    }

    fn stop(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.stopped.store(true, Relaxed);
        self.log.changed.notify_waiters();
        Box::pin(std::future::ready(()))
    }

    /// Does nothing: the consumer leaves its group when it is dropped, because its task may be dropped as well.
    fn leave(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

/// Releases what the consumer holds, even if its runtime ended first.
impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        self.log.state.lock().leave(&self.group, self.number);
        self.log.changed.notify_waiters();
    }
}
