//! The settings of a hub, and building one from them.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, atomic::AtomicUsize},
};

use super::{Hub, Inner};
use crate::{
    Error, Result,
    backend::Backend,
    bus::Bus,
    cluster::GapHook,
    cluster::{GapLog, GapReport, RedisBridge, Sealer, check_secret},
    engine::DropHook,
    engine::{
        Admissions, DropLog, DropReport, Ledger, RoomOptions, RoomRules, Setup, Shard, Shards, event_loop,
    },
    headers::TrustedProxies,
    limits::{
        CONNECTIONS, CONNECTIONS_PER_ADDRESS, IPV6_PREFIX, LEAST_QUEUED_BYTES, QUEUED_BYTES,
        ROOMS_PER_CONNECTION, SHARDS,
    },
    queue::Streams,
    redis_client::Redis,
    state::Store,
};

/// Settings for a new [`Hub`]. All have safe defaults.
#[derive(Clone)]
pub struct HubBuilder {
    /// 0 means one per core.
    shards: usize,
    /// Whether each shard runs on its own thread.
    threads: bool,
    max_connections: usize,
    max_connections_per_address: usize,
    ipv6_prefix: u8,
    max_rooms_per_connection: usize,
    max_queued_bytes: usize,
    rooms: RoomRules,
    on_drop: Option<DropHook>,
    trusted_proxies: TrustedProxies,
    backend: Backend,
    /// Whether the hub starts while its backend is unavailable.
    backend_optional: bool,
    /// Signs messages between nodes.
    node_secret: Option<Vec<u8>>,
    on_gap: Option<GapHook>,
}

impl std::fmt::Debug for HubBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubBuilder")
            .field("shards", &self.shards)
            .field("dedicated_threads", &self.threads)
            .field("max_connections", &self.max_connections)
            .field("max_connections_per_address", &self.max_connections_per_address)
            .field("ipv6_prefix", &self.ipv6_prefix)
            .field("max_rooms_per_connection", &self.max_rooms_per_connection)
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
            ipv6_prefix: IPV6_PREFIX,
            max_rooms_per_connection: ROOMS_PER_CONNECTION,
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
    /// Sets the number of shards. Each one serves its own part of the connections. The default is 0, one per
    /// core.
    #[must_use]
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// Runs each shard on its own thread instead of a task of the runtime; default false. This is a little
    /// faster for a single connection, and a callback that blocks holds up only its own shard.
    #[must_use]
    pub fn dedicated_threads(mut self, on: bool) -> Self {
        self.threads = on;
        self
    }

    /// Sets the maximum number of connections; default 100,000. Further upgrades are rejected with 503.
    #[must_use]
    pub fn max_connections(mut self, max: usize) -> Self {
        self.max_connections = max;
        self
    }

    /// Sets the maximum number of connections from one address, not counting loopback; default 1,000. Further
    /// upgrades are rejected with 429. Behind a proxy, set [`trusted_proxies`](Self::trusted_proxies);
    /// otherwise all of its clients count as one address.
    #[must_use]
    pub fn max_connections_per_address(mut self, max: usize) -> Self {
        self.max_connections_per_address = max;
        self
    }

    /// Sets how many leading bits of an IPv6 address identify its network in limits per address; default 64,
    /// the usual network of a home or a server. The range is 1 to 128; 128 counts single addresses. IPv4
    /// addresses are always counted individually.
    #[must_use]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.ipv6_prefix = bits;
        self
    }

    /// Sets how many rooms one connection may be in; default 1,000. A further
    /// [`join`](crate::Connection::join) fails with [`Error::TooManyRooms`] and changes nothing, so a client
    /// that chooses its own room names can't fill the memory of this node or of the backend. Check which
    /// rooms such a client may join, and handle the error: a callback that returns it closes the connection
    /// with 1011.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// let hub = ripplecast::Hub::builder().max_rooms_per_connection(50).build()?;
    /// # let _ = hub; Ok(()) }
    /// ```
    #[must_use]
    pub fn max_rooms_per_connection(mut self, max: usize) -> Self {
        self.max_rooms_per_connection = max;
        self
    }

    /// Sets how many bytes may wait for slow readers across the hub, including unfinished incoming messages;
    /// default 256 MiB, at least 1 MiB. Use several times the longest
    /// [message](crate::ws::Endpoint::max_message). A frame that many connections wait for is counted once
    /// per shard and transport.
    ///
    /// Above the limit, the connections with the most queued bytes lose whatever their
    /// [`Overflow`](crate::Overflow) policies allow to be dropped, or are closed with 1013, until an eighth
    /// is free again. If an unfinished message holds the most, its connection is closed with 1013.
    ///
    /// Bytes already handed to the kernel are not counted; at most 256 KiB of them are unsent per connection.
    #[must_use]
    pub fn max_queued_bytes(mut self, bytes: usize) -> Self {
        self.max_queued_bytes = bytes;
        self
    }

    /// Sets options for the rooms whose names match `pattern`, in which `*` stands for any characters and `?`
    /// for exactly one. If several patterns match, the first one added applies.
    #[must_use]
    pub fn rooms(mut self, pattern: &str, options: RoomOptions) -> Self {
        self.rooms.add(pattern, options);
        self
    }

    /// Sets a hook that is called when frames are dropped, with the connection, the reason and the number of
    /// frames. It runs on the shard, or in the push that was rejected, so it must be quick and must not
    /// block. It must not use counters or tables, whose lock may be held. Drops of the hook's own pushes are
    /// not reported. Drops with the same reason in one turn may be reported in one call.
    /// [`Stats::drops`](crate::Stats::drops) counts all of them.
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

    /// Sets the proxies whose `Forwarded` and `X-Forwarded-*` headers are trusted, by network or by number;
    /// default none.
    #[must_use]
    pub fn trusted_proxies(mut self, proxies: TrustedProxies) -> Self {
        self.trusted_proxies = proxies;
        self
    }

    /// Sets where shared state and messages between nodes live: `memory`, the default, or the URL of Redis
    /// 7.0 or newer, or of Valkey. Nodes with the same backend share tables, counters, rooms, users and the
    /// bus.
    ///
    /// | URL | meaning |
    /// |---|---|
    /// | `redis://[user:password@]host[:6379][/database]` | one server |
    /// | `rediss://…` | the same over TLS, with the system's root certificates |
    /// | `redis+unix:///path/of/the.sock[?db=1]` | one server, over a Unix socket |
    /// | `redis-cluster://a,b:7001,c` | a Redis Cluster; some of its nodes are enough. `rediss-cluster://` for TLS |
    /// | `redis-sentinel://a,b,c/service[/database]` | the master reported by the sentinels. `rediss-sentinel://` for TLS |
    ///
    /// `valkey` means the same as `redis` in every scheme, and case does not matter. A user without a
    /// password logs in with an empty password. `?prefix=NAME` sets the prefix of all keys and channels;
    /// default `ripplecast`.
    ///
    /// # Errors
    /// [`Error::Setting`] for any other text. This does not contact the server; [`connect`](Self::connect)
    /// does.
    pub fn backend(mut self, backend: &str) -> Result<Self> {
        self.backend = backend.parse()?;
        Ok(self)
    }

    /// Sets whether the hub starts even if its backend can't be reached; default false. If so, it logs a
    /// warning, works alone, and joins the other nodes once the backend is available.
    #[must_use]
    pub fn backend_optional(mut self, optional: bool) -> Self {
        self.backend_optional = optional;
        self
    }

    /// Sets a secret of at least 16 bytes that all nodes share. Messages between nodes are signed with it
    /// (HMAC-SHA-256). Messages that are unsigned, old or replayed are dropped and counted in
    /// [`RemoteStats::refused`](crate::RemoteStats::refused). By default there is no secret, and anyone who
    /// can write to the backend can send to every connection.
    ///
    /// The signature covers pushes, broadcasts, messages to users, and the bus, on which only nodes can then
    /// publish. Tables, counters and streams are only as safe as the backend: anyone who can write to it can
    /// change them. The nodes' clocks must not differ by more than 30 s.
    #[must_use]
    pub fn node_secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.node_secret = Some(secret.as_ref().to_vec());
        self
    }

    /// Sets a hook that is called when messages from other nodes were or may have been missed; see
    /// [`GapReport`]. It runs on the task that reads from the backend, so it must be quick and must not
    /// block. [`Stats::remote`](crate::Stats::remote) counts all of them.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// let hub = ripplecast::Hub::builder()
    ///     .on_gap(|gap| eprintln!("room {:?} missed {:?} messages from {:?}", gap.room, gap.missed, gap.node))
    ///     .build()?;
    /// # let _ = hub; Ok(()) }
    /// ```
    #[must_use]
    pub fn on_gap(mut self, hook: impl Fn(GapReport) + Send + Sync + 'static) -> Self {
        self.on_gap = Some(Arc::new(hook));
        self
    }

    /// Connects to the backend, builds the hub, and starts its shards on the current tokio runtime. Once this
    /// returns, the node is listed in [`Hub::nodes`], and broadcasts from other nodes reach its connections.
    ///
    /// # Errors
    /// Those of [`build`](Self::build), and [`Error::Setting`] when the backend is too old, rejects the
    /// password or lacks a permission, or, unless it is [optional](Self::backend_optional), when it can't be
    /// reached or this node can't join within 2 s.
    ///
    /// ```no_run
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// let hub = ripplecast::Hub::builder().backend("redis://127.0.0.1:6379")?.connect().await?;
    /// # let _ = hub; Ok(()) }
    /// ```
    pub async fn connect(self) -> Result<Hub> {
        self.node_secret.as_deref().map_or(Ok(()), check_secret)?;
        let Backend::Redis(address) = self.backend.clone() else { return self.assemble(None) };
        let is_optional = self.backend_optional;
        let redis = Redis::connect(&address, is_optional).await?;
        if self.node_secret.is_none() {
            tracing::warn!(
                "messages between nodes are not signed: anyone who can write to Redis can send to every connection. \
                 Set RIPPLECAST_NODE_SECRET (or HubBuilder::node_secret) to sign them"
            );
        }
        let hub = self.assemble(Some(redis))?;
        if let Some(bridge) = hub.shards().setup.bridge()
            && let Err(error) = bridge.ready().await
        {
            if !is_optional {
                let reason = format!("this node can't join the other nodes: {error}");
                return Err(Error::setting("backend", address, reason));
            }
            tracing::warn!(redis = %address, %error, "this node starts alone; joining the other nodes continues in the background");
        }
        Ok(hub)
    }

    /// Builds the hub, and starts its shards on the current tokio runtime. This is for the memory backend;
    /// with any other, call [`connect`](Self::connect).
    ///
    /// # Errors
    /// [`Error::NoRuntime`] outside a runtime; [`Error::Setting`] for more than 255 shards, less than 1 MiB
    /// of [queued bytes](Self::max_queued_bytes), or a backend that needs [`connect`](Self::connect);
    /// [`Error::Io`] when the system can't create another poller or thread.
    pub fn build(self) -> Result<Hub> {
        if let Backend::Redis(address) = &self.backend {
            let reason = "this backend needs a connection: call connect().await instead of build()";
            return Err(Error::setting("backend", address, reason));
        }
        self.assemble(None)
    }

    /// Builds the hub on the backend that `redis` is connected to, or in memory.
    fn assemble(self, redis: Option<Redis>) -> Result<Hub> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::NoRuntime)?;
        if self.shards > SHARDS {
            return Err(Error::setting("shards", self.shards, format!("expected at most {SHARDS}")));
        }
        if !(1..=128).contains(&self.ipv6_prefix) {
            return Err(Error::setting("ipv6_prefix", self.ipv6_prefix, "expected a number from 1 to 128"));
        }
        if self.max_queued_bytes < LEAST_QUEUED_BYTES {
            let why = format!("expected at least {LEAST_QUEUED_BYTES} bytes");
            return Err(Error::setting("max_queued_bytes", self.max_queued_bytes, why));
        }
        let cores = || std::thread::available_parallelism().map_or(1, usize::from).min(SHARDS);
        let count = if self.shards == 0 { cores() } else { self.shards };
        let admissions =
            Admissions::new(self.max_connections, self.max_connections_per_address, self.ipv6_prefix);
        let node = RandomState::new().hash_one(std::process::id());
        let ledger = Ledger::new(self.max_queued_bytes, count);
        let setup = Setup::new(self.rooms, DropLog::new(self.on_drop), self.max_rooms_per_connection);
        let shards = Shards::new(node, count, admissions, ledger, setup);
        for index in 0..count {
            let shard = Shard::new(index, &shards, runtime.clone())?;
            if self.threads {
                event_loop::run_as_thread(shard, runtime.clone())?;
            } else {
                event_loop::run_as_task(shard, &runtime)?;
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
