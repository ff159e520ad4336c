//! The connections of a node to Redis, and the tasks that maintain them. All of the crate's knowledge of
//! Redis is here and in the files named `redis` next to the interfaces that they implement.

mod address;
mod backoff;
mod connect;
mod link;
mod servers;
mod slot;
mod subscriber;

pub(crate) use self::{
    address::Address,
    backoff::Backoff,
    link::{Link, TIME_LIMIT},
    servers::Subscribed,
    subscriber::{Channel, SubscriptionEvent},
};

use std::{sync::Arc, time::Duration};

use redis::{FromRedisValue, RedisError, aio::MultiplexedConnection};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use self::{
    connect::{Conn, ConnectError},
    servers::{RedisServer, RedisServers},
};
use crate::{Error, Result, error::BackendError};

/// Commands in flight at once. Beyond that, callers are refused rather than queued. At 100,000 commands a
/// second this is 160 ms of work.
const COMMANDS: usize = 16_384;

/// Delay before a command is repeated that a Cluster refused because its slot has moved or is moving.
const FOLLOW: Duration = Duration::from_millis(20);

/// A request to Redis.
#[derive(Clone, Copy)]
enum RedisRequest<'a> {
    Command(&'a redis::Cmd),
    /// Several commands in one round trip.
    Pipeline(&'a redis::Pipeline),
    Script(&'a redis::ScriptInvocation<'a>),
}

impl RedisRequest<'_> {
    /// Runs the request once.
    async fn run<T: FromRedisValue>(self, conn: &mut Conn) -> Result<T, RedisError> {
        match self {
            Self::Command(command) => command.query_async(&mut conn.0).await,
            Self::Pipeline(pipeline) => pipeline.query_async(&mut conn.0).await,
            Self::Script(script) => script.invoke_async(&mut conn.0).await,
        }
    }
}

/// A handle to Redis. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Redis {
    inner: Arc<RedisInner>,
    /// Whether the handle's commands are not limited.
    is_unbounded: bool,
}

/// State shared by all handles.
struct RedisInner {
    address: Address,
    /// The servers and the connections to them.
    servers: Arc<RedisServers>,
    /// Limits the commands in flight.
    commands: Semaphore,
    /// Maintains the servers.
    task: JoinHandle<()>,
}

impl Drop for RedisInner {
    fn drop(&mut self) {
        self.task.abort();
        self.servers.stop();
    }
}

impl Redis {
    /// Connects and checks that the server is usable.
    ///
    /// # Errors
    /// [`Error::Setting`] that names the address and what to do: the server does not answer (unless it is
    /// `optional`), is too old or a replica, refuses the password, or a permission is missing.
    pub(crate) async fn connect(address: &Address, optional: bool) -> Result<Self> {
        let (servers, all_there) = RedisServers::connect(address, optional).await.map_err(|fault| {
            let reason = match fault {
                ConnectError::Away(reason) => format!(
                    "Redis can't be reached: {reason}. Start it or correct the address; --backend-optional or \
                     RIPPLECAST_BACKEND_OPTIONAL=1 starts without it"
                ),
                ConnectError::Wrong(reason) => reason,
            };
            Error::setting("backend", address, reason)
        })?;
        let task = tokio::spawn(servers.clone().run());
        let commands = Semaphore::new(COMMANDS);
        let inner = RedisInner { address: address.clone(), servers, commands, task };
        let redis = Self { inner: Arc::new(inner), is_unbounded: false };
        if all_there && timeout(TIME_LIMIT, redis.inner.servers.wait_until_up()).await.is_err() {
            let reason = "its second connection, for subscriptions, can't be opened; see the log";
            return Err(Error::setting("backend", address, reason));
        }
        Ok(redis)
    }

    /// Returns a handle for the node's own work, a few commands at a time. Callers with too many commands in
    /// flight do not delay it.
    pub(crate) fn unbounded(&self) -> Self {
        Self { inner: self.inner.clone(), is_unbounded: true }
    }

    /// Returns a handle with separate connections to the same servers, for commands only. Tasks of the
    /// current runtime maintain them and connect in the background.
    pub(crate) fn apart(&self) -> Self {
        let address = self.inner.address.clone();
        let servers = RedisServers::apart(&address);
        let task = tokio::spawn(servers.clone().run());
        let inner = RedisInner { address, servers, commands: Semaphore::new(COMMANDS), task };
        Self { inner: Arc::new(inner), is_unbounded: true }
    }

    /// Returns the name of a key or channel: `PREFIX:KIND:{NAME}SUFFIX`. Keys of one kind and name are in one
    /// hash slot of a Cluster.
    pub(crate) fn key(&self, kind: &str, name: &str, suffix: &str) -> String {
        format!("{}:{kind}:{{{}}}{suffix}", self.inner.address.prefix(), tag(name))
    }

    /// Returns a pattern in the server's syntax for the channels of that kind whose names match `names`.
    pub(crate) fn pattern(&self, kind: &str, names: &str) -> String {
        let mut prefix = String::new();
        for c in self.inner.address.prefix().chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^') {
                prefix.push('\\');
            }
            prefix.push(c);
        }
        format!("{prefix}:{kind}:{{{}}}", tag(names))
    }

    /// Returns the name in a channel of that kind, which reverses [`key`](Self::key).
    pub(crate) fn name(&self, kind: &str, channel: &[u8]) -> Option<String> {
        let channel = std::str::from_utf8(channel).ok()?;
        let rest = channel.strip_prefix(self.inner.address.prefix())?.strip_prefix(':')?;
        let name = rest.strip_prefix(kind)?.strip_prefix(":{")?.strip_suffix('}')?;
        Some(name.replace("%7D", "}").replace("%25", "%"))
    }

    /// Runs several commands in order, in as few round trips as possible, and discards the replies.
    ///
    /// # Errors
    /// Same as [`run`](Self::run); some of the commands may have been done.
    pub(crate) async fn all(&self, commands: &[redis::Cmd]) -> Result<()> {
        match commands {
            [] => Ok(()),
            [one] => self.run(one).await,
            _ if self.is_cluster() => {
                // Each shard receives its own commands. Those of one slot stay in order.
                let mut slots: Vec<(u16, Vec<&redis::Cmd>)> = Vec::new();
                let mut place = std::collections::HashMap::new();
                for command in commands {
                    let slot = slot::of(key_of(command));
                    let at = *place.entry(slot).or_insert(slots.len());
                    if at == slots.len() {
                        slots.push((slot, Vec::new()));
                    }
                    slots[at].1.push(command);
                }
                let runs = slots.iter().map(|(_, commands)| self.all_of_one_slot(commands));
                // Run all of them even if one fails: its shard may be unavailable while the others are not.
                futures_util::future::join_all(runs).await.into_iter().collect()
            }
            _ => self.pipe(&pipeline(commands)).await,
        }
    }

    /// Runs commands of one slot of a Cluster in order.
    async fn all_of_one_slot(&self, commands: &[&redis::Cmd]) -> Result<()> {
        if let [one] = commands {
            return self.run(one).await;
        }
        match self.pipe(&pipeline(commands.iter().copied())).await {
            // The slot may have moved, and only single commands follow it. A receiver detects a repeated
            // message by its sequence number.
            Err(Error::Backend(BackendError::Refused { .. })) => {
                for command in commands {
                    self.run::<()>(command).await?;
                }
                Ok(())
            }
            done => done,
        }
    }

    /// Returns the slot of a key or channel on a Cluster, or 0 elsewhere.
    pub(crate) fn slot(&self, key: &[u8]) -> u16 {
        if self.is_cluster() { slot::of(key) } else { 0 }
    }

    /// Returns the command that publishes: on a Cluster, to the channel's own shard.
    pub(crate) fn publish_command(&self) -> &'static str {
        if self.is_cluster() { "SPUBLISH" } else { "PUBLISH" }
    }

    /// Returns whether the address is that of a Cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        self.inner.address.is_cluster()
    }

    /// Runs one command.
    ///
    /// # Errors
    /// [`BackendError`]: at once while Redis is unavailable, else within the time limit. After [`BackendError::TimedOut`] the
    /// command may have been done, or may be done later.
    pub(crate) async fn run<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T> {
        self.with(self.slot(key_of(command)), RedisRequest::Command(command)).await
    }

    /// Runs several commands in one round trip. On a Cluster they must be of one slot.
    ///
    /// # Errors
    /// Same as [`run`](Self::run).
    pub(crate) async fn pipe<T: FromRedisValue>(&self, pipeline: &redis::Pipeline) -> Result<T> {
        let slot = pipeline.cmd_iter().next().map_or(0, |command| self.slot(key_of(command)));
        self.with(slot, RedisRequest::Pipeline(pipeline)).await
    }

    /// Runs a script; `key` is one of its keys. The script's text is sent only if the server does not have
    /// it.
    ///
    /// # Errors
    /// Same as [`run`](Self::run).
    pub(crate) async fn script<T: FromRedisValue>(
        &self,
        key: &str,
        script: &redis::ScriptInvocation<'_>,
    ) -> Result<T> {
        self.with(self.slot(key.as_bytes()), RedisRequest::Script(script)).await
    }

    /// Runs a request on the connection to the server of a slot, within the limits.
    async fn with<T: FromRedisValue>(&self, slot: u16, work: RedisRequest<'_>) -> Result<T> {
        let (mut server, mut conn) = self.there(slot)?;
        let permit = || {
            self.inner.commands.try_acquire().map_err(|_| Error::Overloaded {
                what: "the number of commands in flight to Redis",
                limit: COMMANDS,
            })
        };
        let _permit = if self.is_unbounded { None } else { Some(permit()?) };
        let work = async {
            loop {
                match work.run(&mut conn).await {
                    Err(error) if is_elsewhere(&error) => {
                        self.inner.servers.mark_stale();
                        sleep(FOLLOW).await;
                        (server, conn) = self.there(slot)?;
                    }
                    done => return done.map_err(|error| failed(&server, &error)),
                }
            }
        };
        match timeout(TIME_LIMIT, work).await {
            Ok(done) => done,
            Err(_) => {
                if let Some(server) = self.inner.servers.server(slot) {
                    server.keeper.suspect();
                }
                Err(BackendError::TimedOut { after: TIME_LIMIT }.into())
            }
        }
    }

    /// Returns whether the server of that key is known to be unavailable.
    pub(crate) fn is_away(&self, key: &str) -> bool {
        self.there(self.slot(key.as_bytes())).is_err()
    }

    /// Returns the server of a slot and the connection to it.
    fn there(&self, slot: u16) -> Result<(Arc<RedisServer>, Conn)> {
        let server = self.inner.servers.server(slot);
        let there = server.and_then(|server| server.keeper.conn().map(|conn| (server, conn)));
        there.ok_or_else(|| {
            let reason = format!("Redis at {} is unreachable", self.inner.address);
            BackendError::Unavailable { reason }.into()
        })
    }

    /// Opens a separate connection, for blocking reads. Not for a Cluster, which is more than one server.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`].
    pub(crate) async fn dedicated(&self) -> Result<MultiplexedConnection> {
        let conn = connect::connect(&self.inner.address, None).await;
        conn.map(|conn| conn.0).map_err(|fault| {
            let (ConnectError::Away(reason) | ConnectError::Wrong(reason)) = fault;
            BackendError::Unavailable { reason }.into()
        })
    }

    /// Returns a receiver that changes when Redis becomes unavailable or available. On a Cluster it changes
    /// when all shards are unavailable, and when any of them is available again.
    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.inner.servers.link()
    }

    /// Returns whether a connection is down; on a Cluster, that to any shard.
    pub(crate) fn is_degraded(&self) -> bool {
        self.inner.servers.is_degraded()
    }

    /// Subscribes on the shared connection to the channel's server, with at most one subscription per
    /// channel. Dropping the result ends it. `sink` runs on the connection's task, so it must be quick and
    /// never block.
    pub(crate) fn subscribe(
        &self,
        channel: Channel,
        sink: impl Fn(SubscriptionEvent) + Send + Sync + 'static,
    ) -> Subscribed {
        self.inner.servers.subscribe(channel, Box::new(sink))
    }
}

/// Combines commands into one round trip whose replies are discarded.
fn pipeline<'a>(commands: impl IntoIterator<Item = &'a redis::Cmd>) -> redis::Pipeline {
    let mut pipeline = redis::Pipeline::new();
    for command in commands {
        pipeline.add_command(command.clone()).ignore();
    }
    pipeline
}

/// Converts a server's error reply.
fn failed(server: &RedisServer, error: &RedisError) -> Error {
    let is_away = error.is_io_error()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
        || matches!(error.code(), Some("READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN"));
    if is_away {
        server.keeper.suspect();
        return BackendError::Unavailable { reason: error.to_string() }.into();
    }
    BackendError::Refused { message: error.to_string() }.into()
}

/// Returns the key or channel of a command: the word after its name, in all but a few commands.
fn key_of(command: &redis::Cmd) -> &[u8] {
    let mut words = command.args_iter().map(|word| match word {
        redis::Arg::Simple(word) => word,
        _ => &[],
    });
    let key = match words.next() {
        Some(b"XGROUP" | b"XINFO") => words.nth(1),
        Some(b"XREADGROUP") => words.find(|word| *word == b"STREAMS").and_then(|_| words.next()),
        _ => words.next(),
    };
    key.unwrap_or_default()
}

/// Returns whether a shard of a Cluster refused a command, without doing it, because the slot of its keys is
/// on another shard or is moving there.
fn is_elsewhere(error: &RedisError) -> bool {
    matches!(error.code(), Some("MOVED" | "ASK" | "TRYAGAIN"))
}

/// Escapes a name for a hash tag, which ends at the first closing brace. A closing brace becomes `%7D`, so
/// that the whole name counts, and a percent sign becomes `%25`, so that distinct names stay distinct.
fn tag(name: &str) -> std::borrow::Cow<'_, str> {
    if name.contains(['}', '%']) { name.replace('%', "%25").replace('}', "%7D").into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::{key_of, tag};

    #[test]
    fn the_key_of_a_command_is_found() {
        let key = |words: &str| {
            let mut command = redis::Cmd::new();
            for word in words.split(' ') {
                command.arg(word);
            }
            String::from_utf8(key_of(&command).to_vec()).unwrap()
        };
        assert_eq!(key("HSET k f v"), "k");
        assert_eq!(key("XGROUP CREATE k g 0 MKSTREAM"), "k");
        assert_eq!(key("XREADGROUP GROUP g m COUNT 1 STREAMS k >"), "k");
        assert_eq!(key("PING"), "");
    }

    #[test]
    fn tags_are_distinct_and_never_end_early() {
        assert_eq!(tag("plain"), "plain");
        assert_eq!(tag("a}b"), "a%7Db");
        assert_ne!(tag("a}b"), tag("a%7Db"));
    }
}
