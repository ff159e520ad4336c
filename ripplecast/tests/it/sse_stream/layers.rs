//! Streams inside an application's layers.

use super::*;

/// Starts a server with the room `r` at `/events`, inside a layer.
fn layered<L>(layer: L) -> TestServer
where
    L: Layer<Route> + Clone + Send + Sync + 'static,
    L::Service: Service<axum::extract::Request> + Clone + Send + Sync + 'static,
    <L::Service as Service<axum::extract::Request>>::Response: IntoResponse + 'static,
    <L::Service as Service<axum::extract::Request>>::Error: Into<Infallible> + 'static,
    <L::Service as Service<axum::extract::Request>>::Future: Send + 'static,
{
    TestServer::with_shards(1, false, |app| app.sse("/events", "r").layer(layer))
}

#[test]
fn a_stream_compressed_by_a_layer_is_sent_compressed() {
    let all = || CompressionLayer::new().compress_when(|_: _, _: _, _: &_, _: &_| true);
    let own = layered(all());
    let axum = TestServer::under_axum(|hub| Router::new().route("/events", hub.sse("r")).layer(all()));
    for server in [own, axum] {
        let request = "GET /events HTTP/1.1\r\nhost: here\r\naccept-encoding: gzip\r\n\r\n";
        let stream = EventStream::send_on(connect(server.addr), request);
        assert!(stream.head.contains("\r\ncontent-encoding: gzip\r\n"), "{}", stream.head);
        wait_until("the stream is a member", || server.len("r") == 1);
        assert!(server.hub.room("r").push("hello").is_queued());
        let conn = server.hub.connections().next().unwrap();
        assert!(conn.close(ripplecast::CloseCode::NORMAL, "").is_queued());
        let mut text = String::new();
        flate2::read::GzDecoder::new(&stream.rest()[..]).read_to_string(&mut text).unwrap();
        assert!(text.starts_with("retry: 3000\n\nid: ") && text.ends_with("\ndata: hello\n\n"), "{text}");
        // A client that does not accept compression receives plain text.
        assert!(!server.events("/events").head.contains("content-encoding"));
    }
}

#[test]
fn headers_set_by_a_layer_are_merged_with_ours() {
    let headers = axum::middleware::map_response(async |mut response: Response| {
        let headers = response.headers_mut();
        for value in ["keep-alive, X-Hop", "Upgrade"] {
            headers.append("connection", value.parse().unwrap());
        }
        headers.insert("keep-alive", "timeout=5".parse().unwrap());
        headers.insert("date", "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        headers.insert("x-layer", "was here".parse().unwrap());
        response
    });
    // A layer that only observes does not keep the server from taking the socket over.
    let server = layered((TraceLayer::new_for_http(), headers));
    for already in 0..50 {
        let mut stream = server.events("/events");
        assert_eq!(server.hub.stats().opened, already + 1, "a member before its head is sent");
        let mut lines: Vec<_> = stream.head.trim_end().split("\r\n").skip(1).collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "cache-control: no-store",
                "connection: close, x-hop",
                "content-type: text/event-stream; charset=utf-8",
                "date: sun, 06 nov 1994 08:49:37 gmt",
                "transfer-encoding: chunked",
                "x-accel-buffering: no",
                "x-layer: was here",
            ]
        );
        assert!(server.hub.broadcast("hello").is_queued());
        assert_eq!(stream.data(), "hello");
    }
}

#[test]
fn a_body_rewritten_by_a_layer_arrives_unchanged() {
    let shout = async |response: Response| {
        response.map(|body| {
            Body::new(body.map_frame(|frame| frame.map_data(|data| Bytes::from(data.to_ascii_uppercase()))))
        })
    };
    let server = layered(axum::middleware::map_response(shout));
    let mut stream = joined(&server, "/events", "r");
    assert!(server.hub.connections().next().unwrap().push("hello").is_queued());
    let text = String::from_utf8(stream.bytes("retry: 3000\n\ndata: hello\n\n".len())).unwrap();
    assert_eq!(text, "RETRY: 3000\n\nDATA: HELLO\n\n");
}

#[test]
fn a_stream_replaced_by_a_layer_is_not_opened() {
    let other = async |response: Response| response.map(|_| Body::from("data: other\n\n"));
    let app = App::builder().hub(|hub| hub.shards(1).max_connections(1));
    // Silent, so that a stream that is opened after all makes the client time out.
    let stream = sse::room("r").keep_alive(Duration::ZERO);
    let server =
        TestServer::start(app, |app| app.sse("/events", stream).layer(axum::middleware::map_response(other)));
    // The only place is released each time, or the second request would be rejected.
    for _ in 0..3 {
        assert_eq!(server.http("GET", "/events").body, "data: other\n\n");
    }
    assert_eq!(server.hub.stats().opened, 0);
}
