//! The counter that every open tab shares. This is the whole server side of the page; the page shows this file.

use axum::{
    Json,
    extract::State,
    routing::{get, post},
};
use ripplecast::{App, AppBuilder, Close, Connection, Frame, LiveCounter, Result, ws, ws::Handler};
use serde::Serialize;

/// What the browser is told: the same JSON over HTTP, WebSocket and event stream.
#[derive(Serialize)]
struct Value {
    value: i64,
}

/// The three callbacks of a tab's WebSocket.
struct CounterDemo {
    /// The counter. Each change is pushed to the room of all tabs as `{"value":N}`.
    counter: LiveCounter,
    /// The number of open tabs, pushed as `{"tabs":N}` to those who ask for it.
    tabs: LiveCounter,
}

impl Handler for CounterDemo {
    /// A tab has opened: it joins the room and gets the current value, in one step.
    async fn on_open(&self, conn: Connection) -> Result<()> {
        self.tabs.increment().await?;
        self.counter.join(&conn).await
    }

    /// A tab says something.
    async fn on_message(&self, conn: Connection, frame: Frame) -> Result<()> {
        match frame.as_text() {
            Some("ping") => conn.push("pong").ignore(),
            Some("tabs") => self.tabs.join(&conn).await?,
            _ => {} // nothing else means anything here
        }
        Ok(())
    }

    /// A tab has closed, whatever the reason. It has left its rooms already.
    async fn on_close(&self, _conn: Connection, _close: Close) -> Result<()> {
        self.tabs.decrement().await?;
        Ok(())
    }
}

/// The app: a WebSocket, three HTTP routes, an event stream and the page.
pub(crate) async fn build(builder: AppBuilder) -> Result<App> {
    let app = builder.build().await?;
    let hub = app.hub();
    let counter = hub.counter("demo").publish_to(&hub.room("counter-demo"))?;
    let tabs = hub
        .counter("tabs")
        .publish_with(&hub.room("counter-demo:tabs"), |tabs| Frame::text(format!(r#"{{"tabs":{tabs}}}"#)))?;

    let demo = CounterDemo { counter: counter.clone(), tabs };
    let api = axum::Router::new()
        .route("/api/counter", get(current))
        .route("/api/counter/bump", post(bump))
        .route("/api/counter/reset", post(reset))
        .with_state(counter.clone());

    Ok(app
        .ws("/ws/counter-demo", ws::endpoint(demo).text_only())
        .sse("/events/counter", &counter)
        .merge(api)
        .merge(ripplecast_site::router()))
}

async fn current(State(counter): State<LiveCounter>) -> Result<Json<Value>> {
    Ok(Json(Value { value: counter.get().await? }))
}

/// Adds one. The change and its push to every tab are one step, so no tab ever sees an older value after a newer one.
async fn bump(State(counter): State<LiveCounter>) -> Result<Json<Value>> {
    Ok(Json(Value { value: counter.increment().await? }))
}

async fn reset(State(counter): State<LiveCounter>) -> Result<Json<Value>> {
    Ok(Json(Value { value: counter.reset().await? }))
}
