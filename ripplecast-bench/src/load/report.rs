//! The results of a run. The JSON field names are stable, because scripts read them.

use serde::Serialize;

use super::measure::Times;

/// All results of a run.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) url: String,
    pub(super) mode: &'static str,
    pub(super) connections: usize,
    pub(super) size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) window: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate: Option<f64>,
    pub(super) seed: u64,
    pub(super) interrupted: bool,
    /// How the connections were opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connect: Option<Connect>,
    /// The measured messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) traffic: Option<Traffic>,
    /// A period in which nothing was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) idle: Option<Idle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) jitter: Option<Jitter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) storm: Option<Storm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) slow: Option<Slow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<Memory>,
    pub(super) checks: Checks,
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
    /// CPU time of this process over the whole run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) generator_cpu_seconds: Option<f64>,
}

/// How connections were opened.
#[derive(Debug, Serialize)]
pub(super) struct Connect {
    pub(super) opened: usize,
    pub(super) seconds: f64,
    pub(super) per_second: f64,
    /// From the first SYN to the 101.
    pub(super) handshake_us: Option<Times>,
    /// Failed attempts that were repeated.
    pub(super) retries: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server_cpu_us_each: Option<f64>,
}

/// The measured messages.
#[derive(Debug, Serialize)]
pub(super) struct Traffic {
    /// From the first message to the last delivery.
    pub(super) seconds: f64,
    pub(super) messages: u64,
    /// Messages received, counted once per connection.
    pub(super) deliveries: u64,
    pub(super) deliveries_per_second: f64,
    /// Payload bytes of the messages received.
    pub(super) payload_bytes: u64,
    /// From sending a message, or from when it was due at a fixed rate, to each
    /// delivery.
    pub(super) latency_us: Option<Times>,
    /// The same to the last delivery of each message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_us: Option<Times>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server_cpu_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server_cpu_seconds_per_million: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) generator_cpu_seconds: Option<f64>,
}

/// A period in which nothing was sent.
#[derive(Debug, Serialize)]
pub(super) struct Idle {
    pub(super) seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server_cpu_seconds: Option<f64>,
    /// As a percentage of one core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server_cpu_percent: Option<f64>,
}

/// Connections that were cut and reconnected.
#[derive(Debug, Serialize)]
pub(super) struct Jitter {
    pub(super) cuts: u64,
    /// Connections that reconnected and received messages again.
    pub(super) recovered: u64,
    pub(super) retries: u64,
    /// From the cut to the next open, including the pause.
    pub(super) away_us: Option<Times>,
    /// From the first SYN after the pause to the 101.
    pub(super) reconnect_us: Option<Times>,
    /// From the end of the pause to the first message.
    pub(super) recovery_us: Option<Times>,
    /// Messages sent while connections were cut or about to join.
    pub(super) missed: u64,
    pub(super) missed_each_p50: u64,
    pub(super) missed_each_max: u64,
}

/// All connections cut at once and reconnected.
#[derive(Debug, Serialize)]
pub(super) struct Storm {
    pub(super) reconnected: usize,
    /// Until the last one was open again.
    pub(super) seconds: f64,
    pub(super) per_second: f64,
    /// From the cut until each one was open again.
    pub(super) back_us: Option<Times>,
    /// Until all had received a message again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) all_receive_seconds: Option<f64>,
    pub(super) retries: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server_cpu_us_each: Option<f64>,
}

/// Connections that read slowly or never.
#[derive(Debug, Serialize)]
pub(super) struct Slow {
    pub(super) connections: usize,
    pub(super) bytes_per_second: u64,
    /// Messages they read.
    pub(super) read: u64,
    /// Messages the server dropped for them, as far as they have read.
    pub(super) left_out: u64,
    /// How many of them the server closed.
    pub(super) closed_by_server: u64,
}

/// Memory of the server, in KiB.
#[derive(Debug, Default, Serialize)]
pub(super) struct Memory {
    pub(super) before_kib: u64,
    /// With all connections open.
    pub(super) idle_kib: Option<u64>,
    pub(super) idle_kib_per_connection: Option<f64>,
    /// After each one has received a message.
    pub(super) after_message_kib: Option<u64>,
    pub(super) after_message_kib_per_connection: Option<f64>,
    pub(super) end_kib: Option<u64>,
    /// The highest of ten samples per second.
    pub(super) peak_kib: u64,
}

/// Failures. All must be zero.
#[derive(Debug, Default, Serialize)]
pub(super) struct Checks {
    /// Messages that a connected reader never received.
    pub(super) lost: u64,
    /// Messages that arrived late or twice.
    pub(super) order_errors: u64,
    /// Connections that ended, and that we did not end.
    pub(super) dead: u64,
    /// Connections that did not reconnect.
    pub(super) missing: u64,
    /// Why the first of them ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_death: Option<String>,
}

impl Checks {
    /// Returns one line that lists the failures, if any.
    pub(super) fn complaint(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.lost > 0 {
            parts.push(format!("{} deliveries were lost", self.lost));
        }
        if self.order_errors > 0 {
            parts.push(format!("{} messages arrived out of order or twice", self.order_errors));
        }
        if self.dead > 0 {
            let why = self.first_death.as_deref().unwrap_or("unknown reason");
            parts.push(format!("{} connections died (the first: {why})", self.dead));
        }
        if self.missing > 0 {
            parts.push(format!("{} connections did not reconnect", self.missing));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_lists_all_failures() {
        assert_eq!(Checks::default().complaint(), None);
        let checks = Checks {
            lost: 1,
            order_errors: 2,
            dead: 3,
            missing: 4,
            first_death: Some("the server closed it with 1001".to_owned()),
        };
        let line = checks.complaint().unwrap();
        for part in ["1 deliveries", "2 messages", "3 connections died", "1001", "4 connections did not"] {
            assert!(line.contains(part), "no {part:?} in {line}");
        }
    }
}
