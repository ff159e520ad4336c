//! The servers of a node: one, or the masters of a Cluster. Each has its own connections and its own task
//! that maintains them, so that an unavailable one does not affect the others.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::{join_all, try_join_all};
use parking_lot::RwLock;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    address::{Address, RedisHost, ServerHosts},
    connect::{Conn, ConnectError, HOST_LIMIT, SlotRange, connect, ranges, tls_hint},
    link::{self, Keeper, Link, ServerChanges, TIME_LIMIT},
    slot::SLOTS,
    subscriber::{Channel, EventSink, Subscriber, SubscriptionEntry, SubscriptionState},
};
use crate::error::{BackendError, Result};

/// Interval between queries for the slot layout, while nothing suggests a change.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// The same while a master is unavailable, because another one may replace it.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// Minimum interval between such queries.
const PAUSE: Duration = Duration::from_millis(20);

/// A server, its connections, and the tasks that maintain them.
pub(super) struct RedisServer {
    /// `None` if the address names it.
    host: Option<RedisHost>,
    /// Maintains the connection for commands.
    pub(super) keeper: Arc<Keeper>,
    /// Maintains the connection for subscriptions.
    pub(super) subscriber: Arc<Subscriber>,
    /// The tasks of both, or only of the first if nothing subscribes.
    tasks: Vec<JoinHandle<()>>,
}

impl RedisServer {
    /// Starts maintaining connections to a server. The one for commands may exist already. The one for
    /// subscriptions is opened only if something `subscribes`.
    fn start(
        address: &Address,
        host: Option<RedisHost>,
        conn: Option<Conn>,
        changes: &Arc<ServerChanges>,
        subscribes: bool,
    ) -> Arc<Self> {
        let address = host.as_ref().map_or_else(|| address.clone(), |host| address.shard(host));
        let keeper = Keeper::new(address.clone(), conn, changes.clone());
        let subscriber = Subscriber::new(address, keeper.link(), changes.clone());
        let mut tasks = vec![tokio::spawn(keeper.clone().keep())];
        if subscribes {
            tasks.push(tokio::spawn(subscriber.clone().run()));
        }
        Arc::new(Self { host, keeper, subscriber, tasks })
    }

    /// Returns whether the connection for commands is up.
    fn is_up(&self) -> bool {
        *self.keeper.link().borrow() != Link::Down
    }

    fn stop(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The servers of a node.
pub(super) struct RedisServers {
    address: Address,
    layout: RwLock<SlotLayout>,
    /// Whether any server is connected.
    link: watch::Sender<Link>,
    /// Wakes the task that maintains the servers.
    changes: Arc<ServerChanges>,
    /// Which server the next query asks first.
    next: AtomicUsize,
    /// Whether something subscribes to channels.
    subscribes: bool,
}

/// Which server has which slots.
struct SlotLayout {
    servers: Vec<Arc<RedisServer>>,
    /// The last slot of each range and the index of its server, in order.
    ranges: Vec<(u16, usize)>,
}

impl SlotLayout {
    /// Returns the server of a slot; `None` if no range contains it.
    fn server(&self, slot: u16) -> Option<&Arc<RedisServer>> {
        let at = self.ranges.partition_point(|&(last, _)| last < slot);
        self.servers.get(self.ranges.get(at)?.1)
    }
}

impl RedisServers {
    /// Connects to all servers. If `optional`, they may be unavailable.
    ///
    /// # Errors
    /// What is wrong with one of them. An unavailable server is an error unless `optional`.
    pub(super) async fn connect(
        address: &Address,
        optional: bool,
    ) -> Result<(Arc<Self>, bool), ConnectError> {
        let changes = Arc::<ServerChanges>::default();
        let start = |host, conn| RedisServer::start(address, host, conn, &changes, true);
        let (servers, ranges) = match &address.servers {
            ServerHosts::Cluster(seeds) => match accepted(look(address, seeds).await, address, optional)? {
                Some(found) => {
                    let (hosts, ranges) = numbered(found);
                    let attempts = hosts.iter().map(async |host| {
                        accepted(link::attempt(&address.shard(host)).await, address, optional)
                    });
                    let conns = try_join_all(attempts).await?;
                    let servers = hosts.into_iter().zip(conns).map(|(host, conn)| start(Some(host), conn));
                    (servers.collect(), ranges)
                }
                // Until a server reports which server has which slots, the first one receives all commands.
                None => (vec![start(seeds.first().cloned(), None)], vec![(SLOTS - 1, 0)]),
            },
            _ => (
                vec![start(None, accepted(link::attempt(address).await, address, optional)?)],
                vec![(SLOTS - 1, 0)],
            ),
        };
        let all_there = servers.iter().all(|server: &Arc<RedisServer>| server.is_up());
        let servers = Self::new(address, SlotLayout { servers, ranges }, changes, true);
        servers.publish_link(&mut Vec::new(), &mut 0);
        Ok((Arc::new(servers), all_there))
    }

    /// Creates connections for commands only, opened in the background.
    pub(super) fn apart(address: &Address) -> Arc<Self> {
        let changes = Arc::<ServerChanges>::default();
        // Until a server reports which server has which slots, the first one receives all commands.
        let first = match &address.servers {
            ServerHosts::Cluster(seeds) => seeds.first().cloned(),
            _ => None,
        };
        let servers = vec![RedisServer::start(address, first, None, &changes, false)];
        Arc::new(Self::new(address, SlotLayout { servers, ranges: vec![(SLOTS - 1, 0)] }, changes, false))
    }

    fn new(address: &Address, layout: SlotLayout, changes: Arc<ServerChanges>, subscribes: bool) -> Self {
        let (link, layout) = (watch::Sender::new(Link::Down), RwLock::new(layout));
        Self { address: address.clone(), layout, link, changes, next: AtomicUsize::new(0), subscribes }
    }

    /// Returns the server of a slot; `None` if no server has it.
    pub(super) fn server(&self, slot: u16) -> Option<Arc<RedisServer>> {
        self.layout.read().server(slot).cloned()
    }

    fn all(&self) -> Vec<Arc<RedisServer>> {
        self.layout.read().servers.clone()
    }

    /// Waits until the connections for subscriptions are up.
    pub(super) async fn wait_until_up(&self) {
        let all = self.all();
        join_all(all.iter().map(|server| server.subscriber.wait_until_up())).await;
    }

    /// Returns whether the connection to any server is down, or some slots have no server.
    pub(super) fn is_degraded(&self) -> bool {
        let layout = self.layout.read();
        let is_whole = layout.ranges.last().is_some_and(|&(last, _)| last == SLOTS - 1);
        !is_whole || !layout.servers.iter().all(|server| server.is_up() && server.subscriber.is_up())
    }

    /// Returns a receiver that changes when the first server becomes available, the last one becomes
    /// unavailable, or one reconnects.
    pub(super) fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// Reports that a slot is elsewhere, which triggers a query for the slot layout.
    pub(super) fn mark_stale(&self) {
        self.changes.slots.notify_one();
    }

    /// Ends all tasks except [`run`](Self::run).
    pub(super) fn stop(&self) {
        self.layout.read().servers.iter().for_each(|server| server.stop());
    }

    /// Maintains the slot layout until aborted.
    pub(super) async fn run(self: Arc<Self>) {
        let (mut known, mut connects) = (Vec::new(), 0);
        let is_cluster = matches!(self.address.servers, ServerHosts::Cluster(_));
        let mut looked = Instant::now();
        loop {
            let all_up = self.publish_link(&mut known, &mut connects);
            let wait = if all_up { LOOK_EVERY } else { LOOK_SOON };
            let is_stale = tokio::select! {
                () = self.changes.servers.notified() => false,
                () = self.changes.slots.notified() => true,
                () = sleep(wait.saturating_sub(looked.elapsed())), if is_cluster => true,
            };
            if is_stale && is_cluster {
                self.refresh_layout().await;
                looked = Instant::now();
                sleep(PAUSE).await;
            }
        }
    }

    /// Publishes whether any server is available, and counts connections. Returns whether all are available.
    fn publish_link(&self, known: &mut Vec<(Weak<RedisServer>, u64)>, connects: &mut u64) -> bool {
        let mut up = 0;
        let all = self.all();
        let now = all.iter().map(|server| {
            let former = known.iter().find(|(known, _)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(server)));
            let former = former.map_or(0, |(_, count)| *count);
            let count = match *server.keeper.link().borrow() {
                Link::Up { connects } => {
                    up += 1;
                    connects
                }
                Link::Down => former,
            };
            *connects += count.saturating_sub(former);
            (Arc::downgrade(server), count)
        });
        *known = now.collect();
        let link = if up > 0 { Link::Up { connects: *connects } } else { Link::Down };
        self.link.send_if_modified(|former| std::mem::replace(former, link) != link);
        up == known.len()
    }

    /// Queries the slot layout.
    async fn refresh_layout(&self) {
        let all = self.all();
        let first = self.next.fetch_add(1, Relaxed);
        for at in 0..all.len() {
            let server = &all[(first + at) % all.len()];
            let (Some(mut conn), Some(host)) = (server.keeper.conn(), &server.host) else {
                continue;
            };
            if let Ok(Ok(found)) = timeout(HOST_LIMIT, ranges(&mut conn.0, host)).await {
                return self.apply(found);
            }
        }
        let ServerHosts::Cluster(seeds) = &self.address.servers else { return };
        if let Ok(found) = look(&self.address, seeds).await {
            self.apply(found);
        }
    }

    /// Adopts a slot layout and moves the subscriptions accordingly.
    fn apply(&self, found: Vec<SlotRange>) {
        let (hosts, ranges) = numbered(found);
        if ranges.is_empty() {
            return; // it does not know the layout
        }
        let mut strays = Vec::new();
        let former = {
            let mut layout = self.layout.write();
            let servers: Vec<_> = hosts
                .into_iter()
                .map(|host| {
                    let known = layout.servers.iter().find(|server| server.host.as_ref() == Some(&host));
                    known.cloned().unwrap_or_else(|| {
                        tracing::info!(redis = %self.address, host = %host.0, port = host.1, "the Cluster has a new master");
                        RedisServer::start(&self.address, Some(host), None, &self.changes, self.subscribes)
                    })
                })
                .collect();
            let former = std::mem::replace(&mut *layout, SlotLayout { servers, ranges });
            for server in &former.servers {
                let is_its_own = |channel: &Channel| {
                    let owner = layout.server(channel.slot());
                    owner.is_none_or(|owner| Arc::ptr_eq(owner, server))
                        && layout.servers.iter().any(|it| Arc::ptr_eq(it, server))
                };
                strays.extend(server.subscriber.remove_strays(|channel| !is_its_own(channel)));
            }
            former
        };
        drop(former); // ends the tasks of former masters
        for (channel, entry) in strays {
            // Called without a lock, because the sink may subscribe to something.
            entry.lose();
            self.put(&channel, &entry);
        }
    }

    /// Subscribes to a channel at the server of its slot, unless it was unsubscribed or replaced.
    fn put(&self, channel: &Channel, entry: &Arc<SubscriptionEntry>) {
        let layout = self.layout.read();
        let server = layout.server(channel.slot()).or(layout.servers.first());
        if let Some(server) = server {
            server.subscriber.put(channel, entry.clone(), false);
            if !entry.is_wanted.load(Relaxed) {
                server.subscriber.take(channel, entry);
            }
        }
    }

    /// Subscribes to a channel, replacing any earlier subscription.
    pub(super) fn subscribe(self: &Arc<Self>, channel: Channel, sink: Box<EventSink>) -> Subscribed {
        let entry = Arc::new(SubscriptionEntry::new(sink));
        let layout = self.layout.read();
        if let Some(server) = layout.server(channel.slot()).or(layout.servers.first()) {
            server.subscriber.put(&channel, entry.clone(), true);
        }
        Subscribed { servers: self.clone(), channel, entry }
    }
}

/// Returns the result of an attempt, or `None` if the server is unavailable and `optional`.
fn accepted<T>(
    outcome: Result<T, ConnectError>,
    address: &Address,
    optional: bool,
) -> Result<Option<T>, ConnectError> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(ConnectError::Away(reason)) if optional => {
            tracing::warn!(redis = %address, reason, "Redis is unavailable; this node starts without it and keeps trying to connect");
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}

/// Asks the hosts of the address in turn for the slot layout.
async fn look(address: &Address, seeds: &[RedisHost]) -> Result<Vec<SlotRange>, ConnectError> {
    let mut said = Vec::new();
    for seed in seeds {
        let ask = async {
            let mut conn = connect(&address.shard(seed), None).await?;
            ranges(&mut conn.0, seed).await
        };
        match timeout(HOST_LIMIT, ask).await {
            Ok(Ok(found)) if found.is_empty() => {
                said.push(format!("{}:{} knows no server with slots", seed.0, seed.1));
            }
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(ConnectError::Wrong(reason))) => return Err(ConnectError::Wrong(reason)),
            Ok(Err(ConnectError::Away(reason))) => said.push(reason),
            Err(_) => {
                let hint = tls_hint(address, address.is_tls());
                let (host, port) = seed;
                said.push(format!("{host}:{port} did not answer within {} s{hint}", HOST_LIMIT.as_secs()));
            }
        }
    }
    Err(ConnectError::Away(said.join("; ")))
}

/// Returns the distinct hosts, and the last slot of each range with the index of its host, in order.
fn numbered(mut found: Vec<SlotRange>) -> (Vec<RedisHost>, Vec<(u16, usize)>) {
    found.sort_unstable_by_key(|range| range.last);
    let mut hosts: Vec<RedisHost> = Vec::new();
    let ranges = found
        .into_iter()
        .map(|range| {
            let known = hosts.iter().position(|host| *host == range.host);
            let number = known.unwrap_or_else(|| {
                hosts.push(range.host);
                hosts.len() - 1
            });
            (range.last, number)
        })
        .collect();
    (hosts, ranges)
}

/// Keeps a subscription until dropped.
#[must_use = "dropping it ends the subscription"]
pub(crate) struct Subscribed {
    servers: Arc<RedisServers>,
    channel: Channel,
    entry: Arc<SubscriptionEntry>,
}

impl Subscribed {
    /// Returns whether the server has confirmed the subscription.
    pub(crate) fn is_active(&self) -> bool {
        self.entry.is_active()
    }

    /// Waits until the server has confirmed the subscription, for up to [`TIME_LIMIT`]. The future does not
    /// keep the subscription alive.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] if Redis is unavailable or the subscription has ended,
    /// [`BackendError::TimedOut`] if the server does not answer, [`BackendError::Refused`] if the user may
    /// not subscribe to the channel.
    pub(crate) fn ready(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let mut state = self.entry.state();
        let server = self.servers.server(self.channel.slot());
        let is_up = server.is_some_and(|server| server.subscriber.is_up());
        async move {
            if !is_up && *state.borrow() != SubscriptionState::Active {
                return Err(BackendError::Unavailable { reason: "its subscriptions were lost".into() }.into());
            }
            let settled = state.wait_for(|state| *state != SubscriptionState::Pending);
            let error = match timeout(TIME_LIMIT, settled).await {
                Ok(Ok(state)) => match &*state {
                    SubscriptionState::Refused(reason) => {
                        BackendError::Refused { message: reason.to_string() }
                    }
                    SubscriptionState::Active => return Ok(()),
                    SubscriptionState::Pending | SubscriptionState::Ended => ended(),
                },
                Ok(Err(_)) => ended(),
                Err(_) => BackendError::TimedOut { after: TIME_LIMIT },
            };
            Err(error.into())
        }
    }
}

/// Returns the error for a subscription that ended before it was confirmed.
fn ended() -> BackendError {
    BackendError::Unavailable { reason: "the subscription has ended".into() }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.entry.end();
        let layout = self.servers.layout.read();
        if let Some(server) = layout.server(self.channel.slot()).or(layout.servers.first()) {
            server.subscriber.take(&self.channel, &self.entry);
        }
    }
}
