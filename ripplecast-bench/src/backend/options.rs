//! Settings of `ripplecast bench backend`.

use std::{fmt, time::Duration};

use clap::{Args, ValueEnum};
use redis::IntoConnectionInfo as _;

/// The settings of `ripplecast bench backend`.
#[derive(Args, Clone, Debug)]
pub struct BenchBackend {
    /// Redis to measure, such as redis://127.0.0.1:6379; its keys get a unique prefix, and are deleted at the end
    #[arg(long, value_name = "URL", value_parser = Url::parse)]
    pub(super) backend: Url,
    /// Seconds per measurement; there are about 40, most of them with two runs of redis-benchmark in addition
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(super) seconds: Duration,
    /// Parts to run, separated by commas [default: all]
    #[arg(long, value_name = "PARTS", value_enum, value_delimiter = ',')]
    pub(super) only: Vec<Part>,
    /// Numbers of concurrent tasks in the operations part, each measured separately
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,16,256", value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(super) tasks: Vec<u64>,
    /// Messages per second in the latency part, regardless of how slow the responses are
    #[arg(long, value_name = "PER_SECOND", default_value = "500", value_parser = rate)]
    pub(super) rate: f64,
    /// Print one line of JSON, without progress
    #[arg(long)]
    pub(super) json: bool,
    /// Act as a node of a run: use keys with this prefix, and execute commands from standard input
    #[arg(long, value_name = "PREFIX", hide = true)]
    pub(super) node: Option<String>,
}

impl BenchBackend {
    /// Returns whether a part is to be run.
    pub(super) fn has(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// Counter and table operations per second, compared with redis-benchmark
    Operations,
    /// Latency from a publish or push on one node to its receiver on another
    Latency,
    /// Room pushes per second from one node to another
    Throughput,
    /// Cost of a push for Redis and for each node, with two and three nodes
    Nodes,
}

/// The URL of a single Redis, without a query.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Url(String);

impl Url {
    /// Parses a URL. An error says what is accepted.
    fn parse(written: &str) -> Result<Self, String> {
        if !written.starts_with("redis://") {
            return Err("expected the URL of one server, redis://HOST:PORT".to_owned());
        }
        if written.contains('?') {
            return Err("remove the part after `?`: the run uses its own prefix".to_owned());
        }
        let url = Self(written.to_owned());
        url.client().map_err(|error| format!("not a valid Redis URL: {error}"))?;
        Ok(url)
    }

    /// Returns a client that logs in as the user in the URL.
    pub(super) fn client(&self) -> redis::RedisResult<redis::Client> {
        let info = self.0.as_str().into_connection_info()?;
        let mut settings = info.redis_settings().clone();
        if settings.username().is_some() && settings.password().is_none() {
            // Without a password, the client would skip the login and continue as `default`.
            settings = settings.set_password("");
        }
        redis::Client::open(info.set_redis_settings(settings))
    }

    /// Returns the whole URL, including its password.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.trim_start_matches("redis://").rsplit('@').next().unwrap_or_default();
        write!(f, "redis://{host}")
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Parses seconds, which may be fractional.
fn seconds(written: &str) -> Result<Duration, String> {
    let number = written.parse().ok().filter(|seconds: &f64| (0.05..=600.0).contains(seconds));
    number
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "expected a number of seconds from 0.05 to 600".to_owned())
}

fn rate(written: &str) -> Result<f64, String> {
    let number = written.parse().ok().filter(|rate: &f64| (1.0..=100_000.0).contains(rate));
    number.ok_or_else(|| "expected a number from 1 to 100000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed_and_shown_without_a_password() {
        let url = Url::parse("redis://user:secret@localhost:7000/2").unwrap();
        assert_eq!(url.to_string(), "redis://localhost:7000/2");
        assert!(!format!("{url:?}").contains("secret") && url.as_str().contains("secret"));
        let named = |url: &str| {
            let client = Url::parse(url).unwrap().client().unwrap();
            let settings = client.get_connection_info().redis_settings();
            (settings.username().map(str::to_owned), settings.password().map(str::to_owned))
        };
        assert_eq!(
            named("redis://lim@h"),
            (Some("lim".to_owned()), Some(String::new())),
            "the client logs in"
        );
        assert_eq!(named("redis://h"), (None, None));
        for (wrong, advice) in [
            ("memory", "redis://"),
            ("redis-cluster://a,b", "one server"),
            ("redis://a/?prefix=x", "prefix"),
            ("redis://", "URL"),
        ] {
            let line = Url::parse(wrong).unwrap_err();
            assert!(line.contains(advice), "{wrong}: {line}");
        }
    }
}
