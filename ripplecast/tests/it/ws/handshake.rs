mod addresses;
mod hooks;
mod origins;
mod refusals;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use ripplecast::{
    Accept, Connection, Message, Request,
    ws::{self, OriginPolicy},
};
use tungstenite::{Message as WsMessage, client::IntoClientRequest as _};

use crate::support::{
    Echo, PING, SERVERS, Seen, Server, Site, TEXT, check_echo, dial, frame, head, read_close, read_frame,
    request, text,
};

/// Starts a server with the default settings at `/echo`.
fn echo_site(server: Server) -> Site {
    Site::start(server, |hub| hub.shards(1), |hub, router| router.route("/echo", hub.ws(Echo::default())))
}

/// Sends a request. Returns the head of the response and the socket.
fn ask(site: &Site, request: &str) -> (String, TcpStream) {
    let mut stream = dial(site.addr);
    stream.write_all(request.as_bytes()).unwrap();
    (head(&mut stream), stream)
}

/// Sends an upgrade request with additional headers. Returns the status of the response and the socket.
fn upgrade(site: &Site, path: &str, headers: &str) -> (u16, TcpStream) {
    let (head, stream) = ask(site, &request(path, headers));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), stream)
}

/// Returns the status of the response to [`upgrade`].
fn status(site: &Site, path: &str, headers: &str) -> u16 {
    upgrade(site, path, headers).0
}

#[test]
fn the_response_is_derived_from_the_key() {
    for server in SERVERS {
        let site = echo_site(server);
        let (head, mut stream) = ask(&site, &request("/echo", ""));
        assert!(head.starts_with("http/1.1 101 switching protocols\r\n"), "{head}");
        // The example in RFC 6455, section 1.3, in lower case as returned by `head`.
        assert!(head.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
        assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
        assert!(head.contains("\r\nconnection: upgrade\r\n"), "{head}");
        assert!(!head.contains("sec-websocket-protocol"), "{head}");
        stream.write_all(&frame(TEXT, b"hello")).unwrap();
        assert_eq!(read_frame(&mut stream).unwrap(), (TEXT, b"hello".to_vec()));
        drop(stream);
        check_echo(&mut site.connect("/echo"));
        site.stop();
    }
}

#[test]
fn a_response_to_an_invalid_upgrade_explains_what_is_expected() {
    for server in SERVERS {
        let site = echo_site(server);
        let good = request("/echo", "");
        let cases = [
            (good.replace("GET", "POST"), "405", "allow: get"),
            (good.replace("Upgrade: websocket\r\n", ""), "426", "upgrade: websocket"),
            (good.replace("Version: 13", "Version: 8"), "426", "sec-websocket-version: 13"),
            (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), "400", ""),
            (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "!"), "400", ""),
            (good.replace("Connection: Upgrade\r\n", ""), "400", ""),
            (good.replace("/echo", "/elsewhere"), "404", ""),
            ("GET /echo HTTP/1.1\r\nHost: here.example\r\n\r\n".to_owned(), "426", "upgrade: websocket"),
        ];
        for (request, status, header) in cases {
            let (head, _stream) = ask(&site, &request);
            assert!(head.starts_with(&format!("http/1.1 {status} ")), "{server:?}: {request}{head}");
            assert!(head.contains(header), "{server:?}: {request}{head}");
        }
        let stats = site.stop();
        assert_eq!(stats.opened, 0, "none of them may reach a callback");
    }
}

#[test]
fn an_upgrade_request_with_a_body_is_rejected_and_its_body_is_not_parsed_as_frames() {
    let ping = frame(PING, b"x");
    assert_eq!(ping.len(), 7);
    let chunk = [&b"7\r\n"[..], &ping, b"\r\n0\r\n\r\n"].concat();
    for server in SERVERS {
        let site = echo_site(server);
        let cases = [
            ("Content-Length: 7\r\n", &ping),
            ("Transfer-Encoding: chunked\r\n", &chunk),
            ("Expect: 100-continue\r\nContent-Length: 7\r\n", &ping),
            ("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", &chunk),
        ];
        for (headers, body) in cases {
            // Otherwise hyper keeps the connection if it has received the whole body in time.
            let closing =
                request("/echo", headers).replace("Connection: Upgrade", "Connection: Upgrade, close");
            let (head, mut stream) = ask(&site, &closing);
            assert!(head.starts_with("http/1.1 400 "), "{server:?}: {headers}{head}");
            let _ = stream.write_all(body); // the server may already have closed the socket
            let mut rest = Vec::new();
            let _ = stream.take(1024).read_to_end(&mut rest);
            let rest = String::from_utf8(rest).unwrap();
            assert_eq!(rest, "An upgrade request must not have a body.", "{headers}");
        }
        // No body, in every possible form.
        for headers in ["Content-Length: 0\r\n", "Expect: 100-continue\r\n"] {
            let (head, mut stream) = ask(&site, &request("/echo", headers));
            assert!(head.starts_with("http/1.1 101 "), "{server:?}: {headers}{head}");
            stream.write_all(&frame(TEXT, b"hello")).unwrap();
            assert_eq!(read_frame(&mut stream).unwrap(), (TEXT, b"hello".to_vec()));
        }
        assert_eq!(site.stop().opened, 2);
    }
}

#[test]
fn a_head_request_for_an_event_stream_returns_the_headers_of_get() {
    for server in SERVERS {
        let site = Site::start(
            server,
            |hub| hub.shards(1),
            |hub, router| {
                let plain = axum::routing::get(async || "plain");
                router.route("/events", hub.sse("r")).route("/plain", plain)
            },
        );
        let mut stream = dial(site.addr);
        stream.write_all(b"HEAD /events HTTP/1.1\r\nHost: here.example\r\n\r\n").unwrap();
        let got = head(&mut stream);
        assert!(got.starts_with("http/1.1 200 "), "{server:?}: {got}");
        for header in ["content-type: text/event-stream; charset=utf-8", "cache-control: no-store"] {
            assert!(got.contains(&format!("\r\n{header}\r\n")), "{server:?}: {got}");
        }
        assert!(!got.contains("content-length"), "{server:?}: {got}");
        // Only the next response follows the head.
        stream.write_all(b"GET /plain HTTP/1.1\r\nHost: here.example\r\n\r\n").unwrap();
        assert!(head(&mut stream).starts_with("http/1.1 200 "), "{server:?}");
        assert_eq!(site.hub.stats().opened, 0, "{server:?}");
        site.stop();
    }
}

#[test]
fn the_server_s_preference_selects_the_subprotocol() {
    for server in SERVERS {
        let site = Site::start(
            server,
            |hub| hub.shards(1),
            |hub, router| {
                let some = ws::endpoint(Echo::default()).subprotocols(["v2.chat", "v1.chat"]);
                let own = ws::endpoint(Echo::default()).on_upgrade(|request: Request| async move {
                    let offers = request.headers()["sec-websocket-protocol"].to_str().unwrap();
                    let last = offers.rsplit(", ").next().unwrap().to_owned();
                    Ok::<_, StatusCode>(Accept::new().subprotocol(last))
                });
                router.route("/some", hub.ws(some)).route("/own", hub.ws(own))
            },
        );
        let chosen = |path, offer: &str| {
            let (head, _) = ask(&site, &request(path, &format!("Sec-WebSocket-Protocol: {offer}\r\n")));
            assert!(head.starts_with("http/1.1 101 "), "{head}");
            let chosen = head.split_once("sec-websocket-protocol: ");
            chosen.map(|(_, rest)| rest.split_once("\r\n").unwrap().0.to_owned())
        };
        assert_eq!(chosen("/some", "v1.chat, v2.chat").as_deref(), Some("v2.chat"));
        assert_eq!(chosen("/some", "v1.chat").as_deref(), Some("v1.chat"));
        assert_eq!(chosen("/some", "v3.chat"), None);
        assert_eq!(chosen("/own", "a, b").as_deref(), Some("b"));
        // A third-party client agrees.
        let mut asked = format!("ws://{}/some", site.addr).into_client_request().unwrap();
        asked.headers_mut().insert("sec-websocket-protocol", "v1.chat".parse().unwrap());
        let (mut client, response) = tungstenite::client(asked, dial(site.addr)).unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], "v1.chat");
        check_echo(&mut client);
        drop(client);
        site.stop();
    }
}

#[test]
fn data_sent_with_the_request_is_processed() {
    for server in SERVERS {
        let site = echo_site(server);
        // More than one read of the HTTP server, so that some of it stays in the socket.
        for large in [10, 100_000] {
            let mut bytes = request("/echo", "").into_bytes();
            bytes.extend(frame(TEXT, b"first"));
            bytes.extend(frame(TEXT, &vec![b'x'; large]));
            let half = frame(TEXT, b"halved");
            bytes.extend(&half[..8]);
            let mut stream = dial(site.addr);
            stream.write_all(&bytes).unwrap();
            let head = head(&mut stream);
            assert!(head.starts_with("http/1.1 101 "), "{head}");
            assert_eq!(read_frame(&mut stream).unwrap().1, b"first");
            assert_eq!(read_frame(&mut stream).unwrap().1.len(), large);
            stream.write_all(&half[8..]).unwrap();
            assert_eq!(read_frame(&mut stream).unwrap().1, b"halved");
        }
        site.stop();
    }
}

#[test]
fn an_endpoint_added_through_the_app_behaves_the_same() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (bound, hub) = runtime.block_on(async {
        let app = ripplecast::App::builder().build().await.unwrap();
        let hub = app.hub();
        (app.ws("/echo", Echo::default()).bind("127.0.0.1:0").await.unwrap(), hub)
    });
    let addr = bound.local_addr();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serve = runtime.spawn(bound.serve_with_shutdown(async {
        let _ = stopped.await;
    }));
    let mut client = crate::support::connect(addr, "/echo");
    check_echo(&mut client);
    stop.send(()).unwrap();
    assert_eq!(crate::support::ending(&mut client), (1001, "the server is shutting down".to_owned()));
    runtime.block_on(serve).unwrap().unwrap();
    assert_eq!(hub.stats().closed, 1);
}

#[test]
fn a_client_that_has_received_the_response_is_already_a_member() {
    let site = echo_site(Server::Own);
    let mut clients = Vec::new();
    for already in 0..100 {
        clients.push(site.raw("/echo"));
        assert_eq!(site.hub.stats().connections, already + 1);
        assert!(site.hub.broadcast("all").is_queued());
    }
    for (already, client) in clients.iter_mut().enumerate() {
        for _ in already..100 {
            assert_eq!(read_frame(client).unwrap(), (TEXT, b"all".to_vec()));
        }
    }
    drop(clients);
    site.stop();
}

#[test]
fn a_layer_around_an_endpoint_can_change_the_response() {
    let layer = axum::middleware::map_response(async |mut response: Response| {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && response.headers().contains_key("sec-websocket-protocol")
        {
            return (StatusCode::FORBIDDEN, "not today").into_response();
        }
        response.headers_mut().insert("x-layer", "was here".parse().unwrap());
        response
    });
    let site = Site::start(
        Server::Own,
        |hub| hub.max_connections(1),
        |hub, router| {
            let echo = ws::endpoint(Echo::default()).subprotocols(["today"]);
            router.route("/echo", hub.ws(echo)).layer(layer)
        },
    );
    // The only place is released each time, or the last request would be rejected.
    for _ in 0..3 {
        assert_eq!(status(&site, "/echo", "Sec-WebSocket-Protocol: today\r\n"), 403);
    }
    let (head, mut stream) = ask(&site, &request("/echo", ""));
    assert!(head.starts_with("http/1.1 101 switching protocols\r\n"), "{head}");
    assert!(head.contains("\r\nx-layer: was here\r\n"), "{head}");
    assert!(!head.contains("content-length"), "{head}");
    stream.write_all(&frame(TEXT, b"hello")).unwrap();
    assert_eq!(read_frame(&mut stream).unwrap(), (TEXT, b"hello".to_vec()));
    drop(stream);
    assert_eq!(site.stop().opened, 1);
}

#[test]
fn an_unread_response_is_delivered_before_the_socket_is_handed_over() {
    const LEN: usize = 8 << 20; // far more than socket buffers hold
    for server in SERVERS {
        let site = Site::start(
            server,
            |hub| hub.shards(1),
            |hub, router| {
                let large = axum::routing::get(async || vec![b'x'; LEN]);
                router
                    .route("/echo", hub.ws(Echo::default()))
                    .route("/events", hub.sse("r"))
                    .route("/large", large)
            },
        );
        let events = "GET /events HTTP/1.1\r\nhost: x\r\n\r\n".to_owned();
        for (next, status) in [(request("/echo", ""), "http/1.1 101 "), (events, "http/1.1 200 ")] {
            let mut stream = dial(site.addr);
            stream.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
            stream.write_all(next.as_bytes()).unwrap();
            assert!(head(&mut stream).starts_with("http/1.1 200 "));
            let mut body = vec![0; LEN];
            stream.read_exact(&mut body).unwrap();
            assert!(body.iter().all(|&byte| byte == b'x'));
            let head = head(&mut stream);
            assert!(head.starts_with(status), "{head}");
        }
        site.stop();
    }
}
