use std::{
    io::{self, Read, Write},
    sync::mpsc,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use ripplecast::CloseCode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    runtime::Handle,
};
use tungstenite::{Message, WebSocket};

use crate::support::{Echo, Site, check_echo, ending, frame, read_close, receive, text, upgrade};

/// The other end of a stream that is not a socket, for a blocking client.
struct Pipe {
    stream: DuplexStream,
    runtime: Handle,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.runtime.block_on(async {
            tokio::time::timeout(crate::support::PATIENCE, self.stream.read(buffer))
                .await
                .expect("nothing arrives")
        })
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.runtime.block_on(async {
            tokio::time::timeout(crate::support::PATIENCE, self.stream.write(bytes))
                .await
                .expect("nothing can be written")
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.runtime.block_on(self.stream.flush())
    }
}

/// A site, with its router served over in-memory streams.
fn site(shards: usize) -> (Site, Router, Echo) {
    let echo = Echo::default();
    let handler = echo.clone();
    let (give, take) = mpsc::channel();
    let site = Site::own(shards, |hub, router| {
        let router = router.route("/", hub.ws(handler));
        give.send(router.clone()).unwrap();
        router
    });
    let router = take.recv().unwrap();
    (site, router, echo)
}

/// Returns the client's end of a stream whose other end hyper serves.
fn pipe(site: &Site, router: &Router) -> Pipe {
    let (ours, theirs) = duplex(16 << 10);
    let service = TowerToHyperService::new(router.clone());
    site.runtime.spawn(async move {
        let connection = http1::Builder::new().serve_connection(TokioIo::new(theirs), service);
        let _ = connection.with_upgrades().await;
    });
    Pipe { stream: ours, runtime: site.runtime.handle().clone() }
}

fn client(site: &Site, router: &Router) -> WebSocket<Pipe> {
    tungstenite::client("ws://here.example/", pipe(site, router)).unwrap().0
}

#[test]
fn a_stream_that_is_not_a_socket_behaves_like_one() {
    for shards in [1, 2] {
        let (site, router, echo) = site(shards);
        // One after the other, so that the first one opened is the relayed one.
        let mut driven = client(&site, &router);
        check_echo(&mut driven);
        let mut plain = site.connect("/");
        check_echo(&mut plain);
        driven.send(Message::Ping("?".into())).unwrap();
        assert_eq!(driven.read().unwrap(), Message::Pong("?".into()));
        for n in 0..2 {
            echo.opened(n).join("room").unwrap();
        }
        let room = site.hub.room("room");
        for n in 0..200 {
            assert!(room.push(format!("{n}")).is_queued());
        }
        for n in 0..200 {
            assert_eq!(text(&mut driven), format!("{n}"));
            assert_eq!(text(&mut plain), format!("{n}"));
        }
        assert!(site.hub.broadcast("all").is_queued());
        assert_eq!((text(&mut driven), text(&mut plain)), ("all".to_owned(), "all".to_owned()));
        // More than the buffers in between hold.
        let large: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        assert!(echo.opened(0).push(large.clone()).is_queued());
        assert_eq!(receive(&mut driven), Message::binary(large));
        drop((driven, plain));
        site.stop();
    }
}

#[test]
fn a_relayed_stream_is_closed_from_either_side() {
    let (site, router, echo) = site(1);
    let mut driven = client(&site, &router);
    driven
        .close(Some(tungstenite::protocol::CloseFrame { code: 4001.into(), reason: "bye".into() }))
        .unwrap();
    assert_eq!(ending(&mut driven), (4001, "bye".to_owned()));
    assert_eq!(echo.closed(0), (4001, "bye".to_owned()));

    let mut driven = client(&site, &router);
    let conn = echo.opened(1);
    assert!(conn.push("last words").is_queued());
    assert!(conn.close(CloseCode::application(4002).unwrap(), "moved").is_queued());
    assert_eq!(text(&mut driven), "last words");
    assert_eq!(ending(&mut driven), (4002, "moved".to_owned()));
    assert_eq!(echo.closed(1), (4002, "moved".to_owned()));

    // A protocol error is reported before the stream ends.
    let mut raw = pipe(&site, &router);
    upgrade(&mut raw, "/");
    raw.write_all(&frame(0x83, b"")).unwrap();
    assert_eq!(read_close(&mut raw).0, 1002);
    drop(raw);
    assert_eq!(echo.closed(2).0, 1002);
    site.stop();
}

#[test]
fn a_relayed_stream_detects_its_peer_s_end_and_a_shutdown() {
    let (site, router, echo) = site(1);
    drop(client(&site, &router));
    assert_eq!(echo.closed(0), (1006, String::new()));
    let mut cut_off = pipe(&site, &router);
    upgrade(&mut cut_off, "/");
    cut_off.write_all(&frame(0x81, b"cut off")[..9]).unwrap();
    drop(cut_off);
    assert_eq!(echo.closed(1), (1006, String::new()));

    let mut last = client(&site, &router);
    check_echo(&mut last);
    std::thread::scope(|scope| {
        let hub = site.hub.clone();
        let runtime = site.runtime.handle().clone();
        let shutdown = scope.spawn(move || runtime.block_on(hub.shutdown()));
        assert_eq!(ending(&mut last).0, 1001);
        shutdown.join().unwrap();
    });
    assert_eq!(echo.closed(2).0, 1001);
    drop(last);
    assert_eq!(site.stop().closed, 3);
}

#[test]
fn data_sent_with_the_request_reaches_a_relayed_stream() {
    let (site, router, _) = site(1);
    let mut raw = pipe(&site, &router);
    let bytes =
        [crate::support::request("/", "").as_bytes(), &frame(0x81, b"first"), &frame(0x81, b"second")]
            .concat();
    raw.write_all(&bytes).unwrap();
    assert!(crate::support::head(&mut raw).starts_with("http/1.1 101 "));
    assert_eq!(crate::support::read_frame(&mut raw).unwrap().1, b"first");
    assert_eq!(crate::support::read_frame(&mut raw).unwrap().1, b"second");
    drop(raw);
    site.stop();
}
