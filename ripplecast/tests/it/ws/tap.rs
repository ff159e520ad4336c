//! Taps: observing the frames of one connection.

use std::io::Write as _;

use ripplecast::{
    CloseCode, Connection, Error, sse,
    tap::{
        Direction::{self, In, Out},
        FrameKind, Tap, TappedFrame,
    },
    ws,
};
use tokio::time::timeout;
use tungstenite::Message;

use crate::support::{
    Echo, PATIENCE, PING, Seen, Site, TEXT, check_echo, close_frame, ending, eventually, frame, head,
    read_frame, receive, request, text,
};

/// Returns the next frame of a tap; `None` when it has ended.
#[track_caller]
fn next(site: &Site, tap: &mut Tap) -> Option<TappedFrame> {
    site.runtime.block_on(async { timeout(PATIENCE, tap.recv()).await }).expect("no frame is reported")
}

/// Returns the parts of the next frame that most tests check.
#[track_caller]
fn next_text(site: &Site, tap: &mut Tap) -> (Direction, FrameKind, String) {
    let frame = next(site, tap).expect("the tap has ended");
    (frame.direction, frame.kind, String::from_utf8(frame.head.to_vec()).unwrap())
}

/// Taps a connection and waits until its shard reports frames: the first is a greeting, which the client
/// receives, too.
#[track_caller]
fn tapped(site: &Site, conn: &Connection) -> Tap {
    let mut tap = conn.tap().unwrap();
    assert!(conn.push("hello").is_queued());
    assert!(next_text(site, &mut tap).2.ends_with("hello"));
    tap
}

/// Starts an echo that records its connections.
fn echo() -> (Site, Echo) {
    let echo = Echo::default();
    let endpoint = ws::endpoint(echo.clone()).compression(ws::Compression::Above(100));
    (Site::own(1, |hub, router| router.route("/", hub.ws(endpoint))), echo)
}

/// Waits for connection number `n` and adds it to the room `r`.
#[track_caller]
fn member(site: &Site, echo: &Echo, n: usize) -> Connection {
    let conn = echo.opened(n);
    conn.join("r").unwrap();
    eventually("the connection to join", || site.hub.room("r").len_here() == n + 1);
    conn
}

#[test]
fn all_frames_sent_and_received_are_reported_in_order() {
    use FrameKind::{Close, Ping, Pong, Text};
    let (site, echo) = echo();
    let (mut watched, mut other) = (site.raw("/"), site.connect("/"));
    let conn = member(&site, &echo, 0);
    member(&site, &echo, 1);
    let mut tap = tapped(&site, &conn);
    read_frame(&mut watched).unwrap();
    check_echo(&mut other); // of another connection: not reported
    watched.write_all(&frame(TEXT, b"up")).unwrap();
    assert_eq!(read_frame(&mut watched).unwrap(), (TEXT, b"up".to_vec()));
    assert!(site.hub.room("r").push("to the room").is_queued());
    assert_eq!(read_frame(&mut watched).unwrap(), (TEXT, b"to the room".to_vec()));
    watched.write_all(&frame(PING, b"?")).unwrap();
    read_frame(&mut watched).unwrap();
    watched.write_all(&close_frame(4001, "bye")).unwrap();
    read_frame(&mut watched).unwrap();
    let expected = [
        (In, Text, "up"),
        (Out, Text, "up"),
        (Out, Text, "to the room"),
        (In, Ping, "?"),
        (Out, Pong, "?"),
        (In, Close, "bye"),
        (Out, Close, "bye"),
    ];
    for (direction, kind, head) in expected {
        let frame = next(&site, &mut tap).unwrap();
        assert_eq!((frame.direction, frame.kind, &frame.head[..]), (direction, kind, head.as_bytes()));
        assert_eq!(frame.code, (kind == Close).then_some(4001));
    }
    assert_eq!(next(&site, &mut tap), None, "the connection to close");
    assert_eq!(tap.missed(), 0);
    assert!(matches!(conn.tap(), Err(Error::Closed)));
    assert_eq!(text_after(&site, &mut other), "on");
    site.stop();
}

/// Returns what another member receives next.
#[track_caller]
fn text_after(site: &Site, client: &mut crate::support::Client) -> String {
    while text(client) != "to the room" {}
    assert!(site.hub.room("r").push("on").is_queued());
    text(client)
}

#[test]
fn only_the_head_of_a_long_frame_is_reported() {
    let (site, echo) = echo();
    let mut client = site.connect("/");
    let mut tap = tapped(&site, &echo.opened(0));
    receive(&mut client);
    let long = "0123456789abcdef".repeat(8192);
    client.send(Message::text(&long)).unwrap();
    assert_eq!(receive(&mut client), Message::text(&long));
    for direction in [In, Out] {
        let frame = next(&site, &mut tap).unwrap();
        assert_eq!((frame.direction, frame.len, frame.compressed), (direction, long.len(), false));
        assert_eq!(frame.head, long.as_bytes()[..256]);
    }
}

#[test]
fn compressed_frames_are_reported_inflated() {
    let (site, echo) = echo();
    let mut client = crate::support::dial(site.addr);
    client.write_all(request("/", "Sec-WebSocket-Extensions: permessage-deflate\r\n").as_bytes()).unwrap();
    assert!(head(&mut client).contains("permessage-deflate"));
    let mut tap = tapped(&site, &echo.opened(0));
    read_frame(&mut client).unwrap();
    let long = "round and round ".repeat(100);
    client.write_all(&frame(TEXT, long.as_bytes())).unwrap();
    let (first, payload) = read_frame(&mut client).unwrap();
    assert_eq!(first, TEXT | 0x40);
    client.write_all(&frame(first, &payload)).unwrap();
    for (direction, compressed) in [(In, false), (Out, true), (In, true), (Out, true)] {
        let frame = next(&site, &mut tap).unwrap();
        assert_eq!((frame.direction, frame.kind, frame.compressed), (direction, FrameKind::Text, compressed));
        assert_eq!(frame.len, if compressed { payload.len() } else { long.len() });
        assert_eq!(frame.head, long.as_bytes()[..256]);
    }

    // A message longer than 64 KiB is not inflated for a tap.
    let longer = "round and round ".repeat(5000);
    client.write_all(&frame(TEXT, longer.as_bytes())).unwrap();
    assert_eq!(next(&site, &mut tap).unwrap().head, longer.as_bytes()[..256]);
    let frame = next(&site, &mut tap).unwrap();
    assert_eq!((frame.direction, frame.compressed, frame.head.len()), (Out, true, 0));
}

#[test]
fn an_event_stream_is_reported_event_by_event() {
    let opened = Seen::<Vec<Connection>>::default();
    let note = opened.clone();
    let events = sse::room("r").on_open(move |conn: Connection| {
        note.with(|all| all.push(conn));
        async { Ok(()) }
    });
    let site = Site::own(1, |hub, router| router.route("/events", hub.sse(events)));
    let mut stream = crate::support::dial(site.addr);
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let conn = opened.wait("a stream", |all| all.first().cloned());
    let mut tap = tapped(&site, &conn);
    assert!(conn.push("one\ntwo").is_queued());
    assert!(site.hub.room("r").push("three").is_queued());
    assert_eq!(next_text(&site, &mut tap), (Out, FrameKind::Event, "data: one\ndata: two".to_owned()));
    let (_, _, event) = next_text(&site, &mut tap);
    assert!(event.starts_with("id: ") && event.ends_with(":1\ndata: three"), "{event}");
    drop(stream);
    assert_eq!(next(&site, &mut tap), None);
}

#[test]
fn an_unread_tap_loses_no_message_of_the_connection() {
    let (site, echo) = echo();
    let mut client = site.connect("/");
    let conn = member(&site, &echo, 0);
    let tap = tapped(&site, &conn);
    receive(&mut client);
    let room = site.hub.room("r");
    for n in 0..600 {
        assert!(room.push(n.to_string()).is_queued());
        assert_eq!(text(&mut client), n.to_string());
    }
    assert_eq!(tap.missed(), 600 - 256);
    drop(tap);
    for n in 0..600 {
        assert!(room.push(n.to_string()).is_queued());
        assert_eq!(text(&mut client), n.to_string());
    }
    assert!(conn.close(CloseCode::NORMAL, "").is_queued());
    assert_eq!(ending(&mut client).0, 1000);
}

#[test]
fn a_new_tap_above_the_limit_ends_the_oldest() {
    let (site, echo) = echo();
    let _client = site.connect("/");
    let conn = echo.opened(0);
    let mut taps: Vec<Tap> = (0..17).map(|_| conn.tap().unwrap()).collect();
    assert!(conn.push("hello").is_queued());
    assert_eq!(next(&site, &mut taps[0]), None);
    for tap in &mut taps[1..] {
        assert_eq!(next_text(&site, tap).2, "hello");
    }
}
