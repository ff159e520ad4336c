//! A Redis Cluster of three masters.

use std::{ops::RangeInclusive, sync::OnceLock};

use super::server::{Flavour, Server, Setup};
use crate::support::eventually;

/// The slots of each master.
const SLOTS: [RangeInclusive<u16>; 3] = [0..=5460, 5461..=10922, 10923..=16383];

/// Silence after which a master counts as dead. A server on a busy machine may not be scheduled for seconds.
const NODE_TIMEOUT: &str = "cluster-node-timeout 5000";

/// Three masters without replicas, each with a third of the slots. If one is unavailable for five seconds,
/// the others refuse every key until it returns.
pub(crate) struct Cluster {
    masters: Vec<Server>,
}

impl Cluster {
    /// Starts the Cluster and waits until it accepts keys. This takes a few seconds, because a master waits
    /// for two first.
    #[track_caller]
    pub(crate) fn start(flavour: Flavour) -> Self {
        Self::with(|| Server::setup(flavour))
    }

    /// Starts a Cluster of masters with that setup.
    #[track_caller]
    pub(super) fn with(setup: impl Fn() -> Setup) -> Self {
        let masters: Vec<Server> =
            SLOTS.iter().map(|_| setup().cluster().line(NODE_TIMEOUT).start()).collect();
        for (number, (master, slots)) in masters.iter().zip(SLOTS).enumerate() {
            let (first, last) = slots.into_inner();
            master.ask::<()>(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
            // Otherwise the masters would have to agree on epochs first.
            master.ask::<()>(&format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1));
        }
        for other in &masters[1..] {
            let (port, bus) = (other.addr().port(), other.bus());
            masters[0].ask::<()>(&format!("CLUSTER MEET 127.0.0.1 {port} {bus}"));
        }
        let cluster = Self { masters };
        cluster.wait_until_ok();
        cluster
    }

    /// Returns the Cluster shared by all tests that do not disturb it; use your own prefix.
    #[track_caller]
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(Flavour::Redis))
    }

    /// Waits until every master reports a healthy Cluster after one of them was unavailable.
    #[track_caller]
    pub(crate) fn wait_until_ok(&self) {
        let wanted = ["cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:3"];
        eventually("the cluster to take keys", || {
            self.masters.iter().all(|master| {
                let info = master.try_ask::<String>("CLUSTER INFO").unwrap_or_default();
                wanted.iter().all(|line| info.lines().any(|said| said == *line))
            })
        });
    }

    /// Makes masters accept keys even while another one is unavailable; by default they refuse all keys then.
    #[track_caller]
    pub(crate) fn go_on_without_others(&self) {
        for master in &self.masters {
            master.ask::<()>("CONFIG SET cluster-require-full-coverage no");
        }
    }

    /// Adds a replica to a master and waits until it has a copy. It replaces the master if the master dies.
    #[track_caller]
    pub(crate) fn replica_of(&self, master: &Server) -> Server {
        let setup = Server::setup(Flavour::Redis).cluster().line(NODE_TIMEOUT);
        let replica = setup.line("repl-diskless-sync-delay 0").start();
        master.ask::<()>("CONFIG SET repl-diskless-sync-delay 0");
        let (port, bus) = (master.addr().port(), master.bus());
        replica.ask::<()>(&format!("CLUSTER MEET 127.0.0.1 {port} {bus}"));
        let knows_all =
            |server: &Server| server.ask::<String>("CLUSTER INFO").contains("cluster_known_nodes:4");
        eventually("all to know each other", || knows_all(&replica) && self.masters.iter().all(knows_all));
        let id: String = master.ask("CLUSTER MYID");
        replica.ask::<()>(&format!("CLUSTER REPLICATE {id}"));
        eventually("the replica to have a copy", || {
            replica.ask::<String>("INFO replication").contains("master_link_status:up")
        });
        replica
    }

    /// Returns the URL of the backend.
    pub(crate) fn url(&self) -> String {
        let addrs: Vec<String> = self.masters.iter().map(|master| master.addr().to_string()).collect();
        format!("{}-cluster://{}", self.masters[0].scheme(), addrs.join(","))
    }

    pub(crate) fn masters(&self) -> &[Server] {
        &self.masters
    }

    /// Returns the master that has a key.
    #[track_caller]
    pub(crate) fn master_of(&self, key: &str) -> &Server {
        let slot = self.masters[0].ask::<u16>(&format!("CLUSTER KEYSLOT {key}"));
        let number = SLOTS.iter().position(|slots| slots.contains(&slot));
        &self.masters[number.expect("every slot has a master")]
    }
}
