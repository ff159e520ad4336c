//! The connection to a server for subscriptions. It resubscribes automatically after a lost connection, and
//! notifies each subscription when a gap begins and ends.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::join_all};
use parking_lot::RwLock;
use redis::{PushInfo, PushKind, RedisError, RedisResult, Value};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    address::{Address, ServerHosts},
    backoff::Backoff,
    connect::{Conn, ConnectError, connect},
    link::{Link, PING_EVERY, PING_LIMIT, ServerChanges, TIME_LIMIT},
    slot,
};
use crate::log::{cut, limited};

/// Channels subscribed to with one command: enough to need few round trips, and few enough to block the
/// server only briefly.
const BATCH: usize = 256;
/// A connection that lasted this long is replaced at once. After a shorter one there is a wait, so that a
/// server which refuses a subscription is not asked endlessly.
const STEADY: Duration = Duration::from_secs(5);
/// Pings between two checks that the server still has all our subscriptions.
const VERIFY_EVERY: u32 = 10;

/// The target of a subscription.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Channel {
    /// A single channel.
    Exact(String),
    /// All channels that match, in the server's pattern syntax.
    Pattern(String),
}

impl Channel {
    /// Returns the channel's name, or the pattern.
    fn name(&self) -> &str {
        match self {
            Self::Exact(name) | Self::Pattern(name) => name,
        }
    }

    /// Returns the slot on a Cluster.
    pub(super) fn slot(&self) -> u16 {
        slot::of(self.name().as_bytes())
    }
}

/// An event of a subscription.
#[derive(Debug)]
pub(crate) enum SubscriptionEvent {
    /// A message was published.
    Message {
        /// The channel on which it was published.
        channel: Bytes,
        /// The published bytes.
        payload: Bytes,
    },
    /// The server has confirmed the subscription, for the first time or again. Nothing is missed from now on.
    Up,
    /// The connection was lost. Messages published from now on are missed.
    Down,
    /// The server refused the subscription. It is retried every ten seconds.
    Refused,
}

/// Receives events on the connection's task, so it must be quick.
pub(super) type EventSink = dyn Fn(SubscriptionEvent) + Send + Sync;

/// Whether the server has a subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum SubscriptionState {
    /// Not yet, or no longer.
    Pending,
    /// The server has confirmed it.
    Active,
    /// The server refused it, for this reason.
    Refused(Arc<str>),
    /// Unsubscribed.
    Ended,
}

pub(super) struct SubscriptionEntry {
    sink: Box<EventSink>,
    /// Whether the server has it.
    state: watch::Sender<SubscriptionState>,
    /// Whether it is still subscribed. While it moves between servers, it is in no list.
    pub(super) is_wanted: AtomicBool,
}

impl SubscriptionEntry {
    /// Creates a subscription that no server has.
    pub(super) fn new(sink: Box<EventSink>) -> Self {
        let (state, is_wanted) = (watch::Sender::new(SubscriptionState::Pending), AtomicBool::new(true));
        Self { sink, state, is_wanted }
    }

    /// Returns a receiver that changes when a server confirms, refuses or loses the subscription.
    pub(super) fn state(&self) -> watch::Receiver<SubscriptionState> {
        self.state.subscribe()
    }

    /// Returns whether a server has confirmed it.
    pub(super) fn is_active(&self) -> bool {
        *self.state.borrow() == SubscriptionState::Active
    }

    /// Records that the server has it.
    fn confirm(&self) {
        if self.state.send_replace(SubscriptionState::Active) != SubscriptionState::Active {
            (self.sink)(SubscriptionEvent::Up);
        }
    }

    /// Records that the server refused it.
    fn refuse(&self, reason: String) {
        self.state.send_replace(SubscriptionState::Refused(reason.into()));
        (self.sink)(SubscriptionEvent::Refused);
    }

    /// Records that the server no longer has the subscription.
    pub(super) fn lose(&self) {
        if self.state.send_replace(SubscriptionState::Pending) == SubscriptionState::Active {
            (self.sink)(SubscriptionEvent::Down);
        }
    }

    /// Unsubscribes. Callers that wait for it stop.
    pub(super) fn end(&self) {
        self.is_wanted.store(false, Relaxed);
        self.state.send_replace(SubscriptionState::Ended);
    }
}

/// Maintains the connection for subscriptions.
pub(super) struct Subscriber {
    address: Address,
    /// Whether the connection for commands is up. Its task queries the sentinels for both.
    link: watch::Receiver<Link>,
    wanted: RwLock<WantedSubscriptions>,
    /// Notified when a subscription is added or removed.
    changed: Notify,
    /// Notified when the connection breaks.
    broken: Notify,
    /// Whether the connection is up.
    up: watch::Sender<bool>,
    /// The id of the current connection. Late events of an earlier one are ignored.
    current: AtomicU64,
    /// Notified when the connection is opened or lost, and when a slot is elsewhere.
    changes: Arc<ServerChanges>,
}

/// The requested subscriptions of a server.
#[derive(Default)]
struct WantedSubscriptions {
    /// By channel.
    exact: HashMap<String, Arc<SubscriptionEntry>>,
    /// By pattern.
    patterns: HashMap<String, Arc<SubscriptionEntry>>,
    /// Changes since the task last looked. Empty while the connection is down, because a new one starts with
    /// everything.
    dirty: HashSet<Channel>,
    /// Shard channels that the server is being asked to remove. Its reports of removed channels count only
    /// for these.
    leaving: HashSet<String>,
    /// Whether the task handles changes.
    is_served: bool,
}

impl WantedSubscriptions {
    /// Returns the subscription to a channel.
    fn get(&self, channel: &Channel) -> Option<&Arc<SubscriptionEntry>> {
        match channel {
            Channel::Exact(name) => self.exact.get(name),
            Channel::Pattern(pattern) => self.patterns.get(pattern),
        }
    }

    /// Removes the subscription to a channel.
    fn remove(&mut self, channel: &Channel) -> Option<Arc<SubscriptionEntry>> {
        let removed = match channel {
            Channel::Exact(name) => self.exact.remove(name),
            Channel::Pattern(pattern) => self.patterns.remove(pattern),
        };
        self.touch(channel);
        removed
    }

    /// Marks a channel for an update at the server.
    fn touch(&mut self, channel: &Channel) {
        if self.is_served {
            self.dirty.insert(channel.clone());
        }
    }
}

impl Subscriber {
    /// Creates a subscriber without a connection.
    pub(super) fn new(
        address: Address,
        link: watch::Receiver<Link>,
        changes: Arc<ServerChanges>,
    ) -> Arc<Self> {
        Arc::new(Self {
            address,
            link,
            wanted: RwLock::default(),
            changed: Notify::new(),
            broken: Notify::new(),
            up: watch::Sender::new(false),
            current: AtomicU64::new(0),
            changes,
        })
    }

    /// Returns whether the connection is up.
    pub(super) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Waits until the connection is up.
    pub(super) async fn wait_until_up(&self) {
        // This fails only if the sender is dropped, and `self` holds it.
        let _ = self.up.subscribe().wait_for(|&up| up).await;
    }

    /// Adds a subscription. Replaces an existing one only if this one is `newer`.
    pub(super) fn put(&self, channel: &Channel, entry: Arc<SubscriptionEntry>, newer: bool) {
        let mut wanted = self.wanted.write();
        if !newer && wanted.get(channel).is_some() {
            return;
        }
        match channel {
            Channel::Exact(name) => wanted.exact.insert(name.clone(), entry),
            Channel::Pattern(pattern) => wanted.patterns.insert(pattern.clone(), entry),
        };
        wanted.touch(channel);
        drop(wanted);
        self.changed.notify_one();
    }

    /// Removes a subscription, unless another one has replaced it.
    pub(super) fn take(&self, channel: &Channel, entry: &Arc<SubscriptionEntry>) {
        let mut wanted = self.wanted.write();
        if !wanted.get(channel).is_some_and(|current| Arc::ptr_eq(current, entry)) {
            return;
        }
        wanted.remove(channel);
        drop(wanted);
        self.changed.notify_one();
    }

    /// Removes the subscriptions to channels whose slots are elsewhere.
    pub(super) fn remove_strays(
        &self,
        is_elsewhere: impl Fn(&Channel) -> bool,
    ) -> Vec<(Channel, Arc<SubscriptionEntry>)> {
        let mut wanted = self.wanted.write();
        let exact = wanted.exact.keys().cloned().map(Channel::Exact);
        let patterns = wanted.patterns.keys().cloned().map(Channel::Pattern);
        let channels: Vec<_> = exact.chain(patterns).filter(is_elsewhere).collect();
        let out = channels.into_iter().filter_map(|channel| {
            let entry = wanted.remove(&channel)?;
            Some((channel, entry))
        });
        let out = out.collect();
        drop(wanted);
        self.changed.notify_one();
        out
    }

    /// Maintains the subscriptions until aborted.
    pub(super) async fn run(self: Arc<Self>) {
        let mut backoff = Backoff::default();
        loop {
            let reason = match self.open().await {
                Ok(conn) => {
                    let begun = Instant::now();
                    self.up.send_replace(true);
                    self.changes.servers.notify_one();
                    let reason = self.serve(conn).await;
                    self.lose_all();
                    tracing::warn!(redis = %self.address, reason, "the subscriptions at Redis were lost; messages published until they are restored are missed");
                    if begun.elapsed() >= STEADY {
                        backoff = Backoff::default();
                        continue;
                    }
                    reason
                }
                Err(ConnectError::Away(reason) | ConnectError::Wrong(reason)) => reason,
            };
            tracing::debug!(redis = %self.address, reason, "failed to restore the subscriptions; retrying");
            sleep(backoff.next()).await;
        }
    }

    /// Opens a connection whose events are passed to this subscriber.
    async fn open(self: &Arc<Self>) -> Result<Conn, ConnectError> {
        let weak = Arc::downgrade(self);
        let number = self.current.fetch_add(1, Relaxed) + 1;
        let _ = self.broken.notified().now_or_never(); // ignore the end of an earlier connection
        let push = move |info: PushInfo| -> Result<(), std::convert::Infallible> {
            if let Some(subscriber) = weak.upgrade()
                && subscriber.current.load(Relaxed) == number
            {
                subscriber.receive(info);
            }
            Ok(())
        };
        connect(&self.address, Some(Arc::new(push))).await
    }

    /// Handles an event of the server.
    fn receive(&self, PushInfo { kind, data }: PushInfo) {
        let mut parts = data.into_iter().map(|part| match part {
            Value::BulkString(bytes) => Bytes::from(bytes),
            _ => Bytes::new(),
        });
        let mut next = || parts.next().unwrap_or_default();
        let (entry, channel) = match kind {
            PushKind::Message | PushKind::SMessage => {
                let channel = next();
                let name = std::str::from_utf8(&channel).unwrap_or_default();
                (self.wanted.read().exact.get(name).cloned(), channel)
            }
            PushKind::PMessage => {
                let pattern = next();
                let pattern = std::str::from_utf8(&pattern).unwrap_or_default();
                (self.wanted.read().patterns.get(pattern).cloned(), next())
            }
            PushKind::SUnsubscribe => {
                let channel = next();
                let name = std::str::from_utf8(&channel).unwrap_or_default();
                let wanted = self.wanted.read();
                if wanted.exact.contains_key(name) && !wanted.leaving.contains(name) {
                    self.changes.slots.notify_one(); // its slot moved to another shard
                    self.broken.notify_one();
                }
                return;
            }
            PushKind::Disconnection => return self.broken.notify_one(),
            _ => return,
        };
        if let Some(entry) = entry {
            (entry.sink)(SubscriptionEvent::Message { channel, payload: next() });
        }
    }

    /// Updates the subscriptions at the server, and pings it. Returns the reason when the connection is lost.
    async fn serve(&self, mut conn: Conn) -> String {
        let (mut active, mut refused, mut link) = (HashSet::new(), HashSet::new(), self.link.clone());
        let follows = matches!(self.address.servers, ServerHosts::Sentinels { .. });
        self.begin();
        let (mut pings, mut next) = (0, Instant::now() + PING_EVERY);
        loop {
            loop {
                let (add, remove) = self.due(&active);
                if add.is_empty() && remove.is_empty() {
                    break;
                }
                match timeout(TIME_LIMIT, self.settle(&mut conn, &mut active, &add, &remove)).await {
                    Ok(Ok(some)) => refused.extend(some),
                    Ok(Err(error)) => {
                        self.changes.slots.notify_one(); // a slot may be elsewhere
                        return error.to_string();
                    }
                    Err(_) => return "it did not confirm a subscription".into(),
                }
            }
            tokio::select! {
                () = self.changed.notified() => continue,
                () = self.broken.notified() => return "the connection broke".into(),
                Ok(_) = link.wait_for(|link| *link == Link::Down), if follows => {
                    return "the connection for commands was closed, perhaps for another master".into();
                }
                // Runs even if changes never stop.
                () = sleep_until(next) => {}
            }
            pings += 1;
            let verify = pings % VERIFY_EVERY == 0;
            if verify {
                self.wanted.write().dirty.extend(refused.drain());
            }
            let count = verify.then_some(active.len());
            let seen = timeout(PING_LIMIT, look(&mut conn, count)).await;
            next = Instant::now() + PING_EVERY;
            match seen {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return "the server does not have the expected subscriptions".into(),
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return format!("it did not answer for {} s", PING_LIMIT.as_secs()),
            }
        }
    }

    /// Marks all subscriptions for a new connection.
    fn begin(&self) {
        let mut wanted = self.wanted.write();
        let exact = wanted.exact.keys().cloned().map(Channel::Exact);
        let patterns = wanted.patterns.keys().cloned().map(Channel::Pattern);
        wanted.dirty = exact.chain(patterns).collect();
        wanted.is_served = true;
    }

    /// Returns the next subscriptions to add and to remove, of one kind each.
    fn due(&self, active: &HashSet<Channel>) -> (Vec<Channel>, Vec<Channel>) {
        let mut wanted = self.wanted.write();
        let some: Vec<Channel> = wanted.dirty.iter().take(BATCH).cloned().collect();
        let (mut add, mut remove, mut readded) = (Vec::new(), Vec::new(), Vec::new());
        for channel in some {
            wanted.dirty.remove(&channel);
            match (wanted.get(&channel).cloned(), active.contains(&channel)) {
                (Some(_), false) => add.push(channel),
                (None, true) => remove.push(channel),
                // It was removed and added again before the server was updated.
                (Some(entry), true) => readded.push(entry),
                (None, false) => {}
            }
        }
        wanted.leaving = remove.iter().map(|channel| channel.name().to_owned()).collect();
        drop(wanted); // a sink may subscribe to something
        readded.iter().for_each(|entry| entry.confirm());
        (add, remove)
    }

    /// Updates the server, and waits for its confirmations. Returns the channels that it refuses.
    async fn settle(
        &self,
        conn: &mut Conn,
        active: &mut HashSet<Channel>,
        add: &[Channel],
        remove: &[Channel],
    ) -> RedisResult<Vec<Channel>> {
        let names = |channels: &[Channel], exact: bool| -> Vec<String> {
            let of_kind = |channel: &&Channel| matches!(channel, Channel::Exact(_)) == exact;
            channels.iter().filter(of_kind).map(|channel| channel.name().to_owned()).collect()
        };
        let sharded = self.address.is_cluster();
        let mut refused = HashMap::new();
        for exact in [true, false] {
            let (add, remove) = (names(add, exact), names(remove, exact));
            if exact && !add.is_empty() {
                for (name, error) in subscribe(conn, add, sharded).await? {
                    refused.insert(Channel::Exact(name), error);
                }
            } else {
                for pattern in add {
                    match conn.0.psubscribe(&pattern).await {
                        Err(error) if is_refusal(&error) => {
                            refused.insert(Channel::Pattern(pattern), error);
                        }
                        done => done?,
                    }
                }
            }
            if !remove.is_empty() {
                if exact {
                    conn.unsubscribe(&remove, sharded).await?;
                } else {
                    conn.0.punsubscribe(&remove).await?;
                }
            }
        }
        for channel in remove {
            active.remove(channel);
        }
        if let Some((channel, error)) = refused.iter().next() {
            let (example, count) = (cut(channel.name()), refused.len());
            limited!(WARN, %example, count, %error, "Redis refuses subscriptions; check the channels of the user's ACL");
        }
        for channel in add {
            let entry = self.wanted.read().get(channel).cloned();
            let refusal = refused.get(channel);
            if refusal.is_none() {
                active.insert(channel.clone());
            }
            match (entry, refusal) {
                (Some(entry), None) => entry.confirm(),
                (Some(entry), Some(error)) => entry.refuse(match channel {
                    Channel::Exact(_) => {
                        format!("{error}; allow it: ACL SETUSER <user> &{}:*", self.address.prefix())
                    }
                    Channel::Pattern(_) => format!(
                        "{error}; patterns require a user that may subscribe to all channels: \
                         ACL SETUSER <user> allchannels"
                    ),
                }),
                (None, _) => {}
            }
        }
        Ok(refused.into_keys().collect())
    }

    /// Records that the connection, and with it every subscription at the server, is lost.
    fn lose_all(&self) {
        self.current.fetch_add(1, Relaxed);
        let entries: Vec<_> = {
            let mut wanted = self.wanted.write();
            wanted.is_served = false;
            wanted.dirty = HashSet::new();
            wanted.exact.values().chain(wanted.patterns.values()).cloned().collect()
        };
        self.up.send_replace(false);
        self.changes.servers.notify_one();
        for entry in entries {
            entry.lose();
        }
    }
}

/// Subscribes to channels. Returns those that the server refuses, each with the reason. The others stay
/// subscribed.
async fn subscribe(
    conn: &mut Conn,
    channels: Vec<String>,
    sharded: bool,
) -> RedisResult<Vec<(String, RedisError)>> {
    match conn.subscribe(&channels, sharded).await {
        Err(error) if is_refusal(&error) && channels.len() == 1 => {
            Ok(channels.into_iter().map(|channel| (channel, error.clone())).collect())
        }
        // The server refuses a whole command, or reports only that it refused one of its channels.
        Err(error) if is_refusal(&error) => {
            let each = join_all(channels.into_iter().map(|channel| {
                let mut conn = conn.clone();
                async move {
                    let done = conn.subscribe(std::slice::from_ref(&channel), sharded).await;
                    (channel, done)
                }
            }));
            let mut refused = Vec::new();
            for (channel, done) in each.await {
                match done {
                    Err(error) if is_refusal(&error) => refused.push((channel, error)),
                    done => done?,
                }
            }
            Ok(refused)
        }
        done => done.map(|()| Vec::new()),
    }
}

/// Returns whether the user may not subscribe to that channel.
fn is_refusal(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
}

/// Checks that the server answers, and has the given number of our subscriptions.
async fn look(conn: &mut Conn, count: Option<usize>) -> RedisResult<bool> {
    let Some(count) = count else {
        return redis::cmd("PING").query_async::<()>(&mut conn.0).await.map(|()| true);
    };
    let Ok(info) = redis::cmd("CLIENT").arg("INFO").query_async::<String>(&mut conn.0).await else {
        // The user may lack the permission for this. The next ping checks the connection.
        return Ok(true);
    };
    Ok(subscriptions(&info).is_none_or(|made| made == count))
}

/// Returns the number of subscriptions that a server reports for a connection; `None` if it does not count
/// sharded subscriptions, as the first releases of 7.0 do not.
fn subscriptions(info: &str) -> Option<usize> {
    let number = |name: &str| {
        let mut fields = info.split_ascii_whitespace();
        fields.find_map(|field| field.strip_prefix(name)?.parse::<usize>().ok())
    };
    Some(number("sub=")? + number("psub=")? + number("ssub=")?)
}

#[cfg(test)]
mod tests {
    use super::subscriptions;

    #[test]
    fn subscriptions_are_counted_where_the_server_counts_all_kinds() {
        assert_eq!(subscriptions("id=7 name= sub=2 psub=1 ssub=3 multi=-1"), Some(6));
        assert_eq!(subscriptions("id=7 name= sub=2 psub=1 multi=-1"), None);
    }
}
