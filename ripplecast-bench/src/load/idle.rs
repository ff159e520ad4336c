//! Connections that are held open, and their cost.

use super::{
    pool::Sink,
    report::{Checks, Idle},
    session::Session,
};
use crate::result::Result;

/// Receives only failures.
#[derive(Default)]
struct Deaths(Checks);

impl Sink for Deaths {
    fn message(&mut self, _index: usize, _payload: &[u8], _now: u64) {}

    fn closed(&mut self, _index: usize, why: &str) {
        self.0.dead += 1;
        self.0.first_death.get_or_insert_with(|| why.to_owned());
    }
}

/// Connects, and waits.
pub(super) fn run(session: &mut Session) -> Result<()> {
    let mut deaths = Deaths::default();
    session.open_all(&mut deaths)?;
    session.progress.part("idle");
    let time = session.options.time().unwrap_or_default();
    let (spent, begin) = (session.spend(), session.pool.now());
    let until = begin + time.as_nanos() as u64;
    while !session.stopped() {
        let now = session.pool.now();
        if now >= until {
            break;
        }
        session.progress.show(now, (now - begin) as f64 / (until - begin) as f64);
        session.turn(std::time::Duration::from_nanos(until - now), &mut deaths)?;
    }
    let seconds = (session.pool.now() - begin) as f64 / 1e9;
    let cpu = session.spent(&spent).server();
    session.report.idle = Some(Idle {
        seconds,
        server_cpu_seconds: cpu,
        server_cpu_percent: cpu.map(|cpu| cpu / seconds.max(1e-9) * 100.0),
    });
    session.report.checks = deaths.0;
    Ok(())
}
