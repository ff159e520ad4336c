//! `ripplecast bench backend`: what Redis behind a hub costs, compared with Redis alone in the same run.
//!
//! `options` defines the settings. `operations`, `latency`, `throughput` and `spread` are the four parts, and `raw`
//! runs `redis-benchmark` for comparison with the first. `node` is another process of this program, with a hub that
//! executes the commands defined in `order`; `peer` is the handle to it. `mark` identifies messages, and `member` reads
//! them from a WebSocket. `server` queries Redis itself, `report` holds the results, and `table` prints them.

mod latency;
mod mark;
mod member;
mod node;
mod operations;
mod options;
mod order;
mod peer;
mod raw;
mod report;
mod server;
mod spread;
mod table;
mod throughput;

use std::{
    io::{IsTerminal as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::load::{print, random::Random, stop_button};

pub use options::BenchBackend;

use mark::Seen;
use member::Member;
use options::Part;
use order::{Answer, Load, Order};
use peer::Peer;
use report::Report;
use server::Server;

/// The error that ends a run, as a sentence for a person.
type Result<T, E = String> = std::result::Result<T, E>;

/// The most pushes sent to a new member before it counts as unreachable, 20 ms apart.
const TRIES: usize = 500;
/// Messages sent before the measurement, to warm up connections, caches and the allocator.
const WARM_UP: u64 = 200;

/// Runs to its end, or until Ctrl-C, and prints the results. An error is one line.
pub(crate) fn run(options: BenchBackend) -> Result<()> {
    if let Some(prefix) = &options.node {
        return node::run(&options.backend, prefix);
    }
    let stop = stop_button()?;
    let mut server = Server::connect(&options.backend)?;
    let report =
        Report { server: server.version()?, seconds: options.seconds.as_secs_f64(), ..Report::default() };
    let prefix = format!("ripplecast-bench-{:08x}", Random::fresh_seed() as u32);
    let mut bench = Bench { options, prefix, stop, server, report, runs: 0 };
    let outcome = bench.measure();
    // Always delete the run's keys. An error of the run takes precedence.
    let cleared = bench.server.clear(&bench.prefix);
    outcome.and(cleared)?;
    print(&bench.report, bench.options.json, table::table)?;
    bench.report.complaint().map_or(Ok(()), Err)
}

/// The state of a run.
struct Bench {
    options: BenchBackend,
    /// The prefix of all keys and channels of the run.
    prefix: String,
    stop: Arc<AtomicBool>,
    /// The connection for queries to Redis itself.
    server: Server,
    /// The results so far.
    report: Report,
    /// The number of message series so far. Each series has its own number.
    runs: u32,
}

impl Bench {
    /// Runs one part after the other.
    fn measure(&mut self) -> Result<()> {
        for part in [Part::Operations, Part::Latency, Part::Throughput, Part::Nodes] {
            if !self.options.has(part) || self.is_over() {
                continue;
            }
            match part {
                Part::Operations => operations::run(self)?,
                Part::Latency => latency::run(self)?,
                Part::Throughput => throughput::run(self)?,
                Part::Nodes => spread::run(self)?,
            }
        }
        self.report.interrupted = self.is_over();
        Ok(())
    }

    /// Returns whether Ctrl-C was pressed.
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Shows progress on a terminal.
    fn say(&self, what: &str) {
        if !self.options.json && std::io::stderr().is_terminal() {
            // Progress is optional, so errors are ignored.
            let _ = writeln!(std::io::stderr(), "{what}");
        }
    }

    /// Returns the backend URL for the hubs of this run.
    fn backend(&self) -> String {
        format!("{}?prefix={}", self.options.backend.as_str(), self.prefix)
    }

    /// Starts a node.
    fn node(&self) -> Result<Peer> {
        Peer::start(&self.options.backend, &self.prefix)
    }

    /// Returns the number of the next series of messages.
    fn next_run(&mut self) -> u32 {
        self.runs += 1;
        self.runs
    }

    /// Opens a member of the room on a node, and waits until pushes on the other node reach it.
    fn member(&mut self, from: &mut Peer, on: &Peer) -> Result<Member> {
        let member = Member::connect(on.addr)?;
        let run = self.next_run();
        member.begin(run);
        for number in 0..TRIES as u64 {
            from.load(&Order::Push(Load { run, first: number, ..Load::once() }))?;
            member.wait_a_moment()?;
            if member.received() > 0 {
                let run = self.next_run();
                member.begin(run);
                from.load(&Order::Push(Load { run, count: WARM_UP, ..Load::once() }))?;
                member.wait(WARM_UP)?;
                return Ok(member);
            }
        }
        Err("pushes on one node do not reach a member on the other; set RIPPLECAST_LOG=ripplecast=debug for details"
            .to_owned())
    }
}

/// Summarizes a series of messages as its reader saw it.
fn judged(seen: &Seen, sent: u64) -> report::Series {
    report::Series {
        messages: sent,
        received: seen.received,
        lost: seen.lost(sent),
        order_errors: seen.order_errors,
        clock_errors: seen.clock_errors,
        latency_us: seen.latency(),
    }
}
