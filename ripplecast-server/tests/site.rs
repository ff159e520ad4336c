//! The endpoints that the binary serves in addition to the counter, as used by a client that is not a browser.

#[path = "support/program.rs"]
mod program;
#[path = "support/server.rs"]
mod server;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use server::Server;
use tungstenite::Message;

const TOKEN: &str = "0123456789abcdef";

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// Reads until a message contains `text`.
fn until(socket: &mut tungstenite::WebSocket<TcpStream>, text: &str) -> String {
    loop {
        if let Message::Text(message) = socket.read().unwrap()
            && message.contains(text)
        {
            return message.to_string();
        }
    }
}

#[test]
fn health_and_metrics_are_served() {
    let server = Server::start(&[]);
    assert!(server.get("/health", &[]).ends_with(r#"{"status":"ok"}"#));
    let mut tab = server.open("/ws/counter-demo");
    // The handshake's response is sent before the connection is counted, the first message after.
    until(&mut tab, "value");
    let metrics = server.get("/metrics", &[]);
    assert!(
        metrics.contains("text/plain; version=0.0.4") && metrics.contains("\nripplecast_connections 1\n"),
        "{metrics}"
    );
}

#[test]
fn the_inspector_is_open_to_this_machine_only() {
    let server = Server::start(&[]);
    let paths = ["/inspect", "/metrics", "/ws/inspect"];
    for path in paths {
        for header in ["host: evil.example", "x-forwarded-for: 127.0.0.1", "forwarded: for=127.0.0.1"] {
            let upgrade = [
                "connection: upgrade",
                "upgrade: websocket",
                "sec-websocket-version: 13",
                "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
            ];
            let headers: Vec<&str> =
                if path == "/ws/inspect" { [&[header][..], &upgrade].concat() } else { vec![header] };
            assert_eq!(status(&server.get(path, &headers)), "403", "{path} {header}");
        }
    }
    assert_eq!(status(&server.get("/inspect", &[])), "200");
    for path in ["/inspect", "/metrics"] {
        let target = format!("GET http://evil.example{path}");
        assert_eq!(
            status(&server.send(&target, &["host: 127.0.0.1"], "")),
            "403",
            "{path}: the request target counts"
        );
        assert_eq!(status(&server.get(path, &["host: 127.0.0.1", "host: 127.0.0.1"])), "400", "{path}");
    }
    let behind = Server::start(&["--trusted-proxies", "loopback"]);
    for path in ["/inspect", "/metrics"] {
        // As sent by a proxy that forwards `Host`, or sets its own, and adds no header.
        assert_eq!(status(&behind.get(path, &["host: localhost"])), "403", "{path}");
    }
    let mut picture = server.open("/ws/inspect");
    let picture = until(&mut picture, "figures");
    assert!(picture.contains(r#""what":"inspector""#) && picture.contains("counter-demo"), "{picture}");
}

#[test]
fn the_inspector_shows_the_frames_of_one_connection() {
    let server = Server::start(&[]);
    let mut counter = server.open("/ws/counter-demo");
    until(&mut counter, "value");
    let mut inspector = server.open("/ws/inspect");
    let picture = until(&mut inspector, "counter-demo");
    let picture: serde_json::Value = serde_json::from_str(&picture).unwrap();
    let id = |what: &str| {
        let all = picture["connections"].as_array().unwrap();
        all.iter().find(|conn| conn["what"] == what).unwrap()["id"].as_str().unwrap()
    };
    let mut ask = |what: &str| {
        inspector.send(Message::text(format!(r#"{{"frames_of":"{what}"}}"#))).unwrap();
    };
    ask(id("inspector"));
    ask("nonsense");
    ask(id("counter"));
    for wrong in ["can’t be watched", "Not a connection id"] {
        // A text: snapshots have a number of that name.
        assert!(until(&mut inspector, r#""refused":""#).contains(wrong));
    }
    // Frames appear once the connection is observed, so the tab keeps sending until then.
    let mut shown = String::new();
    while !(shown.contains(r#""received":true"#) && shown.contains(r#""received":false"#)) {
        counter.send(Message::text("ping")).unwrap();
        until(&mut counter, "pong");
        shown += &until(&mut inspector, "frames_of");
    }
    assert!(shown.contains(r#""kind":"text","bytes":4"#) && shown.contains(r#""head":"pong""#), "{shown}");
    counter.close(None).unwrap();
    let last = until(&mut inspector, r#""ended":true"#);
    assert!(last.contains(r#""kind":"close""#) && last.contains(id("counter")), "{last}");
}

#[test]
fn a_server_on_all_addresses_requires_the_inspector_token() {
    let closed = Server::start(&["--host", "0.0.0.0"]);
    assert_eq!(status(&closed.get("/inspect", &[])), "403");
    let refused = closed.get("/metrics", &[]);
    assert_eq!(status(&refused), "403");
    assert!(refused.contains("has no trusted proxies. To allow access"), "the advice is one line: {refused}");
    assert!(refused.ends_with("start the server with --inspect-token.\n"), "{refused}");
    let form = "content-type: application/x-www-form-urlencoded";
    let refused = closed.send("POST /inspect", &[form], &format!("token={TOKEN}"));
    assert!(status(&refused) == "403" && !refused.contains("type=\"password\""), "{refused}");

    let server = Server::start(&["--host", "0.0.0.0", "--inspect-token", TOKEN]);
    let asked = server.get("/inspect", &[]);
    assert!(status(&asked) == "401" && asked.contains("type=\"password\""), "{asked}");
    assert_eq!(status(&server.get("/metrics", &[])), "403");
    for scheme in ["Bearer", "bearer"] {
        let answer = server.get("/metrics", &[&format!("authorization: {scheme} {TOKEN}")]);
        assert_eq!(status(&answer), "200", "{scheme}");
    }
    let log_in =
        |token: &str, over: &str| server.send("POST /inspect", &[form, over], &format!("token={token}"));
    let wrong = log_in("0123456789abcdeg", "accept: */*");
    assert!(status(&wrong) == "401" && wrong.contains("Wrong token."), "{wrong}");
    assert!(!asked.contains("Wrong token."), "no token has been sent yet");
    let over_tls = log_in(TOKEN, "x-forwarded-proto: https");
    assert!(over_tls.contains("set-cookie: __Host-ripplecast_inspect="), "{over_tls}");
    assert!(over_tls.contains("; Path=/; ") && over_tls.contains("SameSite=Strict; Secure"), "{over_tls}");
    let answer = log_in(TOKEN, "accept: */*");
    assert_eq!(status(&answer), "303");
    let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    assert!(cookie.ends_with("HttpOnly; SameSite=Strict") && !cookie.contains(TOKEN), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    for cookie in [format!("cookie: {cookie}"), format!("cookie: name=Jos\u{e9}; {cookie}")] {
        assert_eq!(status(&server.get("/inspect", &[&cookie])), "200", "{cookie}");
    }
}

#[test]
fn wrong_tokens_are_limited_wherever_they_are_checked() {
    let server = Server::start(&["--host", "0.0.0.0", "--inspect-token", TOKEN]);
    let wrong = "authorization: Bearer 0123456789abcdeg";
    let form = "content-type: application/x-www-form-urlencoded";
    let upgrade = [
        wrong,
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
    ];
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(server.get("/metrics", &[wrong]));
        answers.push(server.get("/inspect", &[wrong]));
        answers.push(server.get("/ws/inspect", &upgrade));
        answers.push(server.send("POST /inspect", &[form], "token=0123456789abcdeg"));
    }
    let looked_at = answers.iter().filter(|answer| matches!(status(answer), "401" | "403")).count();
    let refused = answers.iter().filter(|answer| status(answer) == "429").count();
    assert!(looked_at < 40 && looked_at + refused == 80, "{looked_at} checked, {refused} rejected");
    assert!(answers[76..].iter().all(|answer| status(answer) == "429"), "all four share the limit");
}

#[test]
fn visitors_see_traffic_and_aliases_and_operators_see_all() {
    let server = Server::start(&["--trusted-proxies", "loopback", "--inspect-token", TOKEN]);
    let operator = format!("authorization: Bearer {TOKEN}");
    let metrics = server.get("/metrics", &[&operator]);
    let node = metrics.split("node=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let (mut dashboard, mut panel) = (server.open("/ws/demos/dashboard"), server.open("/ws/learn/nodes"));
    let history = until(&mut dashboard, "history");
    let figures = until(&mut dashboard, "uptime");
    let you = until(&mut panel, "you");
    let nodes = server.get("/api/nodes", &[]);
    let mut counter = server.open("/ws/counter-demo");
    let hello = until(&mut counter, "node");
    for shown in [&history, &figures, &you, &nodes, &hello] {
        for secret in [&*node, "memory", "dropped", "queued", "backend", "remote"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }
    let shown = server.get("/api/nodes", &[&operator]);
    assert!(shown.contains(r#""backend":"memory""#) && !shown.contains(&node), "{shown}");
    // On this machine, everything is shown to the operator.
    let here = Server::start(&[]);
    let mut dashboard = here.open("/ws/demos/dashboard");
    let history = until(&mut dashboard, "history");
    assert!(history.contains("\"memory\"") && history.contains("\"queued_bytes\""), "{history}");
    let figures = until(&mut dashboard, "uptime");
    assert!(figures.contains("\"memory\"") && figures.contains("\"dropped\""), "{figures}");
}

#[test]
fn pages_of_other_origins_change_nothing() {
    let server = Server::start(&[]);
    let json = "content-type: application/json";
    let form = "content-type: application/x-www-form-urlencoded";
    for (request, kind, body) in [
        ("POST /api/counter/bump", json, ""),
        ("POST /api/counter/reset", json, ""),
        ("POST /api/learn/job", json, ""),
        ("POST /api/learn/send", json, r#"{"number":1,"to":null}"#),
        ("POST /api/demos/notifications", json, r#"{"text":"news"}"#),
        ("POST /inspect", form, "token=0123456789abcdef"),
    ] {
        for evil in ["origin: https://evil.example", "sec-fetch-site: cross-site"] {
            assert_eq!(status(&server.send(request, &[kind, evil], body)), "403", "{request} {evil}");
        }
        let own = format!("origin: http://{}", server.addr);
        let answer = server.send(request, &[kind, &own, "sec-fetch-site: same-origin"], body);
        assert!(request.ends_with("/inspect") || status(&answer).starts_with('2'), "{request}: {answer}");
    }
}

#[test]
fn live_responses_are_neither_cached_nor_sniffed() {
    let server = Server::start(&[]);
    for path in ["/metrics", "/health", "/api/counter", "/api/nodes", "/api/learn/poll", "/inspect"] {
        let answer = server.get(path, &[]);
        assert!(answer.contains("\r\nx-content-type-options: nosniff\r\n"), "{path}: {answer}");
        assert!(answer.contains("\r\ncache-control: no-store\r\n"), "{path}: {answer}");
    }
}

#[test]
fn a_poll_reports_its_own_size() {
    let server = Server::start(&[]);
    let answer = server.get("/api/learn/poll", &[]);
    // This request asks for `connection: close`, which adds a header that a browser's poll does not have.
    let length = answer.replace("connection: close\r\n", "").len();
    assert!(answer.contains(&format!(r#""response":{length}"#)), "{length}: {answer}");
}

#[test]
fn strangers_are_limited_with_an_explanation() {
    let server = Server::start(&["--trusted-proxies", "loopback"]);
    let notify = |from: &str, text: &str| {
        let headers = ["content-type: application/json", from];
        server.send("POST /api/demos/notifications", &headers, &format!(r#"{{"text":"{text}"}}"#))
    };
    let (stranger, another) = ("x-forwarded-for: 192.0.2.7", "x-forwarded-for: 192.0.2.8");
    let refused = (0..200).map(|_| notify(stranger, "x")).find(|answer| status(answer) != "202").unwrap();
    assert_eq!(status(&refused), "429");
    assert!(refused.contains("retry-after: 1") && refused.contains("try again in 1 second."), "{refused}");
    assert_eq!(status(&notify(another, "x")), "202");
    // A proxy without forwarding headers also forwards strangers.
    let bare = (0..200).map(|_| notify("accept: */*", "x")).find(|answer| status(answer) != "202").unwrap();
    assert_eq!(status(&bare), "429");
}

#[test]
fn limits_apply_before_the_body_is_read() {
    let server = Server::start(&["--trusted-proxies", "loopback", "--inspect-token", TOKEN]);
    for (path, from) in [("/api/demos/notifications", "192.0.2.7"), ("/inspect", "192.0.2.8")] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nx-forwarded-for: {from}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: 100\r\n\r\n",
            server.addr
        );
        let waiting: Vec<_> = (0..60)
            .map(|_| {
                let mut stream = TcpStream::connect(&server.addr).unwrap();
                stream.set_read_timeout(Some(program::PATIENCE)).unwrap();
                stream.write_all(head.as_bytes()).unwrap();
                stream
            })
            .collect();
        // The last ones are rejected, without waiting for a body that never arrives.
        let refused = waiting.into_iter().rev().any(|mut stream| {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            status(&answer) == "429"
        });
        assert!(refused, "{path}: every request waited for its body");
    }
}

#[test]
fn this_machine_is_not_limited() {
    let server = Server::start(&[]);
    let notify = |text: &str| {
        let body = format!(r#"{{"text":"{text}"}}"#);
        server.send("POST /api/demos/notifications", &["content-type: application/json"], &body)
    };
    assert!((0..60).all(|_| status(&notify("x")) == "202"));
    assert_eq!(status(&notify("  ")), "422");
    assert_eq!(status(&notify(&"x".repeat(201))), "422");
    assert_eq!(status(&notify(&"x".repeat(9000))), "413");
}

#[test]
fn a_chat_bounds_names_rooms_and_texts() {
    let server = Server::start(&[]);
    let mut odd = server.open("/ws/demos/chat?room=No%20Such%20Room&name=%20%0a");
    let who = until(&mut odd, "people");
    assert!(who.contains(r#""name":"guest""#), "{who}");
    let mut nameless = server.open("/ws/demos/chat?room=rust");
    assert!(until(&mut nameless, "people").contains(r#""name":"guest""#));
    let mut roomless = server.open("/ws/demos/chat?name=Bob");
    assert_eq!(
        until(&mut roomless, "people").matches("name").count(),
        2,
        "the lobby, without the people in rust"
    );
    let mut ada = server.open("/ws/demos/chat?room=lobby&name=Ada");
    until(&mut odd, "Ada");
    let mut say = |text: &str| ada.send(Message::text(text)).unwrap();
    say(&format!(r#"{{"say":"{}"}}"#, "é".repeat(501)));
    say("nonsense");
    say(r#"{"say":"hello"}"#);
    let notice = until(&mut ada, "notice");
    assert!(notice.contains("at most 500 characters"), "{notice}");
    assert!(until(&mut ada, "notice").contains("typing"));
    assert!(until(&mut odd, "said").contains("hello"));
}

#[test]
fn a_full_room_reports_it() {
    let server = Server::start(&[]);
    let mut here: Vec<_> = (0..50)
        .map(|_| {
            let mut socket = server.open("/ws/demos/chat?room=full&name=a");
            until(&mut socket, "you");
            socket
        })
        .collect();
    // Each newcomer updated the room's member list; the first has received all updates.
    for _ in 0..here.len() {
        until(&mut here[0], "people");
    }
    let mut late = server.open("/ws/demos/chat?room=full&name=late");
    assert!(until(&mut late, "notice").contains("50 people"));
    let close = loop {
        if let Message::Close(close) = late.read().unwrap() {
            break close.unwrap();
        }
    };
    assert_eq!(u16::from(close.code), 1013);
    while late.read().is_ok() {}
    // A rejected connection is announced to no one: the next message is the next one sent.
    here[0].send(Message::text(r#"{"say":"hello"}"#)).unwrap();
    let next = until(&mut here[0], "");
    assert!(next.contains("hello"), "{next}");
    here.pop().unwrap().close(None).unwrap();
    until(&mut here[0], r#""people""#);
}

#[test]
fn a_rejected_pointer_is_announced_to_no_one() {
    let server = Server::start(&["--demo-limits"]);
    let mut first = server.open("/ws/demos/cursors");
    until(&mut first, "you");
    // As many as one address may open, and some more, which are rejected and close.
    let mut admitted = Vec::new();
    for _ in 0..40 {
        let mut next = server.open("/ws/demos/cursors");
        let shown = until(&mut next, "");
        if shown.contains("notice") {
            while next.read().is_ok() {}
        } else {
            admitted.push((next, shown));
        }
    }
    let (mut last, shown) = admitted.pop().unwrap();
    let id = shown.split('"').nth(3).unwrap();
    last.close(None).unwrap();
    let gone = until(&mut first, "gone");
    assert!(gone.contains(id), "expected {id} in {gone}");
}

#[test]
fn a_stranger_cannot_keep_the_counter_busy() {
    const REQUESTS: usize = 500;
    let server = Server::start(&["--trusted-proxies", "loopback"]);
    let requests =
        ["POST /api/counter/bump", "POST /api/counter/reset", "GET /api/nodes", "GET /api/learn/poll"];
    for (n, request) in requests.iter().enumerate() {
        let from = format!("x-forwarded-for: 192.0.2.{n}");
        // All at once over one connection, so that the limit hardly refills in between.
        let each = format!("{request} HTTP/1.1\r\nhost: a\r\n{from}\r\ncontent-length: 0\r\n");
        let all = format!("{each}\r\n").repeat(REQUESTS - 1) + &each + "connection: close\r\n\r\n";
        let mut stream = TcpStream::connect(&server.addr).unwrap();
        stream.write_all(all.as_bytes()).unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        let count = |status: &str| answers.matches(&format!("HTTP/1.1 {status} ")).count();
        assert!(count("200") >= 120 && count("429") > 0, "{request}: {} {}", count("200"), count("429"));
    }
}

#[test]
fn nodes_are_listed_and_a_message_to_an_unknown_tab_reaches_no_one() {
    let server = Server::start(&[]);
    let nodes = server.get("/api/nodes", &[]);
    assert!(nodes.contains(r#""backend":"memory","degraded":false,"tabs":{}"#), "{nodes}");
    let send = |body: &str| server.send("POST /api/learn/send", &["content-type: application/json"], body);
    assert!(send(r#"{"number":1,"to":"3f9a2c7e51b0d846"}"#).contains(r#""reached":0,"owners":[]"#));
    assert_eq!(status(&send(r#"{"number":1,"to":"x"}"#)), "422");
    assert_eq!(status(&send(r#"{"number":1,"to":null}"#)), "200");
}

#[test]
fn a_job_runs_once_at_a_time() {
    let server = Server::start(&[]);
    let start = || server.send("POST /api/learn/job", &[], "");
    assert_eq!(status(&start()), "202");
    let again = start();
    assert!(status(&again) == "409" && again.contains("already running"), "{again}");
}
