//! Queues on Redis: one Redis stream each, with its consumer groups. Anything that takes several steps is a
//! script in `redis/*.lua`.
//!
//! A subscription is a consumer. It reads on its own connection, because its reads block; everything else
//! uses the node's connection. Redis has no delayed delivery, so a failed message stays with its consumer,
//! which delivers it again. `leases.rs` renews what consumers hold. A released message belongs to the
//! consumer `released` until another takes it.

/// Declares a script from its file.
macro_rules! script {
    ($name:ident, $file:literal) => {
        static $name: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!($file)));
    };
}

mod entry;
mod leases;

use std::{
    collections::HashSet,
    future::Future,
    hash::{BuildHasher, RandomState},
    pin::Pin,
    sync::{
        Arc, LazyLock, Weak,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{Script, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, timeout},
};

use self::{
    entry::{StreamEntry, entries, read_reply},
    leases::{GroupMembership, Renewer},
};
use super::{
    DEAD, DEAD_LETTERS, Queues,
    backend::{Consumer, QueueBackend, QueueDelivery, Redelivery},
    id::MessageId,
    message::{GroupStatus, QueueMessage, QueueStatus},
    options::QueueOptions,
    pause::Pause,
    runner::Control,
};
use crate::{
    Result,
    error::{BackendError, QueueError},
    log::limited,
    redis_client::{Link, Redis, TIME_LIMIT},
    reply::Reply,
};

/// How long a read blocks for messages. Limits the delay of a claim, and of the end of a subscription that
/// can't notify Redis.
const BLOCK: Duration = Duration::from_secs(1);
/// How often to read on a Cluster, where a blocking read on a separate connection is not possible.
const POLL: Duration = Duration::from_millis(50);
/// The minimum difference at which the server's clock counts as having been set. A round trip on a busy
/// machine may take that long.
const LEAST_TOLERANCE: Duration = Duration::from_millis(100);
/// Messages to search after a reply may have been lost: more than one subscription can hold.
const RECOVERED: usize = 4096;

script!(PUBLISH, "redis/publish.lua");
script!(CLAIM, "redis/claim.lua");
script!(RECOVER, "redis/recover.lua");
script!(HOLD, "redis/hold.lua");
script!(BURY, "redis/bury.lua");
script!(STATUS, "redis/status.lua");

impl Queues {
    pub(crate) fn redis(redis: Redis) -> Self {
        Self::with(RedisQueues::new(redis))
    }
}

struct RedisQueues {
    /// The node's connections.
    redis: Redis,
    /// Prefix of the names of this process's consumers, unique to the process.
    node: u64,
    /// The number of the next consumer.
    next: AtomicU64,
    /// Renews the leases of the consumers; dead while there is no consumer.
    renewer: Mutex<Weak<Renewer>>,
}

impl RedisQueues {
    fn new(redis: Redis) -> Self {
        let node = RandomState::new().hash_one(std::process::id());
        Self { redis, node, next: AtomicU64::new(0), renewer: Mutex::default() }
    }
}

/// Returns the key of a queue. Its dead letters, and theirs, are in the same hash slot.
fn key(redis: &Redis, queue: &str) -> String {
    let name = queue.trim_end_matches(DEAD);
    redis.key("s", name, &queue[name.len()..])
}

/// Returns the key of a queue's dead letters.
fn dead_key(redis: &Redis, queue: &str) -> String {
    key(redis, queue) + DEAD
}

impl QueueBackend for RedisQueues {
    fn publish<'a>(&'a self, queue: &'a str, payload: Bytes, max_len: usize) -> Reply<'a, MessageId> {
        Reply::later(async move {
            let key = key(&self.redis, queue);
            let mut script = PUBLISH.key(&key);
            script.arg(&payload[..]).arg(max_len);
            let (id, group): (String, String) = self.redis.script(&key, &script).await?;
            if id.is_empty() {
                let group = Some(group).filter(|group| !group.is_empty());
                let queue = queue.to_owned();
                return Err(QueueError::Full { queue, limit: max_len, unit: "messages", group }.into());
            }
            Ok(id.parse()?)
        })
    }

    fn status<'a>(&'a self, queue: &'a str) -> Reply<'a, QueueStatus> {
        Reply::later(async move {
            type GroupInfo = (String, u64, u64, i64, String);
            let key = key(&self.redis, queue);
            let mut script = STATUS.key(&key);
            script.key(dead_key(&self.redis, queue));
            let (length, published, last, dead, groups): (u64, u64, String, u64, Vec<GroupInfo>) =
                self.redis.script(&key, &script).await?;
            let group = |(name, consumers, pending, lag, delivered): GroupInfo| {
                let (lag, delivered) = (u64::try_from(lag).ok(), delivered.parse()?);
                Ok(GroupStatus { name, consumers, pending, lag, delivered })
            };
            let groups = groups.into_iter().map(group).collect::<Result<_>>()?;
            Ok(QueueStatus { length, published, last: last.parse()?, dead, groups })
        })
    }

    fn remove_group<'a>(&'a self, queue: &'a str, group: &'a str) -> Reply<'a, bool> {
        Reply::later(async move {
            let mut command = redis::cmd("XGROUP");
            command.arg("DESTROY").arg(key(&self.redis, queue)).arg(group);
            match self.redis.run::<u8>(&command).await {
                Ok(removed) => Ok(removed > 0),
                // The queue itself does not exist.
                Err(error) if is_refusal(&error, "requires the key to exist") => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    fn delete<'a>(&'a self, queue: &'a str) -> Reply<'a, bool> {
        Reply::later(async move {
            let mut command = redis::cmd("UNLINK");
            command.arg(key(&self.redis, queue));
            Ok(self.redis.run::<u64>(&command).await? > 0)
        })
    }

    fn join<'a>(
        &'a self,
        queue: &'a Arc<str>,
        group: &'a Arc<str>,
        options: &'a QueueOptions,
        control: &'a Arc<Control>,
    ) -> Reply<'a, Arc<dyn Consumer>> {
        Reply::later(async move {
            let membership = Arc::new(GroupMembership {
                key: key(&self.redis, queue),
                group: Arc::clone(group),
                name: format!("{:016x}.{}", self.node, self.next.fetch_add(1, Relaxed)),
            });
            make_group(&self.redis, &membership).await?;
            let renewer = Renewer::shared(&self.renewer, &self.redis)?;
            let member = RedisConsumer {
                redis: self.redis.clone(),
                renewal: renewer.keep(Arc::clone(&membership), options.claim_after),
                renewer,
                has_left: AtomicBool::new(false),
                membership,
                dead_key: dead_key(&self.redis, queue),
                queue: Arc::clone(queue),
                claim_after: options.claim_after,
                control: Arc::clone(control),
                held: Mutex::default(),
                reader: tokio::sync::Mutex::new(Reader::new(&self.redis)),
                client: AtomicI64::new(0),
                stopped: AtomicBool::new(false),
                stop: Notify::new(),
            };
            Ok(Arc::new(member) as Arc<dyn Consumer>)
        })
    }
}

/// Returns whether Redis refused with a message that contains this text.
fn is_refusal(error: &crate::Error, text: &str) -> bool {
    matches!(error, crate::Error::Backend(BackendError::Refused { message }) if message.contains(text))
}

/// A consumer of a group.
struct RedisConsumer {
    /// The node's connections.
    redis: Redis,
    membership: Arc<GroupMembership>,
    dead_key: String,
    queue: Arc<str>,
    /// The task that renews what the consumer holds.
    renewal: AbortHandle,
    /// The thread that runs the renewal.
    renewer: Arc<Renewer>,
    /// Whether the consumer has released what it held, or tried to.
    has_left: AtomicBool,
    /// The silence after which a message is taken over.
    claim_after: Duration,
    /// Shared with the handle.
    control: Arc<Control>,
    /// Messages delivered to this consumer and not settled.
    held: Mutex<HashSet<MessageId>>,
    /// Locked by the only call of `take`.
    reader: tokio::sync::Mutex<Reader>,
    /// The id of the reading connection, used to end its read; 0 if there is none.
    client: AtomicI64,
    stopped: AtomicBool,
    /// Wakes a reader that waits for Redis to become available.
    stop: Notify,
}

/// Reads messages from Redis.
struct Reader {
    /// `None` if the reader must connect first.
    source: Option<ReadConnection>,
    /// Changes when the node gives up its own connection, perhaps for another master.
    link: watch::Receiver<Link>,
    /// When to look next for messages to take over.
    next_claim: Instant,
    /// When to start counting a message's silence, by the server's clock, against its holder. Before that,
    /// live holders may not have renewed their messages yet.
    believed_from: Instant,
    /// The last reading of the server's clock, if any.
    clock: Option<ServerClock>,
    /// Where the next claim begins.
    cursor: String,
    /// The wait before the next attempt. Set while Redis is unavailable, which has then been logged.
    away: Option<Pause>,
}

/// A reading of the server's clock.
#[derive(Clone, Copy)]
struct ServerClock {
    /// The server's time, in ms since 1970.
    millis: u64,
    /// When it was requested, by our monotonic clock.
    asked: Instant,
    /// When the reply arrived.
    answered: Instant,
}

impl ServerClock {
    /// Returns the range in ms that the server's clock may show for a request sent now, unless it is set
    /// meanwhile.
    fn expected(self, now: Instant, tolerance: Duration) -> (u64, u64) {
        let after = |elapsed| self.millis.saturating_add(millis(elapsed));
        let least = after(now.saturating_duration_since(self.answered)).saturating_sub(millis(tolerance));
        (least, after(now.saturating_duration_since(self.asked) + tolerance))
    }
}

/// How messages are read.
enum ReadConnection {
    /// By blocking reads on a separate connection.
    Own(MultiplexedConnection),
    /// By regular reads on the node's connection.
    Polled,
}

impl Reader {
    /// Creates a reader that has not read yet.
    fn new(redis: &Redis) -> Self {
        let now = Instant::now();
        let (link, cursor) = (redis.link(), "0-0".to_owned());
        Self { source: None, link, next_claim: now, believed_from: now, clock: None, cursor, away: None }
    }
}

/// Creates the group if necessary. A new one starts with the oldest message.
async fn make_group(redis: &Redis, membership: &GroupMembership) -> Result<()> {
    let mut command = redis::cmd("XGROUP");
    command.arg("CREATE").arg(&membership.key).arg(&*membership.group).arg("0").arg("MKSTREAM");
    match redis.run::<()>(&command).await {
        Err(error) if !is_refusal(&error, "BUSYGROUP") => Err(error),
        _ => Ok(()),
    }
}

impl RedisConsumer {
    /// Connects, and searches for messages whose delivery did not arrive.
    async fn connect(&self, reader: &mut Reader) -> Result<Vec<QueueDelivery>> {
        // Every change of the link from here on is later than the connection made now.
        let was_away = reader.link.has_changed().unwrap_or(false) || reader.away.is_some();
        reader.link.mark_unchanged();
        make_group(&self.redis, &self.membership).await?;
        let source = if self.redis.is_cluster() {
            ReadConnection::Polled
        } else {
            let mut conn = self.redis.dedicated().await?;
            conn.set_response_timeout(BLOCK + TIME_LIMIT);
            let id: i64 = redis::cmd("CLIENT")
                .arg("ID")
                .query_async(&mut conn)
                .await
                .map_err(|error| unavailable(&error))?;
            self.client.store(id, Relaxed);
            ReadConnection::Own(conn)
        };
        if was_away {
            // Redis counts its own downtime as silence, and may be another server with another clock.
            reader.clock = None;
        }
        let mut script = RECOVER.key(&self.membership.key);
        script.arg(&*self.membership.group).arg(&self.membership.name).arg(RECOVERED);
        let (found, trimmed): (Value, u64) = self.redis.script(&self.membership.key, &script).await?;
        reader.source = Some(source);
        Ok(self.accept(entries(&found), trimmed, true))
    }

    /// Takes over abandoned messages, if the next claim is due.
    async fn claim(&self, reader: &mut Reader, count: usize) -> Result<Vec<QueueDelivery>> {
        if Instant::now() < reader.next_claim {
            return Ok(Vec::new());
        }
        let asked = Instant::now();
        let (least, greatest) =
            reader.clock.map_or((u64::MAX, 0), |clock| clock.expected(asked, self.clock_tolerance()));
        let mut script = CLAIM.key(&self.membership.key);
        script
            .arg(&*self.membership.group)
            .arg(&self.membership.name)
            .arg(millis(self.claim_after))
            .arg(&reader.cursor)
            .arg(count);
        script.arg(u8::from(asked >= reader.believed_from)).arg(least).arg(greatest);
        let (cursor, found, trimmed, now): (String, Value, u64, u64) =
            self.redis.script(&self.membership.key, &script).await?;
        let answered = Instant::now();
        if now < least || now > greatest {
            if reader.clock.is_some() {
                let (queue, group) = (&*self.queue, &*self.membership.group);
                tracing::warn!(
                    queue,
                    group,
                    "Redis's clock was set, or Redis was suspended: messages of silent subscriptions are taken over later"
                );
            }
            reader.believed_from = answered + self.claim_after / 2;
        }
        reader.clock = Some(ServerClock { millis: now, asked, answered });
        reader.cursor = cursor;
        reader.next_claim = answered + self.claim_every();
        let found = entries(&found);
        let own: Vec<MessageId> = {
            let held = self.held.lock();
            found.iter().map(|entry| entry.id).filter(|id| held.contains(id)).collect()
        };
        for id in own {
            // This process was suspended for so long that its messages looked abandoned. They must not be
            // delivered again.
            self.hold(id, "undo").await?;
        }
        Ok(self.accept(found, trimmed, true))
    }

    /// Reads new messages. Blocks for as long as there is nothing else to do.
    async fn read(&self, reader: &mut Reader, count: usize) -> Result<Vec<QueueDelivery>> {
        let wait = reader.next_claim.saturating_duration_since(Instant::now()).min(BLOCK);
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(&*self.membership.group).arg(&self.membership.name).arg("COUNT").arg(count);
        let found: Value = match &mut reader.source {
            Some(ReadConnection::Own(conn)) => {
                // A timeout of 0 ms would block forever.
                command
                    .arg("BLOCK")
                    .arg(millis(wait).max(1))
                    .arg("STREAMS")
                    .arg(&self.membership.key)
                    .arg(">");
                command.query_async(conn).await.map_err(|error| unavailable(&error))?
            }
            _ => {
                command.arg("STREAMS").arg(&self.membership.key).arg(">");
                let found = self.redis.run(&command).await?;
                if matches!(found, Value::Nil) {
                    let _ = timeout(POLL, self.stop.notified()).await;
                }
                found
            }
        };
        Ok(self.accept(read_reply(&found), 0, false))
    }

    /// Returns the messages found, without those that this consumer already has.
    fn accept(&self, found: Vec<StreamEntry>, trimmed: u64, claimed: bool) -> Vec<QueueDelivery> {
        if trimmed > 0 {
            self.control.counters.trimmed.fetch_add(trimmed, Relaxed);
            limited!(
                ERROR,
                queue = &*self.queue,
                group = &*self.membership.group,
                messages = trimmed,
                "unhandled messages have been deleted from the queue"
            );
        }
        let mut held = self.held.lock();
        let new = found.into_iter().filter(|entry| held.insert(entry.id));
        new.map(|entry| entry.into_delivery(&self.queue, claimed)).collect()
    }

    /// Tries once to get messages.
    async fn attempt(&self, reader: &mut Reader, count: usize) -> Result<Vec<QueueDelivery>> {
        if matches!(reader.source, Some(ReadConnection::Own(_))) && reader.link.has_changed().unwrap_or(false)
        {
            // Messages may now be published to another server, and the one we read from would not report it.
            reader.source = None;
        }
        if reader.source.is_none() {
            let found = self.connect(reader).await?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let found = self.claim(reader, count).await?;
        if found.is_empty() { self.read(reader, count).await } else { Ok(found) }
    }

    /// Waits after a failed attempt. Logs the first of several.
    async fn wait(&self, reader: &mut Reader, error: &crate::Error) {
        reader.source = None;
        self.client.store(0, Relaxed);
        if reader.away.is_none() {
            let (queue, group) = (&*self.queue, &*self.membership.group);
            tracing::warn!(queue, group, %error, "failed to read a queue; retrying");
        }
        let wait = reader.away.get_or_insert(Pause::reconnect()).next();
        let _ = timeout(wait, self.stop.notified()).await;
    }

    /// How far the server's clock may have diverged from ours since the last reading before it counts as
    /// having been set. The rest of the silence is left for renewals, which come every third of it.
    fn clock_tolerance(&self) -> Duration {
        (self.claim_after / 3).max(LEAST_TOLERANCE)
    }

    /// How often to look for messages to take over.
    fn claim_every(&self) -> Duration {
        (self.claim_after / 4).min(BLOCK)
    }

    /// Runs the script that redelivers or releases a message, and returns its answer.
    async fn hold(&self, id: MessageId, what: &str) -> Result<i64> {
        let mut script = HOLD.key(&self.membership.key);
        script.arg(&*self.membership.group).arg(&self.membership.name).arg(id.to_string()).arg(what);
        self.redis.script(&self.membership.key, &script).await
    }

    /// Stops tracking a message.
    fn forget(&self, id: MessageId) {
        self.held.lock().remove(&id);
    }
}

/// Converts an error of the reading connection.
fn unavailable(error: &redis::RedisError) -> crate::Error {
    BackendError::Unavailable { reason: error.to_string() }.into()
}

/// Formats a time for Redis.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Consumer for RedisConsumer {
    fn take(&self, count: usize) -> Pin<Box<dyn Future<Output = Vec<QueueDelivery>> + Send + '_>> {
        Box::pin(async move {
            let mut reader = self.reader.lock().await;
            while !self.stopped.load(Relaxed) {
                match self.attempt(&mut reader, count).await {
                    Ok(found) => {
                        if reader.away.take().is_some() {
                            tracing::info!(
                                queue = &*self.queue,
                                group = &*self.membership.group,
                                "reading the queue again"
                            );
                        }
                        if !found.is_empty() {
                            return found;
                        }
                    }
                    Err(error) => self.wait(&mut reader, &error).await,
                }
            }
            Vec::new()
        })
    }

    fn redeliver<'a>(&'a self, message: &'a QueueMessage) -> Reply<'a, Redelivery> {
        Reply::later(async move {
            Ok(match self.hold(message.id, "again").await? {
                0 => Redelivery::Gone,
                deliveries => match u32::try_from(deliveries) {
                    Ok(deliveries) => Redelivery::Ours { deliveries },
                    Err(_) => {
                        self.forget(message.id);
                        Redelivery::Theirs
                    }
                },
            })
        })
    }

    fn acknowledge<'a>(&'a self, message: &'a QueueMessage) -> Reply<'a, ()> {
        Reply::later(async move {
            let mut command = redis::cmd("XACK");
            command.arg(&self.membership.key).arg(&*self.membership.group).arg(message.id.to_string());
            self.redis.run::<u64>(&command).await?;
            self.forget(message.id);
            Ok(())
        })
    }

    fn bury<'a>(&'a self, message: &'a QueueMessage, reason: &'a str) -> Reply<'a, bool> {
        Reply::later(async move {
            let mut script = BURY.key(&self.membership.key);
            script
                .key(&self.dead_key)
                .arg(&*self.membership.group)
                .arg(&self.membership.name)
                .arg(message.id.to_string());
            script.arg(&message.payload[..]).arg(reason).arg(message.deliveries).arg(DEAD_LETTERS);
            let buried: u8 = self.redis.script(&self.membership.key, &script).await?;
            self.forget(message.id);
            Ok(buried > 0)
        })
    }

    fn release<'a>(&'a self, message: &'a QueueMessage, seen: bool) -> Reply<'a, ()> {
        Reply::later(async move {
            self.hold(message.id, if seen { "release" } else { "return" }).await?;
            self.forget(message.id);
            Ok(())
        })
    }

    fn stop(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            self.stopped.store(true, Relaxed);
            self.stop.notify_one();
            let client = self.client.swap(0, Relaxed);
            if client != 0 {
                // If this fails, the read ends by itself after `BLOCK`.
                let mut command = redis::cmd("CLIENT");
                command.arg("UNBLOCK").arg(client);
                let _ = self.redis.run::<u64>(&command).await;
            }
        })
    }

    fn leave(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            self.has_left.store(true, Relaxed);
            self.renewal.abort();
            if let Err(error) = self.membership.leave(&self.redis).await {
                let (queue, group) = (&*self.queue, &*self.membership.group);
                tracing::debug!(queue, group, %error, "failed to release a subscription's messages; others take them over after the silence");
            }
        })
    }
}

/// Releases what the consumer holds, even if its runtime ended first.
impl Drop for RedisConsumer {
    fn drop(&mut self) {
        self.renewal.abort();
        if !*self.has_left.get_mut() {
            self.renewer.release(Arc::clone(&self.membership));
        }
    }
}
