//! Two nodes on one Redis, in one program: what is said to one reaches the pages of both.
//!
//! With `redis-server` running: `cargo run -p ripplecast-examples --example two-nodes`, then open both addresses. Nodes on
//! two machines are no different: the same program, the same Redis.

use axum::{http::header::CONTENT_TYPE, response::Html, routing::get};
use ripplecast::{App, Bound, Connection, Error, Frame, Hub, Result, shutdown_signal, ws};
use serde::Serialize;

/// What the pages of both nodes get.
#[derive(Serialize)]
struct News<'a> {
    /// The node on which it was said.
    from: String,
    text: &'a str,
    /// How many pages are open, on all nodes.
    pages: usize,
    /// How many nodes there are.
    nodes: usize,
}

/// Tells every page of every node.
async fn tell(hub: &Hub, text: &str) -> Result<()> {
    let room = hub.room("pages");
    let (from, pages, nodes) = (hub.node().to_string(), room.len().await?, hub.nodes().await?.len());
    room.push(Frame::json(&News { from, text, pages, nodes })?).ignore();
    Ok(())
}

/// One node, which listens.
async fn node(redis: &str, port: u16) -> Result<Bound> {
    let app = App::builder().backend(redis).build().await?;
    let page = ws::handlers()
        .with_state(app.hub())
        .on_open(async |hub: Hub, conn: Connection| {
            conn.join("pages")?;
            tell(&hub, "a page has opened").await
        })
        .on_message(async |hub: Hub, _, frame: Frame| tell(&hub, frame.as_text().unwrap_or_default()).await)
        .on_close(async |hub: Hub, _, _| tell(&hub, "a page has closed").await);
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
