//! Measurements: histograms of times, and the cost of the server.

use std::fs;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::result::Result;

/// The longest time that a histogram distinguishes, in nanoseconds: five minutes.
const LONGEST: u64 = 300_000_000_000;

/// Creates an empty histogram of nanoseconds, with a precision of three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are in order")
}

/// Percentiles of a histogram of nanoseconds, in microseconds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Times {
    pub(crate) count: u64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Times {
    /// Returns `None` if nothing was recorded.
    pub(crate) fn of(times: &Histogram<u64>) -> Option<Self> {
        let micros = |nanos: u64| (nanos as f64 / 100.0).round() / 10.0;
        let at = |quantile| micros(times.value_at_quantile(quantile));
        (!times.is_empty()).then(|| Self {
            count: times.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: micros(times.max()),
        })
    }
}

/// A process whose CPU time and memory are read from `/proc`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pid: u32,
}

impl Process {
    /// Returns the server's process. Fails if it cannot be read.
    pub(super) fn of_server(pid: u32) -> Result<Self> {
        let process = Self { pid };
        match process.cpu_seconds() {
            Some(_) => Ok(process),
            None => Err(format!(
                "--server-pid {pid}: no CPU times in /proc/{pid}/task; is it running on this machine?"
            )),
        }
    }

    /// Returns this process.
    pub(super) fn own() -> Self {
        Self::of(std::process::id())
    }

    /// Returns the process with this id, whether or not it can be read.
    pub(crate) const fn of(pid: u32) -> Self {
        Self { pid }
    }

    /// Returns the CPU time of all current threads. Threads that have ended are missing; a server has few of
    /// those.
    pub(crate) fn cpu_seconds(self) -> Option<f64> {
        let mut total = None;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?.flatten() {
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            let nanos = text.split(' ').next().and_then(|first| first.parse::<u64>().ok());
            total = Some(total.unwrap_or(0.0) + nanos? as f64 / 1e9);
        }
        total
    }

    /// Returns the resident memory in KiB, without the kernel's memory for sockets.
    pub(super) fn rss_kib(self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_microseconds() {
        let mut times = histogram();
        assert!(Times::of(&times).is_none());
        for millis in 1..=1000 {
            times.saturating_record(millis * 1_000_000);
        }
        let got = Times::of(&times).unwrap();
        assert_eq!(got.count, 1000);
        assert!(
            (499_000.0..502_000.0).contains(&got.p50) && (989_000.0..992_000.0).contains(&got.p99),
            "{got:?}"
        );
        times.saturating_record(u64::MAX);
        assert!(Times::of(&times).unwrap().max >= LONGEST as f64 / 1000.0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_costs() {
        let own = Process::own();
        assert!(own.cpu_seconds().unwrap() > 0.0 && own.rss_kib().unwrap() > 100);
        assert!(Process::of_server(u32::MAX).unwrap_err().contains("--server-pid"));
    }
}
