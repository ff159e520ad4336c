//! `ripplecast bench backend`: what Redis behind a hub costs, compared with Redis alone in the same run.
//!
//! `options` defines the settings, and `bench` is the state of a run. `operations`, `latency`, `throughput` and `spread` are the four parts, and `raw`
//! runs `redis-benchmark` for comparison with the first. `node` is another process of this program, with a hub that
//! executes the commands defined in `protocol`; `peer` is the handle to it. `mark` identifies messages, and `member` reads
//! them from a WebSocket. `server` queries Redis itself, `report` holds the results, and `table` prints them.

mod bench;
mod latency;
mod mark;
mod member;
mod node;
mod operations;
mod options;
mod peer;
mod protocol;
mod raw;
mod report;
mod server;
mod spread;
mod table;
mod throughput;

use super::load::{print, random::Random, stop_button};
use crate::result::Result;

pub use options::BenchBackend;

use bench::Bench;
use options::Part;
use report::Report;
use server::Server;

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
    let outcome = measure(&mut bench);
    // Always delete the run's keys. An error of the run takes precedence.
    let cleared = bench.server.clear(&bench.prefix);
    outcome.and(cleared)?;
    print(&bench.report, bench.options.json, table::table)?;
    bench.report.complaint().map_or(Ok(()), Err)
}

/// Runs one part after the other.
fn measure(bench: &mut Bench) -> Result<()> {
    for part in [Part::Operations, Part::Latency, Part::Throughput, Part::Nodes] {
        if !bench.options.has(part) || bench.is_over() {
            continue;
        }
        match part {
            Part::Operations => operations::run(bench)?,
            Part::Latency => latency::run(bench)?,
            Part::Throughput => throughput::run(bench)?,
            Part::Nodes => spread::run(bench)?,
        }
    }
    bench.report.interrupted = bench.is_over();
    Ok(())
}
