//! Event streams, parsed from raw TCP, as a browser's `EventSource` would.

mod layers;
mod live;

use std::{
    convert::Infallible,
    io::{Read as _, Write},
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::Route,
};
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use ripplecast::{Accept, App, Connection, Error, Message, Request, sse, ws};
use socket2::{Domain, Socket, Type};
use tower::{Layer, Service};
use tower_http::{compression::CompressionLayer, trace::TraceLayer};

use super::clients::{Event, EventStream, Item, PATIENCE, Script, TestServer, connect, wait_until};

/// Starts a server with the room `r` at `/events`, next to a [`Script`].
fn streaming(shards: usize, threads: bool) -> TestServer {
    TestServer::with_shards(shards, threads, |app| {
        let hub = app.hub();
        app.sse("/events", "r").ws("/ws", ws::endpoint(Script(hub)).outbox(64 << 20))
    })
}

/// Opens a stream and waits until it is a member.
fn joined(server: &TestServer, path: &str, room: &str) -> EventStream {
    let before = server.len(room);
    let stream = server.events(path);
    wait_until("the stream is a member", || server.len(room) == before + 1);
    stream
}

#[test]
fn the_head_and_the_first_line_are_as_a_browser_expects() {
    let server = TestServer::start(App::builder(), |app| {
        app.sse("/events", "r").sse("/patient", sse::room("r").retry(Duration::from_millis(12_345)))
    });
    for (path, retry) in [("/events", "3000"), ("/patient", "12345")] {
        let mut stream = server.events(path);
        assert!(stream.head.contains("\r\ncontent-type: text/event-stream"), "{}", stream.head);
        assert!(stream.head.contains("\r\ncache-control: no-store\r\n"), "{}", stream.head);
        let first = Event { retry: Some(retry.to_owned()), ..Event::default() };
        assert_eq!(stream.next(), Some(Item::Event(first)));
    }
}

#[test]
fn ids_count_the_messages_of_the_room() {
    let server = streaming(2, false);
    let mut streams =
        [joined(&server, "/events", "r"), joined(&server, "/events", "r"), joined(&server, "/events", "r")];
    let room = server.hub.room("r");
    let mut seen: Vec<(String, u64)> = Vec::new();
    for n in 0..50 {
        assert!(room.push(n.to_string()).is_queued());
        // Not messages of the room: they have no id and do not count.
        assert!(server.hub.broadcast("to all").is_queued());
        for (index, stream) in streams.iter_mut().enumerate() {
            let event = stream.event().unwrap();
            assert_eq!((event.data.as_deref(), &event.name), (Some(n.to_string().as_str()), &None));
            let id = event.id.unwrap();
            let (epoch, offset) = id.split_once(':').unwrap();
            let id = (epoch.to_owned(), offset.parse().unwrap());
            if index == 0 {
                seen.push(id);
            } else {
                assert_eq!(Some(&id), seen.last(), "all members receive the same ids");
            }
            assert_eq!(stream.data(), "to all");
        }
    }
    for pair in seen.windows(2) {
        assert_eq!((&pair[1].0, pair[1].1), (&pair[0].0, pair[0].1 + 1));
    }
    // A room that is forgotten and created again has a new epoch.
    drop(streams);
    drop(room);
    wait_until("the room is forgotten", || server.hub.stats().rooms == 0);
    let mut stream = joined(&server, "/events", "r");
    assert!(server.hub.room("r").push("anew").is_queued());
    let id = stream.event().unwrap().id.unwrap();
    assert_ne!(id.split_once(':').unwrap().0, seen[0].0);
}

#[test]
fn a_direct_push_has_no_id() {
    let server = streaming(1, false);
    let mut stream = joined(&server, "/events", "r");
    let conn = server.hub.connections().next().unwrap();
    assert!(conn.push("for you").is_queued());
    assert_eq!(stream.event().unwrap(), Event { data: Some("for you".to_owned()), ..Event::default() });
}

#[test]
fn multi_line_texts_and_bytes_arrive_unchanged() {
    let server = streaming(1, false);
    let mut stream = joined(&server, "/events", "r");
    let room = server.hub.room("r");
    let long = "x".repeat(200_000);
    for (text, wanted) in [
        ("one", "one"),
        ("a\nb\r\nc\rd", "a\nb\nc\nd"),
        ("ends with a line\n", "ends with a line\n"),
        ("\n", "\n"),
        ("\r\n\r\n\r", "\n\n\n"),
        ("\n\r", "\n\n"),
        ("", ""),
        (" leading", " leading"),
        (
            "\n  indented\n\n: no comment\nid: 7\nevent: x\nretry: 1",
            "\n  indented\n\n: no comment\nid: 7\nevent: x\nretry: 1",
        ),
        ("ünïcödé \u{2028} \u{85} \0", "ünïcödé \u{2028} \u{85} \0"),
        (&long, &long),
    ] {
        assert!(room.push(text.to_owned()).is_queued());
        let event = stream.event().unwrap();
        assert_eq!(event.data.as_deref(), Some(wanted));
        assert_eq!((event.name, event.retry), (None, None));
    }
    for bytes in [&[0_u8, 255, b'\n', b'\r', 128][..], b"", b"abcd"] {
        assert!(room.push(Message::binary(bytes.to_vec())).is_queued());
        let event = stream.event().unwrap();
        assert_eq!(event.name.as_deref(), Some("binary"));
        let decoded = base64::engine::general_purpose::STANDARD.decode(event.data.unwrap()).unwrap();
        assert_eq!(decoded, bytes);
    }
}

#[test]
fn events_have_the_names_set_by_the_application() {
    let server = streaming(1, false);
    let mut stream = joined(&server, "/events", "r");
    assert!(matches!(stream.next(), Some(Item::Event(_))));
    let room = server.hub.room("r");
    let named = |message: Message, name: &str| message.with_event(name);
    for (message, name) in [
        (named("plain".into(), "said"), Some("said")),
        (named(Message::binary(vec![1]), "picture"), Some("picture")),
        (named("two\nlines".into(), "it's: ünïcödé "), Some("it's: ünïcödé ")),
        (named("forged".into(), "said\ndata: more"), Some("said")),
        (named("forged".into(), "\r\ndata: more"), None),
        ("plain".into(), None),
    ] {
        let text = message.as_text().map(str::to_owned);
        assert!(room.push(message).is_queued());
        let event = stream.event().unwrap();
        assert_eq!(event.name.as_deref(), name);
        assert!(text.is_none() || event.data == text, "{event:?}");
    }
}

#[test]
fn comments_keep_a_silent_stream_alive() {
    let server = TestServer::start(App::builder(), |app| {
        app.sse("/events", sse::room("r").keep_alive(Duration::from_millis(100)))
    });
    let mut stream = server.events("/events");
    assert!(matches!(stream.next(), Some(Item::Event(_))));
    for _ in 0..2 {
        assert!(matches!(stream.next(), Some(Item::Comment(_))));
    }
    assert!(server.hub.room("r").push("news").is_queued());
    assert_eq!(stream.data(), "news");
    assert!(matches!(stream.next(), Some(Item::Comment(_))));
}

#[test]
fn a_hook_can_reject_a_request_and_the_room_can_depend_on_it() {
    let server = TestServer::start(App::builder(), |app| {
        let by_path = sse::room_by(|request: &Request| match request.param("id")? {
            "none" => None,
            "long" => Some("n".repeat(256)),
            id => Some(format!("order:{id}")),
        });
        let guarded = by_path.on_request(|request: Request| async move {
            match request.cookie("session") {
                Some(session) => Ok(Accept::new().state(session.to_owned())),
                None => Err((StatusCode::UNAUTHORIZED, [("x-why", "no session")], "Log in first.")),
            }
        });
        let guarded = guarded.on_open(|conn: Connection| async move {
            let session = conn.state::<String>().map(|session| session.to_string());
            conn.push(format!("hello {session:?}")).ignore();
        });
        app.sse("/orders/{id}/events", guarded)
    });
    let refused = server.http("GET", "/orders/7/events");
    assert_eq!((refused.status, refused.body.as_str()), (401, "Log in first."));
    assert!(refused.head.contains("x-why: no session"));
    let cookie = "cookie: a=b; session=s3\r\n";
    for path in ["/orders/none/events", "/orders/long/events"] {
        assert_eq!(server.http_with("GET", path, cookie).status, 404);
    }
    assert_eq!(server.http_with("POST", "/orders/7/events", cookie).status, 405);
    assert_eq!(server.hub.stats().opened, 0);

    let open =
        |id: u32| EventStream::open(server.addr, &format!("/orders/{id}/events HTTP/1.1\r\n{cookie}x: y"));
    let (mut seven, mut eight) = (open(7), open(8));
    for stream in [&mut seven, &mut eight] {
        // The stream has joined its room before this first event.
        assert_eq!(stream.data(), r#"hello Some("s3")"#);
    }
    assert!(server.hub.room("order:8").push("for eight").is_queued());
    assert!(server.hub.room("order:7").push("for seven").is_queued());
    assert_eq!((seven.data(), eight.data()), ("for seven".to_owned(), "for eight".to_owned()));
}

#[test]
fn a_head_request_returns_the_same_head_and_opens_nothing() {
    let server = streaming(1, false);
    let reply = server.http("HEAD", "/events");
    assert_eq!((reply.status, reply.body.as_str()), (200, ""));
    assert!(reply.head.contains("\r\ncontent-type: text/event-stream"), "{}", reply.head);
    assert_eq!(server.hub.stats().opened, 0);
}

#[test]
fn a_failing_on_open_ends_the_stream() {
    let server = TestServer::start(App::builder(), |app| {
        app.sse("/events", sse::room("r").on_open(|_: Connection| async { Err::<(), _>(Error::other("no")) }))
    });
    let mut stream = server.events("/events");
    assert_eq!(stream.event(), None);
    assert!(stream.ended);
    wait_until("the stream is closed", || server.hub.stats().closed == 1);
    assert_eq!(server.len("r"), 0);
}

#[test]
fn a_disconnected_client_is_detected_without_a_push() {
    let server = streaming(2, false);
    let streams: Vec<_> = (0..6).map(|_| joined(&server, "/events", "r")).collect();
    assert_eq!(server.hub.stats().connections, 6);
    let connections: Vec<_> = server.hub.connections().collect();
    drop(streams);
    wait_until("all streams have ended", || server.len("r") == 0 && server.hub.stats().connections == 0);
    wait_until("every on_close was called", || server.hub.stats().closed == 6);
    wait_until("the room is forgotten", || server.hub.stats().rooms == 0);
    for conn in connections {
        assert!(!conn.is_open());
        server.block_on(conn.closed());
    }
}

#[test]
fn a_slow_reader_is_disconnected_and_the_others_receive_everything() {
    let server = TestServer::with_shards(1, false, |app| app.sse("/events", sse::room("r").outbox(64 << 10)));
    // A small receive buffer, so that the buffers in between fill up quickly.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&server.addr.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut slow = EventStream::open_on(socket.into(), "/events");
    wait_until("the slow one is a member", || server.len("r") == 1);
    let mut quick = joined(&server, "/events", "r");
    let filler = "x".repeat(16 << 10);
    let mut pushed = 0;
    while server.hub.stats().slow_consumers == 0 {
        assert!(pushed < 8192, "the slow reader was not disconnected");
        let text = format!("{pushed} {filler}");
        assert!(server.hub.room("r").push(text.clone()).is_queued());
        assert_eq!(quick.data(), text, "the other one receives each at once");
        pushed += 1;
    }
    wait_until("the slow one has left the room", || server.len("r") == 1);
    assert!(server.hub.room("r").push("goes on").is_queued());
    assert_eq!(quick.data(), "goes on");
    // It received a prefix of what was sent, and then the stream ended.
    let mut got = 0;
    while let Some(event) = slow.event() {
        assert_eq!(event.data.unwrap(), format!("{got} {filler}"));
        got += 1;
    }
    assert!(got < pushed);
    wait_until("the stream is closed", || server.hub.stats().closed == 1);
}

#[test]
fn websockets_and_streams_in_one_room_receive_everything_in_one_order() {
    for (shards, threads) in [(1, false), (2, false), (4, false), (2, true)] {
        mixed_room(&streaming(shards, threads));
    }
}

#[test]
fn streams_work_under_a_plain_axum_serve() {
    let server = TestServer::under_axum(|hub| {
        let script = ws::endpoint(Script(hub.clone())).outbox(64 << 20);
        Router::new().route("/events", hub.sse("r")).route("/ws", hub.ws(script))
    });
    mixed_room(&server);
    let stream = joined(&server, "/events", "r");
    drop(stream);
    wait_until("its client is gone", || server.len("r") == 0);
}

#[test]
fn bytes_after_a_request_for_a_stream_are_not_parsed() {
    let own = streaming(1, false);
    let axum = TestServer::under_axum(|hub| Router::new().route("/events", hub.sse("r")));
    let request = "GET /events HTTP/1.1\r\nhost: here\r\n";
    let other = format!("{request}\r\n");
    let len = other.len();
    for server in [&own, &axum] {
        for behind in [
            format!("content-length: {len}\r\n\r\n{other}"),
            format!("transfer-encoding: chunked\r\n\r\n{len:x}\r\n{other}\r\n0\r\n\r\n"),
            format!("\r\n{other}"), // another request, which must wait for the end of the stream
        ] {
            let mut stream = EventStream::send_on(connect(server.addr), &format!("{request}{behind}"));
            wait_until("the stream is a member", || server.len("r") == 1);
            for n in ["1", "2"] {
                assert!(server.hub.room("r").push(n).is_queued());
                assert_eq!(stream.data(), n);
            }
            drop(stream);
            // hyper, which keeps unread input, detects the client's end when it writes.
            wait_until("the stream has left", || {
                server.hub.room("r").push("?").is_queued() && server.len("r") == 0
            });
        }
        assert_eq!(server.hub.stats().opened, 3, "one stream per connection");
    }
}

fn mixed_room(server: &TestServer) {
    const MESSAGES: usize = 200;
    let mut streams: Vec<_> = (0..4).map(|_| joined(server, "/events", "r")).collect();
    let mut tabs: Vec<_> = (0..4).map(|_| server.scripted("/ws", "join r")).collect();
    let logs: Vec<Vec<String>> = thread::scope(|scope| {
        let by_stream = streams.iter_mut().map(|stream| {
            scope.spawn(move || {
                let mut log = Vec::new();
                while log.last().map(String::as_str) != Some("over") {
                    log.push(stream.data());
                }
                log.pop();
                log
            })
        });
        let by_stream: Vec<_> = by_stream.collect();
        let by_tab: Vec<_> = tabs.iter_mut().map(|tab| scope.spawn(move || tab.until("over"))).collect();
        let publishers: Vec<_> = (0..8)
            .map(|publisher| {
                let room = server.hub.room("r");
                server.runtime().spawn(async move {
                    for n in 0..MESSAGES {
                        assert!(room.push(format!("{publisher} {n}")).is_queued());
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for publisher in publishers {
            server.block_on(publisher).unwrap();
        }
        assert!(server.hub.broadcast("over").is_queued());
        by_stream.into_iter().chain(by_tab).map(|reader| reader.join().unwrap()).collect()
    });
    assert_eq!(logs[0].len(), 8 * MESSAGES);
    assert!(logs.iter().all(|log| *log == logs[0]), "the members received different sequences");
    drop((streams, tabs));
    wait_until("all have left", || server.len("r") == 0);
}

#[test]
fn a_shutdown_ends_streams_after_earlier_pushes() {
    let server = streaming(2, false);
    let mut streams: Vec<_> = (0..4).map(|_| joined(&server, "/events", "r")).collect();
    for n in 0..10 {
        assert!(server.hub.room("r").push(n.to_string()).is_queued());
    }
    server.block_on(server.hub.shutdown());
    for stream in &mut streams {
        let log: Vec<_> = std::iter::from_fn(|| stream.event()).map(|event| event.data.unwrap()).collect();
        assert!(log.into_iter().eq((0..10).map(|n| n.to_string())));
        assert!(stream.ended, "the stream was cut off");
    }
    assert_eq!(server.http("GET", "/events").status, 503);
}

#[test]
fn closing_a_stream_ends_it_after_earlier_pushes() {
    let server = streaming(1, false);
    let mut stream = joined(&server, "/events", "r");
    let conn = server.hub.connections().next().unwrap();
    assert!(server.hub.room("r").push("before").is_queued());
    assert!(conn.close(ripplecast::CloseCode::NORMAL, "").is_queued());
    assert!(!conn.is_open());
    assert!(server.hub.room("r").push("after").is_queued());
    assert_eq!(stream.data(), "before");
    assert_eq!(stream.event(), None);
    assert!(stream.ended);
}

/// Writes `data` repeatedly until the connection accepts no more for a while, or has accepted far more than
/// all buffers of both sides hold. Returns how many bytes it accepted.
fn flood(stream: &mut impl Write, data: &[u8]) -> usize {
    let mut taken = 0;
    while taken < FLOOD {
        match stream.write(data) {
            Ok(written) => taken += written,
            Err(_) => break,
        }
    }
    taken
}

/// More bytes than any socket buffers.
const FLOOD: usize = 64 << 20;

#[test]
fn a_client_that_sends_data_on_its_stream_is_ended() {
    let server = streaming(1, false);
    let request = "GET /events HTTP/1.1\r\nhost: here\r\n\r\n";
    for data in [&[b'x'; 1 << 16][..], &b"\r\n".repeat(1 << 15), &request.repeat(1000).into_bytes()] {
        let socket = connect(server.addr);
        let mut writer = socket.try_clone().unwrap();
        let mut stream = EventStream::open_on(socket, "/events");
        wait_until("the stream is a member", || server.len("r") == 1);
        assert!(flood(&mut writer, data) < FLOOD, "all of the data was read");
        while stream.event().is_some() {}
        assert!(!stream.ended, "the stream was cut off");
        wait_until("the stream has left", || server.len("r") == 0);
    }
    assert_eq!(server.hub.stats().protocol_errors, 3);
}

#[test]
fn a_line_break_after_the_request_for_a_stream_is_ignored() {
    let server = streaming(1, false);
    let socket = connect(server.addr);
    let mut writer = socket.try_clone().unwrap();
    let mut together =
        EventStream::send_on(connect(server.addr), "GET /events HTTP/1.1\r\nhost: here\r\n\r\n\r\n");
    let mut apart = EventStream::open_on(socket, "/events");
    wait_until("both are members", || server.len("r") == 2);
    for (byte, text) in [(b"\r", "one"), (b"\n", "two")] {
        writer.write_all(byte).unwrap();
        assert!(server.hub.room("r").push(text).is_queued());
        assert_eq!((together.data(), apart.data()), (text.to_owned(), text.to_owned()));
    }
    assert_eq!(server.hub.stats().protocol_errors, 0);
    writer.write_all(b"\r\n").unwrap();
    assert_eq!(apart.event(), None, "a second line break ends the stream");
    assert_eq!(server.hub.stats().protocol_errors, 1);
}

#[test]
fn a_body_that_arrives_after_its_head_belongs_to_the_request() {
    let server = streaming(1, false);
    let socket = connect(server.addr);
    let mut writer = socket.try_clone().unwrap();
    let head = "GET /events HTTP/1.1\r\nhost: here\r\ncontent-length: 4\r\n\r\n";
    let mut stream = EventStream::send_on(socket, head);
    wait_until("the stream is a member", || server.len("r") == 1);
    writer.write_all(b"body").unwrap();
    for n in ["1", "2"] {
        assert!(server.hub.room("r").push(n).is_queued());
        assert_eq!(stream.data(), n);
    }
}

#[test]
fn where_the_socket_stays_with_hyper_data_on_a_stream_stays_in_it() {
    let server = TestServer::under_axum(|hub| Router::new().route("/events", hub.sse("r")));
    let socket = connect(server.addr);
    let mut writer = socket.try_clone().unwrap();
    let mut stream = EventStream::open_on(socket, "/events");
    wait_until("the stream is a member", || server.len("r") == 1);
    writer.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(flood(&mut writer, &[b'x'; 1 << 16]) < FLOOD, "all of the data was read");
    assert!(server.hub.room("r").push("still there").is_queued());
    assert_eq!(stream.data(), "still there");
}
