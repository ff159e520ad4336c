//! Rejections and their log lines, and upgrades interrupted by a shutdown.

use std::time::Duration;

use super::*;
use crate::support::Log;

#[test]
fn a_flood_of_refusals_writes_few_short_lines() {
    const TIMES: usize = 200;
    let log = Log::keep();
    let site = Site::start(
        Server::Own,
        |hub| hub.shards(1).max_connections(1),
        |hub, router| router.route("/echo", hub.ws(Echo::default())),
    );
    let _only = site.connect("/echo");
    let origin = format!("Origin: http://evil.example/{}\r\n", "\u{e9}".repeat(7_000));
    for _ in 0..TIMES {
        assert_eq!(status(&site, "/echo", &origin), 403);
        assert_eq!(status(&site, "/echo", ""), 503, "the only place is taken");
        assert_eq!(status(&site, "/echo", "Sec-WebSocket-Protocol: two words\r\n"), 400);
    }
    for what in
        ["another origin was rejected", "the limit max_connections is reached", "an upgrade was refused"]
    {
        log.check_limited(what);
    }
    drop(_only);
    site.stop();
}

/// Returns requests for a WebSocket and for an event stream.
fn both() -> [String; 2] {
    [request("/ws", ""), "GET /events HTTP/1.1\r\nhost: x\r\n\r\n".to_owned()]
}

#[test]
fn a_shutdown_while_a_hook_decides_is_answered() {
    /// The answer arrives at once. This is far below the client's timeout, as there are four servers to ask.
    const ANSWER: Duration = Duration::from_secs(10);
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
            stream.set_read_timeout(Some(ANSWER)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            begun.wait("the hook to be called", |asked| (*asked == 1).then_some(()));
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
fn a_shutdown_between_the_response_and_the_shard_is_reported_to_the_client() {
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
                    assert!(body.ends_with(b"\r\n0\r\n\r\n"), "the stream ended properly");
                }
            }
            drop(stream);
            assert_eq!(site.stop().opened, 0);
        }
    }
}
