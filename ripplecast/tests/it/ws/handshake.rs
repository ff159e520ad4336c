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

/// Asks for an upgrade with more headers; the status of the answer.
fn status(site: &Site, path: &str, headers: &str) -> u16 {
    let (head, _) = ask(site, &request(path, headers));
    head.split(' ').nth(1).unwrap().parse().unwrap()
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
            assert_eq!(rest, "An upgrade request must not have a body; send it without one.", "{headers}");
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
fn the_target_wins_over_host_and_a_bad_host_is_400() {
    for server in SERVERS {
        let site = Site::start(
            server,
            |hub| hub.shards(1),
            |hub, router| {
                router
                    .route("/echo", hub.ws(Echo::default()))
                    .route("/events", hub.sse("r"))
                    .route("/plain", axum::routing::get(async || "plain"))
            },
        );
        let answer = |request: &str| ask(&site, request).0.split(' ').nth(1).unwrap().to_owned();
        let upgrade = |target: &str, hosts: &str, origin: &str| {
            let request = request(target, &format!("Origin: {origin}\r\n"));
            answer(&request.replace("Host: here.example\r\n", hosts))
        };
        // The page of the target may connect, that of the header may not.
        let (host, there) = ("Host: here.example\r\n", "http://there.example/echo");
        assert_eq!(upgrade(there, host, "http://there.example"), "101", "{server:?}");
        assert_eq!(upgrade(there, host, "http://here.example"), "403", "{server:?}");
        assert_eq!(upgrade("/echo", host, "http://here.example"), "101", "{server:?}");
        let bad = [
            "",
            "Host: here.example\r\nHost: here.example\r\n",
            "Host: here.example\r\nHost: there.example\r\n",
            "Host:\r\n",
            "Host: user@here.example\r\n",
            "Host: here.example, there.example\r\n",
            "Host: here.example:99999\r\n",
            "Host: here.example/path\r\n",
        ];
        // Under a server of others, that server decides about plain routes.
        let plain = if server == Server::Own { "400" } else { "200" };
        for hosts in bad {
            assert_eq!(upgrade("/echo", hosts, "http://here.example"), "400", "{server:?} {hosts:?}");
            let get = |path: &str| answer(&format!("GET {path} HTTP/1.1\r\n{hosts}\r\n"));
            assert_eq!(get("/events"), "400", "{server:?} {hosts:?}");
            assert_eq!(get("/plain"), plain, "{server:?} {hosts:?}");
        }
        // HTTP/1.0 need not name a host.
        assert_eq!(answer("GET /plain HTTP/1.0\r\n\r\n"), "200", "{server:?}");
        assert_eq!(answer("GET /events HTTP/1.0\r\n\r\n"), "200", "{server:?}");
        site.stop();
    }
}

#[test]
fn connections_of_one_ipv6_network_count_together() {
    for (prefix, passed) in [(64, 3), (128, 20)] {
        let site = Site::start(
            Server::Own,
            |hub| {
                let hub = hub.shards(1).trusted_proxies("loopback".parse().unwrap());
                hub.max_connections_per_address(3).ipv6_prefix(prefix)
            },
            |hub, router| router.route("/echo", hub.ws(Echo::default())).route("/events", hub.sse("r")),
        );
        let from = |address: &str| {
            let (head, stream) = ask(&site, &request("/echo", &format!("X-Forwarded-For: {address}\r\n")));
            (head.split(' ').nth(1).unwrap().parse::<u16>().unwrap(), stream)
        };
        let tried: Vec<_> = (1..=20).map(|n| from(&format!("2001:db8:1:2:{n:x}::{n:x}"))).collect();
        assert_eq!(tried.iter().filter(|(status, _)| *status == 101).count(), passed, "/{prefix}");
        assert!(tried.iter().all(|(status, _)| [101, 429].contains(status)), "/{prefix}");
        assert_eq!(from("2001:db8:1:3::1").0, 101, "another network");
        site.stop();
    }
}

#[test]
fn a_path_parameter_that_is_not_utf_8_reaches_no_hook() {
    for server in SERVERS {
        let site = Site::start(
            server,
            |hub| hub.shards(1),
            |hub, router| {
                let room = |request: &Request| request.param("room").unwrap_or("lobby").to_owned();
                let endpoint = ws::endpoint(Echo::default()).on_upgrade(move |request: Request| {
                    std::future::ready(Accept::new().state(room(&request)))
                });
                router.route("/rooms/{room}", hub.ws(endpoint)).route(
                    "/events/{room}",
                    hub.sse(ripplecast::sse::room_by(move |request| Some(room(request)))),
                )
            },
        );
        for (room, upgraded, streamed) in
            [("a", 101, 200), ("%C3%A9", 101, 200), ("%FF", 400, 400), ("a%C3", 400, 400)]
        {
            assert_eq!(status(&site, &format!("/rooms/{room}"), ""), upgraded, "{server:?} {room}");
            assert_eq!(status(&site, &format!("/events/{room}"), ""), streamed, "{server:?} {room}");
        }
        assert_eq!(site.hub.room("lobby").len_here(), 0);
        site.stop();
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
fn a_foreign_byte_in_one_cookie_locks_nobody_out() {
    for server in SERVERS {
        let site = Site::start(
            server,
            |hub| hub.shards(1),
            |hub, router| {
                let endpoint = ws::endpoint(Echo::default()).on_upgrade(|request: Request| {
                    let known =
                        request.cookie("session") == Some("abc") || request.bearer_token() == Some("abc");
                    std::future::ready(if known { Ok(Accept::new()) } else { Err(StatusCode::UNAUTHORIZED) })
                });
                router.route("/ws", hub.ws(endpoint))
            },
        );
        let with = |headers: &[u8]| {
            let mut stream = dial(site.addr);
            let request = request("/ws", "");
            stream
                .write_all(&[request.trim_end().as_bytes(), b"\r\n", headers, b"\r\n\r\n"].concat())
                .unwrap();
            head(&mut stream).split(' ').nth(1).unwrap().to_owned()
        };
        assert_eq!(with("Cookie: name=Jos\u{e9}; session=abc".as_bytes()), "101", "{server:?}");
        assert_eq!(with(b"Cookie: session=abc; name=Jos\xe9"), "101", "{server:?}");
        assert_eq!(with(b"Cookie: session=Jos\xe9"), "401", "{server:?}");
        assert_eq!(with(b"Authorization: bearer abc"), "101", "{server:?}");
        site.stop();
    }
}

#[test]
fn a_forwarded_address_of_loopback_is_counted() {
    for header in ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: nonsense", "Forwarded: for=\"[::1]:80\""] {
        let site = Site::start(
            Server::Own,
            |hub| hub.shards(1).trusted_proxies("loopback".parse().unwrap()).max_connections_per_address(3),
            |hub, router| router.route("/echo", hub.ws(Echo::default())),
        );
        let answer = |headers: &str| {
            let (head, stream) = ask(&site, &request("/echo", headers));
            (head.split(' ').nth(1).unwrap().parse::<u16>().unwrap(), stream)
        };
        let tried: Vec<_> = (0..8).map(|_| answer(&format!("{header}\r\n"))).collect();
        assert_eq!(tried.iter().filter(|(status, _)| *status == 101).count(), 3, "{header}");
        let here: Vec<_> = (0..8).map(|_| answer("")).collect();
        assert!(here.iter().all(|(status, _)| *status == 101), "this machine itself is not counted");
        site.stop();
    }
}

#[test]
fn a_plain_page_is_refused_where_a_trusted_proxy_says_https() {
    let site = Site::start(
        Server::Own,
        |hub| hub.shards(1).trusted_proxies("loopback".parse().unwrap()),
        |hub, router| router.route("/echo", hub.ws(Echo::default())),
    );
    let status = |origin: &str, proto: &str| status(&site, "/echo", &format!("Origin: {origin}\r\n{proto}"));
    let (plain, secure) = ("http://here.example", "https://here.example");
    for (proto, expected) in [
        ("X-Forwarded-Proto: https\r\n", 403),
        ("Forwarded: proto=https\r\n", 403),
        ("X-Forwarded-Proto: http\r\n", 101),
        ("", 101),
    ] {
        assert_eq!(status(plain, proto), expected, "{proto}");
        assert_eq!(status(secure, proto), 101, "{proto}");
    }
    site.stop();
}

#[test]
fn hooks_and_routes_see_the_host_that_counts() {
    let show =
        |authority: Option<&ripplecast::Authority>| authority.map(ToString::to_string).unwrap_or_default();
    let site = Site::start(
        Server::Own,
        |hub| hub.shards(1).trusted_proxies("loopback".parse().unwrap()),
        |hub, router| {
            let refused = ws::endpoint(Echo::default()).origins(OriginPolicy::Any).on_upgrade(
                move |request: Request| {
                    let host = [("x-host", show(request.authority()))];
                    std::future::ready(Err::<Accept, _>((StatusCode::IM_A_TEAPOT, host)))
                },
            );
            let of_hub = hub.clone();
            let plain = async move |request: axum::extract::Request| {
                let authority = of_hub.authority(&request.into_parts().0);
                authority.map(|authority| [("x-host", show(authority.as_ref()))])
            };
            router.route("/ws", hub.ws(refused)).route("/plain", axum::routing::get(plain))
        },
    );
    for (target, headers, expected) in [
        ("", "", "here.example"),
        ("http://There.example:81", "", "there.example:81"),
        ("http://there.example", "X-Forwarded-Host: evil.example, Shop.example\r\n", "shop.example"),
        ("", "X-Forwarded-Host: user@evil.example\r\n", "here.example"),
    ] {
        for path in ["/ws", "/plain"] {
            let (head, _) = ask(&site, &request(&format!("{target}{path}"), headers));
            assert!(
                head.contains(&format!("\r\nx-host: {expected}\r\n")),
                "{target}{path} {headers}: {head}"
            );
        }
    }
    site.stop();
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
fn another_page_is_refused_before_the_upgrade() {
    for server in SERVERS {
        let site = Site::start(
            server,
            |hub| hub.shards(1),
            |hub, router| {
                let list = OriginPolicy::list(["https://page.example", "http://localhost:3000"]).unwrap();
                let hook = |_: Request| async { Ok::<_, StatusCode>(Accept::new()) };
                router
                    .route("/same", hub.ws(ws::endpoint(Echo::default()).on_upgrade(hook)))
                    .route("/list", hub.ws(ws::endpoint(Echo::default()).origins(list)))
                    .route("/any", hub.ws(ws::endpoint(Echo::default()).origins(OriginPolicy::Any)))
            },
        );
        let status = |path, origin: &str| status(&site, path, &format!("Origin: {origin}\r\n"));
        // The requests' Host is here.example.
        assert_eq!(status("/same", "http://here.example"), 101);
        assert_eq!(status("/same", "https://here.example"), 101);
        for other in
            ["https://evil.example", "http://here.example.evil.example", "http://here.example:81", "null"]
        {
            assert_eq!(status("/same", other), 403, "{other}");
            assert_eq!(status("/list", other), 403, "{other}");
            assert_eq!(status("/any", other), 101, "{other}");
        }
        assert_eq!(status("/list", "https://page.example"), 101);
        assert_eq!(status("/list", "http://localhost:3000"), 101);
        assert_eq!(status("/list", "http://page.example"), 403);
        assert_eq!(status("/list", "http://here.example"), 403);
        let twice = "Origin: http://here.example\r\nOrigin: https://evil.example\r\n";
        assert_eq!(self::status(&site, "/same", twice), 403);
        assert_eq!(self::status(&site, "/same", ""), 101);
        let stats = site.stop();
        assert!(stats.opened <= 10, "a refused page has come as far as a callback: {stats:?}");
    }
}

#[test]
fn the_hook_sees_the_whole_request_and_its_state_reaches_every_callback() {
    #[derive(Debug, PartialEq)]
    struct User(String);
    #[derive(serde::Deserialize)]
    struct Query {
        token: String,
    }
    for server in SERVERS {
        let seen = Echo::default();
        let told = seen.clone();
        let site = Site::start(
            server,
            |hub| hub.shards(1),
            |hub, router| {
                let callbacks = ws::handlers()
                    .on_open(|conn: Connection| async move {
                        conn.push(format!("open {:?}", conn.state::<User>().unwrap())).ignore();
                    })
                    .on_message(|conn: Connection, _: Frame| async move {
                        conn.push(format!("message {:?}", conn.state::<User>().unwrap())).ignore();
                    })
                    .on_close(move |conn: Connection, close| {
                        assert!(conn.state::<u32>().is_some());
                        assert_eq!(conn.state::<User>().unwrap().0, "ann of tea");
                        told.0.with(|calls| calls.closed.push((conn.id(), close)));
                        async {}
                    });
                let endpoint = ws::endpoint(callbacks).on_upgrade(|request: Request| async move {
                    let Some(session) = request.cookie("session") else {
                        return Err((StatusCode::UNAUTHORIZED, [("x-why", "no session")], "Log in first."));
                    };
                    assert_eq!(request.query::<Query>().unwrap().token, "a b");
                    assert_eq!(request.headers()["x-extra"], "1");
                    assert_eq!(request.peer_addr(), Some("127.0.0.1".parse().unwrap()));
                    assert_eq!(request.uri().path(), "/rooms/tea");
                    let user = User(format!("{session} of {}", request.param("room").unwrap()));
                    Ok(Accept::new().state(user).state(7_u32))
                });
                router.route("/rooms/{room}", hub.ws(endpoint))
            },
        );
        let (refusal, mut stream) = ask(&site, &request("/rooms/tea?token=a%20b", "Cookie: other=1\r\n"));
        assert!(refusal.starts_with("http/1.1 401 "), "{refusal}");
        assert!(refusal.contains("x-why: no session"), "{refusal}");
        let mut body = [0; 13];
        stream.read_exact(&mut body).unwrap();
        assert_eq!(&body, b"Log in first.");
        assert_eq!(site.hub.stats().opened, 0);

        let mut asked = format!("ws://{}/rooms/tea?token=a%20b", site.addr).into_client_request().unwrap();
        asked.headers_mut().insert("cookie", "other=1; session=ann".parse().unwrap());
        asked.headers_mut().insert("x-extra", "1".parse().unwrap());
        let (mut client, _) = tungstenite::client(asked, dial(site.addr)).unwrap();
        assert_eq!(text(&mut client), "open User(\"ann of tea\")");
        client.send(Message::text("?")).unwrap();
        assert_eq!(text(&mut client), "message User(\"ann of tea\")");
        drop((client, stream));
        seen.closed(0);
        assert_eq!(site.stop().failed_callbacks, 0);
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

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Kept(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_flood_of_refusals_writes_few_short_lines() {
    const TIMES: usize = 200;
    let kept = Kept::default();
    let writer = kept.clone();
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
    let log = log.with_writer(move || writer.clone()).finish();
    // For all threads of the process: the server has its own.
    let _ = tracing::subscriber::set_global_default(log);
    let begun = std::time::Instant::now();
    let site = Site::start(
        Server::Own,
        |hub| hub.shards(1).max_connections(1),
        |hub, router| router.route("/echo", hub.ws(Echo::default())),
    );
    let _only = site.connect("/echo");
    let origin = format!("Origin: http://evil.example/{}\r\n", "\u{e9}".repeat(7_000));
    for _ in 0..TIMES {
        assert_eq!(status(&site, "/echo", &origin), 403);
        assert_eq!(status(&site, "/echo", ""), 503, "there is one already");
        assert_eq!(status(&site, "/echo", "Sec-WebSocket-Protocol: two words\r\n"), 400);
    }
    let log = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    let lines = |what: &'static str| {
        log.lines().filter(move |line| line.contains("ripplecast") && line.contains(what))
    };
    // One each, and one more for each 10 s that this took.
    let most = 1 + begun.elapsed().as_secs() as usize / 10;
    for what in ["another origin was refused", "max_connections already", "was no WebSocket upgrade"] {
        let count = lines(what).count();
        assert!((1..=most).contains(&count), "{count} lines say {what:?}");
        assert!(lines(what).all(|line| line.len() < 600), "{log}");
    }
    drop(_only);
    site.stop();
}

/// Asks for a WebSocket and for an event stream.
fn both() -> [String; 2] {
    [request("/ws", ""), "GET /events HTTP/1.1\r\nhost: x\r\n\r\n".to_owned()]
}

#[test]
fn a_shutdown_while_a_hook_decides_is_answered() {
    for server in SERVERS {
        for request in both() {
            let begun = Seen::<usize>::default();
            let asked = begun.clone();
            let undecided = move |_: Request| {
                asked.with(|asked| *asked += 1);
                std::future::pending::<Accept>()
            };
            let site = Site::start(
                server,
                |hub| hub,
                |hub, router| {
                    let socket = ws::endpoint(Echo::default()).on_upgrade(undecided.clone());
                    let stream = ripplecast::sse::room("r").on_request(undecided.clone());
                    router.route("/ws", hub.ws(socket)).route("/events", hub.sse(stream))
                },
            );
            let mut stream = dial(site.addr);
            stream.write_all(request.as_bytes()).unwrap();
            begun.wait("the hook to be asked", |asked| (*asked == 1).then_some(()));
            let hub = site.hub.clone();
            let shutdown = site.runtime.spawn(async move { hub.shutdown().await });
            let head = head(&mut stream);
            assert!(head.starts_with("http/1.1 503 "), "{server:?}: {head}");
            site.runtime.block_on(shutdown).unwrap();
            drop(stream);
            assert_eq!(site.stop().opened, 0);
        }
    }
}

#[test]
fn a_shutdown_between_the_answer_and_the_shard_is_no_silent_end() {
    for server in SERVERS {
        for request in both() {
            let site = Site::start(
                server,
                |hub| hub,
                |hub, router| {
                    let stopped = hub.clone();
                    let layer = axum::middleware::map_response(move |response: Response| {
                        let hub = stopped.clone();
                        async move {
                            hub.shutdown().await;
                            response
                        }
                    });
                    let routes = router.route("/ws", hub.ws(Echo::default())).route("/events", hub.sse("r"));
                    routes.layer(layer)
                },
            );
            let (head, mut stream) = ask(&site, &request);
            match (server, head.starts_with("http/1.1 101 ")) {
                (Server::Own, _) => assert!(head.starts_with("http/1.1 503 "), "{head}"),
                (Server::Axum, true) => {
                    assert_eq!(read_close(&mut stream), (1001, "the server is shutting down".to_owned()));
                }
                (Server::Axum, false) => {
                    assert!(head.starts_with("http/1.1 200 "), "{head}");
                    let mut body = vec![0; "d\r\nretry: 3000\n\n\r\n0\r\n\r\n".len()];
                    stream.read_exact(&mut body).unwrap();
                    assert!(body.ends_with(b"\r\n0\r\n\r\n"), "the stream has ended in order");
                }
            }
            drop(stream);
            assert_eq!(site.stop().opened, 0);
        }
    }
}
