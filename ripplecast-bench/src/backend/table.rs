//! The report as text.

use std::fmt::Write as _;

use super::report::{Latency, Operation, Report, Series, Spread, Throughput};
use crate::load::{
    measure::Times,
    table::{Micros, count},
};

/// Formats the report, one table for each part.
pub(super) fn table(report: &Report) -> String {
    let mut out = String::new();
    let interrupted = if report.interrupted { "  (interrupted)" } else { "" };
    line(&mut out, &format!("{}  {} s each{interrupted}", report.server, report.seconds));
    if !report.operations.is_empty() {
        operations(&mut out, report);
    }
    if !report.latency.is_empty() {
        latency(&mut out, &report.latency);
    }
    if !report.throughput.is_empty() {
        throughput(&mut out, &report.throughput);
    }
    if !report.nodes.is_empty() {
        nodes(&mut out, &report.nodes);
    }
    out
}

/// Appends a line.
fn line(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{}", text.trim_end());
}

/// Formats two percentiles in columns, with dashes if nothing was measured.
fn median_and_p99(times: Option<&Times>) -> String {
    let [p50, p99] = times.map_or(["-".to_owned(), "-".to_owned()], |times| {
        [times.p50, times.p99].map(|micros| Micros(micros).to_string())
    });
    format!("{p50:>9} {p99:>9}")
}

fn operations(out: &mut String, report: &Report) {
    line(out, "");
    if let Some(tool) = report.raw_tool {
        line(
            out,
            &format!("operations of one hub, and the plain command by {tool}: over one connection with as"),
        );
        line(out, "many in flight (`ratio` compares with this one), and over as many connections");
    } else {
        line(out, "operations of one hub; redis-benchmark is not on the PATH, so there is no comparison");
        line(out, "(on Debian: apt-get install redis-tools)");
    }
    let head = format!(
        "{:<21} {:>5} {:>11} {:>9} {:>9}  {:<8} {:>12} {:>12} {:>6}",
        "", "tasks", "per second", "p50", "p99", "plain", "one conn.", "conn. each", "ratio"
    );
    line(out, &head);
    for operation in &report.operations {
        let Operation { name, tasks, per_second, latency_us, failed, plain, commands, .. } = operation;
        // In operations' worth of commands.
        let whole = |raw: Option<super::raw::Raw>| {
            raw.map_or_else(|| "-".to_owned(), |raw| count((raw.per_second / *commands as f64) as u64))
        };
        let (one, each) = (whole(operation.one_connection), whole(operation.connection_each));
        let ratio = operation.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let times = median_and_p99(latency_us.as_ref());
        let rate = count(*per_second as u64);
        let plain = if *commands > 1 { format!("{commands}x") } else { String::new() } + plain;
        let failed = if *failed > 0 { format!("  {failed} failed") } else { String::new() };
        line(
            out,
            &format!(
                "{name:<21} {tasks:>5} {rate:>11} {times}  {plain:<10} {one:>10} {each:>12} {ratio:>6}{failed}"
            ),
        );
    }
}

/// Formats the faults of a series.
fn faults(series: &Series) -> String {
    let Series { lost, order_errors, clock_errors, .. } = *series;
    let clock = if clock_errors > 0 { format!("  clock errors {clock_errors}") } else { String::new() };
    format!("lost {}  out of order {}{clock}", count(lost), count(order_errors))
}

fn latency(out: &mut String, all: &[Latency]) {
    line(out, "");
    line(out, "from one process to another, through Redis");
    line(out, &format!("{:<25} {:>7} {:>9} {:>9} {:>9} {:>9}", "", "per s", "p50", "p99", "p99.9", "max"));
    for Latency { name, rate, series, .. } in all {
        let times = series.latency_us.map(|times| {
            [times.p50, times.p99, times.p999, times.max]
                .map(|micros| format!("{:>9}", Micros(micros).to_string()))
                .join(" ")
        });
        line(out, &format!("{name:<25} {rate:>7} {}  {}", times.unwrap_or_default(), faults(series)));
    }
}

fn throughput(out: &mut String, all: &[Throughput]) {
    line(out, "");
    line(out, "room pushes at the maximum rate of a member on the other node");
    line(
        out,
        &format!(
            "{:>10} {:>11} {:>10} {:>11} {:>9} {:>9}",
            "bytes", "per second", "MiB/s", "Redis CPU", "p50", "p99"
        ),
    );
    for Throughput { size, per_second, redis_cpu_percent, series, .. } in all {
        let mib = per_second * *size as f64 / 1_048_576.0;
        let (rate, times) = (count(*per_second as u64), median_and_p99(series.latency_us.as_ref()));
        let cpu = format!("{redis_cpu_percent:.0} %");
        line(out, &format!("{size:>10} {rate:>11} {mib:>10.1} {cpu:>11} {times}  {}", faults(series)));
    }
}

fn nodes(out: &mut String, all: &[Spread]) {
    line(out, "");
    line(
        out,
        "what 1,000 pushes of 64 bytes cost, at 1,000 a second (idle: cost per second); CPU in ms; the first node",
    );
    line(out, "pushes and has no members");
    let head = format!(
        "{:>5} {:>12} {:>12} {:>9} {:>10} {:>10}   {:<24} {}",
        "nodes", "with members", "Redis sends", "KiB in", "KiB out", "Redis CPU", "CPU of each node", "got"
    );
    line(out, &head);
    for spread in all {
        let kib = |bytes: f64| format!("{:.1}", bytes / 1024.0);
        let cpu = |node: &super::report::NodeCost| {
            node.cpu_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"))
        };
        let cpus = spread.nodes.iter().map(cpu).collect::<Vec<_>>().join(" / ");
        let got = spread.nodes.iter().map(|node| count(node.received)).collect::<Vec<_>>().join(" / ");
        let sends = if spread.pushes == 0 { "idle".to_owned() } else { format!("to {}", spread.subscribers) };
        let (bytes_in, bytes_out) = (kib(spread.redis_bytes_in), kib(spread.redis_bytes_out));
        let Spread { with_members, redis_cpu_ms, .. } = spread;
        let count = spread.nodes.len();
        let faults = spread.members.iter().map(faults).collect::<Vec<_>>().join("  ");
        line(
            out,
            &format!(
                "{count:>5} {with_members:>12} {sends:>12} {bytes_in:>9} {bytes_out:>10} {redis_cpu_ms:>10.1}   {cpus:<24} {got}  {faults}"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_early_end_and_a_missing_tool_are_shown() {
        let operation = Operation {
            name: "table get_many of 64",
            tasks: 16,
            per_second: 1234.5,
            latency_us: None,
            failed: 0,
            first_failure: None,
            plain: "HGETALL",
            commands: 64,
            one_connection: None,
            connection_each: None,
            ratio: None,
        };
        let report = Report { interrupted: true, operations: vec![operation], ..Report::default() };
        let text = table(&report);
        for part in ["(interrupted)", "redis-benchmark is not", "1,234", "64xHGETALL"] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }
}
