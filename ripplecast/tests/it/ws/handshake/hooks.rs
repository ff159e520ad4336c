//! Hooks and the request that they receive.

use super::*;

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
fn a_non_ascii_byte_in_one_cookie_does_not_hide_the_others() {
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
fn the_hook_sees_the_whole_request_and_its_state_reaches_every_callback() {
    #[derive(Debug, PartialEq)]
    struct User(String);
    #[derive(serde::Deserialize)]
    struct Query {
        token: String,
    }
    for server in SERVERS {
        let seen = Echo::default();
        let recorder = seen.clone();
        let site = Site::start(
            server,
            |hub| hub.shards(1),
            |hub, router| {
                let callbacks = ws::handlers()
                    .on_open(|conn: Connection| async move {
                        conn.push(format!("open {:?}", conn.state::<User>().unwrap())).ignore();
                    })
                    .on_message(|conn: Connection, _: Message| async move {
                        conn.push(format!("message {:?}", conn.state::<User>().unwrap())).ignore();
                    })
                    .on_close(move |conn: Connection, close| {
                        assert!(conn.state::<u32>().is_some());
                        assert_eq!(conn.state::<User>().unwrap().0, "ann of tea");
                        recorder.0.with(|calls| calls.closed.push((conn.id(), close)));
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
        client.send(WsMessage::text("?")).unwrap();
        assert_eq!(text(&mut client), "message User(\"ann of tea\")");
        drop((client, stream));
        seen.closed(0);
        assert_eq!(site.stop().failed_callbacks, 0);
    }
}

#[test]
fn extractors_run_in_hooks_of_nested_endpoints_which_see_both_uris() {
    use axum::{
        Extension, Router,
        extract::{Path, Query, State},
        response::IntoResponse as _,
    };

    #[derive(Clone)]
    struct Tenant(&'static str);

    for server in SERVERS {
        let site = Site::start(
            server,
            |hub| hub.shards(1),
            |hub, router| {
                let hook = async |mut request: Request| {
                    let Path(room) = request.extract::<Path<u32>>().await?;
                    let Query(query) = request.extract::<Query<Vec<(String, String)>>>().await?;
                    let Extension(tenant) = request.extract::<Extension<Tenant>>().await?;
                    let State(limit) = request.extract_with_state::<State<u32>, _>(&50).await?;
                    if room > limit {
                        return Err(StatusCode::NOT_FOUND.into_response());
                    }
                    let (seen, original) = (request.uri().to_string(), request.original_uri().to_string());
                    Ok(Accept::new().state(format!("{room} {query:?} {} {seen} {original}", tenant.0)))
                };
                let handlers = ws::handlers().on_open(async |conn: ripplecast::Connection| {
                    conn.push(conn.state::<String>().map(|seen| seen.to_string()).unwrap_or_default())
                });
                let endpoint = hub.ws(ws::endpoint(handlers).on_upgrade(hook));
                let inner = Router::new().route("/rooms/{room}", endpoint);
                let tenant = Router::new().nest("/chat", inner).layer(Extension(Tenant("acme")));
                router.nest("/api", tenant)
            },
        );
        let mut client = site.connect("/api/chat/rooms/7?a=1");
        let expected = r#"7 [("a", "1")] acme /rooms/7?a=1 /api/chat/rooms/7?a=1"#;
        assert_eq!(crate::support::text(&mut client), expected, "{server:?}");
        assert_eq!(status(&site, "/api/chat/rooms/x", ""), 400, "{server:?}: the rejection of Path");
        assert_eq!(status(&site, "/api/chat/rooms/51", ""), 404, "{server:?}");
        drop(client);
        site.stop();
    }
}
