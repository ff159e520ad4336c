//! The one connection to a server for what others publish. It subscribes again by itself after it was lost, and tells each
//! subscription when a gap begins and when it is over.

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
    address::{Address, Servers},
    backoff::Backoff,
    connect::{Conn, Fault, connect},
    link::{Changes, Link, PING_EVERY, PING_LIMIT, TIME_LIMIT},
    slot,
};
use crate::log::{cut, limited};

/// Channels that are subscribed to with one command: enough to make the round trips few, and the server's pauses short.
const BATCH: usize = 256;
/// A connection that lasted for so long is made again at once; after a shorter one there is a wait, so that a server which
/// refuses a subscription is not asked without end.
const STEADY: Duration = Duration::from_secs(5);
/// Pings between two looks at whether the server still has all our subscriptions.
const VERIFY_EVERY: u32 = 10;

/// What is subscribed to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Channel {
    /// One channel.
    Exact(String),
    /// All channels that match, in the server's way of writing patterns.
    Pattern(String),
}

impl Channel {
    /// Its name, or the pattern.
    fn name(&self) -> &str {
        match self {
            Self::Exact(name) | Self::Pattern(name) => name,
        }
    }

    /// Its slot on a Cluster.
    pub(super) fn slot(&self) -> u16 {
        slot::of(self.name().as_bytes())
    }
}

/// What a subscription hears.
#[derive(Debug)]
pub(crate) enum Event {
    /// Somebody published.
    Message {
        /// On which channel.
        channel: Bytes,
        /// What.
        payload: Bytes,
    },
    /// The server has confirmed the subscription, for the first time or again: from now on nothing is missed.
    Up,
    /// The connection was lost: what is published from now on is missed.
    Down,
    /// The server refuses the subscription. It is tried again every ten seconds.
    Refused,
}

/// Hears events; on the connection's task, so it must be quick.
pub(super) type Sink = dyn Fn(Event) + Send + Sync;

/// Whether the server has a subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Not yet, or not any more.
    Pending,
    /// The server has confirmed it.
    Stands,
    /// The server refuses it, for this reason.
    Refused(Arc<str>),
    /// Nobody wants it any more.
    Ended,
}

/// One subscription.
pub(super) struct Entry {
    /// Hears it.
    sink: Box<Sink>,
    /// Whether the server has it.
    standing: watch::Sender<Standing>,
    /// Whether it is kept: one that is on its way from a server to another one is in no list.
    pub(super) is_wanted: AtomicBool,
}

impl Entry {
    /// One that no server has.
    pub(super) fn new(sink: Box<Sink>) -> Self {
        let (standing, is_wanted) = (watch::Sender::new(Standing::Pending), AtomicBool::new(true));
        Self { sink, standing, is_wanted }
    }

    /// Changes when a server confirms, refuses or loses it.
    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Whether a server has confirmed it.
    pub(super) fn stands(&self) -> bool {
        *self.standing.borrow() == Standing::Stands
    }

    /// The server has it.
    fn confirm(&self) {
        if self.standing.send_replace(Standing::Stands) != Standing::Stands {
            (self.sink)(Event::Up);
        }
    }

    /// The server refuses it.
    fn refuse(&self, reason: String) {
        self.standing.send_replace(Standing::Refused(reason.into()));
        (self.sink)(Event::Refused);
    }

    /// The server has it no more.
    pub(super) fn lose(&self) {
        if self.standing.send_replace(Standing::Pending) == Standing::Stands {
            (self.sink)(Event::Down);
        }
    }

    /// Unsubscribed: callers that wait for it stop.
    pub(super) fn end(&self) {
        self.is_wanted.store(false, Relaxed);
        self.standing.send_replace(Standing::Ended);
    }
}

/// See the module.
pub(super) struct Subscriber {
    /// Where Redis is.
    address: Address,
    /// Tells whether the connection for commands is there: it asks the sentinels, for both.
    link: watch::Receiver<Link>,
    /// What is wanted.
    wanted: RwLock<Wanted>,
    /// Something is wanted that was not, or the other way round.
    changed: Notify,
    /// The connection broke.
    broken: Notify,
    /// Whether the connection is there.
    up: watch::Sender<bool>,
    /// The number of the connection that counts. An earlier one may still bring something, which is too late.
    current: AtomicU64,
    /// Told when the connection comes or goes, and when a slot is elsewhere.
    changes: Arc<Changes>,
}

/// What is wanted of the server.
#[derive(Default)]
struct Wanted {
    /// By channel.
    exact: HashMap<String, Arc<Entry>>,
    /// By pattern.
    patterns: HashMap<String, Arc<Entry>>,
    /// What has changed since the task looked last. While the connection is away nothing is kept here: it begins anew.
    dirty: HashSet<Channel>,
    /// Shard channels that the server is told to remove now: only of these it may say that it did.
    leaving: HashSet<String>,
    /// Whether the task listens to changes.
    is_served: bool,
}

impl Wanted {
    /// The subscription of a channel.
    fn get(&self, channel: &Channel) -> Option<&Arc<Entry>> {
        match channel {
            Channel::Exact(name) => self.exact.get(name),
            Channel::Pattern(pattern) => self.patterns.get(pattern),
        }
    }

    /// Wants a channel no more.
    fn remove(&mut self, channel: &Channel) -> Option<Arc<Entry>> {
        let removed = match channel {
            Channel::Exact(name) => self.exact.remove(name),
            Channel::Pattern(pattern) => self.patterns.remove(pattern),
        };
        self.touch(channel);
        removed
    }

    /// Notes that the server is to be told.
    fn touch(&mut self, channel: &Channel) {
        if self.is_served {
            self.dirty.insert(channel.clone());
        }
    }
}

impl Subscriber {
    /// Without a connection.
    pub(super) fn new(address: Address, link: watch::Receiver<Link>, changes: Arc<Changes>) -> Arc<Self> {
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

    /// Whether the connection is there.
    pub(super) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Waits until the connection is there.
    pub(super) async fn wait_until_up(&self) {
        // Fails only if the sender is gone, and `self` holds it.
        let _ = self.up.subscribe().wait_for(|&up| up).await;
    }

    /// Wants a channel. A former subscription of it hears no more if this one is `newer`, else that one stays.
    pub(super) fn put(&self, channel: &Channel, entry: Arc<Entry>, newer: bool) {
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

    /// Wants a channel no more, unless another subscription does.
    pub(super) fn take(&self, channel: &Channel, entry: &Arc<Entry>) {
        let mut wanted = self.wanted.write();
        if !wanted.get(channel).is_some_and(|current| Arc::ptr_eq(current, entry)) {
            return;
        }
        wanted.remove(channel);
        drop(wanted);
        self.changed.notify_one();
    }

    /// Wants some channels no more: those whose slots are elsewhere.
    pub(super) fn take_out(&self, is_elsewhere: impl Fn(&Channel) -> bool) -> Vec<(Channel, Arc<Entry>)> {
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

    /// Serves the subscriptions, until it is aborted.
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
                    tracing::warn!(redis = %self.address, reason, "the subscriptions at Redis were lost; what is published until they stand again is missed");
                    if begun.elapsed() >= STEADY {
                        backoff = Backoff::default();
                        continue;
                    }
                    reason
                }
                Err(Fault::Away(reason) | Fault::Wrong(reason)) => reason,
            };
            tracing::debug!(redis = %self.address, reason, "the subscriptions can't be made yet");
            sleep(backoff.next()).await;
        }
    }

    /// The connection, which tells this of what comes.
    async fn open(self: &Arc<Self>) -> Result<Conn, Fault> {
        let hear = Arc::downgrade(self);
        let number = self.current.fetch_add(1, Relaxed) + 1;
        let _ = self.broken.notified().now_or_never(); // the end of an earlier one is not that of this
        let push = move |info: PushInfo| -> Result<(), std::convert::Infallible> {
            if let Some(subscriber) = hear.upgrade()
                && subscriber.current.load(Relaxed) == number
            {
                subscriber.hear(info);
            }
            Ok(())
        };
        connect(&self.address, Some(Arc::new(push))).await
    }

    /// Something came.
    fn hear(&self, PushInfo { kind, data }: PushInfo) {
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
                    self.changes.slots.notify_one(); // its slot went to another shard
                    self.broken.notify_one();
                }
                return;
            }
            PushKind::Disconnection => return self.broken.notify_one(),
            _ => return,
        };
        if let Some(entry) = entry {
            (entry.sink)(Event::Message { channel, payload: next() });
        }
    }

    /// Tells the server what is wanted, and looks whether it is there. Returns when it is not, with the reason.
    async fn serve(&self, mut conn: Conn) -> String {
        let (mut active, mut refused, mut link) = (HashSet::new(), HashSet::new(), self.link.clone());
        let follows = matches!(self.address.servers, Servers::Sentinels { .. });
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
                        self.changes.slots.notify_one(); // perhaps a slot is elsewhere
                        return error.to_string();
                    }
                    Err(_) => return "it did not confirm a subscription".into(),
                }
            }
            tokio::select! {
                () = self.changed.notified() => continue,
                () = self.broken.notified() => return "the connection broke".into(),
                Ok(_) = link.wait_for(|link| *link == Link::Down), if follows => {
                    return "the other connection was given up, perhaps for another master".into();
                }
                // Also when changes come without end.
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
                Ok(Ok(false)) => return "the server has other subscriptions than we made".into(),
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return format!("it did not answer for {} s", PING_LIMIT.as_secs()),
            }
        }
    }

    /// All that is wanted is to be told to a new connection.
    fn begin(&self) {
        let mut wanted = self.wanted.write();
        let exact = wanted.exact.keys().cloned().map(Channel::Exact);
        let patterns = wanted.patterns.keys().cloned().map(Channel::Pattern);
        wanted.dirty = exact.chain(patterns).collect();
        wanted.is_served = true;
    }

    /// What the server is to be told next: what to add, and what to remove, of one kind each.
    fn due(&self, active: &HashSet<Channel>) -> (Vec<Channel>, Vec<Channel>) {
        let mut wanted = self.wanted.write();
        let some: Vec<Channel> = wanted.dirty.iter().take(BATCH).cloned().collect();
        let (mut add, mut remove, mut again) = (Vec::new(), Vec::new(), Vec::new());
        for channel in some {
            wanted.dirty.remove(&channel);
            match (wanted.get(&channel).cloned(), active.contains(&channel)) {
                (Some(_), false) => add.push(channel),
                (None, true) => remove.push(channel),
                // It was removed and wanted again before the server heard of it.
                (Some(entry), true) => again.push(entry),
                (None, false) => {}
            }
        }
        wanted.leaving = remove.iter().map(|channel| channel.name().to_owned()).collect();
        drop(wanted); // whoever hears it may subscribe to something
        again.iter().for_each(|entry| entry.confirm());
        (add, remove)
    }

    /// Tells the server, and waits for its confirmations. The channels that it refuses.
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
                        "{error}; patterns need a user that may subscribe to all channels: \
                         ACL SETUSER <user> allchannels"
                    ),
                }),
                (None, _) => {}
            }
        }
        Ok(refused.into_keys().collect())
    }

    /// The connection is gone, and with it what the server knew.
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

/// Subscribes to channels. Returns those that the server refuses, each with the reason, and keeps the others.
async fn subscribe(
    conn: &mut Conn,
    channels: Vec<String>,
    sharded: bool,
) -> RedisResult<Vec<(String, RedisError)>> {
    match conn.subscribe(&channels, sharded).await {
        Err(error) if is_refusal(&error) && channels.len() == 1 => {
            Ok(channels.into_iter().map(|channel| (channel, error.clone())).collect())
        }
        // The server refuses all of a command, or says only that it refused one.
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

/// Whether the user may not subscribe to that.
fn is_refusal(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
}

/// Whether the server answers, and has as many subscriptions of ours as are given.
async fn look(conn: &mut Conn, count: Option<usize>) -> RedisResult<bool> {
    let Some(count) = count else {
        return redis::cmd("PING").query_async::<()>(&mut conn.0).await.map(|()| true);
    };
    let Ok(info) = redis::cmd("CLIENT").arg("INFO").query_async::<String>(&mut conn.0).await else {
        // Not everybody may ask that; the next ping shows whether the connection is there.
        return Ok(true);
    };
    Ok(subscriptions(&info).is_none_or(|made| made == count))
}

/// How many subscriptions a server says that a connection has; none where it does not count those of shards, as the first
/// servers of 7.0.
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
