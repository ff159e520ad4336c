//! Queries Redis itself for its version and counters.

use std::time::Duration;

use redis::{Connection, FromRedisValue, RedisError};

use super::options::Url;
use crate::result::Result;

/// The time limit for a response.
const ANSWER: Duration = Duration::from_secs(5);
/// The number of keys scanned per step when the run's keys are deleted.
const STEP: usize = 1000;

pub(super) struct Server {
    /// A separate connection.
    connection: Connection,
    /// Its address, for messages.
    shown: String,
}

/// Its counters since startup.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Bytes received.
    pub(super) bytes_in: f64,
    /// Bytes sent.
    pub(super) bytes_out: f64,
    /// Messages published.
    pub(super) published: f64,
    pub(super) cpu: f64,
}

impl Server {
    pub(super) fn connect(url: &Url) -> Result<Self> {
        let failed = |error: RedisError| {
            format!(
                "--backend {url} can't be reached: {error}; start it with `redis-server`, or correct the URL"
            )
        };
        let connection =
            url.client().and_then(|client| client.get_connection_with_timeout(ANSWER)).map_err(failed)?;
        connection.set_read_timeout(Some(ANSWER)).map_err(failed)?;
        Ok(Self { connection, shown: url.to_string() })
    }

    /// Returns its version and address.
    pub(super) fn version(&mut self) -> Result<String> {
        let info: String = self.ask(redis::cmd("INFO").arg("server"))?;
        let version = field(&info, "valkey_version").map(|version| format!("Valkey {version}"));
        let version = version.or_else(|| field(&info, "redis_version").map(|it| format!("Redis {it}")));
        Ok(format!("{} at {}", version.unwrap_or_default(), self.shown))
    }

    /// Returns its current counters.
    pub(super) fn work(&mut self) -> Result<Work> {
        let mut info = String::new();
        for section in ["stats", "cpu", "commandstats"] {
            info += &self.ask::<String>(redis::cmd("INFO").arg(section))?;
        }
        let number = |name: &str| {
            let number = field(&info, name).and_then(|number| number.parse::<f64>().ok());
            number.ok_or_else(|| format!("Redis INFO has no number {name:?}"))
        };
        let calls = field(&info, "cmdstat_publish").and_then(|calls| calls.strip_prefix("calls="));
        let calls = calls.and_then(|calls| calls.split(',').next()).and_then(|calls| calls.parse().ok());
        Ok(Work {
            bytes_in: number("total_net_input_bytes")?,
            bytes_out: number("total_net_output_bytes")?,
            published: calls.unwrap_or(0.0), // missing until the first publish
            cpu: number("used_cpu_user")? + number("used_cpu_sys")?,
        })
    }

    /// Returns how many nodes are subscribed to the one channel whose name begins with
    /// `prefix` and ends with `name`.
    pub(super) fn subscribers(&mut self, prefix: &str, name: &str) -> Result<u64> {
        let pattern = format!("{prefix}:*{name}}}");
        let channels: Vec<String> = self.ask(redis::cmd("PUBSUB").arg("CHANNELS").arg(pattern))?;
        let Some(channel) = channels.first() else { return Ok(0) };
        let (_, count): (String, u64) = self.ask(redis::cmd("PUBSUB").arg("NUMSUB").arg(channel))?;
        Ok(count)
    }

    /// Deletes the keys of a run.
    pub(super) fn clear(&mut self, prefix: &str) -> Result<()> {
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{prefix}:*")).arg("COUNT").arg(STEP);
            let (next, keys): (u64, Vec<String>) = self.ask(&mut scan)?;
            if !keys.is_empty() {
                self.ask::<u64>(redis::cmd("UNLINK").arg(keys))?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Runs a command.
    fn ask<T: FromRedisValue>(&mut self, command: &mut redis::Cmd) -> Result<T> {
        let failed = |error: RedisError| format!("{} gave an unexpected response: {error}", self.shown);
        command.query(&mut self.connection).map_err(failed)
    }
}

/// Returns a field of the INFO text.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}
