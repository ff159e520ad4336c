use std::io::Write as _;

use ripplecast::ws;
use tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

use crate::support::{
    BINARY, CLOSE, Echo, PING, PONG, SERVERS, Site, TEXT, check_echo, close_frame, frame, header, read_close,
    read_frame, receive, text,
};

/// Starts a server with one shard, so that a misbehaving connection shares it with all others.
fn echo_site() -> Site {
    Site::own(1, |hub, router| router.route("/echo", hub.ws(Echo::default())))
}

#[test]
fn messages_of_every_size_are_echoed() {
    for server in SERVERS {
        for shards in [1, 2] {
            let site = Site::start(
                server,
                |hub| hub.shards(shards),
                |hub, router| router.route("/echo", hub.ws(Echo::default())),
            );
            let mut clients = [site.connect("/echo"), site.connect("/echo")];
            for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
                for client in &mut clients {
                    let letters: String = ('a'..='z').cycle().take(size).collect();
                    client.send(Message::text(letters.clone())).unwrap();
                    assert_eq!(text(client), letters);
                    let bytes: Vec<u8> = (0..=255).cycle().take(size).collect();
                    client.send(Message::binary(bytes.clone())).unwrap();
                    assert_eq!(receive(client), Message::binary(bytes));
                }
            }
            drop(clients);
            assert_eq!(site.stop().messages, 2 * 2 * 7);
        }
    }
}

#[test]
fn fragments_are_assembled_and_pings_between_them_answered() {
    let site = echo_site();
    let mut client = site.connect("/echo");
    let part =
        |opcode, fin, data: &'static str| Message::Frame(Frame::message(data, OpCode::Data(opcode), fin));
    client.send(part(Data::Text, false, "a ")).unwrap();
    client.send(Message::Ping("one".into())).unwrap();
    client.send(part(Data::Continue, false, "")).unwrap();
    client.send(part(Data::Continue, false, "gr\u{fc}")).unwrap();
    client.send(Message::Ping("two".into())).unwrap();
    client.send(Message::Pong("unasked".into())).unwrap();
    client.send(part(Data::Continue, true, "n one")).unwrap();
    assert_eq!(client.read().unwrap(), Message::Pong("one".into()));
    assert_eq!(client.read().unwrap(), Message::Pong("two".into()));
    assert_eq!(text(&mut client), "a gr\u{fc}n one");

    // Split within a character, and sent byte by byte.
    let mut raw = site.raw("/echo");
    let euro = "\u{20ac}".as_bytes();
    let bytes =
        [frame(0x01, &euro[..1]), frame(0x00, &euro[1..2]), frame(PING, b"!"), frame(0x80, &euro[2..])];
    for byte in bytes.concat() {
        raw.write_all(&[byte]).unwrap();
    }
    assert_eq!(read_frame(&mut raw).unwrap(), (PONG, b"!".to_vec()));
    assert_eq!(read_frame(&mut raw).unwrap(), (TEXT, euro.to_vec()));
    drop((client, raw));
    site.stop();
}

#[test]
fn a_ping_s_payload_is_returned() {
    for server in SERVERS {
        let site = Site::start(
            server,
            |hub| hub.shards(1),
            |hub, router| router.route("/echo", hub.ws(Echo::default())),
        );
        let mut client = site.connect("/echo");
        for size in [0, 1, 125] {
            let payload = vec![7; size];
            client.send(Message::Ping(payload.clone().into())).unwrap();
            assert_eq!(client.read().unwrap(), Message::Pong(payload.into()));
        }
        drop(client);
        assert_eq!(site.stop().messages, 0, "a handler receives no pings");
    }
}

/// Returns frames that violate the protocol, with the close code of each.
fn violations() -> Vec<(&'static str, Vec<u8>, u16)> {
    let mut bad_in_the_middle = header(TEXT, 1000);
    bad_in_the_middle.extend(b"fine so far \xff"); // and the rest never arrives
    let in_fragments = [frame(0x01, b"fine"), frame(0x00, b"\xc0")].concat();
    vec![
        ("an unmasked frame", b"\x81\x02hi".to_vec(), 1002),
        ("a reserved bit", frame(TEXT | 0x40, b"hi"), 1002),
        ("another reserved bit", frame(TEXT | 0x10, b"hi"), 1002),
        ("an unknown opcode", frame(0x83, b"hi"), 1002),
        ("an unknown control opcode", frame(0x8b, b""), 1002),
        ("a control frame in fragments", frame(0x09, b""), 1002),
        ("a ping that is too long", frame(PING, &[0; 126]), 1002),
        ("a continuation of nothing", frame(0x80, b"hi"), 1002),
        ("a message within a message", [frame(0x01, b"a"), frame(TEXT, b"b")].concat(), 1002),
        ("a length of 2^63", header_only(1 << 63), 1002),
        ("a length of 2^62", header_only(1 << 62), 1009),
        ("one byte too many", header_only((1 << 20) + 1), 1009),
        ("too many in fragments", [frame(0x02, &[0; 1 << 20]), frame(0x80, b"!")].concat(), 1009),
        ("text that is none", frame(TEXT, b"caf\xe9"), 1007),
        ("half a character", frame(TEXT, b"\xe2\x82"), 1007),
        ("a surrogate", frame(TEXT, b"\xed\xa0\x80"), 1007),
        ("text that is none, mid-frame", bad_in_the_middle, 1007),
        ("text that is none, in fragments", in_fragments, 1007),
        ("a close code that nobody may send", close_frame(1005, ""), 1002),
        ("a close code of another range", close_frame(999, ""), 1002),
        ("half a close code", frame(CLOSE, b"\x03"), 1002),
        ("a close reason that is no text", [&frame(CLOSE, b"\x03\xe8\xff")[..], b""].concat(), 1007),
    ]
}

/// Returns the header of a binary frame, without its payload.
fn header_only(len: u64) -> Vec<u8> {
    header(BINARY, len)
}

#[test]
fn protocol_errors_are_reported_before_the_close_and_do_not_affect_others() {
    for server in SERVERS {
        let echo = Echo::default();
        let site = Site::start(
            server,
            |hub| hub.shards(1),
            |hub, router| router.route("/echo", hub.ws(echo.clone())),
        );
        let mut other = site.connect("/echo");
        for (n, (what, bytes, code)) in violations().into_iter().enumerate() {
            let mut raw = site.raw("/echo");
            raw.write_all(&frame(TEXT, b"before")).unwrap();
            raw.write_all(&bytes).unwrap();
            assert_eq!(read_frame(&mut raw).unwrap(), (TEXT, b"before".to_vec()), "{what}");
            let (received, reason) = read_close(&mut raw);
            assert_eq!(received, code, "{server:?}: {what}: {reason}");
            drop(raw);
            assert_eq!(echo.closed(n), (code, reason), "{what}");
            check_echo(&mut other);
        }
        drop(other);
        assert_eq!(site.stop().protocol_errors, violations().len() as u64);
    }
}

#[test]
fn a_peer_that_keeps_sending_after_its_error_still_receives_the_close_frame() {
    let site = echo_site();
    let mut raw = site.raw("/echo");
    raw.write_all(&frame(0x83, b"")).unwrap();
    // Further bytes are not parsed as frames. If they were left in the socket, a reset would destroy the
    // close frame.
    for _ in 0..64 {
        raw.write_all(&[0x55; 16 << 10]).unwrap();
    }
    assert_eq!(read_close(&mut raw).0, 1002);
    drop(raw);
    site.stop();
}

#[test]
fn each_endpoint_has_its_own_message_limit() {
    let site = Site::own(1, |hub, router| {
        let small = ws::endpoint(Echo::default()).max_message(10);
        let large = ws::endpoint(Echo::default()).max_message(4 << 20).outbox(8 << 20);
        router.route("/small", hub.ws(small)).route("/large", hub.ws(large))
    });
    let mut small = site.connect("/small");
    small.send(Message::text("0123456789")).unwrap();
    assert_eq!(text(&mut small), "0123456789");
    small.send(Message::text("0123456789!")).unwrap();
    assert_eq!(crate::support::ending(&mut small).0, 1009);
    let mut large = site.connect("/large");
    large.send(Message::binary(vec![1; 4 << 20])).unwrap();
    assert_eq!(receive(&mut large).len(), 4 << 20);
    drop((small, large));
    site.stop();
}
