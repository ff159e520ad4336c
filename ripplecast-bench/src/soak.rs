//! `ripplecast bench soak`: starts servers, puts them under every kind of stress, and checks that nothing is lost or
//! leaked.
//!
//! `plan` decides which lives the server has, and `cycle` runs one. `crowd` and `client` are the connections, `message`
//! tracks what must arrive, `server` is the process with `endpoints` inside, `judge` finds faults, and `report` prints.

mod client;
mod crowd;
mod cycle;
pub(crate) mod endpoints;
mod judge;
mod message;
mod plan;
mod report;
mod server;

use std::time::Duration;

use clap::Args;

use super::load::{descriptors, random::Random, stop_button};
use crate::result::Result;
use crowd::Crowd;
use cycle::Run;
use plan::Plan;
use report::Report;

/// The settings of `ripplecast bench soak`.
#[derive(Args, Debug)]
pub struct BenchSoak {
    /// Approximate duration in minutes
    #[arg(long, value_name = "N", default_value = "10", value_parser = minutes)]
    minutes: f64,
    /// Connections at the peak
    #[arg(long, value_name = "N", default_value = "1500", value_parser = clap::value_parser!(u32).range(50..=20_000))]
    connections: u32,
    /// Seed for which connections leave when and how; each run prints its seed, so that it can be repeated [default: a
    /// new one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Runs to its end, or until Ctrl-C. An error is one line.
pub(crate) fn run(options: &BenchSoak) -> Result<()> {
    if !cfg!(target_os = "linux") {
        return Err("the soak test reads /proc and requires Linux".to_owned());
    }
    let connections = options.connections as usize;
    // Leaving connections and their replacements overlap.
    descriptors::allow(connections * 2)?;
    let stop = stop_button()?;
    let seed = options.seed.unwrap_or_else(Random::fresh_seed);
    let mut random = Random::new(seed);
    let plan = Plan::new(Duration::from_secs_f64(options.minutes * 60.0), &mut random);
    let report = Report::new(seed, options.minutes, connections, plan.lives.len());
    let mut run = Run::new(Crowd::new(random)?, connections, plan.cycle, &stop, report);
    for life in plan.lives {
        if !run.life(life) {
            break;
        }
    }
    run.report.verdict(&run.crowd.faults)
}

/// Parses minutes.
fn minutes(written: &str) -> Result<f64, String> {
    let wrong = || "expected a number of minutes from 0.1 to 10000".to_owned();
    let minutes: f64 = written.parse().map_err(|_| wrong())?;
    if (0.1..=10_000.0).contains(&minutes) { Ok(minutes) } else { Err(wrong()) }
}
