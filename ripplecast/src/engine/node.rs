//! All shards of a node, and what they share.

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
    Error, Message, Result,
    id::{ConnectionId, Local},
    outcome::Sent,
    sync::atomic::{AtomicU64, AtomicUsize},
};

/// The part of a shard that other threads see.
pub(crate) struct ShardHandle {
    /// The queue of its commands.
    pub(crate) mailbox: Arc<Mailbox<Command<ConnectionSocket>>>,
    /// The node, in this run of it.
    pub(crate) node: u64,
    /// The other shards.
    pub(crate) shards: Weak<Node>,
    /// What the shard counts.
    counters: ShardCounters,
    /// What all rooms share.
    pub(crate) setup: Arc<Setup>,
}

/// What a shard counts.
#[derive(Clone, Copy)]
pub(crate) enum ShardCounter {
    /// `on_open` calls.
    Opened,
    /// `on_close` calls.
    Closed,
    /// Messages received.
    Messages,
    /// Frames that were replaced by newer ones with their key.
    Replaced,
    /// Frames dropped because an outbox was full.
    OutboxFull,
    /// Frames for connections that were closed because their outbox was full.
    SlowConsumer,
    /// Frames dropped because too much waited on the hub.
    Shed,
    /// Frames encoded for rooms.
    EncodedFrames,
    /// Messages compressed.
    CompressedFrames,
    /// Connections closed because their outbox was full, or too much waited on the hub.
    SlowConsumers,
    /// Callbacks that held the shard for too long.
    SlowCallbacks,
    /// Callbacks that failed, panicked or were cancelled.
    FailedCallbacks,
    /// Frames that broke the protocol.
    ProtocolErrors,
}

/// The counters of a shard, by the number of their [`ShardCounter`]; written by the shard alone.
#[derive(Default)]
struct ShardCounters([AtomicU64; ShardCounter::ProtocolErrors as usize + 1]);

impl ShardHandle {
    /// Creates the handle of a shard.
    pub(crate) fn new(
        mailbox: Arc<Mailbox<Command<ConnectionSocket>>>,
        node: u64,
        shards: Weak<Node>,
        setup: Arc<Setup>,
    ) -> Self {
        Self { mailbox, node, shards, counters: ShardCounters::default(), setup }
    }

    /// Posts a frame for a connection to the shard's mailbox.
    pub(crate) fn push(&self, to: Local, frame: Message) -> Sent {
        let mut mailbox = self.mailbox.lock();
        if !mailbox.is_live(to) {
            return Sent::Closed;
        }
        let posted = mailbox.check(frame.len());
        if let Err(error) = &posted {
            drop(mailbox);
            if matches!(error, Error::Overloaded { .. }) {
                self.setup.drops().refused(Some(ConnectionId::new(self.node, to)));
            }
            return Sent::from_posted(&posted);
        }
        let wake = mailbox.post(Command::Push { to, frame, of: None });
        drop(mailbox);
        drop(wake);
        Sent::Queued
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

/// See the module.
pub(crate) struct Node {
    /// The node, in this run of it: a random number.
    pub(crate) node: u64,
    /// By number.
    pub(crate) handles: Arc<[Arc<ShardHandle>]>,
    /// Rooms by name.
    pub(crate) rooms: Arc<Registry<ConnectionSocket>>,
    /// The room of all connections.
    pub(crate) everyone: Arc<RoomCore<ConnectionSocket>>,
    /// Users by id.
    pub(crate) users: Users,
    /// How many connections there may be, and are.
    pub(crate) admissions: Arc<Admissions>,
    /// What waits for slow readers, on all shards.
    pub(crate) budget: Arc<MemoryBudget>,
    /// What all rooms share, with the report of drops.
    pub(crate) setup: Arc<Setup>,
    /// The shard that gets the next connection.
    next: AtomicUsize,
    /// Whether the node is shutting down.
    pub(crate) stopping: watch::Sender<bool>,
    /// Accepted connections whose sockets are on their way from a server that is not ours.
    pub(crate) arriving: watch::Sender<usize>,
    /// Node that still run.
    pub(crate) running: watch::Sender<usize>,
}

impl Node {
    /// Node without connections; they have to be started.
    pub(crate) fn new(
        node: u64,
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
            node,
            setup.clone(),
            mailboxes.clone(),
            Weak::<Registry<ConnectionSocket>>::new(),
        );
        let everyone = Arc::new(everyone.unlisted());
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let handle = |mailbox: &Arc<Mailbox<Command<ConnectionSocket>>>| {
                Arc::new(ShardHandle::new(mailbox.clone(), node, weak.clone(), setup.clone()))
            };
            Self {
                node,
                handles: mailboxes.iter().map(handle).collect(),
                rooms,
                everyone,
                users: Users::new(setup.clone()),
                admissions: Arc::new(admissions),
                budget: Arc::new(budget),
                setup: setup.clone(),
                next: AtomicUsize::new(0),
                stopping: watch::Sender::new(false),
                arriving: watch::Sender::new(0),
                running: watch::Sender::new(shards),
            }
        })
    }

    /// The shard for the next connection; they take turns.
    pub(crate) fn next(&self) -> &Arc<ShardHandle> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        &self.handles[turn % self.handles.len()]
    }

    /// The connections of that kind on this node, packed, in no order.
    pub(crate) fn local_connections(&self, audience: Audience<'_>) -> Vec<u64> {
        let found = match audience {
            Audience::Room(room) => self.rooms.existing(room).map_or_else(Vec::new, |room| room.members()),
            Audience::User(user) => self.users.connections(user),
        };
        found.into_iter().map(Local::pack).collect()
    }

    /// Up to so many connections of that kind, on all nodes, in the order of their ids, from behind that one on.
    pub(crate) async fn connections_after(
        &self,
        audience: Audience<'_>,
        after: Option<ConnectionId>,
        limit: usize,
    ) -> Result<Vec<ConnectionId>> {
        let own =
            self.local_connections(audience).into_iter().map(|local| ConnectionId::of(self.node, local));
        let mut found: Vec<_> = own.filter(|&id| after.is_none_or(|after| id > after)).collect();
        if let Some(cluster) = self.setup.cluster() {
            let from = after.map_or((0, 0), |after| (after.node().0, after.packed()));
            found.extend(cluster.connections(audience, from, limit).await?);
        }
        found.sort_unstable();
        found.truncate(limit);
        Ok(found)
    }

    /// All connections of that kind, on all nodes, in the order of their ids.
    pub(crate) async fn all_connections(&self, audience: Audience<'_>) -> Result<Vec<ConnectionId>> {
        self.connections_after(audience, None, usize::MAX).await
    }

    /// How many connections of that kind there are, on all nodes.
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

    /// Pushes a frame to each connection that a user has on this node. Returns how many took it.
    pub(crate) fn push_to_local_user(&self, user: &str, frame: &Message) -> usize {
        let connections = self.users.connections(user).into_iter();
        connections.filter(|&to| self.shard_of(to).push(to, frame.clone()) == Sent::Queued).count()
    }

    /// Notes that a socket is on its way, until what is returned is dropped.
    pub(crate) fn arrival(self: &Arc<Self>) -> Arrival {
        self.arriving.send_modify(|arriving| *arriving += 1);
        Arrival(self.clone())
    }

    /// Tells every shard to close its connections and end; once.
    pub(crate) fn stop(&self) {
        if !self.stopping.send_replace(true) {
            for handle in self.handles.iter() {
                handle.mailbox.post(Command::Shutdown);
            }
        }
    }

    /// The shard of a connection of this node.
    pub(crate) fn shard_of(&self, who: Local) -> &Arc<ShardHandle> {
        &self.handles[who.shard() % self.handles.len()]
    }

    /// Open connections, shard by shard; a mailbox is locked for a page at a time only.
    pub(crate) fn connections(self: &Arc<Self>) -> impl Iterator<Item = Local> + use<> {
        const PAGE: u32 = 1024;
        let shards = self.clone();
        let mut page = Vec::new();
        let (mut shard, mut slot) = (0, 0);
        std::iter::from_fn(move || {
            loop {
                if let Some(local) = page.pop() {
                    return Some(local);
                }
                let handle = shards.handles.get(shard)?;
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

/// A socket that is on its way from a server to a shard.
pub(crate) struct Arrival(Arc<Node>);

impl Drop for Arrival {
    fn drop(&mut self) {
        self.0.arriving.send_modify(|arriving| *arriving -= 1);
    }
}
