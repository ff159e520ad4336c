//! The counter in one screen: every open tab shows it, and every tab can change it.
//!
//! `cargo run -p ripplecast-examples --example counter`, then open the page in two tabs.

use axum::{
    Json,
    response::Html,
    routing::{get, post},
};
use ripplecast::{App, Result, SameOrigin, ws};

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().init(); // logs the address, and failures of handlers
    let port = std::env::args().nth(1).unwrap_or("8080".into());
    let app = App::from_env().await?;
    let hub = app.hub(); // clone it into any handler
    let counter = hub.counter("demo").publish_to(&hub.room("tabs"))?; // pushes each change as {"value":N}
    let bump = counter.clone();

    let tab = ws::handlers()
        .with_state(counter)
        .on_open(async |counter, conn| counter.join(&conn).await) // joins the room, and gets the current value
        .on_message(async |_, conn, message| conn.push(message)) // echoes each message of the tab
        .on_close(async |_, conn, close| println!("{} closed: {close}", conn.id()));

    let bound = app
        .ws("/ws/counter-demo", tab)
        .route("/api/counter/bump", post(async move || bump.increment().await.map(Json)))
        .layer(SameOrigin::new(&hub)) // refuses other sites' POSTs
        .route("/", get(async || Html(PAGE)))
        .bind(format!("127.0.0.1:{port}"))
        .await?;
    println!("open http://{} in two tabs", bound.local_addr());
    bound.serve().await
}

const PAGE: &str = r#"<!doctype html><title>Counter</title><h1 role="status"></h1><button>+1</button><script>
  (function connect() {
    const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws/counter-demo");
    socket.onmessage = ({ data }) => document.querySelector("h1").textContent = JSON.parse(data).value;
    socket.onclose = () => setTimeout(connect, 1000 * Math.random());
  })();
  document.querySelector("button").onclick = () => fetch("/api/counter/bump", { method: "POST" });
</script>"#;
