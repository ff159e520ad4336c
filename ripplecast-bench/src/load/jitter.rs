//! Fan-out while random connections are cut and reconnect. The first connection sends, and is never
//! cut.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::Duration,
};

use hdrhistogram::Histogram;

use super::{
    broadcasts::{Audience, Broadcasts, LoadEvent},
    fanout::new_broadcasts,
    measure::{Times, histogram},
    pace::{Pace, Schedule},
    pool::OnFailure,
    report::Jitter,
    session::{CONNECT_PATIENCE, Session},
    storm::settle,
};
use crate::result::Result;

/// The most messages that one absence can miss, for the histogram.
const MISSED: u64 = 1 << 40;

/// Scheduled cuts and reconnections, and what was measured of past ones.
struct Cuts {
    /// The next actions and their times.
    agenda: BinaryHeap<Reverse<(u64, usize, Act)>>,
    /// Connections that have not recovered: when they were cut, and when they started to reconnect.
    away: HashMap<usize, (u64, u64)>,
    cuts: u64,
    recovered: u64,
    away_times: Histogram<u64>,
    recovery: Histogram<u64>,
    missed: Histogram<u64>,
    missed_total: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Cut,
    Return,
}

/// Connects, sends and cuts, and waits until all connections have recovered.
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
    session.progress.part("jitter");
    session.pool.reopen_with(Some(1024), OnFailure::Retry);
    session.pool.handshakes.reset();
    broadcasts.events = Some(Vec::new());
    broadcasts.begin();
    let retries = session.pool.retries();
    let (spent, begin) = (session.spend(), session.pool.now());
    let rate = session.options.pace().unwrap_or(1.0);
    let mut schedule =
        Schedule::new(Pace::Rate(rate), begin, session.options.messages, session.options.time());
    let mut cuts = Cuts::new();
    (1..session.options.connections).for_each(|index| cuts.plan_cut(session, index, begin));
    send(session, broadcasts, &mut schedule, &mut cuts)?;
    let figures = &broadcasts.figures;
    let spent = session.spent(&spent);
    let mut traffic = session.traffic(&spent, begin, figures.end, &schedule, figures.deliveries);
    traffic.latency_us = Times::of(&figures.latency);
    session.report.traffic = Some(traffic);
    let outcome = all_back(session, broadcasts, &mut cuts, rate);
    session.report.jitter = Some(cuts.report(session, retries));
    outcome
}

/// Sends and cuts while the schedule lasts.
fn send(
    session: &mut Session,
    broadcasts: &mut Broadcasts,
    schedule: &mut Schedule,
    cuts: &mut Cuts,
) -> Result<()> {
    while !session.stopped() {
        let now = session.pool.now();
        if schedule.is_over(now) || !session.pool.is_open(0) {
            break;
        }
        broadcasts.publish(&mut session.pool, schedule, now);
        cuts.act(session, broadcasts, now);
        session.progress.show(now, schedule.done(now));
        session.busy_turn(schedule.rest(now).min(cuts.rest(now)), broadcasts)?;
        cuts.handle_events(session, broadcasts, true);
    }
    Ok(())
}

/// Stops cutting, and sends until all connections are back and have received a message.
fn all_back(session: &mut Session, broadcasts: &mut Broadcasts, cuts: &mut Cuts, rate: f64) -> Result<()> {
    cuts.agenda.retain(|Reverse((_, _, act))| *act == Act::Return);
    let begin = session.pool.now();
    let patience = (session.options.pause + CONNECT_PATIENCE).as_nanos() as u64;
    let mut schedule = Schedule::new(Pace::Rate(rate), begin, None, None);
    while !session.stopped() && session.pool.is_open(0) {
        let now = session.pool.now();
        if now - begin > patience || (cuts.agenda.is_empty() && broadcasts.waiting() == 0) {
            break;
        }
        broadcasts.publish(&mut session.pool, &mut schedule, now);
        cuts.act(session, broadcasts, now);
        session.turn(schedule.rest(now).min(cuts.rest(now)), broadcasts)?;
        cuts.handle_events(session, broadcasts, false);
    }
    settle(session, broadcasts)?;
    if !session.stopped() {
        broadcasts.checks.missing = broadcasts.waiting() as u64;
    }
    Ok(())
}

impl Cuts {
    fn new() -> Self {
        Self {
            agenda: BinaryHeap::new(),
            away: HashMap::new(),
            cuts: 0,
            recovered: 0,
            away_times: histogram(),
            recovery: histogram(),
            missed: Histogram::new_with_bounds(1, MISSED, 3).expect("the bounds are in order"),
            missed_total: 0,
        }
    }

    fn plan_cut(&mut self, session: &mut Session, index: usize, now: u64) {
        let every = session.options.cut_every;
        let after = session.pool.random().gap(every).as_nanos() as u64;
        self.agenda.push(Reverse((now + after, index, Act::Cut)));
    }

    /// Performs the actions that are due.
    fn act(&mut self, session: &mut Session, broadcasts: &mut Broadcasts, now: u64) {
        while let Some(Reverse((at, index, act))) = self.agenda.peek().copied()
            && at <= now
        {
            self.agenda.pop();
            match act {
                Act::Cut if session.pool.is_open(index) => {
                    self.cuts += 1;
                    broadcasts.leave(index);
                    session.pool.cut(index);
                    let pause = session.options.pause;
                    let back = now + session.pool.random().up_to(pause).as_nanos() as u64;
                    self.away.insert(index, (now, back));
                    self.agenda.push(Reverse((back, index, Act::Return)));
                }
                Act::Cut => {}
                Act::Return => session.pool.reopen(index),
            }
        }
    }

    /// Returns the time until the next action.
    fn rest(&self, now: u64) -> Duration {
        let due = self.agenda.peek().map(|Reverse((at, _, _))| at.saturating_sub(now));
        due.map_or(Duration::MAX, Duration::from_nanos)
    }

    /// Records recoveries, and schedules the next cuts.
    fn handle_events(&mut self, session: &mut Session, broadcasts: &mut Broadcasts, go_on: bool) {
        let mut all = broadcasts.events.take().unwrap_or_default();
        for event in all.drain(..) {
            match event {
                LoadEvent::Opened { index, now } => {
                    if let Some((cut, _)) = self.away.get(&index) {
                        self.away_times.saturating_record(now - cut);
                    }
                    if go_on {
                        self.plan_cut(session, index, now);
                    }
                }
                LoadEvent::Rejoined { index, now, missed } => {
                    if let Some((_, back)) = self.away.remove(&index) {
                        self.recovery.saturating_record(now - back.min(now));
                    }
                    self.recovered += 1;
                    self.missed.saturating_record(u64::from(missed));
                    self.missed_total += u64::from(missed);
                }
            }
        }
        broadcasts.events = Some(all);
    }

    fn report(&self, session: &Session, retries: u64) -> Jitter {
        Jitter {
            cuts: self.cuts,
            recovered: self.recovered,
            retries: session.pool.retries() - retries,
            away_us: Times::of(&self.away_times),
            reconnect_us: Times::of(&session.pool.handshakes),
            recovery_us: Times::of(&self.recovery),
            missed: self.missed_total,
            missed_each_p50: self.missed.value_at_quantile(0.5),
            missed_each_max: self.missed.max(),
        }
    }
}
