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
    leases::{FailureDetector, Seat},
    outgoing::Outgoing,
    registry::Item,
    rooms::Rooms,
};
use super::{
    gaps::{GapLog, GapReport},
    sequence::{Heard, Told},
    sign::{Once, Sealer},
    wire::{Body, Envelope, is_name},
};
use crate::{
    Error, Message, Result,
    engine::{Audience, Cluster, Node, PageStart, Reach, RemoteStats},
    id::{ConnectionId, NodeId},
    log::{cut, limited},
    redis_client::{Channel, Event, Redis, Subscribed, TIME_LIMIT},
};

/// Time within which a node's subscriptions return if only their connection was lost. A node that can't be
/// queried for longer counts as disconnected: nothing else sent to it arrives either.
const RETURN: Duration = Duration::from_millis(500);
/// Queries to other nodes that may wait for their replies. Each is a page of a list that somebody views.
const QUESTIONS: usize = 1024;
/// Interval between checks for late confirmations, while any is pending.
const LOOK: Duration = Duration::from_millis(250);
/// Maximum connections in one reply.
const PAGE: usize = 1000;

/// Connects a node to the others over Redis.
pub(crate) struct RedisBridge {
    /// State shared by the tasks.
    inner: Arc<Inner>,
    /// Aborted on drop.
    tasks: [JoinHandle<()>; 3],
}

/// State shared by the tasks.
struct Inner {
    redis: Redis,
    /// A handle without a limit on commands, for the node's own work, which must not be refused.
    own: Redis,
    node: u64,
    /// Signs outgoing messages.
    sealer: Arc<Sealer>,
    /// The local node, which receives the messages.
    shards: Weak<Node>,
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
    seated: watch::Sender<bool>,
    /// Observes the heartbeats of all nodes.
    detector: Mutex<FailureDetector>,
    /// Notified when the registration has work.
    changed: Notify,
    /// Queries that wait for their replies.
    questions: Mutex<HashMap<u64, oneshot::Sender<Vec<u64>>>>,
    /// The id of the next query.
    next_question: AtomicU64,
    gap_log: GapLog,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    /// Messages of other nodes.
    received: AtomicU64,
    /// Messages that were certainly missed.
    missed: AtomicU64,
    /// Subscriptions that were lost.
    gaps: AtomicU64,
}

impl RedisBridge {
    /// Creates the connection of a node to the others. Its tasks run on the current runtime.
    pub(crate) fn new(redis: Redis, shards: &Arc<Node>, sealer: Arc<Sealer>, gap_log: GapLog) -> Self {
        let inner = Arc::new(Inner {
            node: shards.node,
            sealer,
            shards: Arc::downgrade(shards),
            out: Arc::new(Outgoing::new(redis.unbounded())),
            own: redis.unbounded(),
            redis,
            rooms: Mutex::default(),
            awaiting: Notify::new(),
            users: Mutex::default(),
            registration: Mutex::default(),
            seated: watch::Sender::new(false),
            detector: Mutex::default(),
            changed: Notify::new(),
            questions: Mutex::default(),
            next_question: AtomicU64::new(0),
            gap_log,
            counts: Counts::default(),
        });
        {
            let mut rooms = inner.rooms.lock();
            if rooms.listen_to_everyone(inner.listen(None)) {
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

impl Drop for RedisBridge {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Inner {
    /// Returns the channel of a room, or of broadcasts.
    fn channel(&self, room: Option<&str>) -> String {
        match room {
            Some(room) => self.redis.key("room", room, ""),
            None => self.redis.key("all", "", ""),
        }
    }

    /// Subscribes to what other nodes push to a room, or to broadcasts.
    fn listen(self: &Arc<Self>, room: Option<&Arc<str>>) -> Subscribed {
        let (inner, heard) = (Arc::downgrade(self), Mutex::new(Heard::default()));
        let channel = self.channel(room.map(|room| &**room));
        let (name, room) = (channel.clone(), room.cloned());
        self.redis.subscribe(Channel::Exact(channel), move |event| {
            if let Some(inner) = inner.upgrade() {
                inner.hear(&name, room.as_ref(), &heard, event);
            }
        })
    }

    /// Handles an event of a room's channel, or of the broadcast channel.
    fn hear(&self, channel: &str, room: Option<&Arc<str>>, heard: &Mutex<Heard>, event: Event) {
        let payload = match event {
            Event::Up => return self.rooms.lock().settle(room),
            Event::Down => {
                self.rooms.lock().settle(room);
                return self.gap(room);
            }
            Event::Refused => {
                if self.rooms.lock().is_news(room) {
                    self.gap(room);
                }
                return;
            }
            Event::Message { payload, .. } => payload,
        };
        let message = self.sealer.open(channel, payload);
        let Some(Envelope { node, number, body: Body::Message { frame } }) = message else {
            self.sealer.refuse();
            return;
        };
        if node == self.node {
            return;
        }
        // Held until delivery: an old connection may still deliver a message while a new one does.
        let mut heard = heard.lock();
        match heard.hear(node, number) {
            Told::Next => {}
            Told::Missed(count) => {
                self.counts.missed.fetch_add(count, Relaxed);
                let room = room.map(ToString::to_string);
                self.gap_log.tell(GapReport { room, node: Some(NodeId(node)), missed: Some(count) });
            }
            Told::Renewed(count) => {
                self.counts.gaps.fetch_add(1, Relaxed);
                let room = room.map(ToString::to_string);
                let gap = GapReport { room, node: Some(NodeId(node)), missed: None };
                self.gap_log.tell(gap.clone());
                if count > 0 {
                    self.counts.missed.fetch_add(count, Relaxed);
                    self.gap_log.tell(GapReport { missed: Some(count), ..gap });
                }
            }
            Told::Again => {
                self.sealer.refuse();
                return;
            }
        }
        self.counts.received.fetch_add(1, Relaxed);
        let Some(shards) = self.shards.upgrade() else { return };
        let core = match room {
            None => Some(shards.everyone.clone()),
            Some(room) => shards.rooms.existing(room),
        };
        if let Some(core) = core {
            // The room itself counts and reports a refusal.
            core.push_here(&frame).ignore();
        }
    }

    /// Reports that pushes of other nodes to a room, or broadcasts, are missed until its subscription is
    /// active.
    fn gap(&self, room: Option<&Arc<str>>) {
        self.counts.gaps.fetch_add(1, Relaxed);
        self.gap_log.tell(GapReport { room: room.map(ToString::to_string), node: None, missed: None });
    }

    /// Handles an event of this node's own channel.
    fn hear_inbox(&self, seat: &Seat, heard: &Mutex<Once>, event: Event) {
        let Event::Message { payload, .. } = event else { return };
        let inbox = seat.inbox(&self.redis);
        let message = if seat.is_held() { heard.lock().open(&self.sealer, &inbox, payload) } else { None };
        let (Some(Envelope { body, .. }), Some(shards)) = (message, self.shards.upgrade()) else {
            self.sealer.refuse();
            return;
        };
        match body {
            Body::ToUser { user, frame } => {
                self.counts.received.fetch_add(1, Relaxed);
                shards.push_to_local_user(&user, &frame);
            }
            Body::Ask { to, id, is_room, name, from, limit } if is_name(&name) => {
                let Some(to) = Seat::parse(&to).map(|seat| seat.inbox(&self.redis)) else { return };
                let audience = if is_room { Audience::Room(&name) } else { Audience::User(&name) };
                let mut connections = shards.local_connections(audience);
                connections.retain(|&connection| connection > from);
                let page = PAGE.min(limit as usize);
                if page < connections.len() {
                    // Avoid sorting a large room for each page, which would delay other messages.
                    connections.select_nth_unstable(page);
                    connections.truncate(page);
                }
                connections.sort_unstable();
                let answer = self.sealer.message(&to, Body::Answer { id, connections });
                self.out.push(to, answer);
            }
            Body::Answer { id, connections } => {
                if let Some(asker) = self.questions.lock().remove(&id) {
                    let _ = asker.send(connections); // the caller may have been dropped
                }
            }
            Body::Ask { .. } | Body::Message { .. } | Body::Bus { .. } => {
                self.sealer.refuse();
            }
        }
    }

    /// Returns which nodes have connections of a audience, and how many, without this node and without expired
    /// leases.
    async fn owners(&self, audience: Audience<'_>) -> Result<Vec<(Seat, usize)>> {
        let mut read = redis::cmd("HGETALL");
        read.arg(self.counts_key(audience));
        let (counts, seats) = tokio::join!(self.redis.run::<Vec<(String, usize)>>(&read), self.seats());
        let seats = seats?;
        let theirs = |(field, count): (String, usize)| {
            let seat = seats.iter().find(|seat| seat.field() == field)?;
            (seat.node() != self.node && count > 0).then(|| (seat.clone(), count))
        };
        let mut owners: Vec<_> = counts?.into_iter().filter_map(theirs).collect();
        owners.sort_by_key(|(seat, _)| seat.node());
        Ok(owners)
    }

    /// Returns the key that holds the number of connections of a audience on each node.
    fn counts_key(&self, audience: Audience<'_>) -> String {
        match audience {
            Audience::Room(room) => self.redis.key("room", room, ":nodes"),
            Audience::User(user) => self.redis.key("user", user, ":nodes"),
        }
    }

    /// Publishes at once, and returns how many nodes received the message. A message too large for their
    /// connections is counted and not sent.
    async fn publish(&self, channel: &str, body: Body) -> Result<usize> {
        let message = self.sealer.message(channel, body);
        if !self.out.may_pass(message.len()) {
            return Ok(0);
        }
        let mut publish = redis::cmd(self.redis.publish_command());
        publish.arg(channel).arg(&message[..]);
        self.redis.run(&publish).await
    }

    /// Asks a node for its connections of a audience after `from`.
    async fn ask(&self, seat: &Seat, audience: Audience<'_>, from: u64, limit: usize) -> Result<Vec<u64>> {
        let own = self.registration.lock().seat.clone();
        let own = own.ok_or_else(|| crate::error::BackendError::Unavailable {
            reason: "this node is not registered".into(),
        })?;
        let id = self.next_question.fetch_add(1, Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut questions = self.questions.lock();
            questions.retain(|_, asker| !asker.is_closed());
            if questions.len() >= QUESTIONS {
                return Err(Error::Overloaded {
                    what: "the number of queries to other nodes",
                    limit: QUESTIONS,
                });
            }
            questions.insert(id, sender);
        }
        let (is_room, name) = match audience {
            Audience::Room(room) => (true, room.to_owned()),
            Audience::User(user) => (false, user.to_owned()),
        };
        let to = own.field().to_owned();
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let question = Body::Ask { to, id, is_room, name, from, limit };
        let asked = Instant::now();
        while self.publish(&seat.inbox(&self.redis), question.clone()).await? == 0 {
            // Either the node has disconnected, or its subscriptions are about to return.
            if asked.elapsed() > RETURN {
                return Ok(Vec::new());
            }
            sleep(RETURN / 10).await;
        }
        match timeout(TIME_LIMIT, answer).await {
            Ok(Ok(connections)) => Ok(connections),
            _ => Err(crate::error::BackendError::TimedOut { after: TIME_LIMIT }.into()),
        }
    }

    /// Marks an item to be written to the registry.
    fn touch(&self, item: Item) {
        if self.registration.lock().touch(item) {
            self.changed.notify_one();
        }
    }
}

impl Cluster for RedisBridge {
    fn push(&self, room: Option<&Arc<str>>, frame: &Message) {
        let inner = &self.inner;
        let channel = inner.channel(room.map(|room| &**room));
        inner.out.push_frame(inner.node, &inner.sealer, room, channel, frame);
    }

    fn room_changed(&self, room: &Arc<str>, members: usize) {
        let inner = &self.inner;
        if inner.rooms.lock().change(room, members, || inner.listen(Some(room))) {
            inner.awaiting.notify_one();
        }
        inner.touch(Item::Room(room.clone()));
    }

    fn user_changed(&self, user: &Arc<str>, connections: usize) {
        let mut users = self.inner.users.lock();
        if connections == 0 {
            users.remove(user);
        } else {
            users.insert(user.clone(), connections);
        }
        drop(users);
        self.inner.touch(Item::User(user.clone()));
    }

    fn ready(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let everyone = self.inner.rooms.lock().ready(None);
            if let Some(everyone) = everyone {
                everyone.await?;
            }
            let mut seated = self.inner.seated.subscribe();
            match timeout(TIME_LIMIT, seated.wait_for(|&seated| seated)).await {
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
                Audience::User(user) => self.inner.registered(user).await,
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
            Ok(self.inner.owners(audience).await?.into_iter().map(|(seat, _)| NodeId(seat.node())).collect())
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
            for (seat, _) in self.inner.owners(audience).await? {
                let node = seat.node();
                let mut behind = if node == from.0 { from.1 } else { 0 };
                while node >= from.0 && found.len() < limit {
                    let page = self.inner.ask(&seat, audience, behind, PAGE.min(limit - found.len())).await?;
                    let Some(&last) = page.last().filter(|&&last| last > behind) else { break };
                    behind = last;
                    found.extend(page.into_iter().map(|local| ConnectionId::of(node, local)));
                }
            }
            Ok(found)
        })
    }

    fn push_to_user<'a>(&'a self, user: &'a str, frame: Message) -> BoxFuture<'a, Result<usize>> {
        Box::pin(async move {
            let inner = &self.inner;
            let mut read = redis::cmd("HGETALL");
            read.arg(inner.counts_key(Audience::User(user)));
            let owners: Vec<(String, usize)> = inner.redis.run(&read).await?;
            let body = Body::ToUser { user: user.to_owned(), frame };
            let mut reached = 0;
            for (field, count) in owners {
                let Some(seat) = Seat::parse(&field) else { continue };
                // Nobody listens on the channel of a node that has disconnected or acquired a new lease.
                if seat.node() != inner.node
                    && inner.publish(&seat.inbox(&inner.redis), body.clone()).await? > 0
                {
                    reached += count;
                    inner.out.count_sent(1);
                }
            }
            Ok(reached)
        })
    }

    fn all_nodes(&self) -> BoxFuture<'_, Result<Vec<NodeId>>> {
        Box::pin(async move {
            let mut nodes: Vec<_> =
                self.inner.seats().await?.iter().map(|seat| NodeId(seat.node())).collect();
            nodes.sort_unstable();
            nodes.dedup();
            Ok(nodes)
        })
    }

    fn stats(&self) -> RemoteStats {
        let Inner { out, counts, redis, sealer, .. } = &*self.inner;
        let mut stats = RemoteStats {
            degraded: redis.is_degraded(),
            received: counts.received.load(Relaxed),
            missed: counts.missed.load(Relaxed),
            gaps: counts.gaps.load(Relaxed),
            refused: sealer.refused(),
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
async fn report_late(inner: Arc<Inner>) {
    loop {
        inner.awaiting.notified().await;
        loop {
            sleep(LOOK).await;
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
