//! `ripplecast bench backend`: what Redis behind a hub costs, beside what Redis alone does in the same run.
//!
//! `options` says what to do; `operations`, `latency`, `throughput` and `spread` are the four parts, and `raw` runs
//! `redis-benchmark` beside the first. `node` is another process of this program, with a hub that does what `order` says; `peer` is
//! its handle. `mark` tells messages apart and `member` reads them from a WebSocket. `server` asks Redis itself, `report` is what
//! comes out, and `table` prints it.

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

/// What ends a run: a sentence for a person.
type Result<T, E = String> = std::result::Result<T, E>;

/// Pushes that a new member is tried with before it counts as unreachable, 20 ms apart.
const TRIES: usize = 500;
/// Messages that go before those that are measured: connections, caches and the allocator are warm then.
const WARM_UP: u64 = 200;

/// Runs to its end, or until Ctrl-C, and prints what was found. The error is one line.
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
    // Its own keys, also after an error, which is then what there is to say.
    let cleared = bench.server.clear(&bench.prefix);
    outcome.and(cleared)?;
    print(&bench.report, bench.options.json, table::table)?;
    bench.report.complaint().map_or(Ok(()), Err)
}

/// A run.
struct Bench {
    /// What to do.
    options: BenchBackend,
    /// What all keys and channels of the run begin with.
    prefix: String,
    /// Set by Ctrl-C.
    stop: Arc<AtomicBool>,
    /// Redis itself.
    server: Server,
    /// What was found so far.
    report: Report,
    /// Series of messages so far: each has a number of its own.
    runs: u32,
}

impl Bench {
    /// One part after the other.
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

    /// Whether Ctrl-C was pressed.
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Says on a terminal what is being done.
    fn say(&self, what: &str) {
        if !self.options.json && std::io::stderr().is_terminal() {
            // Nobody else is to be told if that fails.
            let _ = writeln!(std::io::stderr(), "{what}");
        }
    }

    /// The backend, as the hubs of this run have it.
    fn backend(&self) -> String {
        format!("{}?prefix={}", self.options.backend.as_str(), self.prefix)
    }

    /// Starts a node.
    fn node(&self) -> Result<Peer> {
        Peer::start(&self.options.backend, &self.prefix)
    }

    /// A number for a series of messages.
    fn next_run(&mut self) -> u32 {
        self.runs += 1;
        self.runs
    }

    /// A member of the room on a node, which pushes on another one reach.
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
        Err("no push of one node reaches a member on the other; RIPPLECAST_LOG=ripplecast=debug may say why"
            .to_owned())
    }
}

/// What a series of messages came to, seen by its reader.
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
