//! The counter inside a plain axum application. It turns all features of Ripplecast off, so it compiles the fewest crates.

use std::error::Error;

use axum::{
    Json, Router,
    response::Html,
    routing::{get, post},
};
use ripplecast::{Hub, SameOrigin, ws};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().nth(1).unwrap_or("8080".into());
    let hub = Hub::builder().build()?;
    let counter = hub.counter("demo").publish_to(&hub.room("tabs"))?; // pushes each change as {"value":N}
    let bump = counter.clone();

    let tab = ws::handlers()
        .with_state(counter)
        .on_open(async |counter, conn| counter.join(&conn).await) // joins the room, and gets the current value
        .on_message(async |_, conn, message| conn.push(message));
    let router = Router::new()
        .route("/ws/counter-demo", hub.ws(tab))
        .route("/api/counter/bump", post(async move || bump.increment().await.map(Json)))
        .layer(SameOrigin::new(&hub)) // refuses other sites' POSTs
        .route("/", get(async || Html(PAGE)));

    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("open http://{} in two tabs", listener.local_addr()?);
    ripplecast::serve(listener, router, &hub).await?; // until Ctrl-C; closes the sockets, for which axum would wait
    Ok(())
}

const PAGE: &str = r#"<!doctype html><title>Counter</title><h1 role="status"></h1><button>+1</button><script>
  (function connect() {
    const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws/counter-demo");
    socket.onmessage = ({ data }) => document.querySelector("h1").textContent = JSON.parse(data).value;
    socket.onclose = () => setTimeout(connect, 1000 * Math.random());
  })();
  document.querySelector("button").onclick = () => fetch("/api/counter/bump", { method: "POST" });
</script>"#;
