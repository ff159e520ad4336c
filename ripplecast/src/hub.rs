//! The hub: the handle that anything can hold, to rooms, connections, shared state and the bus.

mod builder;
mod bus;
mod connection;
mod queue;
mod room;
mod state;
mod user;

pub use self::{builder::HubBuilder, connection::Connection, room::Room, user::Client};

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    Frame, Result,
    bus::Bus,
    engine::{Drops, RemoteStats, Shards},
    headers::TrustedProxies,
    id::{ConnectionId, NodeId},
    limits::{ARRIVAL_LIMIT, SHUTDOWN_LAST_TURNS, SHUTDOWN_LIMIT},
    outcome::Sent,
    queue::Streams,
    state::Store,
};

/// The handle to everything: rooms, connections, clients, counters, tables and the bus. Cheap to clone.
///
/// An [`App`](crate::App) has one. For an axum application of your own, build one and take its endpoints:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
/// use ripplecast::{Connection, Frame, Hub, ws};
///
/// let hub = Hub::builder().build()?;
/// let chat = hub.clone();
/// let router: axum::Router = axum::Router::new().route(
///     "/chat",
///     hub.ws(ws::handlers()
///         .on_open(|conn: Connection| async move { conn.join("chat") })
///         .on_message(move |_conn: Connection, frame: Frame| {
///             let chat = chat.clone();
///             async move { chat.room("chat").push(frame).ignore() }
///         })),
/// );
/// # let _ = router; Ok(()) }
/// ```
#[derive(Clone)]
pub struct Hub {
    /// What all handles share.
    inner: Arc<Inner>,
}

/// What all handles share.
struct Inner {
    /// Connections, rooms and clients.
    shards: Arc<Shards>,
    /// Counters and tables.
    store: Store,
    /// Messages between parts of the application, and later between nodes.
    bus: Bus,
    /// Messages that are kept until they are handled.
    streams: Streams,
    /// Whose forwarding headers are believed.
    trusted_proxies: TrustedProxies,
    /// The number of the next endpoint.
    next_route: AtomicUsize,
}

/// When nobody holds the hub any more, its connections are closed and its shards end.
impl Drop for Inner {
    fn drop(&mut self) {
        self.shards.stop();
        self.bus.close();
        self.streams.close();
    }
}

impl Hub {
    /// Settings for a new hub.
    pub fn builder() -> HubBuilder {
        HubBuilder::default()
    }

    /// The room of that name.
    pub fn room(&self, name: impl AsRef<str>) -> Room {
        Room { core: self.inner.shards.rooms.room(name.as_ref()), shards: self.inner.shards.clone() }
    }

    /// The rooms that have members or handles on this node, in no order. For an overview: one that is made or goes meanwhile
    /// may or may not be among them.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// let hub = ripplecast::Hub::builder().build()?;
    /// let lobby = hub.room("lobby");
    /// assert!(hub.rooms().any(|room| room.name() == lobby.name() && room.len_here() == 0));
    /// # Ok(()) }
    /// ```
    pub fn rooms(&self) -> impl Iterator<Item = Room> + use<> {
        let shards = self.inner.shards.clone();
        shards.rooms.all().into_iter().map(move |core| Room { core, shards: shards.clone() })
    }

    /// Sends a frame to every connection of the hub, WebSockets and event streams alike. Never waits.
    ///
    /// Like a push to a [`Room`]: one order for all, refused by all or by none. It reaches every node whose
    /// [`connect`](HubBuilder::connect) has returned.
    pub fn broadcast(&self, frame: impl Into<Frame>) -> Sent {
        self.inner.shards.everyone.push(&frame.into())
    }

    /// The connection with that id; `None` when it is closed, or is not of this node.
    pub fn connection(&self, id: ConnectionId) -> Option<Connection> {
        let shards = &self.inner.shards;
        let local = id.on(shards.node)?;
        let connection = Connection::new(shards.shard_of(local).clone(), local);
        connection.is_open().then_some(connection)
    }

    /// The open connections of this node. Cheap: none is locked out while you go through them, and one which opens or
    /// closes meanwhile may or may not be among them.
    pub fn connections(&self) -> impl Iterator<Item = Connection> + use<> {
        let shards = self.inner.shards.clone();
        shards.connections().map(move |local| Connection::new(shards.shard_of(local).clone(), local))
    }

    /// A client: all connections that were [identified](Connection::identify) as `id`.
    pub fn client(&self, id: impl AsRef<str>) -> Client {
        Client { id: id.as_ref().into(), shards: self.inner.shards.clone() }
    }

    /// What has been counted since the hub was built.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            connections: self.inner.shards.everyone.len(),
            rooms: self.inner.shards.rooms.len(),
            queued_bytes: self.inner.shards.ledger.used(),
            ..Stats::default()
        };
        stats.drops.overloaded = self.inner.shards.setup.drops.overloaded();
        stats.remote = self.inner.shards.setup.bridge().map(|bridge| bridge.stats()).unwrap_or_default();
        for handle in self.inner.shards.handles.iter() {
            let counters = &handle.counters;
            let get = |counter: &crate::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
            stats.opened += get(&counters.opened);
            stats.closed += get(&counters.closed);
            stats.messages += get(&counters.messages);
            stats.drops.replaced += get(&counters.replaced);
            stats.drops.outbox_full += get(&counters.outbox_full);
            stats.drops.slow_consumer += get(&counters.slow_consumer);
            stats.drops.shed += get(&counters.shed);
            stats.encoded_frames += get(&counters.encoded_frames);
            stats.compressed_frames += get(&counters.compressed_frames);
            stats.slow_consumers += get(&counters.slow_consumers);
            stats.slow_callbacks += get(&counters.slow_callbacks);
            stats.failed_callbacks += get(&counters.failed_callbacks);
            stats.protocol_errors += get(&counters.protocol_errors);
        }
        stats
    }

    /// Closes every connection with 1001, and waits until each `on_close` has returned. Subscriptions end; handlers of
    /// [streams](Self::stream) that are running have 5 s to finish. New connections are refused with 503 from now on. A
    /// callback that still waits after 5 s is cancelled. What was pushed before, also by an `on_close`, has left for
    /// the other nodes when this returns, unless Redis is unavailable or takes longer than 2 s. Takes at most 10 s,
    /// even if the runtime that built the hub has ended or nothing drives it; then `on_close` is not called. (The
    /// server of an [`App`](crate::App) waits for at most 8.5 s of that.) Returns at once when called again afterwards.
    ///
    /// A handler of a stream that still runs after its 5 s is cancelled, and its message released to other subscriptions of the
    /// group.
    ///
    /// [`App::run`](crate::App::run) does it for you. With an `axum::serve` of your own, do it inside the signal that ends
    /// it: axum waits for open event streams, and these end here.
    ///
    /// ```no_run
    /// # async fn serve(hub: ripplecast::Hub, listener: tokio::net::TcpListener, router: axum::Router) -> ripplecast::Result<()> {
    /// use std::net::SocketAddr;
    ///
    /// let stop = ripplecast::shutdown_signal()?;
    /// let service = router.into_make_service_with_connect_info::<SocketAddr>(); // so that peers' addresses are known
    /// axum::serve(listener, service)
    ///     .with_graceful_shutdown(async move {
    ///         stop.await;
    ///         hub.shutdown().await;
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub async fn shutdown(&self) {
        let shards = &self.inner.shards;
        shards.stop();
        self.inner.bus.close();
        self.inner.streams.close();
        let connections = async {
            // Fails only if the sender is gone, and `shards` holds it.
            let _ = shards.running.subscribe().wait_for(|&running| running == 0).await;
        };
        // A server may have answered with 101 already; its peer gets the close frame before the process ends.
        let arrivals = async {
            let mut arriving = shards.arriving.subscribe();
            let _ = tokio::time::timeout(ARRIVAL_LIMIT, arriving.wait_for(|&arriving| arriving == 0)).await;
        };
        let all = async { tokio::join!(connections, arrivals, self.inner.streams.ended()) };
        let mut all = std::pin::pin!(all);
        if tokio::time::timeout(SHUTDOWN_LIMIT, &mut all).await.is_err()
            && tokio::time::timeout(SHUTDOWN_LAST_TURNS, all).await.is_err()
        {
            let shards = *shards.running.borrow();
            tracing::warn!(
                shards,
                "some shards have not ended; does anything drive the runtime that made the hub?"
            );
        }
        if let Some(bridge) = shards.setup.bridge()
            && let Err(error) = bridge.leave().await
        {
            tracing::debug!(%error, "the other nodes could not be told of the end; they will notice it");
        }
    }

    /// This node, in this run of it.
    pub fn node(&self) -> NodeId {
        NodeId(self.inner.shards.node)
    }

    /// All nodes that share the backend, this one among them, in order. With the memory backend there is no other.
    ///
    /// # Errors
    /// None with the memory backend; [`Error::Backend`](crate::Error::Backend) when a shared one is away.
    pub async fn nodes(&self) -> Result<Vec<NodeId>> {
        match self.inner.shards.setup.bridge() {
            Some(bridge) => bridge.all_nodes().await,
            None => Ok(vec![self.node()]),
        }
    }

    /// All shards.
    pub(crate) fn shards(&self) -> &Arc<Shards> {
        &self.inner.shards
    }

    /// Counters and tables.
    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The bus.
    pub(crate) fn bus(&self) -> &Bus {
        &self.inner.bus
    }

    /// Messages that are kept until they are handled.
    pub(crate) fn streams(&self) -> &Streams {
        &self.inner.streams
    }

    /// Returns what an address counts as in the limits by address: an IPv4 address as itself, an IPv6 address as its network of
    /// [`ipv6_prefix`](HubBuilder::ipv6_prefix) bits, and an IPv4 address written as IPv6 as the IPv4 address. Use it as the key
    /// of limits of your own.
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
        self.shards().admissions.network(address)
    }

    /// Leading bits of an IPv6 address that count.
    pub(crate) fn ipv6_prefix(&self) -> u8 {
        self.shards().admissions.ipv6_prefix()
    }

    /// Whose forwarding headers are believed.
    pub(crate) fn trusted_proxies(&self) -> &TrustedProxies {
        &self.inner.trusted_proxies
    }

    /// A number for one more endpoint.
    pub(crate) fn next_route(&self) -> usize {
        self.inner.next_route.fetch_add(1, Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// What a hub has counted since it was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Open connections.
    pub connections: usize,
    /// Rooms that have members or handles.
    pub rooms: usize,
    /// Connections that were opened: calls of `on_open`.
    pub opened: u64,
    /// Connections that were closed: calls of `on_close`.
    pub closed: u64,
    /// Messages received.
    pub messages: u64,
    /// Bytes that are being delivered to rooms, wait in outboxes, or are held by unfinished incoming messages now. What many connections of a shard wait for is
    /// counted once for each transport.
    pub queued_bytes: usize,
    /// Frames that were dropped, by reason.
    pub drops: Drops,
    /// What went to other nodes, and what came from them.
    pub remote: RemoteStats,
    /// Frames encoded for rooms: one for each push, shard and transport that has members, however many they are.
    pub encoded_frames: u64,
    /// Messages compressed: one for each push, however many members the room has.
    pub compressed_frames: u64,
    /// Connections closed with 1013 because their outbox was full, or because too much waited on the whole hub.
    pub slow_consumers: u64,
    /// Callbacks that held their shard for 5 ms or more.
    pub slow_callbacks: u64,
    /// Callbacks that failed, panicked or were cancelled.
    pub failed_callbacks: u64,
    /// Peers that broke the WebSocket protocol, or sent data on an event stream.
    pub protocol_errors: u64,
}
