//! Two nodes on one Redis, in one program: a message to one node reaches the pages of both.
//!
//! With `redis-server` running: `cargo run -p ripplecast-examples --example two-nodes`, then open both addresses. Nodes
//! on two machines work the same way: the same program, the same Redis.

use axum::{http::header::CONTENT_TYPE, response::Html, routing::get};
use ripplecast::{App, Bound, Connection, Error, Hub, Message, Result, shutdown_signal, ws};
use serde::Serialize;

/// The message that the pages of both nodes receive.
#[derive(Serialize)]
struct News<'a> {
    /// The node that sent it.
    from: String,
    text: &'a str,
    /// The number of open pages, on all nodes.
    pages: usize,
    /// The number of nodes.
    nodes: usize,
}

/// Sends a message to every page on every node.
async fn announce(hub: &Hub, text: &str) -> Result<()> {
    let room = hub.room("pages");
    let (from, pages, nodes) = (hub.node().to_string(), room.len().await?, hub.nodes().await?.len());
    room.push(Message::json(&News { from, text, pages, nodes })?).ignore();
    Ok(())
}

/// Starts a node.
async fn node(redis: &str, port: u16) -> Result<Bound> {
    let app = App::builder().backend(redis).build().await?;
    let page = ws::handlers()
        .with_state(app.hub())
        .on_open(async |hub: Hub, conn: Connection| {
            conn.join("pages")?;
            announce(&hub, "a page has opened").await
        })
        .on_message(async |hub: Hub, _, message: Message| {
            announce(&hub, message.as_text().unwrap_or_default()).await
        })
        .on_close(async |hub: Hub, _, _| announce(&hub, "a page has closed").await);
    app.ws("/ws", ws::endpoint(page).text_only().max_message(4096))
        .route("/", get(async || Html(include_str!("page.html"))))
        .route("/page.js", get(async || ([(CONTENT_TYPE, "text/javascript")], include_str!("page.js"))))
        .route("/style.css", get(async || ([(CONTENT_TYPE, "text/css")], include_str!("../style.css"))))
        .bind(format!("127.0.0.1:{port}"))
        .await
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().init();
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().unwrap_or("8080".into()).parse().map_err(Error::other)?;
    let redis = args.next().unwrap_or("redis://127.0.0.1:6379".into());

    let first = node(&redis, port).await?;
    let second = node(&redis, if port == 0 { 0 } else { port + 1 }).await?;
    println!("open http://{} and http://{}", first.local_addr(), second.local_addr());
    let (stop_first, stop_second) = (shutdown_signal()?, shutdown_signal()?);
    tokio::try_join!(first.serve_with_shutdown(stop_first), second.serve_with_shutdown(stop_second))?;
    Ok(())
}
