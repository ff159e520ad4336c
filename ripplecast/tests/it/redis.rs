//! Redis, for tests: real servers that a test starts on free ports of loopback, stops, kills, pauses and cuts off as it likes.
//! There is no mock: what can't be done with a real server is not tested.
//!
//! ```ignore
//! let server = Server::start();                    // Redis, in memory, nothing in it
//! let app = App::builder().backend(&server.url()).build().await?;
//! server.pause();                                  // it keeps its connections and says nothing
//! server.resume();
//! server.kill();                                   // as a crash does
//! server.restart();                                // empty, on the same port
//! server.ask::<String>("CLIENT LIST");             // any command, past whatever stands in front of it
//!
//! let proxy = Proxy::before(&server);              // a network that can fail
//! let app = App::builder().backend(&proxy.url()).build().await?;
//! proxy.stall();                                   // half-open: no byte passes, nobody is told
//! proxy.cut();                                     // every connection is reset, and none is let in
//! proxy.delay(Duration::from_millis(4));           // a long way
//! proxy.hold("ripplecast:room:{r}\r\n");           // the server does not get this, nor what its client sends behind it
//! proxy.heal();
//!
//! let cluster = Cluster::start(Flavour::Redis);    // three masters
//! let sentinels = Sentinels::start(Flavour::Redis); // a master, a replica, three sentinels
//! sentinels.failover();                            // the master dies, and the replica is one
//!
//! let server = Server::setup(Flavour::Valkey9).password("secret").tls().start();
//! let server = Server::shared(Flavour::Valkey8);   // for tests that leave it in peace; use a prefix of your own
//! ```
//!
//! Everything here blocks its thread for a moment, and [`Cluster`] and [`Sentinels`] for some seconds: call it before the
//! application runs, or on a runtime of several threads. Servers end with the test, also when it fails, and with the process,
//! however that ends. When a test fails, the end of each server's log is shown.

mod cluster;
/// What an application notices when Redis is away.
mod faults;
/// Tests of what is in here.
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
