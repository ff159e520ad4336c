//! State shared by all modes: the connections, the server's process, the report and the stop flag.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    broadcasts::{Broadcasts, nothing_received},
    measure::{Process, Times},
    options::BenchLoad,
    pace::Schedule,
    pool::{Pool, Sink},
    progress::Progress,
    report::{Connect, Memory, Report, Traffic},
};
use crate::result::Result;

/// How long the run waits without any progress before it gives up.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// The same while connecting: a lost SYN is sent again after 1, 3, 7 and 15 seconds.
pub(super) const CONNECT_PATIENCE: Duration = Duration::from_secs(20);
/// How long a probe waits for its deliveries before the next one: a fixed part, and a part per connection.
const PROBE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_micros(10));
/// Nanoseconds between two samples of the server's memory.
const LOOK: u64 = 100_000_000;

pub(super) struct Session {
    pub(super) options: BenchLoad,
    pub(super) pool: Pool,
    pub(super) report: Report,
    pub(super) progress: Progress,
    /// The server's process, if given.
    server: Option<Process>,
    stop: Arc<AtomicBool>,
    /// When the server's memory is sampled next.
    look: u64,
}

/// CPU time used since some moment.
pub(super) struct Spent {
    server: Option<f64>,
    own: Option<f64>,
}

impl Session {
    pub(super) fn new(
        options: BenchLoad,
        pool: Pool,
        report: Report,
        server: Option<Process>,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let progress = Progress::new(options.json);
        Self { options, pool, report, progress, server, stop, look: 0 }
    }

    /// Returns whether to stop and report the results so far.
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Runs one turn, which may sleep.
    pub(super) fn turn(&mut self, wait: Duration, sink: &mut impl Sink) -> Result<()> {
        let now = self.pool.now();
        if now >= self.look {
            self.look = now + LOOK;
            self.see_peak();
        }
        self.pool.turn(wait, sink)
    }

    /// Runs one turn of a measurement, which does not sleep with --spin.
    pub(super) fn busy_turn(&mut self, wait: Duration, sink: &mut impl Sink) -> Result<()> {
        self.turn(if self.options.spin { Duration::ZERO } else { wait }, sink)
    }

    /// Runs turns for a while.
    pub(super) fn turns(&mut self, time: Duration, sink: &mut impl Sink) -> Result<()> {
        let until = self.pool.now() + time.as_nanos() as u64;
        while !self.stopped() {
            let now = self.pool.now();
            if now >= until {
                break;
            }
            self.turn(Duration::from_nanos(until - now), sink)?;
        }
        Ok(())
    }

    /// Opens all connections, reports how it went, and waits for the server to become idle.
    pub(super) fn open_all(&mut self, sink: &mut impl Sink) -> Result<()> {
        let count = self.options.connections;
        if let Some(before_kib) = self.rss() {
            self.report.memory = Some(Memory { before_kib, peak_kib: before_kib, ..Memory::default() });
        }
        let (spent, begin) = (self.spend(), self.pool.now());
        self.progress.part("connecting");
        self.pool.add(count, self.options.readers());
        self.wait_open(sink)?;
        let open = self.pool.open_count();
        let seconds = (self.pool.now() - begin) as f64 / 1e9;
        self.report.connect = Some(Connect {
            opened: open,
            seconds,
            per_second: open as f64 / seconds,
            handshake_us: Times::of(&self.pool.handshakes),
            retries: self.pool.retries(),
            server_cpu_us_each: self.spent(&spent).server.map(|cpu| cpu * 1e6 / open.max(1) as f64),
        });
        // Many servers finish work on new connections after they have responded.
        self.turns(Duration::from_millis(300) + Duration::from_micros(50) * count as u32, sink)?;
        if let Some(now) = self.rss()
            && let Some(memory) = &mut self.report.memory
        {
            memory.idle_kib = Some(now);
            memory.idle_kib_per_connection = Some(per_connection(memory.before_kib, now, count));
        }
        Ok(())
    }

    /// Runs turns until all connections are open, or no more open.
    pub(super) fn wait_open(&mut self, sink: &mut impl Sink) -> Result<()> {
        let count = self.options.connections;
        let (mut open, mut progress) = (self.pool.open_count(), self.pool.now());
        while !self.stopped() && open < count {
            self.turn(Duration::from_millis(20), sink)?;
            let now = self.pool.now();
            self.progress.show(now, open as f64 / count as f64);
            if self.pool.open_count() > open {
                progress = now;
            }
            open = self.pool.open_count();
            if now - progress > CONNECT_PATIENCE.as_nanos() as u64 {
                let (addr, seconds) = (self.pool.addr(), CONNECT_PATIENCE.as_secs());
                return Err(format!(
                    "only {open} of {count} connections to {addr} opened, and none in the last {seconds} seconds"
                ));
            }
        }
        Ok(())
    }

    /// Sends messages until every connection has received one. Returns how many have received none.
    pub(super) fn probe(&mut self, broadcasts: &mut Broadcasts) -> Result<usize> {
        let (mut progress, mut waiting) = (self.pool.now(), broadcasts.waiting());
        let pause = PROBE.0 + PROBE.1 * self.options.connections as u32;
        while waiting > 0 && !self.stopped() {
            let sent = self.pool.now();
            broadcasts.probe(&mut self.pool, sent);
            while broadcasts.waiting() > 0
                && self.pool.now() - sent < pause.as_nanos() as u64
                && !self.stopped()
            {
                self.turn(pause, broadcasts)?;
            }
            let now = self.pool.now();
            if broadcasts.waiting() < waiting {
                progress = now;
            }
            waiting = broadcasts.waiting();
            if now - progress > PATIENCE.as_nanos() as u64 {
                break;
            }
        }
        Ok(waiting)
    }

    /// Sends the first messages: checks that the path broadcasts, and measures the memory that takes.
    pub(super) fn first_messages(&mut self, broadcasts: &mut Broadcasts) -> Result<()> {
        match self.probe(broadcasts)? {
            0 => {}
            _ if self.stopped() => return Ok(()),
            waiting => return nothing_received(waiting, self.options.connections, self.options.url.as_str()),
        }
        self.after_message(broadcasts)
    }

    /// Records the memory after each connection has received a message.
    pub(super) fn after_message(&mut self, sink: &mut impl Sink) -> Result<()> {
        if self.server.is_none() {
            return Ok(());
        }
        self.turns(Duration::from_millis(300), sink)?;
        let count = self.options.connections;
        if let (Some(now), Some(memory)) = (self.rss(), &mut self.report.memory) {
            memory.after_message_kib = Some(now);
            memory.after_message_kib_per_connection = Some(per_connection(memory.before_kib, now, count));
        }
        Ok(())
    }

    /// Returns the number of messages to send before the measurement, so that caches are warm and buffers have
    /// grown.
    pub(super) fn warm_up(&self, least: u32) -> u32 {
        self.options.messages.map_or(200, |messages| (messages / 10).min(200)).max(least)
    }

    /// Returns the CPU time at the start of the measured part.
    pub(super) fn spend(&self) -> Spent {
        Spent { server: self.server.and_then(Process::cpu_seconds), own: Process::own().cpu_seconds() }
    }

    /// Returns the CPU time used since then.
    pub(super) fn spent(&self, since: &Spent) -> Spent {
        let now = self.spend();
        let difference = |now: Option<f64>, then: Option<f64>| Some(now? - then?);
        Spent { server: difference(now.server, since.server), own: difference(now.own, since.own) }
    }

    /// Fills in the report of a measured part, except for its times.
    pub(super) fn traffic(
        &self,
        spent: &Spent,
        begin: u64,
        end: u64,
        schedule: &Schedule,
        deliveries: u64,
    ) -> Traffic {
        let seconds = end.saturating_sub(begin) as f64 / 1e9;
        let per_million = |cpu: f64| cpu * 1e6 / deliveries as f64;
        Traffic {
            seconds,
            messages: u64::from(schedule.sent),
            deliveries,
            deliveries_per_second: if seconds > 0.0 { deliveries as f64 / seconds } else { 0.0 },
            payload_bytes: deliveries * self.options.size as u64,
            latency_us: None,
            last_us: None,
            server_cpu_seconds: spent.server,
            server_cpu_seconds_per_million: spent.server.filter(|_| deliveries > 0).map(per_million),
            generator_cpu_seconds: spent.own,
        }
    }

    /// Completes the report.
    pub(super) fn finish(&mut self) {
        self.progress.clear();
        self.see_peak();
        let end_kib = self.rss();
        if let Some(memory) = &mut self.report.memory {
            memory.end_kib = end_kib;
        }
        self.report.interrupted = self.stopped();
        (self.report.bytes_received, self.report.bytes_sent) = self.pool.bytes;
        self.report.generator_cpu_seconds = Process::own().cpu_seconds();
    }

    fn rss(&self) -> Option<u64> {
        self.server.and_then(Process::rss_kib)
    }

    fn see_peak(&mut self) {
        if let (Some(now), Some(memory)) = (self.rss(), &mut self.report.memory) {
            memory.peak_kib = memory.peak_kib.max(now);
        }
    }
}

impl Spent {
    pub(super) const fn server(&self) -> Option<f64> {
        self.server
    }
}

/// Returns the KiB per connection.
fn per_connection(before: u64, now: u64, count: usize) -> f64 {
    (now as f64 - before as f64) / count as f64
}
