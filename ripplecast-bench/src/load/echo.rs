//! Each connection receives its own messages back.

use std::collections::VecDeque;

use hdrhistogram::Histogram;

use super::{
    frames::Messages,
    measure::{Times, histogram},
    pace::{Pace, Schedule},
    pool::{Pool, Sink},
    report::Checks,
    session::{PATIENCE, Session},
};
use crate::result::Result;

/// The most messages in flight, however many are due: a server that stops reading must not fill this process's
/// memory.
const MOST: usize = 1 << 20;

/// Messages waiting for their echoes.
struct Echoes {
    messages: Messages,
    /// For each connection: the numbers in flight, and the start of their latency.
    under_way: Vec<VecDeque<(u32, u64)>>,
    /// The messages in flight on all connections.
    total: usize,
    /// Connections that may send, once for each message they may send.
    ready: VecDeque<usize>,
    /// Connections with messages since the last flush.
    unsent: Vec<usize>,
    next: u32,
    answers: u64,
    latency: Histogram<u64>,
    /// Time of the last echo.
    end: u64,
    checks: Checks,
}

/// Connects, warms up and measures.
pub(super) fn run(session: &mut Session) -> Result<()> {
    let mut echoes = Echoes::new(session);
    let outcome = measure(session, &mut echoes);
    session.report.checks = echoes.checks;
    outcome
}

fn measure(session: &mut Session, echoes: &mut Echoes) -> Result<()> {
    let count = session.options.connections;
    session.open_all(echoes)?;
    echoes.ready = (0..count).collect();
    let once = Schedule::new(Pace::Window(count), session.pool.now(), Some(count as u32), None);
    send(session, echoes, once)?;
    if echoes.total > 0 && !session.stopped() {
        let url = session.options.url.as_str();
        return Err(format!(
            "{} of {count} messages were not echoed: {url} must send each text frame back to its sender",
            echoes.total
        ));
    }
    session.after_message(echoes)?;
    let window = session.options.window;
    let pace = match session.options.pace() {
        Some(rate) => Pace::Rate(rate),
        None => Pace::Window(window.saturating_mul(count)),
    };
    echoes.ready = (0..window).flat_map(|_| 0..count).collect();
    if matches!(pace, Pace::Window(_)) {
        session.progress.part("warming up");
        let warm_up = session.options.messages.map_or(10_000, |messages| messages / 10).min(100_000);
        let time = Some(std::time::Duration::from_secs(2));
        let schedule = Schedule::new(pace, session.pool.now(), Some(warm_up), time);
        send(session, echoes, schedule)?;
    }
    session.progress.part("measuring");
    (echoes.answers, echoes.latency) = (0, histogram());
    let (spent, begin) = (session.spend(), session.pool.now());
    let schedule = Schedule::new(pace, begin, session.options.messages, session.options.time());
    let schedule = send(session, echoes, schedule)?;
    let spent = session.spent(&spent);
    if !session.stopped() {
        echoes.checks.lost = echoes.under_way.iter().map(|queue| queue.len() as u64).sum();
    }
    let mut traffic = session.traffic(&spent, begin, echoes.end, &schedule, echoes.answers);
    traffic.latency_us = Times::of(&echoes.latency);
    session.report.traffic = Some(traffic);
    Ok(())
}

/// Sends the scheduled messages, and waits until all are echoed, or nothing more arrives.
fn send(session: &mut Session, echoes: &mut Echoes, mut schedule: Schedule) -> Result<Schedule> {
    let mut progress = (session.pool.now(), 0);
    let rated = session.options.pace().is_some();
    while !session.stopped() {
        let now = session.pool.now();
        echoes.publish(&mut session.pool, &mut schedule, now, rated);
        let over = schedule.is_over(now) || session.pool.open_count() == 0;
        if over && echoes.total == 0 {
            break;
        }
        let progressed = echoes.answers + u64::from(schedule.sent);
        if progressed != progress.1 {
            progress = (now, progressed);
        } else if now - progress.0 > PATIENCE.as_nanos() as u64 && (over || echoes.total > 0) {
            break;
        }
        session.progress.show(now, schedule.done(now));
        session.busy_turn(schedule.rest(now), echoes)?;
    }
    Ok(schedule)
}

impl Echoes {
    fn new(session: &mut Session) -> Self {
        Self {
            messages: Messages::new(session.options.size, session.pool.random()),
            under_way: vec![VecDeque::new(); session.options.connections],
            total: 0,
            ready: VecDeque::new(),
            unsent: Vec::new(),
            next: 0,
            answers: 0,
            latency: histogram(),
            end: 0,
            checks: Checks::default(),
        }
    }

    /// Sends the messages that are due, on the connections that may send.
    fn publish(&mut self, pool: &mut Pool, schedule: &mut Schedule, now: u64, rated: bool) {
        while let Some(since) = schedule.due(now, self.total) {
            if self.total >= MOST {
                break;
            }
            let Some(index) = self.ready.pop_front() else { break };
            if rated {
                self.ready.push_back(index);
            }
            if pool.open_count() == 0 {
                break;
            }
            if !pool.is_open(index) {
                continue;
            }
            pool.write(index, &mut self.messages, self.next);
            self.under_way[index].push_back((self.next, since));
            self.unsent.push(index);
            self.next = self.next.wrapping_add(1);
            self.total += 1;
            schedule.sent += 1;
        }
        while let Some(index) = self.unsent.pop() {
            pool.flush(index, self);
        }
    }
}

impl Sink for Echoes {
    fn message(&mut self, index: usize, payload: &[u8], now: u64) {
        let Some(number) = self.messages.number(payload) else { return };
        let queue = &mut self.under_way[index];
        let place = queue.iter().position(|(sent, _)| *sent == number);
        if place != Some(0) {
            self.checks.order_errors += 1;
        }
        let Some((_, since)) = place.and_then(|place| queue.remove(place)) else { return };
        self.total -= 1;
        self.answers += 1;
        self.end = now;
        self.latency.saturating_record(now - since.min(now));
        self.ready.push_back(index);
    }

    fn closed(&mut self, index: usize, why: &str) {
        self.checks.dead += 1;
        self.checks.first_death.get_or_insert_with(|| why.to_owned());
        // Echoes to a dead connection are no longer expected.
        self.total -= std::mem::take(&mut self.under_way[index]).len();
    }
}
