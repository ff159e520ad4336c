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
    Accept, Connection, Frame, Request,
    ws::{self, OriginPolicy},
};
use tungstenite::{Message, client::IntoClientRequest as _};

use crate::support::{
    Echo, PING, SERVERS, Seen, Server, Site, TEXT, check_echo, dial, frame, head, read_close, read_frame,
    request, text,
};

/// A server whose `/echo` has the default settings.
fn echo_site(server: Server) -> Site {
    Site::start(server, |hub| hub.shards(1), |hub, router| router.route("/echo", hub.ws(Echo::default())))
}

/// Asks, and returns the head of the answer and the socket.
fn ask(site: &Site, request: &str) -> (String, TcpStream) {
    let mut stream = dial(site.addr);
    stream.write_all(request.as_bytes()).unwrap();
    (head(&mut stream), stream)
}

/// Asks for an upgrade with more headers, and returns the status of the answer and the socket.
fn upgrade(site: &Site, path: &str, headers: &str) -> (u16, TcpStream) {
    let (head, stream) = ask(site, &request(path, headers));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), stream)
}

/// The status of the answer to [`upgrade`].
fn status(site: &Site, path: &str, headers: &str) -> u16 {
    upgrade(site, path, headers).0
}

#[test]
fn the_answer_proves_that_the_key_was_understood() {
    for server in SERVERS {
        let site = echo_site(server);
        let (head, mut stream) = ask(&site, &request("/echo", ""));
        assert!(head.starts_with("http/1.1 101 switching protocols\r\n"), "{head}");
        // The example of RFC 6455, section 1.3, in lower case as `head` has it.
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
fn what_is_no_upgrade_is_told_what_it_should_have_been() {
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
        assert_eq!(stats.opened, 0, "none of them may have come as far as a callback");
    }
}

#[test]
fn an_upgrade_request_with_a_body_is_refused_and_its_body_is_no_frame() {
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
            // Otherwise hyper keeps the connection if it has the whole body in time.
            let closing =
                request("/echo", headers).replace("Connection: Upgrade", "Connection: Upgrade, close");
            let (head, mut stream) = ask(&site, &closing);
            assert!(head.starts_with("http/1.1 400 "), "{server:?}: {headers}{head}");
            let _ = stream.write_all(body); // the server may have closed already
            let mut rest = Vec::new();
            let _ = stream.take(1024).read_to_end(&mut rest);
            let rest = String::from_utf8(rest).unwrap();
            assert_eq!(rest, "An upgrade request must not have a body.", "{headers}");
        }
        // No body, however it is said.
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
fn head_of_an_event_stream_is_that_of_get_without_a_body() {
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
        // Nothing follows the head but the next answer.
        stream.write_all(b"GET /plain HTTP/1.1\r\nHost: here.example\r\n\r\n").unwrap();
        assert!(head(&mut stream).starts_with("http/1.1 200 "), "{server:?}");
        assert_eq!(site.hub.stats().opened, 0, "{server:?}");
        site.stop();
    }
}

#[test]
fn the_server_s_preference_chooses_the_subprotocol() {
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
        // A client of somebody else's agrees.
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
fn data_right_behind_the_request_is_honoured() {
    for server in SERVERS {
        let site = echo_site(server);
        // More than one read of the HTTP server, so that some of it is left in the socket.
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
fn an_app_s_own_way_to_add_an_endpoint_is_the_same() {
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
fn who_has_read_our_server_s_answer_is_a_member_already() {
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
fn a_layer_around_an_endpoint_has_the_last_word() {
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
    // The one place is given back each time, or the last would find none.
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
fn an_answer_that_was_not_read_yet_comes_whole_before_the_socket_is_handed_over() {
    const LEN: usize = 8 << 20; // far more than sockets hold
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
