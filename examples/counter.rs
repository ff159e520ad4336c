//! The counter in one screen: every open tab shows it, and every tab moves it.
//!
//! `cargo run -p ripplecast-examples --example counter`, then open the page in two tabs.

use axum::{
    Json,
    response::Html,
    routing::{get, post},
};
use ripplecast::{App, Connection, Frame, LiveCounter, Result, ws};

#[tokio::main]
async fn main() -> Result<()> {
    let app = App::from_env().await?;
    let hub = app.hub();
    // Each change is pushed to the room, in order, as {"value":N}.
    let counter = hub.counter("demo").publish_to(&hub.room("tabs"))?;
    let bump = counter.clone();

    app.ws(
        "/ws/counter-demo",
        ws::handlers()
            .with_state(counter)
            .on_open(|counter: LiveCounter, conn: Connection| async move { counter.join(&conn).await })
            .on_message(|_, conn: Connection, frame: Frame| async move {
                if frame.as_text() == Some("ping") {
                    conn.push("pong").ignore();
                }
            }),
    )
    .route("/api/counter/bump", post(async move || bump.increment().await.map(Json)))
    .route("/", get(async || Html(PAGE)))
    .run("127.0.0.1:8080")
    .await
}

const PAGE: &str = r#"<!doctype html><title>Counter</title><h1 role="status"></h1><button>+1</button><script>
  const socket = new WebSocket(`ws://${location.host}/ws/counter-demo`);
  socket.onmessage = ({ data }) => document.querySelector("h1").textContent = JSON.parse(data).value;
  document.querySelector("button").onclick = () => fetch("/api/counter/bump", { method: "POST" });
</script>"#;
