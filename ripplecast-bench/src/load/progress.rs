//! A progress bar, shown only on a terminal.

use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressStyle};

/// Nanoseconds between two updates.
const EVERY: u64 = 100_000_000;

pub(super) struct Progress {
    /// `None` if not shown.
    bar: Option<ProgressBar>,
    /// When the next update is due.
    due: u64,
}

impl Progress {
    /// Creates a progress bar, shown on a terminal unless `quiet`.
    pub(super) fn new(quiet: bool) -> Self {
        let shown = !quiet && io::stderr().is_terminal();
        let bar = shown.then(|| {
            let style = ProgressStyle::with_template("{msg:10} [{bar:40}] {percent:>3} %  {elapsed}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(1000).with_style(style.progress_chars("=> "))
        });
        Self { bar, due: 0 }
    }

    /// Starts a new part of the run.
    pub(super) fn part(&mut self, name: &'static str) {
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_message(name);
        }
        self.due = 0;
    }

    /// Shows the progress of this part from 0 to 1; `now` is in nanoseconds.
    pub(super) fn show(&mut self, now: u64, done: f64) {
        if let Some(bar) = &self.bar
            && now >= self.due
        {
            self.due = now + EVERY;
            bar.set_position((done.clamp(0.0, 1.0) * 1000.0) as u64);
        }
    }

    /// Removes the progress bar.
    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
