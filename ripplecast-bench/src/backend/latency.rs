//! Latency from a publish or a push on one node to its receiver on another, at a fixed
//! rate.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    bench::{Bench, WARM_UP, judged},
    peer::Peer,
    protocol::{Load, Request},
    report::{Latency, Series},
};
use crate::result::Result;

/// Bytes per message.
const SIZE: usize = 64;
/// Silence after which missing messages count as lost.
const SILENCE: Duration = Duration::from_secs(5);

/// Measures both paths.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let (mut from, mut to) = (bench.node()?, bench.node()?);
    bench.say("from a publish to a subscription on the other node");
    let bus = bus(bench, &mut from, &mut to)?;
    add(bench, "publish to subscription", bus);
    if bench.is_over() {
        return Ok(());
    }
    bench.say("from a room's push to a WebSocket on the other node");
    let member = bench.member(&mut from, &to)?;
    let load = load(bench);
    member.begin(load.run);
    from.load(&Request::Push(load))?;
    member.wait(load.count)?;
    let series = judged(&member.finish(), load.count);
    add(bench, "push to WebSocket", series);
    Ok(())
}

/// Adds a result to the report.
fn add(bench: &mut Bench, name: &'static str, series: Series) {
    let rate = bench.options.rate;
    bench.report.latency.push(Latency { name, rate, size: SIZE, series });
}

/// Returns the messages of a measurement.
fn load(bench: &mut Bench) -> Load {
    let rate = bench.options.rate;
    let count = (rate * bench.options.seconds.as_secs_f64()).ceil() as u64;
    Load { run: bench.next_run(), first: 0, count, size: SIZE, rate: Some(rate) }
}

/// Measures the path over the bus.
fn bus(bench: &mut Bench, from: &mut Peer, to: &mut Peer) -> Result<Series> {
    let run = bench.next_run();
    to.listen(run)?;
    from.load(&Request::Publish(Load { run, count: WARM_UP, ..Load::once() }))?;
    let load = load(bench);
    to.listen(load.run)?;
    from.load(&Request::Publish(load))?;
    let mut report = to.report()?;
    let mut at = Instant::now();
    while report.received < load.count && at.elapsed() < SILENCE {
        thread::sleep(Duration::from_millis(10));
        let next = to.report()?;
        if next.received != report.received {
            at = Instant::now();
        }
        report = next;
    }
    Ok(Series {
        messages: load.count,
        received: report.received,
        lost: report.gaps + load.count.saturating_sub(report.next),
        order_errors: report.order_errors,
        clock_errors: report.clock_errors,
        latency_us: report.latency,
    })
}
