//! `ripplecast bench hostile`: attacks a server on this machine, and measures how long well-behaved clients wait during
//! the attack.
//!
//! `clients` are the well-behaved clients, measured alone and during the attack. `attack` contains the hostile
//! connections, one function for each kind, and `peer` the connection that both use. `server` is the process under
//! attack unless an address is given, and `report` prints the results.

mod attack;
mod clients;
mod peer;
mod report;
mod server;

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;

use super::load::{descriptors, print, stop_button};
use crate::result::Result;
use attack::{Attack, Attackers};
use report::Report;
use server::Server;

/// The time limit for each hostile connection's first attempt to connect.
const START: Duration = Duration::from_secs(60);
/// The fraction of the measured time that is spent warming up.
const WARM_UP: f64 = 0.1;

/// The settings of `ripplecast bench hostile`.
#[derive(Args, Clone, Debug)]
pub struct BenchHostile {
    /// Server to attack, on a loopback address, such as 127.0.0.1:8080 [default: starts one]
    #[arg(value_name = "ADDRESS", value_parser = loopback)]
    target: Option<SocketAddr>,
    /// Hostile connections, distributed evenly over the kinds of attack
    #[arg(long, value_name = "N", default_value = "200", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Kinds of attack [default: all]
    #[arg(long, value_enum, value_name = "KIND", value_delimiter = ',')]
    only: Vec<Attack>,
    /// Well-behaved clients of each kind
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// Seconds of each measurement: before the attack, during it and after it
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    duration: Duration,
    /// Fail if a p99 during the attack is at least this many times the p99 without it
    #[arg(long, value_name = "RATIO", default_value = "10", value_parser = ratio)]
    max_ratio: f64,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Runs to its end, or until Ctrl-C, and prints the results. An error is one line.
pub(crate) fn run(options: &BenchHostile) -> Result<()> {
    // For clients and attackers. A server started here inherits the limit.
    descriptors::allow((options.connections + 3 * options.clients) as usize)?;
    let stop = stop_button()?;
    let server = options.target.is_none().then(Server::start).transpose()?;
    let addr = server.as_ref().map(|server| server.addr).or(options.target);
    let addr = addr.ok_or("no server to attack")?;
    let kinds = if options.only.is_empty() { Attack::all() } else { options.only.clone() };

    let mut alone = measure_clients(addr, options, &stop)?;
    report::can_compare(&alone)?;
    let attackers = Attackers::start(addr, options.connections, &kinds)?;
    let begin = Instant::now();
    while !attackers.have_begun() && !stop.load(Ordering::Relaxed) {
        if begin.elapsed() > START {
            return Err(format!("the hostile connections did not all start within {} s", START.as_secs()));
        }
        thread::sleep(Duration::from_millis(10));
    }
    let attacked = measure_clients(addr, options, &stop)?;
    let low_priority = attackers.are_yielding();
    let attacks = attackers.stop();
    let interrupted = stop.load(Ordering::Relaxed);
    if !interrupted {
        // Measured again after the attack, because the load of the machine varies, and a p99 with it.
        for (wait, after) in alone.iter_mut().zip(measure_clients(addr, options, &stop)?) {
            wait.add(after);
        }
    }
    let report = Report {
        target: addr.to_string(),
        connections: options.connections,
        clients: options.clients,
        seconds: options.duration.as_secs_f64(),
        interrupted,
        low_priority,
        waits: report::compare(&alone, &attacked),
        attacks,
    };
    print(&report, options.json, Report::table)?;
    report.verdict(options.max_ratio)
}

/// Measures the well-behaved clients once.
fn measure_clients(
    addr: SocketAddr,
    options: &BenchHostile,
    stop: &Arc<AtomicBool>,
) -> Result<clients::Waits> {
    clients::measure(addr, options.clients, options.duration.mul_f64(WARM_UP), stop)?;
    clients::measure(addr, options.clients, options.duration, stop)
}

/// Parses the address of a server on this machine. An error explains why other addresses are rejected.
fn loopback(written: &str) -> Result<SocketAddr> {
    let bare = written.strip_prefix("http://").unwrap_or(written).trim_end_matches('/');
    let mut found = bare.to_socket_addrs().map_err(|error| format!("{error}; use 127.0.0.1:PORT"))?;
    let addr = found.next().ok_or("no address; use 127.0.0.1:PORT")?;
    if is_loopback(addr.ip()) {
        return Ok(addr);
    }
    let ip = addr.ip();
    Err(format!("{ip} is not a loopback address; this is an attack: run it on your own server's machine"))
}

/// Returns whether an address is reachable only from this machine.
fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Parses seconds, which may be fractional.
fn seconds(written: &str) -> Result<Duration> {
    let number = written.parse().ok().filter(|seconds: &f64| (0.1..=3600.0).contains(seconds));
    number
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "expected a number of seconds from 0.1 to 3600".to_owned())
}

/// Parses a number above 1.
fn ratio(written: &str) -> Result<f64> {
    let number = written.parse().ok().filter(|ratio: &f64| *ratio > 1.0 && ratio.is_finite());
    number.ok_or_else(|| "expected a number above 1, such as 10".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_can_be_attacked() {
        for here in
            ["127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "http://127.0.0.1:80/"]
        {
            assert!(loopback(here).is_ok(), "{here}");
        }
        for elsewhere in
            ["192.0.2.1:80", "[2001:db8::1]:80", "0.0.0.0:80", "[::]:80", "[::ffff:192.0.2.1]:80"]
        {
            let line = loopback(elsewhere).unwrap_err();
            assert!(line.contains("loopback"), "{elsewhere}: {line}");
        }
        for wrong in ["", "127.0.0.1", "127.0.0.1:x"] {
            assert!(loopback(wrong).unwrap_err().contains("127.0.0.1:PORT"), "{wrong}");
        }
    }
}
