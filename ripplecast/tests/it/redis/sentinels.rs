//! A master, its replica, and the sentinels that monitor them.

use std::collections::HashMap;

use super::server::{Flavour, Server, Setup};
use crate::support::eventually;

/// The name by which the sentinels know the master.
const SERVICE: &str = "lab";
/// The password of guarded servers.
pub(super) const SERVERS_PASSWORD: &str = "secret-of-the-servers";
/// The password of guarded sentinels.
pub(super) const SENTINELS_PASSWORD: &str = "secret-of-the-sentinels";
/// A user of guarded sentinels, and the user's password.
pub(super) const WATCHER: (&str, &str) = ("watcher", "secret-of-the-watcher");

/// One master, one replica, and three sentinels, two of which must agree that the master is unavailable. They
/// decide so after five seconds, because a live server on a busy machine may be silent for less.
pub(crate) struct Sentinels {
    /// The first one is initially the master.
    servers: [Server; 2],
    sentinels: Vec<Server>,
}

impl Sentinels {
    /// Starts the servers and waits until they all know each other. This takes a few seconds.
    #[track_caller]
    pub(crate) fn start(flavour: Flavour) -> Self {
        Self::with(|| Server::setup(flavour), &[], &[])
    }

    /// Starts servers that require the password [`SERVERS_PASSWORD`], and sentinels that require
    /// [`SENTINELS_PASSWORD`] or that of [`WATCHER`].
    #[track_caller]
    pub(crate) fn guarded(flavour: Flavour) -> Self {
        let servers = [format!("requirepass {SERVERS_PASSWORD}"), format!("masterauth {SERVERS_PASSWORD}")];
        let (user, password) = WATCHER;
        let sentinels = [
            format!("requirepass {SENTINELS_PASSWORD}"),
            format!("user {user} on >{password} +@all"),
            format!("sentinel auth-pass {SERVICE} {SERVERS_PASSWORD}"),
        ];
        Self::with(|| Server::setup(flavour), &servers, &sentinels)
    }

    /// Starts servers with that setup, and more lines in the configurations of the servers and the sentinels.
    #[track_caller]
    pub(super) fn with(start: impl Fn() -> Setup, servers: &[String], sentinels: &[String]) -> Self {
        let add = |setup: Setup, lines: &[String]| lines.iter().fold(setup, Setup::line);
        // Otherwise a master waits for five seconds for more replicas.
        let setup = || add(start().line("repl-diskless-sync-delay 0"), servers);
        let master = setup().start();
        let master_port = master.addr().port();
        let replica = setup().line(format!("replicaof 127.0.0.1 {master_port}")).start();
        eventually("the replica to have a copy", || {
            replica.ask::<String>("INFO replication").contains("master_link_status:up")
        });
        let sentinel = |_| {
            let setup = start()
                .sentinel()
                .line(format!("sentinel monitor {SERVICE} 127.0.0.1 {master_port} 2"))
                .line(format!("sentinel down-after-milliseconds {SERVICE} 5000"))
                .line(format!("sentinel failover-timeout {SERVICE} 3000"));
            let sentinel = add(setup, sentinels).start();
            // They query each other and the servers more often than the default of 1, 1, 2 and 10 seconds.
            sentinel.ask::<()>(
                "SENTINEL DEBUG PING-PERIOD 200 ASK-PERIOD 200 PUBLISH-PERIOD 200 INFO-PERIOD 500",
            );
            sentinel
        };
        let all = Self { servers: [master, replica], sentinels: (0..3).map(sentinel).collect() };
        eventually("the sentinels to know each other and the replica", || {
            all.sentinels.iter().all(|sentinel| {
                let master: HashMap<String, String> = sentinel.ask(&format!("SENTINEL MASTER {SERVICE}"));
                let says = |what: &str| master.get(what).map_or("", String::as_str);
                (says("num-other-sentinels"), says("num-slaves"), says("flags")) == ("2", "1", "master")
            })
        });
        all
    }

    /// Returns the URL of the backend.
    pub(crate) fn url(&self) -> String {
        let addrs: Vec<String> = self.sentinels.iter().map(|sentinel| sentinel.addr().to_string()).collect();
        format!("{}-sentinel://{}/{SERVICE}", self.sentinels[0].scheme(), addrs.join(","))
    }

    pub(crate) fn sentinels(&self) -> &[Server] {
        &self.sentinels
    }

    /// Returns the server that the sentinels name, and the other one. The named one may have just died.
    #[track_caller]
    pub(crate) fn master_and_other(&self) -> (&Server, &Server) {
        let [one, two] = &self.servers;
        match named(&self.sentinels[0]) {
            port if port == one.addr().port() => (one, two),
            port if port == two.addr().port() => (two, one),
            port => panic!("the sentinels name port {port}, which no server uses"),
        }
    }

    /// Kills the master, and waits until all sentinels name the other server and it accepts writes. You can
    /// start the dead one again with [`Server::restart`]; the sentinels make it a replica.
    #[track_caller]
    pub(crate) fn failover(&self) {
        let (dead, heir) = self.master_and_other();
        dead.kill();
        eventually("the replica to be the master", || {
            // The sentinels close the connections of a server whose role they change, including this one.
            let role = heir.try_ask::<String>("INFO replication").unwrap_or_default();
            role.contains("role:master")
                && self.sentinels.iter().all(|sentinel| named(sentinel) == heir.addr().port())
        });
    }
}

/// Returns the port of the master that a sentinel names.
#[track_caller]
fn named(sentinel: &Server) -> u16 {
    let (_, port): (String, u16) = sentinel.ask(&format!("SENTINEL GET-MASTER-ADDR-BY-NAME {SERVICE}"));
    port
}
