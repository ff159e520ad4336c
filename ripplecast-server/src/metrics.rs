//! `/health`, and `/metrics` in the Prometheus text format.

use std::fmt::Write as _;

use axum::{
    Json,
    extract::State,
    http::{header::CONTENT_TYPE, request::Parts},
    response::{IntoResponse, Response},
    routing::get,
};
use ripplecast::{App, Hub};
use ripplecast_demo::sample::{memory, uptime};
use serde::Serialize;

use crate::inspect::Gate;

/// The media type of the Prometheus text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The response of `/health`.
#[derive(Serialize)]
struct Health {
    /// `ok`, or `degraded` while the backend is unavailable.
    status: &'static str,
}

/// Returns 200 as long as the node runs: without its backend, a node still serves its own
/// tabs.
async fn health(State(hub): State<Hub>) -> Json<Health> {
    Json(Health { status: if hub.stats().remote.degraded { "degraded" } else { "ok" } })
}

async fn metrics(State((hub, gate)): State<(Hub, Gate)>, parts: Parts) -> Response {
    if let Some(refusal) = gate.refusal(&hub, &parts) {
        return refusal;
    }
    ([(CONTENT_TYPE, TEXT)], text(&hub)).into_response()
}

/// Returns all metrics.
fn text(hub: &Hub) -> String {
    let stats = hub.stats();
    let (drops, remote) = (stats.drops, stats.remote);
    let mut out = String::with_capacity(4096);
    let version = env!("CARGO_PKG_VERSION");
    family(
        &mut out,
        "ripplecast_build_info",
        "gauge",
        "The version that is running; always 1.",
        [(format!("{{version=\"{version}\",node=\"{}\"}}", hub.node()), 1)],
    );
    let mut plain = |name: &str, kind: &str, help: &str, value: u64| {
        family(&mut out, name, kind, help, [(String::new(), value)]);
    };
    plain("ripplecast_uptime_seconds", "gauge", "Time since startup.", uptime() as u64);
    plain("ripplecast_connections", "gauge", "Open connections.", stats.connections as u64);
    plain("ripplecast_rooms", "gauge", "Rooms that have members or handles.", stats.rooms as u64);
    plain("ripplecast_queued_bytes", "gauge", "Bytes queued for slow readers.", stats.queued_bytes as u64);
    plain("ripplecast_opened_total", "counter", "Connections opened.", stats.opened);
    plain("ripplecast_closed_total", "counter", "Connections closed.", stats.closed);
    plain("ripplecast_messages_total", "counter", "Messages received.", stats.messages);
    plain("ripplecast_encoded_frames_total", "counter", "Messages encoded for rooms.", stats.encoded_frames);
    plain("ripplecast_compressed_frames_total", "counter", "Messages compressed.", stats.compressed_frames);
    plain(
        "ripplecast_slow_consumers_total",
        "counter",
        "Connections closed for reading too slowly.",
        stats.slow_consumers,
    );
    plain(
        "ripplecast_slow_callbacks_total",
        "counter",
        "Callbacks that blocked their shard for too long.",
        stats.slow_callbacks,
    );
    plain("ripplecast_failed_callbacks_total", "counter", "Callbacks that failed.", stats.failed_callbacks);
    plain(
        "ripplecast_protocol_errors_total",
        "counter",
        "Connections closed for protocol violations.",
        stats.protocol_errors,
    );
    plain("ripplecast_degraded", "gauge", "1 while the backend is unavailable.", remote.degraded.into());
    plain("ripplecast_remote_sent_total", "counter", "Messages sent to other nodes.", remote.sent);
    plain(
        "ripplecast_remote_unsent_total",
        "counter",
        "Messages that could not be sent to other nodes.",
        remote.unsent,
    );
    plain(
        "ripplecast_remote_received_total",
        "counter",
        "Messages received from other nodes.",
        remote.received,
    );
    plain("ripplecast_remote_missed_total", "counter", "Messages known to have been missed.", remote.missed);
    plain("ripplecast_remote_gaps_total", "counter", "Subscriptions lost, rejected or late.", remote.gaps);
    plain(
        "ripplecast_remote_unconfirmed",
        "gauge",
        "Room members whose subscription is not active.",
        remote.unconfirmed as u64,
    );
    plain(
        "ripplecast_remote_refused_total",
        "counter",
        "Messages from other nodes rejected as invalid.",
        remote.refused,
    );
    plain(
        "ripplecast_remote_queued_bytes",
        "gauge",
        "Bytes queued for other nodes.",
        remote.queued_bytes as u64,
    );
    plain(
        "ripplecast_log_dropped_lines_total",
        "counter",
        "Log lines dropped because the log's queue was full.",
        crate::log_dropped(),
    );
    if let Some(memory) = memory() {
        plain("process_resident_memory_bytes", "gauge", "Resident memory.", memory);
    }
    let by_reason = [
        ("overloaded", drops.overloaded),
        ("replaced", drops.replaced),
        ("outbox_full", drops.outbox_full),
        ("slow_consumer", drops.slow_consumer),
        ("shed", drops.shed),
    ];
    let help = "Messages dropped, counted per connection, by reason.";
    let by_reason = by_reason.map(|(reason, frames)| (format!("{{reason=\"{reason}\"}}"), frames));
    family(&mut out, "ripplecast_dropped_frames_total", "counter", help, by_reason);
    out
}

/// Writes a metric with its values.
fn family(
    out: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    values: impl IntoIterator<Item = (String, u64)>,
) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in values {
        let _ = writeln!(out, "{name}{labels} {value}");
    }
}

/// Adds both routes to the app.
pub(crate) fn add(app: App, gate: &Gate) -> App {
    let hub = app.hub();
    app.route("/health", get(health).with_state(hub.clone()))
        .route("/metrics", get(metrics).with_state((hub, gate.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_value_follows_its_help_and_type() {
        let text = text(&Hub::builder().build().unwrap());
        let mut declared = String::new();
        for line in text.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "HELP", _, help] => assert!(help.ends_with('.')),
                ["#", "TYPE", name, kind] => {
                    assert!(matches!(kind, "gauge" | "counter"), "{line}");
                    assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                    declared = name.to_owned();
                }
                [value, number] => {
                    assert_eq!(value.split('{').next(), Some(declared.as_str()), "{line}");
                    assert!(number.parse::<u64>().is_ok(), "{line}");
                }
                _ => panic!("{line}"),
            }
        }
        assert!(
            text.contains("ripplecast_connections 0\n") && text.contains("reason=\"shed\"} 0\n"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn the_documentation_lists_each_metric_with_its_type_and_labels() {
        let page = include_str!("../../docs/metrics.md");
        let table = page.split("## `/metrics` of the binary").nth(1).unwrap().split("\n## ").next().unwrap();
        let mut documented: Vec<String> = table
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
            .map(|(name, rest)| format!("{name} {}", rest.split(' ').next().unwrap()))
            .collect();
        let text = text(&Hub::builder().build().unwrap());
        let mut shown: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
            .map(|(name, kind)| {
                let value =
                    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('{')).unwrap_or("");
                let labels = value.split_once('}').map_or("", |(labels, _)| labels);
                let labels: Vec<&str> =
                    labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).collect();
                match labels[..] {
                    [] => format!("{name} {kind}"),
                    _ => format!("{name}{{{}}} {kind}", labels.join(",")),
                }
            })
            .collect();
        documented.sort();
        shown.sort();
        assert_eq!(documented, shown);
    }
}
