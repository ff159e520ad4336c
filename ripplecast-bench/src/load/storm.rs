//! All connections are cut at once, and reconnect at once.

use hdrhistogram::Histogram;

use super::{
    broadcasts::{Audience, Broadcasts, LoadEvent},
    fanout::new_broadcasts,
    measure::{Times, histogram},
    pool::OnFailure,
    report::Storm,
    session::{PATIENCE, Session},
};
use crate::result::Result;

/// Connects, cuts, and waits until all have reconnected.
pub(super) fn run(session: &mut Session) -> Result<()> {
    let mut broadcasts = new_broadcasts(session, Audience::Any);
    let outcome = measure(session, &mut broadcasts);
    session.report.checks = broadcasts.checks;
    outcome
}

fn measure(session: &mut Session, broadcasts: &mut Broadcasts) -> Result<()> {
    session.open_all(broadcasts)?;
    session.first_messages(broadcasts)?;
    if session.stopped() {
        return Ok(());
    }
    settle(session, broadcasts)?;

    let count = session.options.connections;
    session.progress.part("storm");
    broadcasts.events = Some(Vec::new());
    session.pool.reopen_with(None, OnFailure::Retry);
    let retries = session.pool.retries();
    let (spent, begin) = (session.spend(), session.pool.now());
    for index in 0..count {
        broadcasts.leave(index);
        session.pool.cut(index);
    }
    (0..count).for_each(|index| session.pool.reopen(index));
    let waited = session.wait_open(broadcasts);
    let seconds = (session.pool.now() - begin) as f64 / 1e9;
    let cpu = session.spent(&spent).server();
    let reconnected = session.pool.open_count();
    broadcasts.checks.missing = (count - reconnected) as u64;
    let all_receive = if waited.is_ok() && !session.stopped() {
        let waiting = session.probe(broadcasts)?;
        let seconds = (session.pool.now() - begin) as f64 / 1e9;
        broadcasts.checks.missing += waiting as u64;
        settle(session, broadcasts)?;
        (waiting == 0).then_some(seconds)
    } else {
        None
    };
    session.report.storm = Some(Storm {
        reconnected,
        seconds,
        per_second: reconnected as f64 / seconds,
        back_us: Times::of(&times_back(broadcasts, begin)),
        all_receive_seconds: all_receive,
        retries: session.pool.retries() - retries,
        server_cpu_us_each: cpu.map(|cpu| cpu * 1e6 / reconnected.max(1) as f64),
    });
    if session.stopped() {
        broadcasts.checks.missing = 0;
    }
    Ok(())
}

/// Returns how long each connection took to reconnect.
fn times_back(broadcasts: &mut Broadcasts, begin: u64) -> Histogram<u64> {
    let mut times = histogram();
    for event in broadcasts.events.take().unwrap_or_default() {
        if let LoadEvent::Opened { now, .. } = event {
            times.saturating_record(now - begin);
        }
    }
    times
}

/// Waits until everything is delivered, and counts what never arrived.
pub(super) fn settle(session: &mut Session, broadcasts: &mut Broadcasts) -> Result<()> {
    let until = session.pool.now() + PATIENCE.as_nanos() as u64;
    while !session.stopped() && !broadcasts.is_settled() && session.pool.now() < until {
        session.turn(std::time::Duration::from_millis(10), broadcasts)?;
    }
    broadcasts.settle(session.stopped());
    Ok(())
}
