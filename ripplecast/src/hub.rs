//! The hub: the handle that anything can hold, to rooms, connections, shared state and the bus.

mod admission;
mod adoption;
mod batch;
mod bridge;
mod callbacks;
mod clients;
mod command;
mod connection;
mod core;
mod current;
mod details;
mod driver;
mod drops;
mod gaps;
mod ledger;
mod mailbox;
mod outbox;
mod poller;
mod room;
mod shard;
mod shards;
mod tap;

#[cfg(all(test, ripplecast_loom))]
mod loom;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    Error, Frame, Result,
    backend::Backend,
    bridge::{RedisBridge, Sealer, check_secret},
    bus::Bus,
    limits::{CONNECTIONS, CONNECTIONS_PER_ADDRESS, LEAST_QUEUED_BYTES, QUEUED_BYTES, SHARDS},
    redis::Redis,
    server::TrustedProxies,
    store::Store,
    stream::Streams,
};

use self::{
    drops::DropLog,
    ledger::Ledger,
    room::{RoomRules, Setup},
};

pub(crate) use self::{
    admission::{Admissions, Permit, Refused, is_loopback},
    adoption::Adoption,
    batch::Dialect,
    bridge::{Bridge, Group, Later, Place},
    callbacks::{Route, Takes, callbacks},
    command::Command,
    core::Profile,
    gaps::GapLog,
    room::check_name,
    shards::Shards,
};
pub use self::{
    bridge::{NodeId, RemoteStats},
    clients::Client,
    connection::{Connection, ConnectionId, Dropped, Sent},
    drops::{DropReport, Drops},
    gaps::GapReport,
    outbox::Overflow,
    room::{Room, RoomOptions},
    tap::{Direction, FrameKind, Tap, TappedFrame},
};

/// What a shard reads from and writes to.
pub(crate) type Socket = std::net::TcpStream;

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
    /// Like a push to a [`Room`]: one order for all, refused by all or by none.
    pub fn broadcast(&self, frame: impl Into<Frame>) -> Sent {
        self.inner.shards.everyone.push(&frame.into())
    }

    /// The connection with that id; `None` when it is closed, or is not of this node.
    pub fn connection(&self, id: ConnectionId) -> Option<Connection> {
        let connection = self.inner.shards.connection(id.on(self.inner.shards.node)?);
        connection.is_open().then_some(connection)
    }

    /// The open connections of this node. Cheap: none is locked out while you go through them, and one which opens or
    /// closes meanwhile may or may not be among them.
    pub fn connections(&self) -> impl Iterator<Item = Connection> + use<> {
        self.inner.shards.connections()
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
        for handle in &self.inner.shards.handles {
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
    /// [streams](Self::stream) that are running have 5 s to finish. New connections are refused with
    /// 503 from now on. A callback that still waits after 5 s is cancelled. What was pushed before, also by an `on_close`,
    /// has left for the other nodes when this returns, unless Redis is away or takes longer than 2 s. Takes at most some
    /// 8 s; ends at once when called again.
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
        tokio::join!(connections, self.inner.streams.ended());
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
    /// None with the memory backend; [`Error::Backend`] when a shared one is away.
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
    /// Bytes that are being delivered to rooms or wait in outboxes now. What many connections of a shard wait for is
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
    /// Peers that broke the WebSocket protocol.
    pub protocol_errors: u64,
}

/// Settings for a new [`Hub`]. All have safe defaults.
#[derive(Clone)]
pub struct HubBuilder {
    /// Number of shards; 0 for one per core.
    shards: usize,
    /// Whether each shard has a thread of its own.
    threads: bool,
    /// Connections at the most.
    max_connections: usize,
    /// Connections from one address at the most.
    max_connections_per_address: usize,
    /// Bytes that may wait for slow readers.
    max_queued_bytes: usize,
    /// Settings of rooms.
    rooms: RoomRules,
    /// Who wants to hear of dropped frames.
    on_drop: Option<drops::Hook>,
    /// Whose forwarding headers are believed.
    trusted_proxies: TrustedProxies,
    /// Where shared state lives.
    backend: Backend,
    /// Whether the hub starts also while its backend is away.
    backend_optional: bool,
    /// The secret that nodes share, to sign their messages.
    node_secret: Option<Vec<u8>>,
    /// Who wants to hear of gaps.
    on_gap: Option<gaps::GapHook>,
}

impl std::fmt::Debug for HubBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubBuilder")
            .field("shards", &self.shards)
            .field("dedicated_threads", &self.threads)
            .field("max_connections", &self.max_connections)
            .field("max_connections_per_address", &self.max_connections_per_address)
            .field("max_queued_bytes", &self.max_queued_bytes)
            .field("rooms", &self.rooms)
            .field("trusted_proxies", &self.trusted_proxies)
            .field("backend", &self.backend)
            .field("backend_optional", &self.backend_optional)
            .finish_non_exhaustive()
    }
}

impl Default for HubBuilder {
    fn default() -> Self {
        Self {
            shards: 0,
            threads: false,
            max_connections: CONNECTIONS,
            max_connections_per_address: CONNECTIONS_PER_ADDRESS,
            max_queued_bytes: QUEUED_BYTES,
            rooms: RoomRules::default(),
            on_drop: None,
            trusted_proxies: TrustedProxies::default(),
            backend: Backend::Memory,
            backend_optional: false,
            node_secret: None,
            on_gap: None,
        }
    }
}

impl HubBuilder {
    /// Number of shards, each of which has its own part of the connections; default 0, which is one per core.
    #[must_use]
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// Gives each shard a thread of its own, and not a task of the runtime; default false. A little faster for a single
    /// client, and a callback that blocks stops nobody but its shard.
    #[must_use]
    pub fn dedicated_threads(mut self, on: bool) -> Self {
        self.threads = on;
        self
    }

    /// Connections at the most; default 100,000. Beyond that an upgrade is refused with 503.
    #[must_use]
    pub fn max_connections(mut self, max: usize) -> Self {
        self.max_connections = max;
        self
    }

    /// Connections from one address at the most, loopback aside; default 1,000. Beyond that an upgrade is refused with
    /// 429. Behind a proxy, set [`trusted_proxies`](Self::trusted_proxies), or all clients count as one.
    #[must_use]
    pub fn max_connections_per_address(mut self, max: usize) -> Self {
        self.max_connections_per_address = max;
        self
    }

    /// Bytes that may wait for slow readers on the whole hub; default 256 MiB, at least 1 MiB. What many connections wait
    /// for is counted once, for each shard and transport. Beyond that, the connections with the most waiting lose what their [`Overflow`] policies allow
    /// to be dropped, or else are closed with 1013, until an eighth is free again.
    ///
    /// What has been handed to the kernel is not counted; of that, at most 256 KiB for each connection have not been sent.
    #[must_use]
    pub fn max_queued_bytes(mut self, bytes: usize) -> Self {
        self.max_queued_bytes = bytes;
        self
    }

    /// Settings for the rooms whose names match a pattern, in which `*` stands for any characters and `?` for one. Of
    /// several patterns that match, the one which was given first holds.
    #[must_use]
    pub fn rooms(mut self, pattern: &str, options: RoomOptions) -> Self {
        self.rooms.add(pattern, options);
        self
    }

    /// Is told of frames that were dropped: for whom, why, how many. It runs on the shard, or in the push that was
    /// refused, so it must be quick, must not block, and must not use counters and tables, whose lock may be held. It is not
    /// told of what is dropped of its own pushes. Frames that were dropped in one turn for one reason may be told at once. [`Stats::drops`] counts them in any case.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// let hub = ripplecast::Hub::builder()
    ///     .on_drop(|drop| eprintln!("{} frames for {:?} were dropped: {:?}", drop.frames, drop.connection, drop.reason))
    ///     .build()?;
    /// # let _ = hub; Ok(()) }
    /// ```
    #[must_use]
    pub fn on_drop(mut self, hook: impl Fn(DropReport) + Send + Sync + 'static) -> Self {
        self.on_drop = Some(Arc::new(hook));
        self
    }

    /// The proxies whose `Forwarded` and `X-Forwarded-*` headers are believed; default none.
    #[must_use]
    pub fn trusted_proxies(mut self, proxies: TrustedProxies) -> Self {
        self.trusted_proxies = proxies;
        self
    }

    /// Where shared state and messages between nodes live: `memory`, the default, or the URL of a Redis, 7.0 or newer, or
    /// Valkey. All nodes with the same one share tables, counters, rooms, clients and the bus.
    ///
    /// | URL | what |
    /// |---|---|
    /// | `redis://[user:password@]host[:6379][/database]` | one server |
    /// | `rediss://…` | the same over TLS, with the system's root certificates |
    /// | `redis+unix:///path/of/the.sock[?db=1]` | one server, by its socket |
    /// | `redis-cluster://a,b:7001,c` | a Cluster; some of its nodes are enough. `rediss-cluster://` for TLS |
    /// | `redis-sentinel://a,b,c/service[/database]` | the master that sentinels name. `rediss-sentinel://` for TLS |
    ///
    /// `?prefix=NAME` sets what all keys and channels begin with; default `ripplecast`.
    ///
    /// # Errors
    /// [`Error::Setting`] for any other text. Whether the server can be reached is seen by [`connect`](Self::connect).
    pub fn backend(mut self, backend: &str) -> Result<Self> {
        self.backend = backend.parse()?;
        Ok(self)
    }

    /// Whether the hub starts also while its backend can't be reached; default false. It then goes on alone, says so, and
    /// joins the others when the backend is there.
    #[must_use]
    pub fn backend_optional(mut self, optional: bool) -> Self {
        self.backend_optional = optional;
        self
    }

    /// A secret that all nodes share, of 16 bytes or more: messages between them are signed with it (HMAC-SHA-256), and what
    /// is not, is old, or comes again, is thrown away and counted in [`RemoteStats::refused`]. Default: none, and whoever can
    /// write to the backend can send to every connection.
    ///
    /// It holds for pushes, broadcasts, clients and the bus, on which then only nodes can publish. Tables, counters and
    /// streams are as safe as the backend: whoever can write to it can change them. The clocks of the nodes must not
    /// differ by more than 30 s.
    #[must_use]
    pub fn node_secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.node_secret = Some(secret.as_ref().to_vec());
        self
    }

    /// Is told of messages of other nodes that were missed. It runs on the task that reads from the backend, so it must be
    /// quick and must not block. [`Stats::remote`] counts them in any case.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// let hub = ripplecast::Hub::builder()
    ///     .on_gap(|gap| eprintln!("room {:?} missed {:?} messages of {:?}", gap.room, gap.missed, gap.node))
    ///     .build()?;
    /// # let _ = hub; Ok(()) }
    /// ```
    #[must_use]
    pub fn on_gap(mut self, hook: impl Fn(GapReport) + Send + Sync + 'static) -> Self {
        self.on_gap = Some(Arc::new(hook));
        self
    }

    /// Connects to the backend, builds the hub, and starts its shards on the current tokio runtime.
    ///
    /// # Errors
    /// As [`build`](Self::build); [`Error::Setting`] when the backend can't be reached (unless it is
    /// [optional](Self::backend_optional)), is too old, refuses the password or lacks a permission.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// let hub = ripplecast::Hub::builder().backend("redis://127.0.0.1:6379")?.connect().await?;
    /// # let _ = hub; Ok(()) }
    /// ```
    pub async fn connect(self) -> Result<Hub> {
        self.node_secret.as_deref().map_or(Ok(()), check_secret)?;
        let redis = match &self.backend {
            Backend::Memory => None,
            Backend::Redis(address) => Some(Redis::connect(address, self.backend_optional).await?),
        };
        if redis.is_some() && self.node_secret.is_none() {
            tracing::warn!(
                "messages between nodes are not signed: whoever can write to Redis can send to every connection. \
                 RIPPLECAST_NODE_SECRET (or HubBuilder::node_secret) signs them"
            );
        }
        self.assemble(redis)
    }

    /// Builds the hub, and starts its shards on the current tokio runtime. For the memory backend; every other one has to be
    /// [connected](Self::connect) to.
    ///
    /// # Errors
    /// [`Error::NoRuntime`] outside a runtime; [`Error::Setting`] for more than 255 shards, less than 1 MiB of
    /// [queued bytes](Self::max_queued_bytes), or a backend that has to be connected to; [`Error::Io`] when the
    /// system has no poller or thread left.
    pub fn build(self) -> Result<Hub> {
        if let Backend::Redis(address) = &self.backend {
            let reason = "this backend has to be connected to: call connect().await in the place of build()";
            return Err(Error::setting("backend", address, reason));
        }
        self.assemble(None)
    }

    /// Builds the hub.
    fn assemble(self, redis: Option<Redis>) -> Result<Hub> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::NoRuntime)?;
        if self.shards > SHARDS {
            return Err(Error::setting("shards", self.shards, format!("at most {SHARDS} are possible")));
        }
        if self.max_queued_bytes < LEAST_QUEUED_BYTES {
            let why = format!("at least {LEAST_QUEUED_BYTES} bytes are needed");
            return Err(Error::setting("max_queued_bytes", self.max_queued_bytes, why));
        }
        let cores = || std::thread::available_parallelism().map_or(1, usize::from).min(SHARDS);
        let count = if self.shards == 0 { cores() } else { self.shards };
        let admissions = Admissions::new(self.max_connections, self.max_connections_per_address);
        let node = RandomState::new().hash_one(std::process::id());
        let ledger = Ledger::new(self.max_queued_bytes, count);
        let setup = Setup::new(self.rooms, DropLog::new(self.on_drop));
        let shards = Shards::new(node, count, admissions, ledger, setup);
        for index in 0..count {
            let shard = shard::Shard::new(index, &shards, runtime.clone())?;
            if self.threads {
                driver::run_as_thread(shard, runtime.clone())?;
            } else {
                driver::run_as_task(shard, &runtime)?;
            }
        }
        let sealer = Arc::new(Sealer::new(node, self.node_secret.as_deref()));
        if let Some(redis) = &redis {
            let bridge = RedisBridge::new(redis.clone(), &shards, sealer.clone(), GapLog(self.on_gap));
            shards.setup.set_bridge(Arc::new(bridge));
        }
        let inner = Inner {
            shards,
            store: redis.clone().map_or_else(Store::memory, Store::redis),
            bus: redis.clone().map_or_else(Bus::memory, |redis| Bus::redis(redis, sealer)),
            streams: redis.map_or_else(Streams::memory, Streams::redis),
            trusted_proxies: self.trusted_proxies,
            next_route: AtomicUsize::new(0),
        };
        Ok(Hub { inner: Arc::new(inner) })
    }
}
