//! The settings of a hub.

use std::sync::Arc;

use crate::{
    Backend, RoomOptions, TrustedProxies,
    cluster::GapHook,
    engine::{DropHook, RoomRules},
    limits::{CONNECTIONS, CONNECTIONS_PER_ADDRESS, IPV6_PREFIX, QUEUED_BYTES, ROOMS_PER_CONNECTION},
    stats::{DropReport, GapReport},
};

/// Settings for a new [`Hub`](crate::Hub). All have safe defaults.
#[derive(Clone)]
#[must_use = "a builder does nothing until it builds"]
pub struct HubBuilder {
    /// 0 means one per core.
    pub(crate) shards: usize,
    /// Whether each shard runs on its own thread.
    pub(crate) threads: bool,
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_address: usize,
    pub(crate) ipv6_prefix: u8,
    pub(crate) max_rooms_per_connection: usize,
    pub(crate) max_queued_bytes: usize,
    pub(crate) rooms: RoomRules,
    pub(crate) on_drop: Option<DropHook>,
    pub(crate) trusted_proxies: TrustedProxies,
    pub(crate) backend: Backend,
    /// Whether the hub starts while its backend is unavailable.
    pub(crate) backend_optional: bool,
    /// Signs messages between nodes.
    pub(crate) node_secret: Option<Vec<u8>>,
    pub(crate) on_gap: Option<GapHook>,
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
            backend: Backend::default(),
            backend_optional: false,
            node_secret: None,
            on_gap: None,
        }
    }
}

impl HubBuilder {
    /// Sets the number of shards. Each one serves its own part of the connections. The default is 0, one per
    /// core.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// Runs each shard on its own thread instead of a task of the runtime; default false. This is a little
    /// faster for a single connection, and a callback that blocks holds up only its own shard.
    pub fn dedicated_threads(mut self, on: bool) -> Self {
        self.threads = on;
        self
    }

    /// Sets the maximum number of connections; default 100,000. Further upgrades are rejected with 503.
    pub fn max_connections(mut self, max: usize) -> Self {
        self.max_connections = max;
        self
    }

    /// Sets the maximum number of connections from one address, not counting loopback; default 1,000. Further
    /// upgrades are rejected with 429. Behind a proxy, set [`trusted_proxies`](Self::trusted_proxies);
    /// otherwise all of its clients count as one address.
    pub fn max_connections_per_address(mut self, max: usize) -> Self {
        self.max_connections_per_address = max;
        self
    }

    /// Sets how many leading bits of an IPv6 address identify its network in limits per address; default 64,
    /// the usual network of a home or a server. The range is 1 to 128; 128 counts single addresses. IPv4
    /// addresses are always counted individually.
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.ipv6_prefix = bits;
        self
    }

    /// Sets how many rooms one connection may be in; default 1,000. A further
    /// [`join`](crate::Connection::join) fails with [`Error::TooManyRooms`](crate::Error::TooManyRooms) and changes nothing, so a client
    /// that chooses its own room names can't fill the memory of this node or of the backend. Check which
    /// rooms such a client may join, and handle the error: a callback that returns it closes the connection
    /// with 1011.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// let hub = ripplecast::Hub::builder().max_rooms_per_connection(50).build()?;
    /// # let _ = hub; Ok(()) }
    /// ```
    pub fn max_rooms_per_connection(mut self, max: usize) -> Self {
        self.max_rooms_per_connection = max;
        self
    }

    /// Sets how many bytes may wait for slow readers across the hub, including unfinished incoming messages;
    /// default 256 MiB, at least 1 MiB. Use several times the longest
    /// [message](crate::ws::Endpoint::max_message). A message that many connections wait for is counted once
    /// per shard and transport.
    ///
    /// Above the limit, the connections with the most queued bytes lose whatever their
    /// [`Overflow`](crate::Overflow) policies allow to be dropped, or are closed with 1013, until an eighth
    /// is free again. If an unfinished message holds the most, its connection is closed with 1013.
    ///
    /// Bytes already handed to the kernel are not counted; at most 256 KiB of them are unsent per connection.
    pub fn max_queued_bytes(mut self, bytes: usize) -> Self {
        self.max_queued_bytes = bytes;
        self
    }

    /// Sets options for the rooms whose names match `pattern`, in which `*` stands for any characters and `?`
    /// for exactly one. If several patterns match, the first one added applies.
    pub fn rooms(mut self, pattern: &str, options: RoomOptions) -> Self {
        self.rooms.add(pattern, options);
        self
    }

    /// Sets a hook that is called when messages are dropped, with the connection, the reason and the number
    /// of messages. It runs on the shard, or in the push that was rejected, so it must be quick and must not
    /// block. It must not use counters or tables, whose lock may be held. Drops of the hook's own pushes are
    /// not reported. Drops with the same reason in one turn may be reported in one call.
    /// [`Stats::drops`](crate::stats::Stats::drops) counts all of them.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// let hub = ripplecast::Hub::builder()
    ///     .on_drop(|drop| eprintln!("{} messages for {:?} were dropped: {:?}", drop.frames, drop.connection, drop.reason))
    ///     .build()?;
    /// # let _ = hub; Ok(()) }
    /// ```
    pub fn on_drop(mut self, hook: impl Fn(DropReport) + Send + Sync + 'static) -> Self {
        self.on_drop = Some(Arc::new(hook));
        self
    }

    /// Sets the proxies whose `Forwarded` and `X-Forwarded-*` headers are trusted, by network or by number;
    /// default none.
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
    /// Any other text is reported by [`connect`](Self::connect) and [`build`](Self::build), as
    /// [`Error::Setting`](crate::Error::Setting).
    pub fn backend(mut self, backend: impl Into<Backend>) -> Self {
        self.backend = backend.into();
        self
    }

    /// Sets whether the hub starts even if its backend can't be reached; default false. If so, it logs a
    /// warning, works alone, and joins the other nodes once the backend is available.
    pub fn backend_optional(mut self, optional: bool) -> Self {
        self.backend_optional = optional;
        self
    }

    /// Sets a secret of at least 16 bytes that all nodes share. Messages between nodes are signed with it
    /// (HMAC-SHA-256). Messages that are unsigned, old or replayed are dropped and counted in
    /// [`RemoteStats::refused`](crate::stats::RemoteStats::refused). By default there is no secret, and anyone who
    /// can write to the backend can send to every connection.
    ///
    /// The signature covers pushes, broadcasts, messages to users, and the bus, on which only nodes can then
    /// publish. Tables, counters and queues are only as safe as the backend: anyone who can write to it can
    /// change them. The nodes' clocks must not differ by more than 30 s.
    pub fn node_secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.node_secret = Some(secret.as_ref().to_vec());
        self
    }

    /// Sets a hook that is called when messages from other nodes were or may have been missed; see
    /// [`GapReport`]. It runs on the task that reads from the backend, so it must be quick and must not
    /// block. [`Stats::remote`](crate::stats::Stats::remote) counts all of them.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// let hub = ripplecast::Hub::builder()
    ///     .on_gap(|gap| eprintln!("room {:?} missed {:?} messages from {:?}", gap.room, gap.missed, gap.node))
    ///     .build()?;
    /// # let _ = hub; Ok(()) }
    /// ```
    pub fn on_gap(mut self, hook: impl Fn(GapReport) + Send + Sync + 'static) -> Self {
        self.on_gap = Some(Arc::new(hook));
        self
    }
}
