//! `ripplecast::test`: the clients for the tests of applications.

use std::time::Duration;

use axum::{Router, body::Body, http::Request as HttpRequest};
use ripplecast::{
    Accept, App, CloseCode, Connection, Hub, Message, Request, Result,
    test::{Client, Error, Server},
    ws,
};
use serde_json::{Value, json};

/// Echoes messages. Closes at `close`, sends bytes at `bytes`, and greets a user by the cookie `session`.
fn endpoint() -> ws::Endpoint<impl ws::Handler> {
    let handlers = ws::handlers()
        .on_open(async |conn: Connection| {
            if let Some(user) = conn.state::<String>() {
                conn.push(Message::text(format!("hello {user}"))).ignore();
            }
        })
        .on_message(async |conn: Connection, message: Message| match message.as_text() {
            Some("close") => conn.close(CloseCode::POLICY, "enough"),
            Some("bytes") => conn.push(Message::binary(vec![1, 2])),
            _ => conn.push(message),
        });
    ws::endpoint(handlers).on_upgrade(async |request: Request| match request.cookie("session") {
        Some("nobody") => Err(axum::http::StatusCode::UNAUTHORIZED),
        Some(user) => {
            let lang = request.headers().get("accept-language").and_then(|lang| lang.to_str().ok());
            Ok(Accept::new().state(format!("{user} {}", lang.unwrap_or_default())))
        }
        None => Ok(Accept::new()),
    })
}

async fn servers() -> Vec<Server> {
    let app = App::builder().build().await.unwrap().ws("/ws", endpoint()).sse("/events", "news");
    let hub = Hub::builder().build().unwrap();
    let router = Router::new().route("/ws", hub.ws(endpoint())).route("/events", hub.sse("news"));
    vec![Server::start(app).await.unwrap(), Server::start_router(router, &hub).await.unwrap()]
}

#[tokio::test]
async fn a_client_sends_and_receives_text_bytes_and_json_with_cookies_and_headers() {
    for server in servers().await {
        let client =
            server.client().cookie("a", "b").cookie("session", "ann").header("accept-language", "de");
        let mut socket = client.ws("/ws").await.unwrap();
        assert_eq!(socket.expect_text().await.unwrap(), "hello ann de");
        socket.send_json(&json!({ "a": [1] })).await.unwrap();
        assert_eq!(socket.expect_json::<Value>().await.unwrap(), json!({ "a": [1] }));
        socket.send_bytes([7, 8]).await.unwrap();
        assert_eq!(socket.expect_bytes().await.unwrap(), [7, 8]);
        socket.send_text("close").await.unwrap();
        let close = socket.expect_close().await.unwrap();
        assert_eq!((close.code, &*close.reason), (CloseCode::POLICY, "enough"));
        server.stop().await;
    }
}

#[tokio::test]
async fn an_error_shows_what_arrived_instead() {
    for server in servers().await {
        let mut socket = server.ws("/ws").await.unwrap();
        socket.send_text("no JSON").await.unwrap();
        let error = socket.expect_json::<Value>().await.unwrap_err().to_string();
        assert!(error.contains("\"no JSON\""), "{error}");
        socket.send_text("bytes").await.unwrap();
        let error = socket.expect_text().await.unwrap_err().to_string();
        assert!(error.starts_with("expected a text message, received 2 bytes"), "{error}");
        socket.send_text("some text").await.unwrap();
        let error = socket.expect_close().await.unwrap_err().to_string();
        assert_eq!(error, "expected a close, received the text \"some text\"");
        socket.send_text("close").await.unwrap();
        let error = format!("{:?}", socket.expect_bytes().await.unwrap_err());
        assert_eq!(error, "expected a binary message, received a close with 1008 \"enough\"");

        let refused = server.client().cookie("session", "nobody").ws("/ws").await.unwrap_err();
        assert!(matches!(refused, Error::Refused { status: 401, .. }), "{refused}");
        let refused = server.sse("/nowhere").await.unwrap_err();
        assert!(matches!(refused, Error::Refused { status: 404, .. }), "{refused}");
        let invalid = server.client().header("a b", "c").ws("/ws").await.unwrap_err();
        assert!(matches!(invalid, Error::Invalid(_)), "{invalid}");

        let brief = Client::new(server.addr()).deadline(Duration::from_millis(50));
        let mut silent = brief.ws("/ws").await.unwrap();
        let error = silent.expect_text().await.unwrap_err().to_string();
        assert_eq!(error, "expected a text message, received nothing within 50ms");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_client_reads_an_event_stream_and_plain_responses() -> Result<()> {
    for server in servers().await {
        let mut events = server.sse("/events").await.unwrap();
        server.members("news", 1).await.unwrap();
        let news = server.hub().room("news");
        news.push(Message::text("one\n\ntwo").with_event("lines")).ignore();
        news.push(Message::json(&json!({ "n": 1 }))?).ignore();
        let event = events.expect_event().await.unwrap();
        assert_eq!((event.name.as_str(), event.data.as_str()), ("lines", "one\n\ntwo"));
        assert!(event.id.ends_with(":1"), "{event:?}");
        assert_eq!(events.expect_json::<Value>().await.unwrap(), json!({ "n": 1 }));
        let request = HttpRequest::get("/nowhere").body(Body::empty()).unwrap();
        assert_eq!(server.client().request(request).await.unwrap().status(), 404);
        let hub = server.hub().clone();
        server.stop().await;
        events.expect_end().await.unwrap();
        assert_eq!(hub.stats().connections, 0);
    }
    Ok(())
}
