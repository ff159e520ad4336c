//! The proxies of docs/deploy.md and docs/tls.md with their documented configurations: the real nginx, HAProxy and
//! Caddy in front of the real binary.

mod client;
mod foreign;
mod page;
#[path = "../support/ports.rs"]
mod ports;
#[path = "../support/program.rs"]
mod program;
mod proxy;
#[path = "../support/server.rs"]
mod server;

use std::net::{Ipv4Addr, TcpStream};

use client::Client;
use proxy::{BELOW, Kind, Proxy, SITE};
use server::Server;
use tungstenite::{Message, WebSocket};

/// The token for the inspector, which is closed behind a proxy.
const TOKEN: &str = "0123456789abcdef";
/// A loopback address that differs from the proxy's own.
const SOMEBODY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[test]
fn nginx_forwards_everything() {
    check(Kind::Nginx);
}

#[test]
fn nginx_with_the_location_of_the_tls_page_forwards_everything() {
    check(Kind::NginxLocation);
}

#[test]
fn haproxy_forwards_everything() {
    check(Kind::Haproxy);
}

#[test]
fn caddy_forwards_everything() {
    check(Kind::Caddy);
}

#[test]
fn nginx_serves_the_site_under_a_prefix_that_it_strips() {
    let server = Server::start(&["--trusted-proxies", "loopback", "--inspect-token", TOKEN]);
    below(Kind::NginxBelow, &server);
}

#[test]
fn nginx_serves_the_site_under_a_prefix_that_it_forwards() {
    let args = ["--trusted-proxies", "loopback", "--inspect-token", TOKEN, "--base-path", BELOW];
    let server = Server::start(&args);
    below(Kind::NginxBelowAsItIs, &server);
    assert_eq!(status(&server.get("/health", &[])), "200", "without the proxy and without the prefix");
}

/// Checks pages, the files they name, redirects, WebSockets and event streams under a path prefix.
#[track_caller]
fn below(kind: Kind, server: &Server) {
    let proxy = Proxy::start(kind, &server.addr);
    let client = Client::of(&proxy.addr);
    page_and_counter(&client, kind.prefix());

    for (path, leads_to) in [
        ("", format!("http://{}{BELOW}/", client.host)), // redirected by nginx
        ("/", "learn/websocket".to_owned()),
        ("/learn", "learn/websocket".to_owned()),
        ("/docs/", "../docs".to_owned()),
        ("/docs/state.md", "state".to_owned()),
    ] {
        let answer = client.get(&format!("{BELOW}{path}"));
        let location = answer
            .lines()
            .find_map(|line| line.strip_prefix("Location: ").or(line.strip_prefix("location: ")));
        assert_eq!(location, Some(&*leads_to), "{path}: {answer}");
    }
    cookie_is_for(&client, BELOW);
    // The path from each page to the root, and the addresses it names.
    for (page, root) in [
        ("/learn/websocket", "../"),
        ("/demos", "./"),
        ("/demos/chat", "../"),
        ("/docs/state", "../"),
        ("/none/at/all", "../../"),
    ] {
        let html = client.get(&format!("{BELOW}{page}"));
        assert!(!html.contains("<a href=\"/") && !html.contains("src=\"/"), "{page}: {html}");
        let mark = format!("=\"{root}");
        let named = html.split(&*mark).skip(1).filter_map(|rest| rest.split(['"', '#']).next());
        let named: std::collections::BTreeSet<&str> =
            named.filter(|path| !path.starts_with("docs/") && *path != "inspect").collect(); // needs a token
        assert!(named.len() >= 4, "{page} names {named:?}");
        for path in named {
            let answer = client.get(&format!("{BELOW}/{path}"));
            assert!(matches!(status(&answer), "200" | "307"), "{path}, named by {page}: {answer}");
        }
    }
}

/// Checks everything that docs/deploy.md requires of a proxy.
fn check(kind: Kind) {
    let server = Server::start(&["--trusted-proxies", "loopback"]);
    let proxy = Proxy::start(kind, &server.addr);
    let client = Client::of(&proxy.addr);
    page_and_counter(&client, kind.prefix());
    origins(&client);
    inspector_is_closed(&server, &proxy);
    drop((proxy, server));

    // The client is on loopback, like the proxy, so only the proxy's own address is trusted here.
    let server = Server::start(&["--trusted-proxies", "127.0.0.1", "--inspect-token", TOKEN]);
    let proxy = Proxy::start(kind, &server.addr);
    addresses(&server, &proxy);
}

/// Checks the page, a WebSocket and an event stream: each change reaches both immediately.
#[track_caller]
fn page_and_counter(client: &Client, prefix: &str) {
    let page = client.get(&format!("{prefix}/learn/websocket"));
    assert!(status(&page) == "200" && page.contains("<h1"), "{page}");
    let mut tab = client
        .open(&format!("{prefix}/ws/counter-demo"), &[("origin", &format!("http://{}", client.host))])
        .unwrap();
    until(&mut tab, r#"{"value":0}"#);
    let mut events = client.events(&format!("{prefix}/events/counter"));
    events.until("data: {\"value\":0}\n\n");
    for value in 1..=3 {
        assert_eq!(status(&client.post(&format!("{prefix}/api/counter/bump"))), "200");
        events.until(&format!("data: {{\"value\":{value}}}\n\n"));
        until(&mut tab, &format!(r#"{{"value":{value}}}"#));
    }
}

/// Only the site's own pages may open a WebSocket, whatever forwarding headers a client sends.
#[track_caller]
fn origins(client: &Client) {
    let refused = |headers: &[(&str, &str)]| client.open("/ws/counter-demo", headers).err();
    let foreign = ("origin", "http://evil.example");
    assert_eq!(refused(&[foreign]), Some(403));
    assert_eq!(refused(&[foreign, ("x-forwarded-host", "evil.example")]), Some(403), "a forged host");
    assert_eq!(refused(&[foreign, ("forwarded", "host=evil.example")]), Some(403), "a forged host");
}

/// Whatever is open to this machine is closed to clients behind the proxy, whichever host they request.
#[track_caller]
fn inspector_is_closed(server: &Server, proxy: &Proxy) {
    let mut client = Client::of(&proxy.addr);
    for path in ["/inspect", "/metrics"] {
        // It is closed without the proxy too: the server cannot tell such a request from one by a proxy without
        // headers.
        assert_eq!(status(&server.get(path, &[])), "403", "{path} without the proxy");
        client.host = format!("{SITE}:{}", port(proxy));
        assert_eq!(status(&client.get(path)), "403", "{path}");
        // Caddy answers requests for other names with an empty page.
        client.host = format!("127.0.0.1:{}", port(proxy));
        let answer = client.get(path);
        assert!(status(&answer) == "403" || answer.ends_with("\r\n\r\n"), "{path}: {answer}");
    }
}

/// The inspector's cookie is limited to the site's own path, whatever path a client claims to see.
#[track_caller]
fn cookie_is_for(client: &Client, path: &str) {
    let forged = "x-forwarded-prefix: /evil";
    let answer = client.form(&format!("{path}/inspect"), &format!("token={TOKEN}"), forged);
    let cookie = answer.lines().find(|line| line.to_ascii_lowercase().starts_with("set-cookie: "));
    assert!(cookie.is_some_and(|cookie| cookie.contains(&format!("; Path={path}/; "))), "{answer}");
}

/// The server knows the clients behind the proxy, and does not trust addresses that they claim.
#[track_caller]
fn addresses(server: &Server, proxy: &Proxy) {
    let mut client = Client::of(&proxy.addr);
    cookie_is_for(&client, "");
    client.from = SOMEBODY;
    let headers = [
        ("accept", "*/*"),
        ("x-forwarded-for", "192.0.2.7"),
        ("forwarded", "for=192.0.2.7"),
        ("forwarded", "for=192.0.2.7;by=127.0.0.1"),
    ];
    let chats = headers.map(|header| client.open("/ws/demos/chat?room=lobby&name=a", &[header]).unwrap());
    let past_the_proxy = Client::of(&server.addr);
    let token = ("authorization", &*format!("Bearer {TOKEN}"));
    let mut inspector = past_the_proxy.open("/ws/inspect", &[token]).unwrap();
    let picture = loop {
        let picture = until(&mut inspector, "figures");
        if picture.matches(r#""what":"chat""#).count() == chats.len() {
            break picture;
        }
    };
    let known = picture.matches(&format!(r#""addr":"{SOMEBODY}""#)).count();
    assert_eq!(known, chats.len(), "{picture}");
}

fn port(proxy: &Proxy) -> &str {
    proxy.addr.rsplit(':').next().unwrap_or_default()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// Reads until a message contains `text`.
#[track_caller]
fn until(socket: &mut WebSocket<TcpStream>, text: &str) -> String {
    loop {
        if let Message::Text(message) = socket.read().unwrap()
            && message.contains(text)
        {
            return message.to_string();
        }
    }
}
