//! A node: its shards, and what they share.

use std::sync::{Arc, Weak, atomic::Ordering};

use tokio::sync::watch;

use super::{
    admission::Admissions,
    budget::MemoryBudget,
    cluster::Audience,
    command::Command,
    mailbox::Mailbox,
    new_connection::ConnectionSocket,
    room::{Registry, RoomCore, Setup},
    users::Users,
};
use crate::{
    Close, Error, Message, Result,
    id::{ConnectionId, Local},
    outcome::Sent,
    stats::DropReport,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize},
};

/// The part of a shard that other threads use.
pub(crate) struct ShardHandle {
    mailbox: Arc<Mailbox<Command<ConnectionSocket>>>,
    /// The id of the node.
    node_id: u64,
    node: Weak<Node>,
    counters: ShardCounters,
    setup: Arc<Setup>,
}

/// A counter of a shard.
#[derive(Clone, Copy)]
pub(crate) enum ShardCounter {
    /// `on_open` calls.
    Opened,
    /// `on_close` calls.
    Closed,
    /// Messages received.
    Messages,
    /// Messages replaced by newer ones with the same key.
    Replaced,
    /// Messages dropped because an outbox was full.
    OutboxFull,
    /// Messages dropped because their connection was closed as a slow consumer.
    SlowConsumer,
    /// Messages dropped because the hub's memory budget was exceeded.
    Shed,
    /// Messages encoded for rooms.
    EncodedFrames,
    /// Messages compressed.
    CompressedFrames,
    /// Connections closed because their outbox was full, or the hub's memory budget was exceeded.
    SlowConsumers,
    /// Callbacks that held the shard for too long.
    SlowCallbacks,
    /// Callbacks that failed, panicked or were cancelled.
    FailedCallbacks,
    /// Frames that broke the protocol.
    ProtocolErrors,
}

/// The values of a shard's counters, indexed by [`ShardCounter`]. Only the shard writes them.
#[derive(Default)]
struct ShardCounters([AtomicU64; ShardCounter::ProtocolErrors as usize + 1]);

impl ShardHandle {
    /// Creates the handle of a shard.
    pub(crate) fn new(
        mailbox: Arc<Mailbox<Command<ConnectionSocket>>>,
        node_id: u64,
        node: Weak<Node>,
        setup: Arc<Setup>,
    ) -> Self {
        Self { mailbox, node_id, node, counters: ShardCounters::default(), setup }
    }

    /// Posts a message for a connection to the shard's mailbox.
    pub(crate) fn push(&self, to: Local, message: Message) -> Sent {
        let mut mailbox = self.mailbox.lock();
        if !mailbox.is_live(to) {
            return Sent::Closed;
        }
        let posted = mailbox.check(message.len());
        if let Err(error) = &posted {
            drop(mailbox);
            if matches!(error, Error::Overloaded { .. }) {
                self.setup.drops().refused(Some(ConnectionId::new(self.node_id, to)));
            }
            return Sent::from_posted(&posted);
        }
        let wake = mailbox.post(Command::Push { to, message, of: None });
        drop(mailbox);
        drop(wake);
        Sent::Queued
    }

    /// Starts to close a connection, behind the messages pushed before.
    pub(crate) fn close(&self, who: Local, close: Close) -> Sent {
        let mut mailbox = self.mailbox.lock();
        if !mailbox.close(who) {
            return Sent::Closed;
        }
        let wake = mailbox.post(Command::Close { who, close });
        drop(mailbox);
        drop(wake);
        Sent::Queued
    }

    /// Returns the shard's mailbox.
    pub(crate) fn mailbox(&self) -> &Arc<Mailbox<Command<ConnectionSocket>>> {
        &self.mailbox
    }

    /// Returns the id of the node.
    pub(crate) fn node_id(&self) -> u64 {
        self.node_id
    }

    /// Returns the node, or `None` after its end.
    pub(crate) fn node(&self) -> Option<Arc<Node>> {
        self.node.upgrade()
    }

    /// Reports dropped messages.
    pub(crate) fn report_drop(&self, report: DropReport) {
        self.setup.drops().report(report);
    }

    /// Adds to a counter.
    pub(crate) fn count(&self, counter: ShardCounter, n: u64) {
        self.counters.0[counter as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// Returns the value of a counter.
    pub(crate) fn counted(&self, counter: ShardCounter) -> u64 {
        self.counters.0[counter as usize].load(Ordering::Relaxed)
    }
}

/// A node: its shards, rooms and users.
pub(crate) struct Node {
    /// A random number, different in each run.
    id: u64,
    /// By shard.
    shards: Arc<[Arc<ShardHandle>]>,
    rooms: Arc<Registry<ConnectionSocket>>,
    /// The room of all connections.
    everyone: Arc<RoomCore<ConnectionSocket>>,
    users: Users,
    admissions: Arc<Admissions>,
    budget: Arc<MemoryBudget>,
    setup: Arc<Setup>,
    /// The shard that gets the next connection.
    next: AtomicUsize,
    /// Whether the node is shutting down.
    stopping: watch::Sender<bool>,
    /// Whether the shutdown waits for no peer and no callback.
    is_hurried: AtomicBool,
    /// Upgraded connections whose sockets have not reached a shard yet.
    arriving: watch::Sender<usize>,
    /// The number of shards that still run.
    running: watch::Sender<usize>,
}

impl Node {
    /// Creates a node without connections. The caller starts its shards.
    pub(crate) fn new(
        id: u64,
        shards: usize,
        admissions: Admissions,
        budget: MemoryBudget,
        setup: Setup,
    ) -> Arc<Self> {
        let setup = Arc::new(setup);
        let mailboxes: Arc<[_]> = (0..shards).map(|_| Arc::new(Mailbox::new())).collect();
        let rooms = Arc::new(Registry::new(mailboxes.clone(), setup.clone()));
        let everyone = RoomCore::new(
            "".into(),
            id,
            setup.clone(),
            mailboxes.clone(),
            Weak::<Registry<ConnectionSocket>>::new(),
        );
        let everyone = Arc::new(everyone.unlisted());
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let handle = |mailbox: &Arc<Mailbox<Command<ConnectionSocket>>>| {
                Arc::new(ShardHandle::new(mailbox.clone(), id, weak.clone(), setup.clone()))
            };
            Self {
                id,
                shards: mailboxes.iter().map(handle).collect(),
                rooms,
                everyone,
                users: Users::new(setup.clone()),
                admissions: Arc::new(admissions),
                budget: Arc::new(budget),
                setup: setup.clone(),
                next: AtomicUsize::new(0),
                stopping: watch::Sender::new(false),
                is_hurried: AtomicBool::new(false),
                arriving: watch::Sender::new(0),
                running: watch::Sender::new(shards),
            }
        })
    }

    /// Returns the id of the node.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Returns the shards, by number.
    pub(crate) fn shards(&self) -> &Arc<[Arc<ShardHandle>]> {
        &self.shards
    }

    /// Returns the rooms of this node.
    pub(crate) fn rooms(&self) -> &Arc<Registry<ConnectionSocket>> {
        &self.rooms
    }

    /// Returns the room of all connections.
    pub(crate) fn everyone(&self) -> &Arc<RoomCore<ConnectionSocket>> {
        &self.everyone
    }

    /// Returns the users with connections on this node.
    pub(crate) fn users(&self) -> &Users {
        &self.users
    }

    /// Returns what admits new connections.
    pub(crate) fn admissions(&self) -> &Arc<Admissions> {
        &self.admissions
    }

    /// Returns the budget of all outboxes.
    pub(crate) fn budget(&self) -> &Arc<MemoryBudget> {
        &self.budget
    }

    /// Returns the settings of the rooms.
    pub(crate) fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Returns the shard for the next connection, round-robin.
    pub(crate) fn next_shard(&self) -> &Arc<ShardHandle> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        &self.shards[turn % self.shards.len()]
    }

    /// Returns the connections of an audience on this node, packed, in no particular order.
    pub(crate) fn local_connections(&self, audience: Audience<'_>) -> Vec<u64> {
        let found = match audience {
            Audience::Room(room) => self.rooms.existing(room).map_or_else(Vec::new, |room| room.members()),
            Audience::User(user) => self.users.connections(user),
        };
        found.into_iter().map(Local::pack).collect()
    }

    /// Returns up to `limit` connections of an audience on all nodes, ordered by id, with ids greater than `after`.
    pub(crate) async fn connections_after(
        &self,
        audience: Audience<'_>,
        after: Option<ConnectionId>,
        limit: usize,
    ) -> Result<Vec<ConnectionId>> {
        let own = self.local_connections(audience).into_iter().map(|local| ConnectionId::of(self.id, local));
        let mut found: Vec<_> = own.filter(|&id| after.is_none_or(|after| id > after)).collect();
        if let Some(cluster) = self.setup.cluster() {
            let from = after.map_or((0, 0), |after| (after.node().0, after.packed()));
            found.extend(cluster.connections(audience, from, limit).await?);
        }
        found.sort_unstable();
        found.truncate(limit);
        Ok(found)
    }

    /// Returns all connections of an audience on all nodes, ordered by id.
    pub(crate) async fn all_connections(&self, audience: Audience<'_>) -> Result<Vec<ConnectionId>> {
        self.connections_after(audience, None, usize::MAX).await
    }

    /// Returns the number of connections of an audience on all nodes.
    pub(crate) async fn count(&self, audience: Audience<'_>) -> Result<usize> {
        let here = match audience {
            Audience::Room(room) => self.rooms.existing(room).map_or(0, |room| room.len()),
            Audience::User(user) => self.users.connections(user).len(),
        };
        match self.setup.cluster() {
            Some(cluster) => Ok(here + cluster.len(audience).await?),
            None => Ok(here),
        }
    }

    /// Pushes a message to each connection of a user on this node. Returns the number of connections it was queued for.
    pub(crate) fn push_to_local_user(&self, user: &str, message: &Message) -> usize {
        let connections = self.users.connections(user).into_iter();
        connections.filter(|&to| self.shard_of(to).push(to, message.clone()) == Sent::Queued).count()
    }

    /// Closes each connection of a user on this node. Returns the number of connections that were open.
    pub(crate) fn close_local_user(&self, user: &str, close: &Close) -> usize {
        let connections = self.users.connections(user).into_iter();
        connections.filter(|&who| self.shard_of(who).close(who, close.clone()) == Sent::Queued).count()
    }

    /// Counts a socket as arriving until the result is dropped.
    pub(crate) fn arrival(self: &Arc<Self>) -> Arrival {
        self.arriving.send_modify(|arriving| *arriving += 1);
        Arrival(self.clone())
    }

    /// Waits until no socket is arriving.
    pub(crate) async fn arrived(&self) {
        // Fails only if the sender is dropped, and `self` holds it.
        let _ = self.arriving.subscribe().wait_for(|&arriving| arriving == 0).await;
    }

    /// Returns whether the node is shutting down.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Waits until the node begins to shut down.
    pub(crate) async fn stopping(&self) {
        let _ = self.stopping.subscribe().wait_for(|&stopping| stopping).await;
    }

    /// Notes that a shard has ended.
    pub(crate) fn note_shard_ended(&self) {
        self.running.send_modify(|running| *running -= 1);
    }

    /// Returns the number of shards that still run.
    pub(crate) fn running_shards(&self) -> usize {
        *self.running.borrow()
    }

    /// Waits until all shards have ended.
    pub(crate) async fn ended(&self) {
        let _ = self.running.subscribe().wait_for(|&running| running == 0).await;
    }

    /// Makes every shard close its connections and end. Later calls have no effect.
    pub(crate) fn stop(&self) {
        if !self.stopping.send_replace(true) {
            for handle in self.shards.iter() {
                handle.mailbox.post(Command::Shutdown);
            }
        }
    }

    /// Does what `stop` does, without waiting for peers and callbacks, even if the node is stopping already.
    pub(crate) fn stop_now(&self) {
        self.is_hurried.store(true, Ordering::Release);
        self.stopping.send_replace(true);
        for handle in self.shards.iter() {
            handle.mailbox.post(Command::Shutdown);
        }
    }

    /// Returns whether the shutdown waits for no peer and no callback.
    pub(crate) fn is_hurried(&self) -> bool {
        self.is_hurried.load(Ordering::Acquire)
    }

    /// Returns the shard of a connection of this node.
    pub(crate) fn shard_of(&self, who: Local) -> &Arc<ShardHandle> {
        &self.shards[who.shard() % self.shards.len()]
    }

    /// Returns the open connections, shard by shard. Locks each mailbox for one page at a time.
    pub(crate) fn connections(self: &Arc<Self>) -> impl Iterator<Item = Local> + use<> {
        const PAGE: u32 = 1024;
        let node = self.clone();
        let mut page = Vec::new();
        let (mut shard, mut slot) = (0, 0);
        std::iter::from_fn(move || {
            loop {
                if let Some(local) = page.pop() {
                    return Some(local);
                }
                let handle = node.shards.get(shard)?;
                let mailbox = handle.mailbox.lock();
                let live = mailbox.live_from(slot, PAGE);
                page.extend(live.map(|(slot, generation)| Local { shard: shard as u8, slot, generation }));
                slot += PAGE;
                if slot >= mailbox.slots() {
                    (shard, slot) = (shard + 1, 0);
                }
            }
        })
    }
}

/// Counts a socket that is passed from a server to a shard.
pub(crate) struct Arrival(Arc<Node>);

impl Drop for Arrival {
    fn drop(&mut self) {
        self.0.arriving.send_modify(|arriving| *arriving -= 1);
    }
}
