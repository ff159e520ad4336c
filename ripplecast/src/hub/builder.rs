//! The settings of a hub, and how one is made of them.

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
    /// Number of shards; 0 for one per core.
    shards: usize,
    /// Whether each shard has a thread of its own.
    threads: bool,
    /// Connections at the most.
    max_connections: usize,
    /// Connections from one address at the most.
    max_connections_per_address: usize,
    /// Leading bits of an IPv6 address that count for it.
    ipv6_prefix: u8,
    /// The number of rooms that one connection may be in.
    max_rooms_per_connection: usize,
    /// Bytes that may wait for slow readers.
    max_queued_bytes: usize,
    /// Settings of rooms.
    rooms: RoomRules,
    /// Who wants to hear of dropped frames.
    on_drop: Option<DropHook>,
    /// Whose forwarding headers are believed.
    trusted_proxies: TrustedProxies,
    /// Where shared state lives.
    backend: Backend,
    /// Whether the hub starts also while its backend is away.
    backend_optional: bool,
    /// The secret that nodes share, to sign their messages.
    node_secret: Option<Vec<u8>>,
    /// Who wants to hear of gaps.
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

    /// Sets how many leading bits of an IPv6 address count for the limits by address; default 64, the network that a home or
    /// a server has. From 1 to 128, where 128 counts single addresses. An IPv4 address always counts by itself.
    #[must_use]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.ipv6_prefix = bits;
        self
    }

    /// Sets how many rooms one connection may be in; default 1,000. A further [`join`](crate::Connection::join) fails
    /// with [`Error::TooManyRooms`] and changes nothing: a client that chooses the names of its rooms can't fill the
    /// memory of this node or of the backend. Check which rooms such a client may join, and handle the error: a
    /// callback that returns it closes the connection with 1011.
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

    /// Bytes that may wait for slow readers on the whole hub, with what unfinished incoming messages hold; default 256 MiB, at
    /// least 1 MiB, and better several times the longest [message](crate::ws::Endpoint::max_message). What many connections
    /// wait for is counted once, for each shard and transport. Beyond that, the connections with the most waiting
    /// lose what their [`Overflow`](crate::Overflow) policies allow to be dropped, or else are closed with 1013,
    /// until an eighth is free again. A peer that holds the most by an unfinished message is closed with 1013.
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
    /// refused, so it must be quick, must not block, and must not use counters and tables, whose lock may be held. It
    /// is not told of what is dropped of its own pushes. Frames that were dropped in one turn for one reason may be
    /// told at once. [`Stats::drops`](crate::Stats::drops) counts them in any case.
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

    /// The proxies whose `Forwarded` and `X-Forwarded-*` headers are believed, by their networks or their number; default none.
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
    /// `valkey` means the same as `redis` in all of them, and case does not matter. A user without a password logs in
    /// with an empty password. `?prefix=NAME` sets what all keys and channels begin with; default `ripplecast`.
    ///
    /// # Errors
    /// [`Error::Setting`] for any other text. Whether the server can be reached is seen by [`connect`](Self::connect).
    pub fn backend(mut self, backend: &str) -> Result<Self> {
        self.backend = backend.parse()?;
        Ok(self)
    }

    /// Whether the hub starts also while its backend can't be reached; default false. It then continues on its own,
    /// reports it, and joins the others when the backend is there.
    #[must_use]
    pub fn backend_optional(mut self, optional: bool) -> Self {
        self.backend_optional = optional;
        self
    }

    /// A secret that all nodes share, of 16 bytes or more: messages between them are signed with it (HMAC-SHA-256),
    /// and what is not, is old, or comes again, is thrown away and counted in
    /// [`RemoteStats::refused`](crate::RemoteStats::refused). Default: none, and whoever can write to the backend can
    /// send to every connection.
    ///
    /// It holds for pushes, broadcasts, clients and the bus, on which then only nodes can publish. Tables, counters and
    /// streams are as safe as the backend: whoever can write to it can change them. The clocks of the nodes must not
    /// differ by more than 30 s.
    #[must_use]
    pub fn node_secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.node_secret = Some(secret.as_ref().to_vec());
        self
    }

    /// Sets a hook that is called when messages of other nodes were or may be missed: see [`GapReport`]. It runs on the task
    /// that reads from the backend, so it must be quick and must not block. [`Stats::remote`](crate::Stats::remote) counts
    /// them in any case.
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

    /// Connects to the backend, builds the hub, and starts its shards on the current tokio runtime. When this returns,
    /// the node is one of [`Hub::nodes`], and broadcasts of other nodes reach its connections.
    ///
    /// # Errors
    /// As [`build`](Self::build); [`Error::Setting`] when the backend can't be reached or does not take this node within
    /// 2 s (unless it is [optional](Self::backend_optional)), is too old, refuses the password or lacks a permission.
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
                "messages between nodes are not signed: whoever can write to Redis can send to every connection. \
                 RIPPLECAST_NODE_SECRET (or HubBuilder::node_secret) signs them"
            );
        }
        let hub = self.assemble(Some(redis))?;
        if let Some(bridge) = hub.shards().setup.bridge()
            && let Err(error) = bridge.ready().await
        {
            if !is_optional {
                let reason = format!("this node can't join the others: {error}");
                return Err(Error::setting("backend", address, reason));
            }
            tracing::warn!(redis = %address, %error, "this node starts alone, and joins the others once it can");
        }
        Ok(hub)
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
        if !(1..=128).contains(&self.ipv6_prefix) {
            return Err(Error::setting("ipv6_prefix", self.ipv6_prefix, "expected a number from 1 to 128"));
        }
        if self.max_queued_bytes < LEAST_QUEUED_BYTES {
            let why = format!("at least {LEAST_QUEUED_BYTES} bytes are needed");
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
