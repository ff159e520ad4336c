//! The counter that every open tab shares: the whole server side of the page, which
//! shows this file.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    middleware::from_fn_with_state,
    routing::{get, post},
};
use ripplecast::{App, Close, Connection, Frame, LiveCounter, Result, ws::Handler};
use serde::Serialize;

use crate::{
    alias::alias,
    demos::{self, Demos},
    learn::life,
    tabs::Tabs,
};

/// What the browser is told: the same JSON over HTTP, WebSocket and event stream.
#[derive(Serialize)]
struct Value {
    value: i64,
}

/// The three callbacks of a tab's WebSocket.
struct CounterDemo {
    /// The counter. Each change is pushed to the room of all tabs as `{"value":N}`.
    counter: LiveCounter,
    /// Tells how many tabs are open, as `{"tabs":N}`.
    tabs: Arc<Tabs>,
    /// The first thing that a tab is told: the node that it is connected to.
    hello: Frame,
    /// Knows how much one address may ask.
    demos: Demos,
}

impl Handler for CounterDemo {
    /// A tab has opened: it joins the room and gets the current value, in one step.
    async fn on_open(&self, conn: Connection) -> Result<()> {
        conn.push(self.hello.clone()).ignore();
        self.counter.join(&conn).await?;
        self.tabs.changed();
        Ok(())
    }

    /// A tab says something.
    async fn on_message(&self, conn: Connection, frame: Frame) -> Result<()> {
        match frame.as_text() {
            Some("ping") => conn.push("pong").ignore(),
            Some("tabs") if self.demos.may_move(&conn) => self.tabs.tell(&conn).await?,
            _ => {} // nothing else means anything here
        }
        Ok(())
    }

    /// A tab has closed, whatever the reason. It has left its rooms already.
    async fn on_close(&self, _conn: Connection, _close: Close) -> Result<()> {
        self.tabs.changed();
        Ok(())
    }
}

/// Puts the counter on the app: a WebSocket, three HTTP routes and an event stream.
pub(crate) fn add(app: App, demos: &Demos) -> Result<App> {
    // Step 1, the state: a counter that pushes each change to a room.
    let hub = app.hub();
    let counter = hub.counter("demo").publish_to(&hub.room("counter-demo"))?;

    // Step 2, the endpoint: the three callbacks above, on a path. (`life` tells the
    // page when each is called; without that, it is `ws::endpoint(demo)`.)
    let tabs = Tabs::of(&hub, counter.room())?;
    let hello = Frame::text(format!(r#"{{"node":"{}"}}"#, alias(hub.node())));
    let demo = CounterDemo { counter: counter.clone(), tabs, hello, demos: demos.clone() };
    let app = app.ws("/ws/counter-demo", life::endpoint(demos, demo).text_only().max_message(64));

    // Step 3, the routes: plain HTTP that changes the counter, from anywhere. (`limit` is
    // how often: anybody may press, and nobody may keep the others from it.)
    let api = axum::Router::new()
        .route("/api/counter", get(current))
        .route("/api/counter/bump", post(bump))
        .route("/api/counter/reset", post(reset))
        .route_layer(from_fn_with_state(demos.clone(), demos::limit))
        .with_state(counter.clone());
    Ok(app.merge(api).sse("/events/counter", &counter))
}

async fn current(State(counter): State<LiveCounter>) -> Result<Json<Value>> {
    Ok(Json(Value { value: counter.get().await? }))
}

/// Adds one. The change and its push to every tab are one step, so no tab ever sees an
/// older value after a newer one.
async fn bump(State(counter): State<LiveCounter>) -> Result<Json<Value>> {
    Ok(Json(Value { value: counter.increment().await? }))
}

async fn reset(State(counter): State<LiveCounter>) -> Result<Json<Value>> {
    Ok(Json(Value { value: counter.reset().await? }))
}
