//! Redis for tests: real servers that a test starts on free loopback ports, and stops, kills, pauses and
//! disconnects at will. There is no mock: whatever a real server can't show is not tested.
//!
//! ```ignore
//! let server = Server::start();                    // Redis, in memory, empty
//! let app = App::builder().backend(&server.url()).build().await?;
//! server.pause();                                  // keeps its connections but does not answer
//! server.resume();
//! server.kill();                                   // like a crash
//! server.restart();                                // empty, on the same port
//! server.ask::<String>("CLIENT LIST");             // any command, not through a proxy
//!
//! let proxy = Proxy::before(&server);              // a network that can fail
//! let app = App::builder().backend(&proxy.url()).build().await?;
//! proxy.stall();                                   // half-open: no byte passes, and neither side is notified
//! proxy.cut();                                     // resets every connection and refuses new ones
//! proxy.delay(Duration::from_millis(4));           // a distant server
//! proxy.hold("ripplecast:room:{r}\r\n");           // withholds this, and what the client sends after it, from the server
//! proxy.heal();
//!
//! let cluster = Cluster::start(Flavour::Redis);    // three masters
//! let sentinels = Sentinels::start(Flavour::Redis); // a master, a replica, three sentinels
//! sentinels.failover();                            // kills the master; the replica replaces it
//!
//! let server = Server::setup(Flavour::Valkey9).password("secret").tls().start();
//! let server = Server::shared(Flavour::Valkey8);   // for tests that do not disturb it; use your own prefix
//! ```
//!
//! Everything here blocks its thread for a moment, and [`Cluster`] and [`Sentinels`] for several seconds.
//! Call it before the application runs, or on a multi-threaded runtime. Servers end with the test, even if it
//! fails, and with the process, however that ends. When a test fails, the end of each server's log is
//! printed.

mod cluster;
/// The behaviour of an application while Redis is unavailable.
mod faults;
/// Tests of these helpers.
mod lab;
/// Several nodes on one Redis.
mod nodes;
mod proxy;
mod sentinels;
mod server;

pub(crate) use self::{
    cluster::Cluster,
    proxy::Proxy,
    sentinels::Sentinels,
    server::{FLAVOURS, Flavour, Server},
};
