//! What a run found out. The names in the JSON are stable: scripts read them.

use serde::Serialize;

use super::raw::Raw;
use crate::load::measure::Times;

/// Everything that a run found out. Times are in microseconds unless they say otherwise.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Which Redis it is, and where.
    pub(super) server: String,
    /// Seconds of each measurement.
    pub(super) seconds: f64,
    /// The program beside the operations; none where it is not there.
    pub(super) raw_tool: Option<&'static str>,
    /// Whether it was stopped before its end.
    pub(super) interrupted: bool,
    pub(super) operations: Vec<Operation>,
    pub(super) latency: Vec<Latency>,
    pub(super) throughput: Vec<Throughput>,
    pub(super) nodes: Vec<Spread>,
}

/// An operation of a counter or a table.
#[derive(Debug, Serialize)]
pub(super) struct Operation {
    pub(super) name: &'static str,
    /// Tasks that do it over and over, all over one hub, and so one connection.
    pub(super) tasks: u64,
    pub(super) per_second: f64,
    pub(super) latency_us: Option<Times>,
    pub(super) failed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_failure: Option<String>,
    /// The plain command that comes nearest.
    pub(super) plain: &'static str,
    /// How many of those one operation stands for.
    pub(super) commands: u64,
    /// That command over one connection with as much under way, as the hub has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) one_connection: Option<Raw>,
    /// That command over as many connections as there are tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connection_each: Option<Raw>,
    /// Operations a second, as commands, to those over one connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ratio: Option<f64>,
}

/// Numbered messages, and what became of them.
#[derive(Debug, Serialize)]
pub(super) struct Series {
    /// Messages sent.
    pub(super) messages: u64,
    pub(super) received: u64,
    /// Messages that never came.
    pub(super) lost: u64,
    /// Messages that came late or twice.
    pub(super) order_errors: u64,
    /// Messages that came before they were sent: the clock was set.
    pub(super) clock_errors: u64,
    /// From when each was sent, or due if the one before was in its way, to when it was read.
    pub(super) latency_us: Option<Times>,
}

/// Messages at a pace, from one node to another.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    pub(super) name: &'static str,
    /// Messages a second.
    pub(super) rate: f64,
    pub(super) size: usize,
    #[serde(flatten)]
    pub(super) series: Series,
}

/// Pushes as fast as they are taken, from one node to a member on another.
#[derive(Debug, Serialize)]
pub(super) struct Throughput {
    pub(super) size: usize,
    /// Messages that could be on their way.
    pub(super) window: u64,
    /// From the first to the last that came.
    pub(super) seconds: f64,
    pub(super) per_second: f64,
    /// Of one core.
    pub(super) redis_cpu_percent: f64,
    #[serde(flatten)]
    pub(super) series: Series,
}

/// What a push costs, with some nodes of which some have members. Costs are for 1,000 pushes, at 1,000 a second; without
/// pushes, for a second.
#[derive(Debug, Serialize)]
pub(super) struct Spread {
    /// The nodes; the first one pushes and has no member, those after it have one each as far as there are some.
    pub(super) nodes: Vec<NodeCost>,
    pub(super) with_members: usize,
    pub(super) pushes: u64,
    /// Nodes to which Redis sends what is pushed, as it says itself.
    pub(super) subscribers: u64,
    /// Messages that were published, as Redis counted them.
    pub(super) published: f64,
    pub(super) redis_bytes_in: f64,
    pub(super) redis_bytes_out: f64,
    pub(super) redis_cpu_ms: f64,
    /// What came to each member.
    pub(super) members: Vec<Series>,
}

/// What it costs a node.
#[derive(Debug, Serialize)]
pub(super) struct NodeCost {
    /// Messages that came from other nodes.
    pub(super) received: u64,
    /// CPU time in milliseconds; none where the system does not tell.
    pub(super) cpu_ms: Option<f64>,
}

impl Report {
    /// All series of messages.
    fn series(&self) -> impl Iterator<Item = &Series> {
        let latency = self.latency.iter().map(|latency| &latency.series);
        let throughput = self.throughput.iter().map(|throughput| &throughput.series);
        latency.chain(throughput).chain(self.nodes.iter().flat_map(|spread| &spread.members))
    }

    /// One line that says what is wrong.
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
            parts.push(format!("{order_errors} messages came out of order or twice"));
        }
        let clock_errors = sum(|series| series.clock_errors);
        if clock_errors > 0 {
            parts.push(format!(
                "the clock was set while {clock_errors} messages were on their way: repeat it"
            ));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_names_all_that_is_wrong() {
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
        for part in ["1 messages were lost", "2 messages came", "while 3", "4 operations", "away"] {
            assert!(line.contains(part), "no {part:?} in {line}");
        }
    }
}
