//! Event streams, read by clients of other languages, from the server and through each proxy.

use std::process::Command;

use crate::{
    client::Client,
    proxy::{Kind, Proxy},
    server::Server,
};

/// Where `cargo xtask test` puts the Python packages that tests/python.txt names.
const PACKAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/packages");
/// The packages, with their versions.
const WANTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python.txt");

#[test]
fn event_streams_reach_clients_of_other_languages_at_once() {
    let server = Server::start(&[]);
    let base = format!("http://{}", server.addr);
    python(&base, &server.addr);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proxies/fetch.mjs");
    let said = said(Command::new("node").args([script, &base]), "Install Node.js.");
    assert_eq!(said.trim(), "fetch");
}

#[test]
fn event_streams_reach_clients_of_other_languages_through_proxies() {
    for kind in [Kind::Nginx, Kind::Haproxy, Kind::Caddy] {
        let server = Server::start(&["--trusted-proxies", "loopback"]);
        let proxy = Proxy::start(kind, &server.addr);
        python(&format!("http://{}", proxy.addr), &Client::of(&proxy.addr).host);
    }
}

#[track_caller]
fn python(base: &str, host: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proxies/clients.py");
    let install = format!(
        "Run `cargo xtask test` once, or: python3 -m pip install --target {PACKAGES} --requirement {WANTED}"
    );
    let mut python = Command::new("python3");
    let said = said(python.env("PYTHONPATH", PACKAGES).args([script, base, host]), &install);
    let clients: Vec<_> = said.lines().collect();
    assert_eq!(clients, ["requests, sseclient", "requests, iter_lines", "httpx-sse", "aiohttp"]);
}

/// What a program writes that ends well.
#[track_caller]
fn said(command: &mut Command, install: &str) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}. {install}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("ModuleNotFoundError"), "{errors}\n{install}");
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}
