//! permessage-deflate: its negotiation, shared compression, and invalid data from clients.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress};
use ripplecast::{Connection, ws};

use crate::support::{
    BINARY, CLOSE, Echo, PING, PONG, SERVERS, Site, TEXT, alone, check_echo, dial, eventually, frame, head,
    read_close, read_frame, request, resident,
};

/// The bit that marks a compressed message.
const RSV1: u8 = 0x40;

/// Compresses like a client, with a different library.
fn compress(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 1024);
    Compress::new(flate2::Compression::best(), false)
        .compress_vec(payload, &mut out, FlushCompress::Sync)
        .unwrap();
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
    out.truncate(out.len() - 4);
    out
}

/// Inflates like a client.
fn inflate(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    let all = [payload, &[0, 0, 0xff, 0xff]].concat();
    Decompress::new(false).decompress_vec(&all, &mut out, FlushDecompress::Sync).unwrap();
    out
}

/// Opens a socket with these offers. Returns it with the server's answer.
fn offer(site: &Site, path: &str, offer: &str) -> (TcpStream, Option<String>) {
    let mut client = dial(site.addr);
    let extensions = format!("Sec-WebSocket-Extensions: {offer}\r\n");
    client.write_all(request(path, &extensions).as_bytes()).unwrap();
    let head = head(&mut client);
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    let answer = head.lines().find_map(|line| line.strip_prefix("sec-websocket-extensions: "));
    (client, answer.map(str::to_owned))
}

/// Opens a client that has negotiated permessage-deflate.
fn deflating(site: &Site, path: &str) -> TcpStream {
    let (client, answer) = offer(site, path, "permessage-deflate; client_max_window_bits");
    let expected = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    assert_eq!(answer.as_deref(), Some(expected));
    client
}

/// Serves an echo, compressed above 100 bytes.
fn echo() -> Site {
    let endpoint = ws::endpoint(Echo::default()).compression(ws::Compression::Above(100));
    Site::own(1, |hub, router| {
        router.route("/", hub.ws(endpoint)).route("/off", hub.ws(ws::endpoint(Echo::default())))
    })
}

#[test]
fn messages_are_compressed_in_both_directions() {
    for server in SERVERS {
        let endpoint = ws::endpoint(Echo::default()).compression(ws::Compression::Above(100));
        let site = Site::start(server, |hub| hub, |hub, router| router.route("/", hub.ws(endpoint)));
        let mut client = deflating(&site, "/");
        let long = "round and round ".repeat(100);
        client.write_all(&frame(TEXT | RSV1, &compress(long.as_bytes()))).unwrap();
        let (first, payload) = read_frame(&mut client).unwrap();
        assert_eq!(first, TEXT | RSV1);
        assert!(payload.len() < 100);
        assert_eq!(inflate(&payload), long.as_bytes());
        // In fragments, with a ping between them. An uncompressed message is accepted, too.
        let compressed = compress(long.as_bytes());
        let (a, b) = compressed.split_at(10);
        client.write_all(&[frame(0x02 | RSV1, a), frame(PING, b"?"), frame(0x80, b)].concat()).unwrap();
        assert_eq!(read_frame(&mut client).unwrap(), (PONG, b"?".to_vec()));
        let (first, payload) = read_frame(&mut client).unwrap();
        assert_eq!((first, inflate(&payload)), (BINARY | RSV1, long.clone().into_bytes()));
        client.write_all(&frame(TEXT, long.as_bytes())).unwrap();
        assert_eq!(inflate(&read_frame(&mut client).unwrap().1), long.as_bytes());
        // A short message may arrive compressed but is not compressed in the answer.
        for short in ["", "short"] {
            client.write_all(&frame(TEXT | RSV1, &compress(short.as_bytes()))).unwrap();
            assert_eq!(read_frame(&mut client).unwrap(), (TEXT, short.as_bytes().to_vec()));
        }
        client.write_all(&frame(CLOSE, &1000_u16.to_be_bytes())).unwrap();
        assert_eq!(read_close(&mut client).0, 1000);
        drop(client);
        site.stop();
    }
}

#[test]
fn compression_is_negotiated_only_if_both_sides_want_it() {
    let site = echo();
    for (path, offered) in [
        ("/off", "permessage-deflate"),
        ("/", "permessage-deflate; server_max_window_bits=10"),
        ("/", "permessage-bzip2"),
    ] {
        let (mut client, answer) = offer(&site, path, offered);
        assert_eq!(answer, None, "{offered}");
        let long = [b'x'; 1000];
        client.write_all(&frame(TEXT, &long)).unwrap();
        assert_eq!(read_frame(&mut client).unwrap(), (TEXT, long.to_vec()));
        client.write_all(&frame(TEXT | RSV1, &compress(&long))).unwrap();
        assert_eq!(read_close(&mut client).0, 1002, "compression was not negotiated");
    }
    // A third-party client that offers nothing.
    let mut plain = site.connect("/");
    check_echo(&mut plain);
    drop(plain);
    assert_eq!(site.stop().compressed_frames, 0);
}

#[test]
fn a_message_is_compressed_once_for_a_thousand_members_on_all_shards() {
    for shards in [1, 2] {
        let echo = Echo::default();
        let endpoint = ws::endpoint(echo.clone()).compression(ws::Compression::On);
        let site = Site::own(shards, |hub, router| {
            let stream = ripplecast::sse::room("room");
            router.route("/", hub.ws(endpoint)).route("/events", hub.sse(stream))
        });
        let mut members: Vec<_> = (0..1000).map(|_| deflating(&site, "/")).collect();
        let mut plain = site.raw("/");
        let mut stream = dial(site.addr);
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: here.example\r\n\r\n").unwrap();
        head(&mut stream);
        for n in 0..1001 {
            echo.opened(n).join("room").unwrap();
        }
        let room = site.hub.room("room");
        eventually("all to join the room", || site.runtime.block_on(room.len()).unwrap() == 1002);
        let text = r#"{"name":"ada","points":3}"#.repeat(20);
        for _ in 0..3 {
            assert!(room.push(text.clone()).is_queued());
        }
        for member in &mut members {
            for _ in 0..3 {
                let (first, payload) = read_frame(member).unwrap();
                assert_eq!(first, TEXT | RSV1);
                assert!(payload.len() < text.len() / 4);
                assert_eq!(inflate(&payload), text.as_bytes());
            }
        }
        for _ in 0..3 {
            assert_eq!(read_frame(&mut plain).unwrap(), (TEXT, text.clone().into_bytes()));
        }
        let mut events = String::new();
        while events.matches(&text).count() < 3 {
            let mut buffer = [0; 4096];
            let n = stream.read(&mut buffer).unwrap();
            assert!(n > 0, "{events}");
            events.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
        }
        eventually("the compression to be counted", || site.hub.stats().compressed_frames == 3);
        // Compression of short messages is not even tried.
        assert!(room.push("short").is_queued());
        assert_eq!(read_frame(&mut members[999]).unwrap(), (TEXT, b"short".to_vec()));
        drop((members, plain, stream));
        assert_eq!(site.stop().compressed_frames, 3);
    }
}

#[test]
fn a_compression_bomb_is_rejected_before_it_uses_more_memory_than_a_message() {
    alone("ws::deflate::a_compression_bomb_is_rejected_before_it_uses_more_memory_than_a_message", || {
        let site = echo();
        let mut other = deflating(&site, "/");
        // 64 MiB of zeros compress to 64 KiB, which the limit of 1 MiB allows.
        let bomb = compress(&vec![0; 64 << 20]);
        assert!(bomb.len() < 1 << 20);
        let before = resident();
        for _ in 0..3 {
            let mut client = deflating(&site, "/");
            client.write_all(&frame(BINARY | RSV1, &bomb)).unwrap();
            assert_eq!(read_close(&mut client).0, 1009);
        }
        let grown = resident().saturating_sub(before);
        assert!(grown < 16 << 20, "memory has grown by {grown}");
        other.write_all(&frame(TEXT | RSV1, &compress(b"still here?"))).unwrap();
        assert_eq!(read_frame(&mut other).unwrap(), (TEXT, b"still here?".to_vec()));
        drop(other);
        site.stop();
    });
}

#[test]
fn invalid_compressed_data_or_text_closes_the_connection() {
    let site = echo();
    let long = compress(&[b'x'; (1 << 20) + 1]);
    for (sent, code, what) in [
        (frame(BINARY | RSV1, &[0x07; 20]), 1007, "no deflate"),
        (frame(TEXT | RSV1, &compress(&[0xff; 20])), 1007, "no UTF-8"),
        (frame(TEXT | RSV1, &long), 1009, "one byte more than a message may have"),
        (frame(PING | RSV1, b""), 1002, "a compressed ping"),
        ([frame(0x01 | RSV1, b"a"), frame(0x80 | RSV1, b"b")].concat(), 1002, "a compressed continuation"),
    ] {
        let mut client = deflating(&site, "/");
        client.write_all(&sent).unwrap();
        assert_eq!(read_close(&mut client).0, code, "{what}");
    }
    let mut client = deflating(&site, "/");
    client.write_all(&frame(BINARY | RSV1, &compress(&[0xff; 1 << 20]))).unwrap();
    assert_eq!(inflate(&read_frame(&mut client).unwrap().1), [0xff; 1 << 20], "the longest message");
    drop(client);
    let stats = site.stop();
    assert_eq!(stats.protocol_errors, 5);
}

#[test]
fn pushes_to_one_connection_follow_the_setting_of_its_endpoint() {
    let (first, second) = (Echo::default(), Echo::default());
    let (quick, strict) = (
        ws::endpoint(first.clone()).compression(ws::Compression::Above(10)),
        ws::endpoint(second.clone()).compression(ws::Compression::Above(1000)),
    );
    let site =
        Site::own(1, |hub, router| router.route("/quick", hub.ws(quick)).route("/strict", hub.ws(strict)));
    let mut clients = [deflating(&site, "/quick"), deflating(&site, "/strict")];
    let conns: [Connection; 2] = [first.opened(0), second.opened(0)];
    for (conn, (client, first)) in conns.iter().zip(clients.iter_mut().zip([TEXT | RSV1, TEXT])) {
        assert!(conn.push("x".repeat(500)).is_queued());
        assert_eq!(read_frame(client).unwrap().0, first);
    }
    drop(clients);
    site.stop();
}

#[test]
fn a_message_to_a_user_is_compressed_once_for_all_tabs() {
    let echo = Echo::default();
    let endpoint = ws::endpoint(echo.clone()).compression(ws::Compression::On);
    let site = Site::own(2, |hub, router| router.route("/", hub.ws(endpoint)));
    let mut tabs: Vec<_> = (0..3).map(|_| deflating(&site, "/")).collect();
    for n in 0..3 {
        site.runtime.block_on(echo.opened(n).identify("ann")).unwrap();
    }
    let text = r#"{"name":"ada","points":3}"#.repeat(20);
    assert_eq!(site.runtime.block_on(site.hub.user("ann").push(text.clone())).unwrap(), 3);
    for tab in &mut tabs {
        let (first, payload) = read_frame(tab).unwrap();
        assert_eq!((first, inflate(&payload)), (TEXT | RSV1, text.clone().into_bytes()));
    }
    drop(tabs);
    assert_eq!(site.stop().compressed_frames, 1);
}
