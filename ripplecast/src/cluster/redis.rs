//! Cluster communication over Redis: rooms and broadcasts by publish and subscribe, users by a registry of
//! which node has which.
//!
//! A node subscribes to a room only while it has members in it. Its own messages come back to it and are
//! discarded by their node id, because its own members have already received them. `redis/outgoing.rs` is the
//! queue to Redis. `redis/rooms.rs` tracks the rooms on this node and whether their subscriptions are active.
//! `redis/registry.rs` records under a lease which node has what.

mod leases;
mod outgoing;
mod registry;
mod rooms;

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use self::{
    leases::{FailureDetector, Lease},
    outgoing::Outgoing,
    registry::RegistryEntry,
    rooms::Rooms,
};
use super::{
    gaps::{GapLog, GapReport},
    sequence::{SeqCheck, SeqTracker},
    sign::{ReplayFilter, Signer},
    wire::{Body, Envelope, is_name},
};
use crate::{
    Close, Error, Message, Result,
    engine::{Audience, Cluster, Node, PageStart, Reach, RemoteStats},
    id::{ConnectionId, NodeId},
    log::{cut, limited},
    redis_client::{Channel, Redis, Subscribed, SubscriptionEvent, TIME_LIMIT},
};

/// Time within which a node's subscriptions return if only their connection was lost. A node that can't be
/// queried for longer counts as disconnected: nothing else sent to it arrives either.
const RETURN: Duration = Duration::from_millis(500);
/// Queries to other nodes that may wait for their replies. Each is a page of a list that somebody views.
const QUERIES: usize = 1024;
/// Interval between checks for late confirmations, while any is pending.
const LATE_CHECK: Duration = Duration::from_millis(250);
/// Maximum connections in one reply.
const PAGE: usize = 1000;

/// Connects a node to the others over Redis.
pub(crate) struct RedisCluster {
    /// State shared by the tasks.
    inner: Arc<ClusterInner>,
    /// Aborted on drop.
    tasks: [JoinHandle<()>; 3],
}

/// State shared by the tasks.
struct ClusterInner {
    redis: Redis,
    /// A handle without a limit on commands, for the node's own work, which must not be refused.
    own: Redis,
    node: u64,
    /// Signs outgoing messages.
    signer: Arc<Signer>,
    /// The local node, which receives the messages.
    local_node: Weak<Node>,
    /// The queue of outgoing messages.
    out: Arc<Outgoing>,
    /// Rooms with members on this node.
    rooms: Mutex<Rooms>,
    /// Notified when a room waits for its first confirmation and none did before.
    awaiting: Notify,
    /// Users with connections on this node, and the number of connections.
    users: Mutex<HashMap<Arc<str>, usize>>,
    /// What other nodes know about this node.
    registration: Mutex<registry::Registration>,
    /// Whether this node holds a lease.
    has_lease: watch::Sender<bool>,
    /// Observes the heartbeats of all nodes.
    detector: Mutex<FailureDetector>,
    /// Notified when the registration has work.
    changed: Notify,
    /// Queries that wait for their replies.
    queries: Mutex<HashMap<u64, oneshot::Sender<Vec<u64>>>>,
    /// The id of the next query.
    next_query: AtomicU64,
    gap_log: GapLog,
    counts: ClusterCounts,
}

#[derive(Default)]
struct ClusterCounts {
    /// Messages of other nodes.
    received: AtomicU64,
    /// Messages that were certainly missed.
    missed: AtomicU64,
    /// Subscriptions that were lost.
    gaps: AtomicU64,
}

impl RedisCluster {
    /// Creates the connection of a node to the others. Its tasks run on the current runtime.
    pub(crate) fn new(redis: Redis, local_node: &Arc<Node>, signer: Arc<Signer>, gap_log: GapLog) -> Self {
        let inner = Arc::new(ClusterInner {
            node: local_node.id(),
            signer,
            local_node: Arc::downgrade(local_node),
            out: Arc::new(Outgoing::new(redis.unbounded())),
            own: redis.unbounded(),
            redis,
            rooms: Mutex::default(),
            awaiting: Notify::new(),
            users: Mutex::default(),
            registration: Mutex::default(),
            has_lease: watch::Sender::new(false),
            detector: Mutex::default(),
            changed: Notify::new(),
            queries: Mutex::default(),
            next_query: AtomicU64::new(0),
            gap_log,
            counts: ClusterCounts::default(),
        });
        {
            let mut rooms = inner.rooms.lock();
            if rooms.subscribe_broadcasts(inner.subscribe_room(None)) {
                inner.awaiting.notify_one();
            }
        }
        let tasks = [
            tokio::spawn(outgoing::run(inner.out.clone())),
            tokio::spawn(registry::run(inner.clone())),
            tokio::spawn(report_late(inner.clone())),
        ];
        Self { inner, tasks }
    }
}

impl Drop for RedisCluster {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl ClusterInner {
    /// Returns the channel of a room, or of broadcasts.
    fn channel(&self, room: Option<&str>) -> String {
        match room {
            Some(room) => self.redis.key("room", room, ""),
            None => self.redis.key("all", "", ""),
        }
    }

    /// Subscribes to what other nodes push to a room, or to broadcasts.
    fn subscribe_room(self: &Arc<Self>, room: Option<&Arc<str>>) -> Subscribed {
        let (inner, tracker) = (Arc::downgrade(self), Mutex::new(SeqTracker::default()));
        let channel = self.channel(room.map(|room| &**room));
        let (name, room) = (channel.clone(), room.cloned());
        self.redis.subscribe(Channel::Exact(channel), move |event| {
            if let Some(inner) = inner.upgrade() {
                inner.receive(&name, room.as_ref(), &tracker, event);
            }
        })
    }

    /// Handles an event of a room's channel, or of the broadcast channel.
    fn receive(
        &self,
        channel: &str,
        room: Option<&Arc<str>>,
        tracker: &Mutex<SeqTracker>,
        event: SubscriptionEvent,
    ) {
        let payload = match event {
            SubscriptionEvent::Up => return self.rooms.lock().update(room),
            SubscriptionEvent::Down => {
                self.rooms.lock().update(room);
                return self.gap(room);
            }
            SubscriptionEvent::Refused => {
                if self.rooms.lock().note_refusal(room) {
                    self.gap(room);
                }
                return;
            }
            SubscriptionEvent::Message { payload, .. } => payload,
        };
        let message = self.signer.verify(channel, payload);
        let Some(Envelope { node, sequence, body: Body::Message { message } }) = message else {
            self.signer.count_rejected();
            return;
        };
        if node == self.node {
            return;
        }
        // Held until delivery: an old connection may still deliver a message while a new one does.
        let mut tracker = tracker.lock();
        match tracker.check(node, sequence) {
            SeqCheck::Next => {}
            SeqCheck::Missed(count) => {
                self.counts.missed.fetch_add(count, Relaxed);
                let room = room.map(ToString::to_string);
                self.gap_log.report(GapReport { room, node: Some(NodeId(node)), missed: Some(count) });
            }
            SeqCheck::NewEpoch(count) => {
                self.counts.gaps.fetch_add(1, Relaxed);
                let room = room.map(ToString::to_string);
                let gap = GapReport { room, node: Some(NodeId(node)), missed: None };
                self.gap_log.report(gap.clone());
                if count > 0 {
                    self.counts.missed.fetch_add(count, Relaxed);
                    self.gap_log.report(GapReport { missed: Some(count), ..gap });
                }
            }
            SeqCheck::Repeated => {
                self.signer.count_rejected();
                return;
            }
        }
        self.counts.received.fetch_add(1, Relaxed);
        let Some(local) = self.local_node.upgrade() else { return };
        let core = match room {
            None => Some(local.everyone().clone()),
            Some(room) => local.rooms().existing(room),
        };
        if let Some(core) = core {
            // The room itself counts and reports a refusal.
            core.push_here(&message).ignore();
        }
    }

    /// Reports that pushes of other nodes to a room, or broadcasts, are missed until its subscription is
    /// active.
    fn gap(&self, room: Option<&Arc<str>>) {
        self.counts.gaps.fetch_add(1, Relaxed);
        self.gap_log.report(GapReport { room: room.map(ToString::to_string), node: None, missed: None });
    }

    /// Handles an event of this node's own channel.
    fn receive_direct(&self, lease: &Lease, replays: &Mutex<ReplayFilter>, event: SubscriptionEvent) {
        let SubscriptionEvent::Message { payload, .. } = event else { return };
        let inbox = lease.inbox(&self.redis);
        let message =
            if lease.is_held() { replays.lock().verify(&self.signer, &inbox, payload) } else { None };
        let (Some(Envelope { body, .. }), Some(local)) = (message, self.local_node.upgrade()) else {
            self.signer.count_rejected();
            return;
        };
        match body {
            Body::ToUser { user, message } => {
                self.counts.received.fetch_add(1, Relaxed);
                local.push_to_local_user(&user, &message);
            }
            Body::CloseUser { user, close } => {
                self.counts.received.fetch_add(1, Relaxed);
                local.close_local_user(&user, &close);
            }
            Body::Query { to, id, is_room, name, from, limit } if is_name(&name) => {
                let Some(to) = Lease::parse(&to).map(|lease| lease.inbox(&self.redis)) else { return };
                let audience = if is_room { Audience::Room(&name) } else { Audience::User(&name) };
                let mut connections = local.local_connections(audience);
                connections.retain(|&connection| connection > from);
                let page = PAGE.min(limit as usize);
                if page < connections.len() {
                    // Avoid sorting a large room for each page, which would delay other messages.
                    connections.select_nth_unstable(page);
                    connections.truncate(page);
                }
                connections.sort_unstable();
                let reply = self.signer.sign(&to, Body::Reply { id, connections });
                self.out.push(to, reply);
            }
            Body::Reply { id, connections } => {
                if let Some(caller) = self.queries.lock().remove(&id) {
                    let _ = caller.send(connections); // the caller may have been dropped
                }
            }
            Body::Query { .. } | Body::Message { .. } | Body::Bus { .. } => {
                self.signer.count_rejected();
            }
        }
    }

    /// Returns which nodes have connections of an audience, and how many, without this node and without expired
    /// leases.
    async fn owners(&self, audience: Audience<'_>) -> Result<Vec<(Lease, usize)>> {
        let mut read = redis::cmd("HGETALL");
        read.arg(self.counts_key(audience));
        let (counts, leases) = tokio::join!(self.redis.run::<Vec<(String, usize)>>(&read), self.leases());
        let leases = leases?;
        let theirs = |(field, count): (String, usize)| {
            let lease = leases.iter().find(|lease| lease.field() == field)?;
            (lease.node() != self.node && count > 0).then(|| (lease.clone(), count))
        };
        let mut owners: Vec<_> = counts?.into_iter().filter_map(theirs).collect();
        owners.sort_by_key(|(lease, _)| lease.node());
        Ok(owners)
    }

    /// Returns the key that holds the number of connections of an audience on each node.
    fn counts_key(&self, audience: Audience<'_>) -> String {
        match audience {
            Audience::Room(room) => self.redis.key("room", room, ":nodes"),
            Audience::User(user) => self.redis.key("user", user, ":nodes"),
        }
    }

    /// Publishes at once, and returns how many nodes received the message. A message too large for their
    /// connections is counted and not sent.
    async fn publish(&self, channel: &str, body: Body) -> Result<usize> {
        let message = self.signer.sign(channel, body);
        if !self.out.admit(message.len()) {
            return Ok(0);
        }
        let mut publish = redis::cmd(self.redis.publish_command());
        publish.arg(channel).arg(&message[..]);
        self.redis.run(&publish).await
    }

    /// Sends a message to the other nodes with connections of a user. Returns the number of these connections.
    async fn send_to_user(&self, user: &str, body: Body) -> Result<usize> {
        let mut read = redis::cmd("HGETALL");
        read.arg(self.counts_key(Audience::User(user)));
        let owners: Vec<(String, usize)> = self.redis.run(&read).await?;
        let mut reached = 0;
        for (field, count) in owners {
            let Some(lease) = Lease::parse(&field) else { continue };
            // Nobody listens on the channel of a node that has disconnected or acquired a new lease.
            if lease.node() != self.node && self.publish(&lease.inbox(&self.redis), body.clone()).await? > 0 {
                reached += count;
                self.out.count_sent(1);
            }
        }
        Ok(reached)
    }

    /// Asks a node for its connections of an audience after `from`.
    async fn query(
        &self,
        lease: &Lease,
        audience: Audience<'_>,
        from: u64,
        limit: usize,
    ) -> Result<Vec<u64>> {
        let own = self.registration.lock().lease.clone();
        let own = own.ok_or_else(|| crate::error::BackendError::Unavailable {
            reason: "this node is not registered".into(),
        })?;
        let id = self.next_query.fetch_add(1, Relaxed);
        let (sender, reply) = oneshot::channel();
        {
            let mut queries = self.queries.lock();
            queries.retain(|_, caller| !caller.is_closed());
            if queries.len() >= QUERIES {
                return Err(Error::Overloaded {
                    what: "the number of queries to other nodes",
                    limit: QUERIES,
                });
            }
            queries.insert(id, sender);
        }
        let (is_room, name) = match audience {
            Audience::Room(room) => (true, room.to_owned()),
            Audience::User(user) => (false, user.to_owned()),
        };
        let to = own.field().to_owned();
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let request = Body::Query { to, id, is_room, name, from, limit };
        let asked = Instant::now();
        while self.publish(&lease.inbox(&self.redis), request.clone()).await? == 0 {
            // Either the node has disconnected, or its subscriptions are about to return.
            if asked.elapsed() > RETURN {
                return Ok(Vec::new());
            }
            sleep(RETURN / 10).await;
        }
        match timeout(TIME_LIMIT, reply).await {
            Ok(Ok(connections)) => Ok(connections),
            _ => Err(crate::error::BackendError::TimedOut { after: TIME_LIMIT }.into()),
        }
    }

    /// Marks an entry to be written to the registry.
    fn touch(&self, entry: RegistryEntry) {
        if self.registration.lock().touch(entry) {
            self.changed.notify_one();
        }
    }
}

impl Cluster for RedisCluster {
    fn push(&self, room: Option<&Arc<str>>, message: &Message) {
        let inner = &self.inner;
        let channel = inner.channel(room.map(|room| &**room));
        inner.out.push_message(inner.node, &inner.signer, room, channel, message);
    }

    fn room_changed(&self, room: &Arc<str>, members: usize) {
        let inner = &self.inner;
        if inner.rooms.lock().change(room, members, || inner.subscribe_room(Some(room))) {
            inner.awaiting.notify_one();
        }
        inner.touch(RegistryEntry::Room(room.clone()));
    }

    fn user_changed(&self, user: &Arc<str>, connections: usize) {
        let mut users = self.inner.users.lock();
        if connections == 0 {
            users.remove(user);
        } else {
            users.insert(user.clone(), connections);
        }
        drop(users);
        self.inner.touch(RegistryEntry::User(user.clone()));
    }

    fn ready(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let everyone = self.inner.rooms.lock().ready(None);
            if let Some(everyone) = everyone {
                everyone.await?;
            }
            let mut has_lease = self.inner.has_lease.subscribe();
            match timeout(TIME_LIMIT, has_lease.wait_for(|&has_lease| has_lease)).await {
                Ok(_) => Ok(()),
                Err(_) => Err(crate::error::BackendError::TimedOut { after: TIME_LIMIT }.into()),
            }
        })
    }

    fn reach<'a>(&'a self, audience: Audience<'a>) -> BoxFuture<'a, Reach> {
        Box::pin(async move {
            let reached = match audience {
                Audience::Room(room) => {
                    let ready = self.inner.rooms.lock().ready(Some(room));
                    match ready {
                        Some(ready) => ready.await,
                        None => Err(Error::Closed), // it has left meanwhile
                    }
                }
                Audience::User(user) => self.inner.wait_registered(user).await,
            };
            match reached {
                Ok(()) => Reach::AllNodes,
                Err(error) => {
                    limited!(DEBUG, %error, "a connection is not reachable from other nodes yet");
                    Reach::ThisNode
                }
            }
        })
    }

    fn len<'a>(&'a self, audience: Audience<'a>) -> BoxFuture<'a, Result<usize>> {
        Box::pin(
            async move { Ok(self.inner.owners(audience).await?.into_iter().map(|(_, count)| count).sum()) },
        )
    }

    fn nodes<'a>(&'a self, audience: Audience<'a>) -> BoxFuture<'a, Result<Vec<NodeId>>> {
        Box::pin(async move {
            Ok(self
                .inner
                .owners(audience)
                .await?
                .into_iter()
                .map(|(lease, _)| NodeId(lease.node()))
                .collect())
        })
    }

    fn connections<'a>(
        &'a self,
        audience: Audience<'a>,
        from: PageStart,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ConnectionId>>> {
        Box::pin(async move {
            let mut found = Vec::new();
            for (lease, _) in self.inner.owners(audience).await? {
                let node = lease.node();
                let mut behind = if node == from.0 { from.1 } else { 0 };
                while node >= from.0 && found.len() < limit {
                    let page =
                        self.inner.query(&lease, audience, behind, PAGE.min(limit - found.len())).await?;
                    let Some(&last) = page.last().filter(|&&last| last > behind) else { break };
                    behind = last;
                    found.extend(page.into_iter().map(|local| ConnectionId::of(node, local)));
                }
            }
            Ok(found)
        })
    }

    fn push_to_user<'a>(&'a self, user: &'a str, message: Message) -> BoxFuture<'a, Result<usize>> {
        Box::pin(self.inner.send_to_user(user, Body::ToUser { user: user.to_owned(), message }))
    }

    fn close_user<'a>(&'a self, user: &'a str, close: Close) -> BoxFuture<'a, Result<usize>> {
        Box::pin(self.inner.send_to_user(user, Body::CloseUser { user: user.to_owned(), close }))
    }

    fn all_nodes(&self) -> BoxFuture<'_, Result<Vec<NodeId>>> {
        Box::pin(async move {
            let mut nodes: Vec<_> =
                self.inner.leases().await?.iter().map(|lease| NodeId(lease.node())).collect();
            nodes.sort_unstable();
            nodes.dedup();
            Ok(nodes)
        })
    }

    fn stats(&self) -> RemoteStats {
        let ClusterInner { out, counts, redis, signer, .. } = &*self.inner;
        let mut stats = RemoteStats {
            degraded: redis.is_degraded(),
            received: counts.received.load(Relaxed),
            missed: counts.missed.load(Relaxed),
            gaps: counts.gaps.load(Relaxed),
            refused: signer.rejected(),
            unconfirmed: self.inner.rooms.lock().unconfirmed(),
            ..RemoteStats::default()
        };
        out.report(&mut stats);
        stats
    }

    fn leave(&self) -> BoxFuture<'_, Result<()>> {
        self.tasks[1].abort(); // it would acquire a new lease
        Box::pin(self.inner.leave())
    }
}

/// Reports subscriptions whose first confirmation is late, until aborted.
async fn report_late(inner: Arc<ClusterInner>) {
    loop {
        inner.awaiting.notified().await;
        loop {
            sleep(LATE_CHECK).await;
            let (late, is_done) = inner.rooms.lock().take_late();
            if let Some(example) = late.first() {
                let example = cut(example.as_deref().unwrap_or("(all connections)"));
                limited!(
                    WARN,
                    %example,
                    count = late.len(),
                    "Redis has not confirmed subscriptions to rooms within 1 s; pushes of other nodes are missed until it does"
                );
            }
            for room in &late {
                inner.gap(room.as_ref());
            }
            if is_done {
                break;
            }
        }
    }
}
