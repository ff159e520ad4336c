//! One life of the server, cycle by cycle: connections arrive, come and go, read too slowly, stay silent and leave;
//! then the server is checked.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use super::{
    client::{Breach, Leave, Role},
    crowd::{Crowd, Standing},
    endpoints::Counts,
    judge::{Footprint, growth, left_behind, lump},
    message::{LONGEST, MARK, PUBLISHERS},
    plan::{End, Life},
    report::{LifeLine, Line, Report},
    server::{self, Server},
};
use crate::result::Result;

/// The silence after which the server sends a ping: short, so that idle phases include some, and long enough for the
/// driver to get a turn before the pong timeout.
const PING: Duration = Duration::from_secs(6);
/// The interval between messages outside of bursts: 40 per second.
const TRICKLE: Duration = Duration::from_millis(25);
/// The number of messages in a burst, from all publishers together, and their size.
const BURST: (usize, usize) = (3_000, 512);
/// The number of bursts after which a reader that never reads must have been closed.
const BURSTS: usize = 8;
/// The time limit for all connections to arrive, or to leave: longer than the limits of each one, so that faults name
/// the connection.
const PATIENCE: Duration = Duration::from_secs(30);
/// Silence after which missing messages count as lost.
const SILENCE: Duration = Duration::from_secs(5);
/// The time limit for the server to count its last connections as closed: longer than its own limit for a close frame.
const COUNT_LIMIT: Duration = Duration::from_secs(10);
/// The mean interval between two departures while others arrive, with a thousand connections.
const LEAVE_EVERY: Duration = Duration::from_millis(40);
/// The mean interval between two protocol violations, each together with a half-sent request.
const BREAK_EVERY: Duration = Duration::from_millis(150);

/// The state of a run.
pub(super) struct Run<'a> {
    pub(super) crowd: Crowd,
    server: Option<Server>,
    /// Its port, which stays the same.
    port: u16,
    connections: usize,
    /// The duration of a cycle.
    cycle: Duration,
    stop: &'a AtomicBool,
    pub(super) report: Report,
    next_message: Instant,
    /// The number of the current life, from 1.
    life: usize,
}

/// Why a life ends early.
enum Halt {
    Stopped,
    /// The test cannot continue.
    Broken(String),
}

impl From<String> for Halt {
    fn from(why: String) -> Self {
        Self::Broken(why)
    }
}

impl<'a> Run<'a> {
    pub(super) fn new(
        crowd: Crowd,
        connections: usize,
        cycle: Duration,
        stop: &'a AtomicBool,
        report: Report,
    ) -> Self {
        let next_message = Instant::now();
        Self { crowd, server: None, port: 0, connections, cycle, stop, report, next_message, life: 0 }
    }

    /// Runs one life of the server. Returns whether to continue.
    pub(super) fn life(&mut self, life: Life) -> bool {
        self.life += 1;
        let outcome = self.live(life);
        // After an early end, it may still be running.
        self.server = None;
        match outcome {
            Ok(()) => true,
            Err(Halt::Stopped) => {
                self.report.interrupted = true;
                false
            }
            Err(Halt::Broken(why)) => {
                self.crowd.faults.add("the test could not continue", why);
                false
            }
        }
    }

    fn live(&mut self, life: Life) -> Result<(), Halt> {
        let server = Server::start(self.port, PING)?;
        self.port = server.addr.port();
        let begin = Instant::now();
        let rooms = server.counts()?.rooms;
        self.crowd.begin_life(server.addr);
        self.server = Some(server);
        let mut footprints = Vec::new();
        while footprints.is_empty() || begin.elapsed() + self.cycle <= life.time {
            let footprint = self.one_cycle(footprints.first().copied(), rooms)?;
            footprints.push(footprint);
        }
        let kib: Vec<u64> = footprints.iter().map(|footprint| footprint.kib).collect();
        for (fault, found) in [("memory that grew", growth(&kib)), ("memory left behind", lump(&kib))] {
            if let Some(found) = found {
                self.crowd.faults.add(fault, format!("life {}: {found}", self.life));
            }
        }
        let outcome = self.finale(life.end);
        self.report.life(LifeLine {
            life: self.life,
            time: begin.elapsed(),
            kib,
            end: life.end,
            tally: self.crowd.tally,
        });
        outcome
    }

    /// Runs one cycle: all connections arrive, and all leave.
    fn one_cycle(&mut self, baseline: Option<Footprint>, rooms: u64) -> Result<Footprint, Halt> {
        let (before, faults) = (self.crowd.tally, self.crowd.faults.count());
        self.arrive()?;
        self.come_and_go(self.cycle.mul_f64(0.4))?;
        let slow = self.overrun()?;
        let peak = self.crowd.len();
        let busy = self.server()?.private_kib()?;
        self.turns(self.cycle.mul_f64(0.2), false)?;
        self.settle()?;
        self.all_leave()?;
        let counts = self.closed_counts()?;
        let footprint = self.server()?.footprint(baseline.map(|then| then.descriptors), counts.rooms)?;
        self.judge(counts, Footprint { rooms, ..baseline.unwrap_or(footprint) }, footprint);
        let tally = self.crowd.tally;
        self.report.line(&Line {
            life: self.life,
            peak,
            sent: tally.sent - before.sent,
            received: tally.received - before.received,
            slow,
            breaches: tally.breaches - before.breaches,
            busy,
            footprint,
            faults: self.crowd.faults.count() - faults,
        });
        Ok(footprint)
    }

    /// Opens all connections while few messages are sent.
    fn arrive(&mut self) -> Result<(), Halt> {
        let streams = self.connections / 8;
        let here = |crowd: &Crowd, wanted: Role| crowd.open(|role| role == wanted).len();
        // Connections from before a restart are already reconnecting.
        self.all_come()?;
        self.crowd.add_publishers();
        let readers = self.connections - streams - PUBLISHERS;
        self.crowd.add(Role::Reader, readers.saturating_sub(here(&self.crowd, Role::Reader)));
        self.crowd.add(Role::Stream, streams.saturating_sub(here(&self.crowd, Role::Stream)));
        self.all_come()
    }

    /// Makes some connections leave in various ways while others arrive, and some violate the protocol.
    fn come_and_go(&mut self, time: Duration) -> Result<(), Halt> {
        let until = Instant::now() + time;
        let every = LEAVE_EVERY.mul_f64(1000.0 / self.connections as f64);
        let (mut next_leave, mut next_break) = (Instant::now(), Instant::now());
        while Instant::now() < until {
            let now = Instant::now();
            while next_leave <= now {
                next_leave += self.crowd.random.gap(every);
                let role = if self.pick(4) == 0 { Role::Stream } else { Role::Reader };
                let open = self.crowd.open(|other| other == role);
                if !open.is_empty() {
                    let (who, how) = (open[self.pick(open.len())], self.way());
                    self.crowd.leave(who, how);
                    self.crowd.add(role, 1);
                }
            }
            while next_break <= now {
                next_break += self.crowd.random.gap(BREAK_EVERY);
                let breach = Breach::ALL[self.pick(Breach::ALL.len())];
                self.crowd.add(Role::Breaker(breach), 1);
                self.crowd.add(Role::Rude, 1);
            }
            self.turn(Duration::from_millis(10), true)?;
        }
        self.all_come()
    }

    /// Adds slow readers, and sends bursts until those that read nothing have been closed. Returns the number of slow
    /// consumers.
    fn overrun(&mut self) -> Result<u64, Halt> {
        let count = self.connections / 100 + 1;
        let before = self.server()?.counts()?.slow_consumers;
        for role in [Role::Never, Role::Stalled, Role::Sluggish, Role::Newest] {
            self.crowd.add(role, count);
        }
        self.all_come()?;
        let mut closed = 0;
        for _ in 0..BURSTS {
            self.burst()?;
            closed = self.server()?.counts()?.slow_consumers - before;
            if closed >= 2 * count as u64 {
                break;
            }
        }
        if closed < 2 * count as u64 {
            let example = format!("{closed} of {} that read nothing were closed", 2 * count);
            self.crowd.faults.add("slow readers that were not closed", example);
        }
        self.crowd.wake(Role::Stalled);
        self.crowd.wake(Role::Newest);
        Ok(closed)
    }

    /// Sends many messages at once. Returns when all readers have received them.
    fn burst(&mut self) -> Result<(), Halt> {
        for _ in 0..BURST.0 / PUBLISHERS {
            for publisher in 0..PUBLISHERS {
                self.crowd.publish(publisher, BURST.1);
            }
        }
        self.all_have_all()
    }

    /// Runs turns until everything is delivered, or nothing more arrives.
    fn all_have_all(&mut self) -> Result<(), Halt> {
        let (mut received, mut progress) = (self.crowd.tally.received, Instant::now());
        while self.crowd.owed() > 0 && progress.elapsed() < SILENCE {
            self.turn(Duration::from_millis(20), false)?;
            if self.crowd.tally.received > received {
                (received, progress) = (self.crowd.tally.received, Instant::now());
            }
        }
        Ok(())
    }

    /// Sends a last message from each publisher. After that, everything must have been delivered.
    fn settle(&mut self) -> Result<(), Halt> {
        for publisher in 0..PUBLISHERS {
            self.crowd.publish(publisher, MARK);
        }
        self.all_have_all()?;
        self.crowd.note_lost();
        Ok(())
    }

    /// Makes all connections leave, in various ways.
    fn all_leave(&mut self) -> Result<(), Halt> {
        for who in self.crowd.open(|_| true) {
            let how = self.way();
            self.crowd.leave(who, how);
            // Fast, but not so fast that only the kernel sees it.
            if who % 64 == 0 {
                self.turn(Duration::ZERO, false)?;
            }
        }
        self.wait("to leave", false, Crowd::len)
    }

    /// Returns the server's counts as soon as everything that was opened is closed.
    fn closed_counts(&mut self) -> Result<Counts, Halt> {
        let deadline = Instant::now() + COUNT_LIMIT;
        loop {
            let counts = self.server()?.counts()?;
            if (counts.connections == 0 && counts.opened == counts.closed) || Instant::now() > deadline {
                return Ok(counts);
            }
            self.turns(Duration::from_millis(50), false)?;
        }
    }

    /// Compares the server's counts with the client's, and its footprint with the baseline.
    fn judge(&mut self, counts: Counts, baseline: Footprint, now: Footprint) {
        let tally = self.crowd.tally;
        let must = [
            ("open connections", counts.connections, 0),
            ("connections opened", counts.opened, tally.opened),
            ("connections closed", counts.closed, tally.opened),
            ("messages received", counts.messages, tally.sent),
            ("protocol violations", counts.protocol_errors, tally.breaches),
            ("failed callbacks", counts.failed_callbacks, 0),
        ];
        for (what, counted, right) in must {
            if counted != right {
                let example = format!("life {}: {counted} {what}, expected {right}", self.life);
                self.crowd.faults.add("wrong counts", example);
            }
        }
        if tally.slow > counts.slow_consumers {
            let example = format!("{} closed with 1013, {} counted", tally.slow, counts.slow_consumers);
            self.crowd.faults.add("wrong counts", example);
        }
        for found in left_behind(baseline, now) {
            self.crowd.faults.add("resources left behind", format!("life {}: {found}", self.life));
        }
    }

    /// Ends a life in the middle of everything.
    fn finale(&mut self, end: End) -> Result<(), Halt> {
        self.arrive()?;
        self.come_and_go(self.cycle.mul_f64(0.1))?;
        if self.pick(2) == 0 {
            for publisher in 0..PUBLISHERS {
                (0..BURST.0 / PUBLISHERS / 4).for_each(|_| self.crowd.publish(publisher, BURST.1));
            }
            self.turn(Duration::from_millis(5), true)?;
        }
        match end {
            End::Term => self.terminate()?,
            End::Kill => {
                self.crowd.standing = Standing::Down;
                self.server()?.kill();
                self.crowd.end_life();
            }
        }
        self.server = None;
        Ok(())
    }

    /// Asks the server to stop, and checks that every connection receives a close and that the server exits.
    fn terminate(&mut self) -> Result<(), Halt> {
        let begin = Instant::now();
        self.crowd.standing = Standing::Stopping;
        self.server()?.terminate()?;
        let status = loop {
            if let Some(status) = self.server()?.ended() {
                break Some(status);
            }
            if begin.elapsed() > server::END_LIMIT {
                break None;
            }
            self.crowd.turn(Duration::from_millis(20))?;
        };
        match status {
            Some(status) if status.success() => {}
            Some(status) => self.crowd.faults.add("servers that exited with an error", format!("{status}")),
            None => {
                let example = format!("still running {} s after SIGTERM", server::END_LIMIT.as_secs());
                self.crowd.faults.add("servers that did not stop", example);
            }
        }
        // Its last frames may still be in the kernel's buffers.
        let deadline = Instant::now() + SILENCE;
        while !self.crowd.open(Role::is_careful).is_empty() && Instant::now() < deadline {
            self.crowd.turn(Duration::from_millis(20))?;
        }
        self.crowd.end_life();
        Ok(())
    }

    /// Runs turns until everyone is in the room.
    fn all_come(&mut self) -> Result<(), Halt> {
        self.wait("to join", true, Crowd::arriving)
    }

    /// Runs turns until `left` returns 0.
    fn wait(&mut self, what: &str, trickle: bool, left: impl Fn(&Crowd) -> usize) -> Result<(), Halt> {
        let deadline = Instant::now() + PATIENCE;
        while left(&self.crowd) > 0 {
            if Instant::now() > deadline {
                let left = left(&self.crowd);
                return Err(Halt::Broken(format!(
                    "life {}: {left} connections took too long {what}",
                    self.life
                )));
            }
            self.turn(Duration::from_millis(20), trickle)?;
        }
        Ok(())
    }

    /// Runs turns for a while.
    fn turns(&mut self, time: Duration, trickle: bool) -> Result<(), Halt> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn(Duration::from_millis(20), trickle)?;
        }
        Ok(())
    }

    /// Runs one turn, and sends a message if one is due.
    fn turn(&mut self, wait: Duration, trickle: bool) -> Result<(), Halt> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Halt::Stopped);
        }
        if let Some(status) = self.server()?.ended() {
            return Err(Halt::Broken(format!("life {}: the server exited: {status}", self.life)));
        }
        let now = Instant::now();
        if trickle && now >= self.next_message {
            self.next_message = now + TRICKLE;
            let (publisher, size) = (self.pick(PUBLISHERS), MARK + self.pick(LONGEST - MARK));
            self.crowd.publish(publisher, size);
        }
        Ok(self.crowd.turn(wait)?)
    }

    fn server(&mut self) -> Result<&mut Server, Halt> {
        self.server.as_mut().ok_or_else(|| Halt::Broken("no server is running".to_owned()))
    }

    /// Returns a random number below `count`.
    fn pick(&mut self, count: usize) -> usize {
        (self.crowd.random.next() % count as u64) as usize
    }

    fn way(&mut self) -> Leave {
        [Leave::Close, Leave::Half, Leave::Drop, Leave::Reset][self.pick(4)]
    }
}
