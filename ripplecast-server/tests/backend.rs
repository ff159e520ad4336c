//! `ripplecast bench backend` against a real Redis, in short runs.

mod support;

use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::{Redis, free_port, ripplecast};

fn bench(redis: &str, args: &[&str]) -> Command {
    let mut command = ripplecast();
    command.args(["bench", "backend", "--backend", redis]).args(args);
    command
}

fn texts(output: &Output) -> (String, String) {
    (String::from_utf8(output.stdout.clone()).unwrap(), String::from_utf8(output.stderr.clone()).unwrap())
}

/// Returns the report of a run that must succeed, after checking that it left no keys
/// behind.
fn measure(args: &[&str]) -> Value {
    let redis = Redis::start();
    redis.ask::<()>(&["SET", "ripplecast:c:{counter}", "another application's"]);
    let output = bench(&redis.url(), &[&["--json"], args].concat()).output().unwrap();
    let (out, err) = texts(&output);
    assert!(output.status.success(), "{args:?}: {err}");
    assert_eq!(out.lines().count(), 1, "{out}");
    assert_eq!(
        redis.ask::<Vec<String>>(&["KEYS", "*"]),
        ["ripplecast:c:{counter}"],
        "the run left keys behind"
    );
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["interrupted"], false);
    assert!(report["server"].as_str().unwrap().contains(&redis.url()), "{report}");
    report
}

/// Checks that all messages arrived in order and were timed.
#[track_caller]
fn assert_whole(series: &Value) {
    let count = series["messages"].as_u64().unwrap();
    assert!(count > 0, "{series}");
    for (name, wanted) in [("received", count), ("lost", 0), ("order_errors", 0), ("clock_errors", 0)] {
        assert_eq!(series[name], wanted, "{name}: {series}");
    }
    assert_eq!(series["latency_us"]["count"], count, "{series}");
    assert!(series["latency_us"]["p50"].as_f64().unwrap() > 0.0, "{series}");
}

#[test]
fn operations_are_reported_with_the_plain_commands() {
    let report = measure(&["--only", "operations", "--seconds", "0.1", "--tasks", "1,4"]);
    let operations = report["operations"].as_array().unwrap();
    let names: Vec<_> =
        operations.iter().map(|it| (it["name"].as_str().unwrap(), it["tasks"].as_u64())).collect();
    let wanted = ["counter increment", "table set", "table get", "table increment", "table get_many of 64"];
    assert_eq!(names, wanted.map(|name| [(name, Some(1)), (name, Some(4))]).concat());
    for operation in operations {
        assert!(operation["latency_us"]["count"].as_u64() > Some(0), "{operation}");
        assert!(operation["per_second"].as_f64() > Some(0.0) && operation["failed"] == 0, "{operation}");
    }
    // redis-benchmark is part of the server, in Debian's package redis-tools.
    let has_tool = Command::new("redis-benchmark").arg("--version").stdout(Stdio::null()).status().is_ok();
    assert_eq!(!report["raw_tool"].is_null(), has_tool, "{report}");
    for operation in operations.iter().filter(|_| has_tool) {
        assert!(operation["ratio"].as_f64() > Some(0.0), "{operation}");
        let tasks = &operation["tasks"];
        assert_eq!(
            (&operation["connection_each"]["clients"], &operation["one_connection"]["clients"]),
            (tasks, &1.into())
        );
    }
}

#[test]
fn without_redis_benchmark_the_report_says_so() {
    let redis = Redis::start();
    let args = ["--only", "operations", "--seconds", "0.05", "--tasks", "1"];
    let output = bench(&redis.url(), &args).env("PATH", "").output().unwrap();
    let (out, err) = texts(&output);
    assert!(output.status.success() && out.contains("redis-benchmark is not on the PATH"), "{out}{err}");
}

#[test]
fn messages_reach_the_other_node_complete_and_in_order() {
    let report = measure(&["--only", "latency,throughput", "--seconds", "0.3", "--rate", "200"]);
    let names = ["publish to subscription", "push to WebSocket"];
    let latency = report["latency"].as_array().unwrap();
    assert_eq!(latency.len(), names.len(), "{report}");
    for (series, name) in latency.iter().zip(names) {
        assert_eq!((&series["name"], &series["messages"]), (&name.into(), &60.into()), "{report}");
        assert_whole(series);
    }
    let throughput = report["throughput"].as_array().unwrap();
    assert_eq!(throughput.iter().map(|it| it["size"].as_u64().unwrap()).collect::<Vec<_>>(), [64, 1024]);
    for series in throughput {
        assert!(series["per_second"].as_f64() > Some(0.0), "{series}");
        assert_whole(series);
    }
}

#[test]
fn nodes_without_members_receive_nothing() {
    let report = measure(&["--only", "nodes", "--seconds", "0.2"]);
    let mut kib_out = Vec::new();
    for case in report["nodes"].as_array().unwrap() {
        let (pushes, with_members) =
            (case["pushes"].as_u64().unwrap(), case["with_members"].as_u64().unwrap());
        assert_eq!(case["subscribers"], with_members, "as reported by Redis: {case}");
        let nodes = case["nodes"].as_array().unwrap();
        for (number, node) in nodes.iter().enumerate() {
            let is_member = (1..=with_members).contains(&(number as u64));
            assert_eq!(node["received"], if is_member { pushes } else { 0 }, "node {number}: {case}");
        }
        for member in case["members"].as_array().unwrap().iter().filter(|_| pushes > 0) {
            assert_whole(member);
        }
        if pushes > 0 {
            assert_eq!(case["published"].as_f64(), Some(pushes as f64), "one message per push: {case}");
            kib_out.push((nodes.len(), with_members, case["redis_bytes_out"].as_f64().unwrap()));
        }
    }
    let [two, three, both, none] = kib_out[..] else { panic!("{kib_out:?}") };
    assert_eq!([two, three, both, none].map(|it| (it.0, it.1)), [(2, 1), (3, 1), (3, 2), (3, 0)]);
    assert!(
        both.2 > 1.5 * three.2 && three.2 > 1.5 * none.2,
        "traffic grows with the nodes that have members: {kib_out:?}"
    );
    assert!(three.2 < 1.5 * two.2, "traffic does not grow with the other nodes: {kib_out:?}");
}

#[test]
fn an_unreachable_redis_is_reported() {
    let url = format!("redis://:secret@127.0.0.1:{}", free_port());
    let output = bench(&url, &[]).output().unwrap();
    let (out, err) = texts(&output);
    assert_eq!((output.status.code(), out.as_str()), (Some(1), ""), "{err}");
    for part in ["ripplecast: --backend redis://127.0.0.1:", "can't be reached", "redis-server"] {
        assert!(err.contains(part), "no {part:?} in {err}");
    }
    assert!(!err.contains("secret") && err.lines().count() == 1, "{err}");
}

#[test]
fn help_names_every_part_and_setting() {
    let output = ripplecast().args(["bench", "backend", "--help"]).output().unwrap();
    let (help, err) = texts(&output);
    assert!(output.status.success() && err.is_empty(), "{err}");
    for name in [
        "--backend",
        "--seconds",
        "--only",
        "--tasks",
        "--rate",
        "--json",
        "operations",
        "latency",
        "throughput",
        "nodes",
        "redis-benchmark",
        "Ctrl-C",
        "exit code",
    ] {
        assert!(help.contains(name), "no {name} in {help}");
    }
    assert!(!help.contains("--node "), "{help}");
}
