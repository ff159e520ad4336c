//! `redis-benchmark`, or Valkey's: the performance of Redis without a hub.

use std::process::Command;

use serde::Serialize;

use super::options::Url;
use crate::result::Result;

/// The names of the program.
const PROGRAMS: [&str; 2] = ["redis-benchmark", "valkey-benchmark"];

/// The program found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tool(&'static str);

/// A result of the program.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Raw {
    pub(super) clients: u64,
    /// Commands in flight per connection.
    pub(super) pipeline: u64,
    /// Commands per second.
    pub(super) per_second: f64,
    /// The median latency in microseconds. With a pipeline, the latency of the whole batch.
    pub(super) p50: f64,
    /// The same for the 99th percentile.
    pub(super) p99: f64,
}

impl Tool {
    /// Looks for the program on the PATH.
    pub(super) fn find() -> Option<Self> {
        let there = |program: &&str| Command::new(program).arg("--version").output().is_ok();
        PROGRAMS.into_iter().find(there).map(Self)
    }

    pub(super) const fn name(self) -> &'static str {
        self.0
    }

    /// Runs a command `times` times over `clients` connections, with `pipeline` in flight on each.
    pub(super) fn run(
        self,
        url: &Url,
        command: &[String],
        (clients, pipeline): (u64, u64),
        times: u64,
    ) -> Result<Raw> {
        let mut tool = Command::new(self.0);
        tool.args(["-u", url.as_str(), "--csv", "--precision", "3", "-c", &clients.to_string()]);
        tool.args(["-P", &pipeline.to_string(), "-n", &times.to_string()]).args(command);
        let output = tool.output().map_err(|error| format!("failed to start {}: {error}", self.0))?;
        let out = String::from_utf8_lossy(&output.stdout);
        let figures = out.lines().last().and_then(figures).filter(|_| output.status.success());
        let Some([per_second, p50, p99]) = figures else {
            let err = String::from_utf8_lossy(&output.stderr);
            let said = err.lines().chain(out.lines()).next().unwrap_or("nothing");
            return Err(format!("{} ({}) reported no figures; its output: {said}", self.0, output.status));
        };
        Ok(Raw { clients, pipeline, per_second, p50: p50 * 1000.0, p99: p99 * 1000.0 })
    }
}

/// Parses the line of figures. Returns the commands per second, and the median and 99th percentile in
/// milliseconds.
fn figures(line: &str) -> Option<[f64; 3]> {
    // The command comes first, and can contain anything. The fields are: test, rps, avg, min, p50,
    // p95, p99, max.
    let fields: Vec<f64> =
        line.rsplitn(8, ',').take(7).map_while(|field| field.trim_matches('"').parse().ok()).collect();
    match fields[..] {
        [_most, p99, _p95, p50, _least, _average, per_second] => Some([per_second, p50, p99]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_parsed() {
        let line = r#""HSET a,"b" 1","92592.59","0.011","0.008","0.010","0.015","0.023","0.210""#;
        assert_eq!(figures(line), Some([92592.59, 0.010, 0.023]));
        let head = r#""test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms""#;
        assert_eq!(figures(head), None);
        assert_eq!(figures("Could not connect"), None);
    }
}
