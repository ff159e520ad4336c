//! The results of a run. The JSON field names are stable, because scripts read them.

use serde::Serialize;

use super::raw::Raw;
use crate::load::measure::Times;

/// All results of a run. Times are in microseconds unless stated otherwise.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// The version and address of Redis.
    pub(super) server: String,
    /// Seconds per measurement.
    pub(super) seconds: f64,
    /// The program used for comparison, or `None` if it is not installed.
    pub(super) raw_tool: Option<&'static str>,
    pub(super) interrupted: bool,
    pub(super) operations: Vec<Operation>,
    pub(super) latency: Vec<Latency>,
    pub(super) throughput: Vec<Throughput>,
    pub(super) nodes: Vec<Spread>,
}

/// Results of a counter or table operation.
#[derive(Debug, Serialize)]
pub(super) struct Operation {
    pub(super) name: &'static str,
    /// Concurrent tasks, all over one hub and so one connection.
    pub(super) tasks: u64,
    pub(super) per_second: f64,
    pub(super) latency_us: Option<Times>,
    pub(super) failed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_failure: Option<String>,
    /// The most similar plain command.
    pub(super) plain: &'static str,
    /// The number of plain commands equivalent to one operation.
    pub(super) commands: u64,
    /// The plain command over one connection, with as many in flight as the hub has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) one_connection: Option<Raw>,
    /// The plain command over as many connections as there are tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connection_each: Option<Raw>,
    /// The ratio of operations per second, counted as commands, to those over one connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ratio: Option<f64>,
}

/// Results of a series of numbered messages.
#[derive(Debug, Serialize)]
pub(super) struct Series {
    pub(super) messages: u64,
    pub(super) received: u64,
    /// Messages that never arrived.
    pub(super) lost: u64,
    /// Messages that arrived late or twice.
    pub(super) order_errors: u64,
    /// Messages that arrived before they were sent: the clock was changed.
    pub(super) clock_errors: u64,
    /// Time from sending (or from when a message was due, if the previous one delayed it) to reading.
    pub(super) latency_us: Option<Times>,
}

/// Messages at a fixed rate from one node to another.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    pub(super) name: &'static str,
    /// Messages per second.
    pub(super) rate: f64,
    pub(super) size: usize,
    #[serde(flatten)]
    pub(super) series: Series,
}

/// Pushes at the maximum rate from one node to a member on another.
#[derive(Debug, Serialize)]
pub(super) struct Throughput {
    pub(super) size: usize,
    /// The most messages in flight.
    pub(super) window: u64,
    /// Time from the first to the last message received.
    pub(super) seconds: f64,
    pub(super) per_second: f64,
    /// As a percentage of one core.
    pub(super) redis_cpu_percent: f64,
    #[serde(flatten)]
    pub(super) series: Series,
}

/// The cost of a push, with several nodes of which some have members. Costs are per 1,000 pushes, at 1,000 per second;
/// without pushes, per second.
#[derive(Debug, Serialize)]
pub(super) struct Spread {
    /// The nodes. The first one pushes and has no member. Those after it have one each, up to the number of members.
    pub(super) nodes: Vec<NodeCost>,
    pub(super) with_members: usize,
    pub(super) pushes: u64,
    /// The nodes subscribed to the room's channel, as reported by Redis.
    pub(super) subscribers: u64,
    /// Messages published, as counted by Redis.
    pub(super) published: f64,
    pub(super) redis_bytes_in: f64,
    pub(super) redis_bytes_out: f64,
    pub(super) redis_cpu_ms: f64,
    /// The messages received by each member.
    pub(super) members: Vec<Series>,
}

/// The cost for a node.
#[derive(Debug, Serialize)]
pub(super) struct NodeCost {
    /// Messages received from other nodes.
    pub(super) received: u64,
    /// CPU time in milliseconds, or `None` if the system does not report it.
    pub(super) cpu_ms: Option<f64>,
}

impl Report {
    /// Returns all series of messages.
    fn series(&self) -> impl Iterator<Item = &Series> {
        let latency = self.latency.iter().map(|latency| &latency.series);
        let throughput = self.throughput.iter().map(|throughput| &throughput.series);
        latency.chain(throughput).chain(self.nodes.iter().flat_map(|spread| &spread.members))
    }

    /// Returns one line that lists the failures, if any.
    pub(super) fn complaint(&self) -> Option<String> {
        let mut parts = Vec::new();
        let sum = |of: fn(&Series) -> u64| self.series().map(of).sum::<u64>();
        let failed: u64 = self.operations.iter().map(|operation| operation.failed).sum();
        if failed > 0 {
            let why = self.operations.iter().find_map(|operation| operation.first_failure.as_deref());
            parts.push(format!("{failed} operations failed (the first: {})", why.unwrap_or("unknown")));
        }
        let lost = sum(|series| series.lost);
        if lost > 0 {
            parts.push(format!("{lost} messages were lost"));
        }
        let order_errors = sum(|series| series.order_errors);
        if order_errors > 0 {
            parts.push(format!("{order_errors} messages arrived out of order or twice"));
        }
        let clock_errors = sum(|series| series.clock_errors);
        if clock_errors > 0 {
            parts.push(format!(
                "the clock was changed while {clock_errors} messages were in flight: repeat the run"
            ));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_lists_all_failures() {
        assert_eq!(Report::default().complaint(), None);
        let series =
            Series { messages: 9, received: 8, lost: 1, order_errors: 2, clock_errors: 3, latency_us: None };
        let operation = Operation {
            name: "x",
            tasks: 1,
            per_second: 0.0,
            latency_us: None,
            failed: 4,
            first_failure: Some("away".to_owned()),
            plain: "INCR",
            commands: 1,
            one_connection: None,
            connection_each: None,
            ratio: None,
        };
        let latency = Latency { name: "y", rate: 1.0, size: 64, series };
        let report = Report { operations: vec![operation], latency: vec![latency], ..Report::default() };
        let line = report.complaint().unwrap();
        for part in ["1 messages were lost", "2 messages arrived", "while 3", "4 operations", "away"] {
            assert!(line.contains(part), "no {part:?} in {line}");
        }
    }
}
