//! The commands of `ripplecast bench`: a bare server to measure, a load generator for any server, a soak test, attacks on your
//! own server, and the cost of a Redis backend.
//!
//! The program that runs them must offer them as its subcommand `bench`, and serve the demo by default: the soak test, the attacks
//! and the measurement of Redis start that program again, as a server or as a node.

mod backend;
mod hostile;
mod load;
mod result;
mod serve;
mod soak;

use clap::Subcommand;

pub use backend::BenchBackend;
pub use hostile::BenchHostile;
pub use load::BenchLoad;
pub use serve::{BenchServe, address};
pub use soak::BenchSoak;

/// The commands of `ripplecast bench`.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Run a bare server: text frames sent to /bc are broadcast to all connections there, and /echo returns every frame
    Serve(BenchServe),
    /// Open many WebSockets to a server and measure its performance
    ///
    /// Connects only to the given address. Every message carries a number, which is used to check order and loss. The
    /// exit code is 1 if a message was lost or out of order, or a connection failed. Ctrl-C stops and shows the results
    /// so far. Run it on a different core or machine than the server.
    Load(Box<BenchLoad>),
    /// Put servers under every kind of stress, and check that nothing is lost or leaked
    ///
    /// Starts and restarts `bench serve` on loopback, while connections open, close, read slowly, disappear and violate
    /// the protocol. Checks every expected message and, after each cycle, the server's memory, descriptors, threads and
    /// counters. The exit code is 1 if a check failed. Ctrl-C stops and shows the results so far. Linux only.
    Soak(BenchSoak),
    /// Attack a server on this machine, and measure how long well-behaved clients wait during the attack
    ///
    /// First measures well-behaved clients alone: WebSockets that send pings, new WebSockets, and page loads. Then
    /// opens hostile connections, which reconnect as soon as the server closes them, and measures again; and once more
    /// after the attack. Accepts only loopback addresses. Without an address, starts its own server, with an inspector
    /// token and --demo-limits. The attacks target this program's endpoints. The exit code is 1 if a p99 grew by a
    /// factor of --max-ratio or more. A failed request counts as a wait of 30 seconds. Ctrl-C stops and shows the
    /// results so far.
    Hostile(BenchHostile),
    /// Measure what a Redis backend costs, compared with Redis alone
    ///
    /// Runs four parts in sequence: counter and table operations from 1, 16 and 256 concurrent tasks, compared with the
    /// plain commands as measured by redis-benchmark; the latency from a publish or push on one node to its receiver on
    /// another, at a fixed rate; the maximum push rate; and the cost of a push for Redis and for each node. It starts
    /// the nodes itself, as processes. In total it takes one minute per second of --seconds. Every message carries a
    /// number. The exit code is 1 if a message was lost or out of order, or an operation failed. Its keys have a prefix
    /// of their own, and are deleted at the end. The load saturates Redis, so do not run it against a Redis that others
    /// use. Ctrl-C stops the current measurement and shows the results so far.
    Backend(Box<BenchBackend>),
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The server of `bench serve` failed.
    Server(ripplecast::Error),
    /// The measurement could not be made, or a check failed; one line.
    Other(String),
}

impl Bench {
    /// Checks settings that must agree with each other.
    ///
    /// # Errors
    /// One line that names the settings.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Load(options) => options.check(),
            _ => Ok(()),
        }
    }

    /// Runs the command until it ends or Ctrl-C stops it, and prints its results. Starts its own tokio runtimes: do not call it
    /// from within one.
    ///
    /// # Errors
    /// The server failed, the measurement could not be made, or a check failed.
    pub fn run(self) -> Result<(), Failure> {
        let outcome = match self {
            Self::Serve(options) => return serve::run(options).map_err(Failure::Server),
            Self::Load(options) => load::run(*options),
            Self::Soak(options) => soak::run(&options),
            Self::Hostile(options) => hostile::run(&options),
            Self::Backend(options) => backend::run(*options),
        };
        outcome.map_err(Failure::Other)
    }
}
