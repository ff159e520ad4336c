//! Settings of `ripplecast bench load`.

use std::{net::IpAddr, time::Duration};

use clap::{Args, ValueEnum};

use super::{frames::MARK, target::Url};

/// The default duration of a measurement.
const DURATION: Duration = Duration::from_secs(10);
/// The default number of broadcasts per second in jitter mode.
const JITTER_RATE: f64 = 20.0;
/// The longest message, in bytes.
const LONGEST: usize = 16 << 20;

/// The settings of `ripplecast bench load`.
#[derive(Args, Clone, Debug)]
pub struct BenchLoad {
    /// Endpoint address, such as ws://127.0.0.1:9000/bc
    #[arg(value_name = "URL", value_parser = Url::parse)]
    pub(super) url: Url,
    /// What to do with the connections
    #[arg(long, value_enum, default_value_t = Mode::Fanout)]
    pub(super) mode: Mode,
    /// Connections to hold open
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = count)]
    pub(super) connections: usize,
    /// Connections to open per second [default: as fast as possible, 64 at a time]
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(super) ramp: Option<f64>,
    /// Messages to send over all connections, after which the run ends
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
    pub(super) messages: Option<u32>,
    /// Seconds to measure [default: 10, without --messages]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) duration: Option<Duration>,
    /// Bytes per message, at least 16
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = size)]
    pub(super) size: usize,
    /// Broadcasts in flight at a time (echo: messages in flight per connection)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count, conflicts_with = "rate")]
    pub(super) window: usize,
    /// Messages per second, regardless of how slow the responses are: latency then counts from when each message was
    /// due [default: a window; jitter: 20]
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(super) rate: Option<f64>,
    /// Connections that send, in turn (fanout, slow)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub(super) publishers: usize,
    /// Process id of the server, to measure its CPU time and memory (Linux)
    #[arg(long, value_name = "PID")]
    pub(super) server_pid: Option<u32>,
    /// Print one line of JSON, without progress
    #[arg(long)]
    pub(super) json: bool,
    /// Never sleep: for a dedicated core, where wake-ups would distort the measurement
    #[arg(long)]
    pub(super) spin: bool,
    /// Addresses to connect from, in turn [default: the system's choice; 127.0.0.1 and up for more than 20,000 on loopback]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub(super) source: Vec<IpAddr>,
    /// Fraction of the connections that read slowly (slow)
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    pub(super) slow_share: f64,
    /// Bytes per second that a slow connection reads; 0 never reads (slow)
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub(super) slow_bytes_per_second: u64,
    /// Seconds until a connection is cut, on average (jitter)
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(super) cut_every: Duration,
    /// Longest pause before a cut connection reconnects, in seconds (jitter)
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(super) pause: Duration,
    /// Seed for the random choices, to repeat a run [default: a new one each time]
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum Mode {
    /// Hold them open and send nothing
    Idle,
    /// Broadcast one connection's messages to all
    Fanout,
    /// Echo each connection's messages to itself
    Echo,
    /// Fan-out while random connections are cut and reconnect
    Jitter,
    /// Cut all connections at once, and let all reconnect at once
    Storm,
    /// Fan-out while some connections read slowly or never
    Slow,
}

impl Mode {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Fanout => "fanout",
            Self::Echo => "echo",
            Self::Jitter => "jitter",
            Self::Storm => "storm",
            Self::Slow => "slow",
        }
    }
}

impl BenchLoad {
    /// Checks combinations of settings. An error names the settings.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.publishers > self.connections {
            let connections = self.connections;
            return Err(format!(
                "--publishers can't be {}: it exceeds --connections ({connections})",
                self.publishers
            ));
        }
        if self.mode == Mode::Slow && self.readers() < self.publishers {
            return Err("--slow-share leaves no connection to read and send".to_owned());
        }
        if self.publishers > 1 && !matches!(self.mode, Mode::Fanout | Mode::Slow) {
            return Err("--publishers requires --mode fanout or slow".to_owned());
        }
        Ok(())
    }

    /// Returns the number of connections that read everything.
    pub(super) fn readers(&self) -> usize {
        if self.mode != Mode::Slow {
            return self.connections;
        }
        let slow = (self.connections as f64 * self.slow_share).ceil() as usize;
        self.connections - slow.min(self.connections)
    }

    /// Returns the longest time to measure.
    pub(super) fn time(&self) -> Option<Duration> {
        self.duration.or(self.messages.is_none().then_some(DURATION))
    }

    /// Returns the messages per second, if they are sent at a fixed rate.
    pub(super) fn pace(&self) -> Option<f64> {
        self.rate.or((self.mode == Mode::Jitter).then_some(JITTER_RATE))
    }
}

/// Parses a whole number from 1 to more sockets than a machine can have.
fn count(written: &str) -> Result<usize, String> {
    let number = written.parse().ok().filter(|number| (1..=4_000_000).contains(number));
    number.ok_or_else(|| "expected a whole number from 1 to 4000000".to_owned())
}

/// Parses a positive number.
fn rate(written: &str) -> Result<f64, String> {
    let number = written.parse().ok().filter(|rate: &f64| rate.is_finite() && (1e-3..=1e7).contains(rate));
    number.ok_or_else(|| "expected a number from 0.001 to 10000000".to_owned())
}

/// Parses seconds, which may be fractional.
fn seconds(written: &str) -> Result<Duration, String> {
    let number = written.parse().ok().filter(|seconds: &f64| (1e-3..=1e6).contains(seconds));
    number
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "expected a number of seconds from 0.001 to 1000000".to_owned())
}

/// Parses a fraction between 0 and 1.
fn share(written: &str) -> Result<f64, String> {
    let number = written.parse().ok().filter(|share: &f64| *share > 0.0 && *share < 1.0);
    number.ok_or_else(|| "expected a number between 0 and 1, such as 0.1".to_owned())
}

/// Parses the bytes of a message.
fn size(written: &str) -> Result<usize, String> {
    let number = written.parse().ok().filter(|size| (MARK..=LONGEST).contains(size));
    number.ok_or_else(|| {
        format!("expected a whole number from {MARK} (the number in each message) to {LONGEST}")
    })
}
