use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use ripplecast::{Hub, bus::BusMessage};
use tokio::sync::mpsc;

use crate::{redis::Server, support::PATIENCE};

/// Reads a file of the repository.
fn read(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Returns the names of the public setters: `pub fn name(mut self, …`.
fn setters(source: &str) -> Vec<&str> {
    let code = source.split("\nmod tests {").next().unwrap();
    let functions = code.split("pub fn ").skip(1);
    functions
        .filter(|rest| {
            rest.split(") ").next().unwrap().contains("(mut self") || rest.contains("\n        mut self")
        })
        .filter_map(|rest| rest.split(['(', '<']).next())
        .collect()
}

/// Returns the names of a struct's public fields.
fn fields(source: &str, name: &str) -> Vec<String> {
    let body = source.split(&format!("pub struct {name} {{\n")).nth(1).expect("the struct exists");
    let lines = body.split("\n}").next().unwrap().lines();
    lines
        .filter_map(|line| line.trim_start().strip_prefix("pub ")?.split(':').next().map(ToOwned::to_owned))
        .collect()
}

/// Checks that a document contains each name as code.
fn assert_names<N: AsRef<str>>(path: &str, names: impl IntoIterator<Item = N>) {
    let text = read(path);
    let mut count = 0;
    for name in names {
        let name = name.as_ref();
        assert!(text.contains(&format!("`{name}`")), "{path} does not contain `{name}`");
        count += 1;
    }
    assert!(count > 0, "no names to check in {path}");
}

#[test]
fn all_settings_are_documented() {
    for source in [
        "ripplecast/src/app.rs",
        "ripplecast/src/app/builder.rs",
        "ripplecast/src/ws.rs",
        "ripplecast/src/sse.rs",
    ] {
        let source = read(source);
        let skipped = ["layer", "merge", "route", "files", "ws", "sse"]; // routes of the app, not settings
        assert_names("docs/settings.md", setters(&source).into_iter().filter(|name| !skipped.contains(name)));
    }
    assert_names("docs/settings.md", setters(&read("ripplecast/src/hub/builder.rs")));
    assert_names("docs/settings.md", setters(&read("ripplecast/src/engine/room/rules.rs")));
}

#[test]
fn the_setters_are_found() {
    let app = read("ripplecast/src/app/builder.rs");
    for name in ["backend", "max_header", "tls", "hub"] {
        assert!(setters(&app).contains(&name), "{name} in {:?}", setters(&app));
    }
    assert!(setters(&read("ripplecast/src/ws.rs")).contains(&"on_upgrade"));
}

#[test]
fn all_environment_variables_are_documented() {
    let app = read("ripplecast/src/app/builder.rs");
    let names = app.split('"').filter(|text| {
        text.strip_prefix("RIPPLECAST_")
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
    });
    assert_names("docs/settings.md", names);
}

#[test]
fn all_metrics_are_documented() {
    assert_names("docs/metrics.md", fields(&read("ripplecast/src/hub.rs"), "Stats"));
    assert_names("docs/metrics.md", fields(&read("ripplecast/src/engine/drops.rs"), "Drops"));
    assert_names("docs/metrics.md", fields(&read("ripplecast/src/engine/cluster.rs"), "RemoteStats"));
}

#[test]
fn all_close_codes_are_documented() {
    let source = read("ripplecast/src/close.rs");
    let text = read("docs/close-codes.md");
    let mut count = 0;
    for constant in source.split("pub const ").skip(1).filter(|rest| rest.contains(": Self = Self(")) {
        let Some((name, rest)) = constant.split_once(": Self = Self(") else { continue };
        let number = rest.split(')').next().unwrap();
        assert!(
            text.contains(&format!("| {number} | `{name}` |")),
            "docs/close-codes.md lacks {number} {name}"
        );
        count += 1;
    }
    assert_eq!(count, source.matches(": Self = Self(").count());
    assert!(count > 5, "the constants are in another file");
}

/// A program that is killed when its test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_programs_can_use_the_bus_as_documented() {
    let redis = Server::start();
    let page = read("docs/bus.md");
    let block = page.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    // Uses this test's port, and `exec`, so that killing the shell kills the program.
    let here = format!("exec redis-cli -p {} ", redis.addr().port());
    let [listen, publish] = [0, 1].map(|line| block.lines().nth(line).unwrap().replace("redis-cli ", &here));

    let hub = Hub::builder().backend(redis.url()).connect().await.unwrap();
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let handler = move |message: BusMessage| {
        let sent = sender.send(message.payload);
        async move { sent.unwrap() }
    };
    let _subscription = hub.bus().subscribe("orders.*", handler).await.unwrap();

    let mut listener = Command::new("sh");
    let listener = listener.args(["-c", &listen]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut listener = Running(listener.spawn().unwrap());
    let mut lines = BufReader::new(listener.0.stdout.take().unwrap()).lines();
    let mut shows = |line: &str| lines.by_ref().any(|shown| shown.unwrap() == line);
    assert!(shows("subscribe"), "redis-cli does not run: install it with `apt-get install redis-tools`");

    let published = Command::new("sh").args(["-c", &publish]).stdin(Stdio::null()).output().unwrap();
    assert!(published.status.success(), "{published:?}");
    let received = tokio::time::timeout(PATIENCE, receiver.recv())
        .await
        .expect("the hub receives what redis-cli publishes");
    assert_eq!(received.unwrap(), "4712");
    assert!(shows("message") && shows("4712"), "redis-cli receives what redis-cli publishes");
    assert_eq!(hub.bus().publish("orders.new", "4713").await.unwrap(), 2, "this node and redis-cli");
    assert!(shows("message") && shows("4713"), "redis-cli receives what the hub publishes");
}
