//! One connection's messages are broadcast to all, optionally while some read slowly or
//! never.

use std::time::Duration;

use super::{
    broadcasts::{Audience, Broadcasts},
    frames::Messages,
    measure::Times,
    options::Mode,
    pace::{Pace, Schedule},
    report::Slow,
    session::{PATIENCE, Session},
};
use crate::result::Result;

/// Nanoseconds between two reads of the slow readers.
const TICK: u64 = 50_000_000;

/// Connects, warms up and measures.
pub(super) fn run(session: &mut Session) -> Result<()> {
    let mut broadcasts = new_broadcasts(session, Audience::All);
    let outcome = measure(session, &mut broadcasts);
    session.report.checks = broadcasts.checks;
    outcome
}

/// Creates the broadcasts for the options.
pub(super) fn new_broadcasts(session: &mut Session, audience: Audience) -> Broadcasts {
    let messages = Messages::new(session.options.size, session.pool.random());
    let options = &session.options;
    Broadcasts::new(messages, options.connections, options.readers(), options.publishers, audience)
}

fn measure(session: &mut Session, broadcasts: &mut Broadcasts) -> Result<()> {
    session.open_all(broadcasts)?;
    session.first_messages(broadcasts)?;
    let pace = session.options.pace().map_or(Pace::Window(session.options.window), Pace::Rate);
    if let Pace::Window(window) = pace {
        session.progress.part("warming up");
        let warm_up = Some(session.warm_up(window.min(200) as u32));
        let mut schedule = Schedule::new(pace, session.pool.now(), warm_up, Some(Duration::from_secs(2)));
        broadcasts.begin();
        send(session, broadcasts, &mut schedule)?;
    }
    session.progress.part("measuring");
    broadcasts.begin();
    let (spent, begin) = (session.spend(), session.pool.now());
    let mut schedule = Schedule::new(pace, begin, session.options.messages, session.options.time());
    send(session, broadcasts, &mut schedule)?;
    let spent = session.spent(&spent);
    broadcasts.settle(session.stopped());
    let figures = &broadcasts.figures;
    let mut traffic = session.traffic(&spent, begin, figures.end, &schedule, figures.deliveries);
    traffic.latency_us = Times::of(&figures.latency);
    traffic.last_us = Times::of(&figures.last);
    session.report.traffic = Some(traffic);
    if session.options.mode == Mode::Slow {
        session.report.slow = Some(Slow {
            connections: session.options.connections - session.options.readers(),
            bytes_per_second: session.options.slow_bytes_per_second,
            read: broadcasts.slow.read,
            left_out: broadcasts.slow.left_out,
            closed_by_server: broadcasts.slow.closed,
        });
    }
    Ok(())
}

/// Sends the scheduled messages, and waits until all are delivered, or nothing more
/// arrives.
fn send(session: &mut Session, broadcasts: &mut Broadcasts, schedule: &mut Schedule) -> Result<()> {
    let mut progress = (session.pool.now(), 0);
    let mut slow = SlowReads::new(session);
    while !session.stopped() {
        let now = session.pool.now();
        broadcasts.publish(&mut session.pool, schedule, now);
        let over = schedule.is_over(now) || !broadcasts.can_publish(&session.pool);
        if over && broadcasts.under_way() == 0 {
            break;
        }
        let progressed = broadcasts.figures.deliveries + u64::from(schedule.sent);
        if progressed > progress.1 {
            progress = (now, progressed);
        } else if now - progress.0 > PATIENCE.as_nanos() as u64 && (over || broadcasts.under_way() > 0) {
            break;
        }
        session.progress.show(now, schedule.done(now));
        let wait = schedule.rest(now).min(slow.read(session, broadcasts, now)?);
        session.busy_turn(wait, broadcasts)?;
    }
    Ok(())
}

/// Reads for the slow readers.
struct SlowReads {
    /// The most bytes for each reader at a time.
    most: usize,
    due: u64,
}

impl SlowReads {
    fn new(session: &Session) -> Self {
        let each = session.options.slow_bytes_per_second.saturating_mul(TICK) / 1_000_000_000;
        let reads = session.options.mode == Mode::Slow && session.options.slow_bytes_per_second > 0;
        Self { most: if reads { each.max(1) as usize } else { 0 }, due: 0 }
    }

    /// Reads if it is due. Returns the time until the next read.
    fn read(&mut self, session: &mut Session, broadcasts: &mut Broadcasts, now: u64) -> Result<Duration> {
        if self.most == 0 {
            return Ok(Duration::MAX);
        }
        if now >= self.due {
            self.due = now + TICK;
            for index in session.options.readers()..session.options.connections {
                session.pool.read_slowly(index, self.most, broadcasts)?;
            }
        }
        Ok(Duration::from_nanos(self.due.saturating_sub(now)))
    }
}
