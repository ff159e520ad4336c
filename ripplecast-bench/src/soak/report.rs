//! The output: a line for each cycle, a table of the lives, and the verdict.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use super::{
    crowd::Tally,
    judge::{Faults, Footprint},
    plan::End,
};

/// What has been printed, and the figures for the final table.
pub(super) struct Report {
    begin: Instant,
    cycles: usize,
    lives: Vec<LifeLine>,
    /// Whether Ctrl-C was pressed.
    pub(super) interrupted: bool,
}

/// The figures of a cycle.
pub(super) struct Line {
    pub(super) life: usize,
    /// The most concurrent connections.
    pub(super) peak: usize,
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Slow consumers closed by the server.
    pub(super) slow: u64,
    /// Protocol violations answered by the server.
    pub(super) breaches: u64,
    /// The server's memory after the burst.
    pub(super) busy: u64,
    /// The server's footprint after all connections had left.
    pub(super) footprint: Footprint,
    pub(super) faults: u64,
}

/// The figures of a life.
pub(super) struct LifeLine {
    pub(super) life: usize,
    pub(super) time: Duration,
    /// Memory after each cycle.
    pub(super) kib: Vec<u64>,
    pub(super) end: End,
    pub(super) tally: Tally,
}

impl Report {
    pub(super) fn new(seed: u64, minutes: f64, connections: usize, lives: usize) -> Self {
        say(&format!(
            "soak: {minutes} minutes, {connections} connections, {lives} lives of the server, --seed {seed}\n\
             {:>7} {:>4} {:>5} {:>6} {:>10} {:>5} {:>7} {:>9} {:>9} {:>3} {:>7}",
            "time",
            "life",
            "conns",
            "sent",
            "received",
            "slow",
            "broken",
            "busy KiB",
            "after KiB",
            "fds",
            "wrong"
        ));
        Self { begin: Instant::now(), cycles: 0, lives: Vec::new(), interrupted: false }
    }

    /// Prints a cycle.
    pub(super) fn line(&mut self, line: &Line) {
        self.cycles += 1;
        let Line { life, peak, sent, received, slow, breaches, busy, footprint, faults } = line;
        let Footprint { kib, descriptors, .. } = footprint;
        let time = self.begin.elapsed().as_secs_f64();
        say(&format!(
            "{time:>5.1} s {life:>4} {peak:>5} {sent:>6} {received:>10} {slow:>5} {breaches:>7} {busy:>9} {kib:>9} \
             {descriptors:>3} {faults:>7}"
        ));
    }

    /// Prints a life.
    pub(super) fn life(&mut self, life: LifeLine) {
        let end = match life.end {
            End::Term => "SIGTERM",
            End::Kill => "SIGKILL",
        };
        say(&format!(
            "{:>5.1} s {:>4} ended by {end}; {} were notified",
            self.begin.elapsed().as_secs_f64(),
            life.life,
            life.tally.farewells
        ));
        self.lives.push(life);
    }

    /// Prints the table and the verdict. An error is one line.
    pub(super) fn verdict(&self, faults: &Faults) -> Result<(), String> {
        say(&format!(
            "\n{:>4} {:>8} {:>6} {:>12} {:>10} {:>12} {:>6}  end",
            "life", "time", "cycles", "KiB after", "opened", "received", "slow"
        ));
        for LifeLine { life, time, kib, end, tally } in &self.lives {
            let least = kib.iter().min().copied().unwrap_or(0);
            let most = kib.iter().max().copied().unwrap_or(0);
            let (time, range) = (time.as_secs_f64(), format!("{least}-{most}"));
            let Tally { opened, received, slow, .. } = tally;
            say(&format!(
                "{life:>4} {time:>6.1} s {:>6} {range:>12} {opened:>10} {received:>12} {slow:>6}  {end:?}",
                kib.len()
            ));
        }
        let until = if self.interrupted { " until it was interrupted" } else { "" };
        match faults.count() {
            0 if self.cycles == 0 => Err(format!("nothing was checked{until}")),
            0 => {
                say(&format!("\nclean{until}"));
                Ok(())
            }
            count => {
                say(&format!("\nwrong{until}:\n{faults}"));
                Err(format!("{count} faults found; see the list above"))
            }
        }
    }
}

/// Prints a line. Errors of standard output are ignored: there is no one to report them
/// to.
fn say(line: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
