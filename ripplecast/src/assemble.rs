//! Builds a hub from its settings. This is the one place that knows every implementation behind the interfaces: which
//! backend, cluster and event loop a hub gets.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use crate::{
    Error, Hub, HubBuilder, Result,
    backend::Kind,
    bus::Bus,
    cluster::check_secret,
    engine::{Admissions, DropLog, MemoryBudget, Node, Setup, Shard, event_loop},
    limits::{LEAST_QUEUED_BYTES, SHARDS},
    queue::Queues,
    state::Store,
};
#[cfg(feature = "redis")]
use crate::{
    cluster::{GapLog, RedisCluster, Signer},
    engine::Cluster as _,
    redis_client::{Address, Redis},
};

impl HubBuilder {
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
    /// let hub = ripplecast::Hub::builder().backend("redis://127.0.0.1:6379").connect().await?;
    /// # let _ = hub; Ok(()) }
    /// ```
    pub async fn connect(self) -> Result<Hub> {
        self.node_secret.as_deref().map_or(Ok(()), check_secret)?;
        match self.backend.kind()?.clone() {
            Kind::Memory => self.in_memory(),
            #[cfg(feature = "redis")]
            Kind::Redis(address) => self.on_redis(&address).await,
        }
    }

    /// Builds the hub, and starts its shards on the current tokio runtime. This is for the memory backend;
    /// with any other, call [`connect`](Self::connect).
    ///
    /// # Errors
    /// [`Error::NoRuntime`] outside a runtime; [`Error::Setting`] for more than 255 shards, less than 1 MiB
    /// of [queued bytes](Self::max_queued_bytes), or a backend that needs [`connect`](Self::connect);
    /// [`Error::Io`] when the system can't create another poller or thread.
    pub fn build(self) -> Result<Hub> {
        match self.backend.kind()? {
            Kind::Memory => self.in_memory(),
            #[cfg(feature = "redis")]
            Kind::Redis(address) => {
                let reason = "this backend needs a connection: call connect().await instead of build()";
                Err(Error::setting("backend", address, reason))
            }
        }
    }

    fn in_memory(self) -> Result<Hub> {
        let node = self.start_node()?;
        Ok(Hub::new(node, Store::memory(), Bus::memory(), Queues::memory(), self.trusted_proxies))
    }

    #[cfg(feature = "redis")]
    async fn on_redis(self, address: &Address) -> Result<Hub> {
        let is_optional = self.backend_optional;
        let redis = Redis::connect(address, is_optional).await?;
        if self.node_secret.is_none() {
            tracing::warn!(
                "messages between nodes are not signed: anyone who can write to Redis can send to every connection. \
                 Set RIPPLECAST_NODE_SECRET (or HubBuilder::node_secret) to sign them"
            );
        }
        let node = self.start_node()?;
        let signer = Arc::new(Signer::new(node.id(), self.node_secret.as_deref()));
        let cluster =
            Arc::new(RedisCluster::new(redis.clone(), &node, signer.clone(), GapLog(self.on_gap.clone())));
        node.setup().set_cluster(cluster.clone());
        let store = Store::redis(redis.clone());
        let bus = Bus::redis(redis.clone(), signer);
        let hub = Hub::new(node, store, bus, Queues::redis(redis), self.trusted_proxies);
        if let Err(error) = cluster.ready().await {
            if !is_optional {
                let reason = format!("this node can't join the other nodes: {error}");
                return Err(Error::setting("backend", address, reason));
            }
            tracing::warn!(redis = %address, %error, "this node starts alone; joining the other nodes continues in the background");
        }
        Ok(hub)
    }

    /// Checks the settings and starts the shards.
    fn start_node(&self) -> Result<Arc<Node>> {
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
        let id = RandomState::new().hash_one(std::process::id());
        let budget = MemoryBudget::new(self.max_queued_bytes, count);
        let setup =
            Setup::new(self.rooms.clone(), DropLog::new(self.on_drop.clone()), self.max_rooms_per_connection);
        let node = Node::new(id, count, admissions, budget, setup);
        for index in 0..count {
            let shard = Shard::new(index, &node, runtime.clone())?;
            if self.threads {
                event_loop::run_as_thread(shard, runtime.clone())?;
            } else {
                event_loop::run_as_task(shard, &runtime)?;
            }
        }
        Ok(node)
    }
}
