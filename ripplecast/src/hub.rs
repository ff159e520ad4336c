//! The hub: a handle to rooms, connections, shared state and the bus.

mod builder;
mod bus;
mod connection;
mod queue;
mod room;
mod state;
mod user;

pub use self::{builder::HubBuilder, connection::Connection, room::Room, user::User};

use std::sync::{
    Arc, Once,
    atomic::{AtomicUsize, Ordering},
};

use serde::Serialize;

use crate::{
    Message, Result,
    bus::Bus,
    engine::{Drops, Node, RemoteStats, ShardCounter},
    headers::TrustedProxies,
    id::{ConnectionId, NodeId},
    limits::{ARRIVAL_LIMIT, SHUTDOWN_LAST_TURNS, SHUTDOWN_LIMIT},
    outcome::Sent,
    queue::Queues,
    state::Store,
};

/// A handle to everything: rooms, connections, users, counters, tables and the bus. Cheap to clone.
///
/// An [`App`](crate::App) has one. For your own axum application, build a hub and use its endpoints:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
/// use ripplecast::{Connection, Message, Hub, ws};
///
/// let hub = Hub::builder().build()?;
/// let chat = hub.clone();
/// let router: axum::Router = axum::Router::new().route(
///     "/chat",
///     hub.ws(ws::handlers()
///         .on_open(|conn: Connection| async move { conn.join("chat") })
///         .on_message(move |_conn: Connection, message: Message| {
///             let chat = chat.clone();
///             async move { chat.room("chat").push(message).ignore() }
///         })),
/// );
/// # let _ = router; Ok(()) }
/// ```
#[derive(Clone)]
pub struct Hub {
    inner: Arc<HubInner>,
}

/// The state shared by all clones of a [`Hub`].
struct HubInner {
    /// Connections, rooms and users.
    node: Arc<Node>,
    store: Store,
    /// Messages between parts of the application, on this node and on others.
    bus: Bus,
    /// Messages kept until they are handled.
    queues: Queues,
    trusted_proxies: TrustedProxies,
    next_route: AtomicUsize,
    /// Warns that the addresses of clients are not known.
    no_addresses: Once,
}

/// Dropping the last handle closes the connections and ends the shards.
impl Drop for HubInner {
    fn drop(&mut self) {
        self.node.stop();
        self.bus.close();
        self.queues.close();
    }
}

impl Hub {
    /// Creates the handle over what was assembled.
    pub(crate) fn new(
        node: Arc<Node>,
        store: Store,
        bus: Bus,
        queues: Queues,
        trusted_proxies: TrustedProxies,
    ) -> Self {
        let inner = HubInner {
            node,
            store,
            bus,
            queues,
            trusted_proxies,
            next_route: AtomicUsize::new(0),
            no_addresses: Once::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Creates a builder with the default settings.
    pub fn builder() -> HubBuilder {
        HubBuilder::default()
    }

    /// Returns the room called `name`.
    pub fn room(&self, name: impl AsRef<str>) -> Room {
        Room { core: self.inner.node.rooms().room(name.as_ref()), node: self.inner.node.clone() }
    }

    /// Returns the rooms that have members or handles on this node, in no particular order. This is for an
    /// overview: a room created or removed during the iteration may or may not be included.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// let hub = ripplecast::Hub::builder().build()?;
    /// let lobby = hub.room("lobby");
    /// assert!(hub.rooms().any(|room| room.name() == lobby.name() && room.len_here() == 0));
    /// # Ok(()) }
    /// ```
    pub fn rooms(&self) -> impl Iterator<Item = Room> + use<> {
        let node = self.inner.node.clone();
        node.rooms().all().into_iter().map(move |core| Room { core, node: node.clone() })
    }

    /// Sends a message to every connection, WebSockets and event streams alike. Never waits.
    ///
    /// As with a push to a [`Room`], all connections see broadcasts in one order, and a broadcast is rejected
    /// for all of them or for none. It reaches every node whose [`connect`](HubBuilder::connect) has
    /// returned.
    pub fn broadcast(&self, message: impl Into<Message>) -> Sent {
        self.inner.node.everyone().push(&message.into())
    }

    /// Returns the connection with this id, or `None` if it is closed or belongs to another node.
    pub fn connection(&self, id: ConnectionId) -> Option<Connection> {
        let node = &self.inner.node;
        let local = id.on(node.id())?;
        let connection = Connection::new(node.shard_of(local).clone(), local);
        connection.is_open().then_some(connection)
    }

    /// Returns the open connections of this node. The iterator holds no lock; a connection that opens or
    /// closes during the iteration may or may not be included.
    pub fn connections(&self) -> impl Iterator<Item = Connection> + use<> {
        let node = self.inner.node.clone();
        node.connections().map(move |local| Connection::new(node.shard_of(local).clone(), local))
    }

    /// Returns the user `id`: all connections that were [identified](Connection::identify) with this id.
    pub fn user(&self, id: impl AsRef<str>) -> User {
        User { id: id.as_ref().into(), node: self.inner.node.clone() }
    }

    /// Returns what the hub has counted since it was built.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            connections: self.inner.node.everyone().len(),
            rooms: self.inner.node.rooms().len(),
            queued_bytes: self.inner.node.budget().used(),
            ..Stats::default()
        };
        stats.drops.overloaded = self.inner.node.setup().drops().overloaded();
        stats.remote = self.inner.node.setup().cluster().map(|cluster| cluster.stats()).unwrap_or_default();
        for handle in self.inner.node.shards().iter() {
            stats.opened += handle.counted(ShardCounter::Opened);
            stats.closed += handle.counted(ShardCounter::Closed);
            stats.messages += handle.counted(ShardCounter::Messages);
            stats.drops.replaced += handle.counted(ShardCounter::Replaced);
            stats.drops.outbox_full += handle.counted(ShardCounter::OutboxFull);
            stats.drops.slow_consumer += handle.counted(ShardCounter::SlowConsumer);
            stats.drops.shed += handle.counted(ShardCounter::Shed);
            stats.encoded_frames += handle.counted(ShardCounter::EncodedFrames);
            stats.compressed_frames += handle.counted(ShardCounter::CompressedFrames);
            stats.slow_consumers += handle.counted(ShardCounter::SlowConsumers);
            stats.slow_callbacks += handle.counted(ShardCounter::SlowCallbacks);
            stats.failed_callbacks += handle.counted(ShardCounter::FailedCallbacks);
            stats.protocol_errors += handle.counted(ShardCounter::ProtocolErrors);
        }
        stats
    }

    /// Closes every connection with 1001 and waits until each `on_close` has returned. Subscriptions end, and
    /// new connections are rejected with 503. A callback that is still waiting after 5 s is cancelled. So is
    /// a [queue](Self::queue) handler, and its message is released to the group's other subscriptions.
    ///
    /// What was pushed before, including by an `on_close`, has been sent to the other nodes when this
    /// returns, unless Redis is unavailable or takes longer than 2 s.
    ///
    /// This takes at most 10 s, even if the runtime that built the hub has ended or is not being polled; in
    /// that case `on_close` is not called. The server of an [`App`](crate::App) waits for at most 8.5 s of
    /// it. Later calls return at once.
    ///
    /// [`App::run`](crate::App::run) and [`serve`](crate::serve()) call this for you. With your own
    /// `axum::serve`, call it inside the future of `with_graceful_shutdown`: axum waits for open event
    /// streams, and this call ends them.
    pub async fn shutdown(&self) {
        self.inner.node.stop();
        self.inner.bus.close();
        self.inner.queues.close();
        self.ended().await;
    }

    /// Shuts down as [`shutdown`](Self::shutdown) does, without waiting for peers and callbacks, also if a
    /// shutdown has begun. Meant for tests.
    ///
    /// Each WebSocket is sent a close frame with 1001, and its socket is dropped without the peer's answer; a
    /// peer that has just sent something may see a reset connection instead. A callback that waits is
    /// cancelled at once, and then `on_close` is called, which may wait for 250 ms. Queue handlers are
    /// cancelled too.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// let hub = ripplecast::Hub::builder().build()?;
    /// hub.shutdown_now().await;
    /// assert_eq!(hub.stats().connections, 0);
    /// # Ok(()) }
    /// ```
    pub async fn shutdown_now(&self) {
        self.inner.node.stop_now();
        self.inner.bus.close();
        self.inner.queues.close_now();
        self.ended().await;
    }

    /// Waits until everything that is stopping has ended, and leaves the other nodes.
    async fn ended(&self) {
        let node = &self.inner.node;
        // A server may already have answered with 101. Its peer still gets a close frame before the process
        // ends.
        let arrivals = tokio::time::timeout(ARRIVAL_LIMIT, node.arrived());
        let all = async { tokio::join!(node.ended(), arrivals, self.inner.queues.ended()) };
        let mut all = std::pin::pin!(all);
        if tokio::time::timeout(SHUTDOWN_LIMIT, &mut all).await.is_err()
            && tokio::time::timeout(SHUTDOWN_LAST_TURNS, all).await.is_err()
        {
            let shards = node.running_shards();
            tracing::warn!(
                shards,
                "some shards have not ended; is the runtime that built the hub still running?"
            );
        }
        if let Some(cluster) = node.setup().cluster()
            && let Err(error) = cluster.leave().await
        {
            tracing::debug!(%error, "can't notify the other nodes of the shutdown; they will detect it themselves");
        }
    }

    /// Returns this node's id, which is new each time the process starts.
    pub fn node(&self) -> NodeId {
        NodeId(self.inner.node.id())
    }

    /// Returns all nodes that share the backend, including this one, in order of id. With the memory backend
    /// this is the only one.
    ///
    /// # Errors
    /// [`Error::Backend`](crate::Error::Backend) when a shared backend is unavailable; none with the memory
    /// backend.
    pub async fn nodes(&self) -> Result<Vec<NodeId>> {
        match self.inner.node.setup().cluster() {
            Some(cluster) => cluster.all_nodes().await,
            None => Ok(vec![self.node()]),
        }
    }

    pub(crate) fn local_node(&self) -> &Arc<Node> {
        &self.inner.node
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Returns the address that `address` is counted as in limits per address: an IPv4 address is counted as
    /// itself, an IPv6 address as its network of [`ipv6_prefix`](HubBuilder::ipv6_prefix) bits, and an
    /// IPv4-mapped IPv6 address as the IPv4 address. Use the result as the key of your own limits.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// let hub = ripplecast::Hub::builder().build()?;
    /// let counted_as = hub.network_of("2001:db8:1:2:3:4:5:6".parse().unwrap());
    /// assert_eq!(counted_as.to_string(), "2001:db8:1:2::");
    /// # Ok(()) }
    /// ```
    pub fn network_of(&self, address: std::net::IpAddr) -> std::net::IpAddr {
        self.local_node().admissions().network(address)
    }

    pub(crate) fn ipv6_prefix(&self) -> u8 {
        self.local_node().admissions().ipv6_prefix()
    }

    pub(crate) fn trusted_proxies(&self) -> &TrustedProxies {
        &self.inner.trusted_proxies
    }

    /// Warns, once, that the server does not provide the addresses of clients.
    pub(crate) fn warn_without_addresses(&self) {
        self.inner.no_addresses.call_once(|| {
            tracing::warn!(
                "the server does not provide the addresses of clients, so no limit per address applies; use \
                 ripplecast::serve, or axum's into_make_service_with_connect_info::<SocketAddr>()"
            );
        });
    }

    /// Returns an unused endpoint number.
    pub(crate) fn next_route(&self) -> usize {
        self.inner.next_route.fetch_add(1, Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Counts that a hub has kept since it was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Open connections.
    pub connections: usize,
    /// Rooms with members or handles.
    pub rooms: usize,
    /// Connections that were opened: calls of `on_open`.
    pub opened: u64,
    /// Connections that were closed: calls of `on_close`.
    pub closed: u64,
    /// Messages received.
    pub messages: u64,
    /// Bytes currently in delivery to rooms, in outboxes or in unfinished incoming messages. A message that
    /// many connections of a shard wait for is counted once per transport.
    pub queued_bytes: usize,
    /// Dropped messages, by reason.
    pub drops: Drops,
    /// Messages to and from other nodes.
    pub remote: RemoteStats,
    /// Messages encoded for rooms: one per push, shard and transport with members, regardless of their number.
    pub encoded_frames: u64,
    /// Messages compressed: one per push, regardless of the number of members.
    pub compressed_frames: u64,
    /// Connections closed with 1013 because their outbox, or the budget of the whole hub, was full.
    pub slow_consumers: u64,
    /// Callbacks that held their shard for 5 ms or more.
    pub slow_callbacks: u64,
    /// Callbacks that failed, panicked or were cancelled.
    pub failed_callbacks: u64,
    /// Peers that broke the WebSocket protocol, or sent data on an event stream.
    pub protocol_errors: u64,
}
