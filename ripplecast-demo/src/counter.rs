//! The counter that all open tabs share. This file is the whole server side of the page,
//! and the page shows it.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    middleware::from_fn_with_state,
    routing::{get, post},
};
use ripplecast::{App, Close, Connection, LiveCounter, Message, Result, ws::Handler};
use serde::Serialize;

use crate::{
    alias::alias,
    learn::life,
    shared::{self, Demos},
    tabs::Tabs,
};

/// The response: the same JSON over HTTP, WebSocket and event stream.
#[derive(Serialize)]
struct Value {
    value: i64,
}

/// The three callbacks of a tab's WebSocket.
struct CounterDemo {
    /// The counter. Each change is pushed to the room of all tabs as `{"value":N}`.
    counter: LiveCounter,
    /// Pushes the number of open tabs, as `{"tabs":N}`.
    tabs: Arc<Tabs>,
    /// The first message to each tab, which names its node.
    hello: Message,
    /// Limits what one address may do.
    demos: Demos,
}

impl Handler for CounterDemo {
    /// A tab has connected: it joins the room and receives the current value, in one
    /// step.
    async fn on_open(&self, conn: Connection) -> Result<()> {
        conn.push(self.hello.clone()).ignore();
        self.counter.join(&conn).await?;
        self.tabs.changed();
        Ok(())
    }

    /// A tab has sent a message.
    async fn on_message(&self, conn: Connection, message: Message) -> Result<()> {
        match message.as_text() {
            Some("ping") => conn.push("pong").ignore(),
            Some("tabs") if self.demos.may_move(&conn) => self.tabs.join(&conn).await?,
            _ => {} // ignore anything else
        }
        Ok(())
    }

    /// A tab has disconnected, for whatever reason. It has already left its rooms.
    async fn on_close(&self, _conn: Connection, _close: Close) -> Result<()> {
        self.tabs.changed();
        Ok(())
    }
}

/// Adds the counter to the app: a WebSocket, three HTTP routes and an event stream.
pub(crate) fn add(app: App, demos: &Demos) -> Result<App> {
    // Step 1, the state: a counter that pushes each change to a room.
    let hub = app.hub();
    let counter = hub.counter("demo").publish_to(&hub.room("counter-demo"))?;

    // Step 2, the endpoint: the three callbacks above, on a path. (`life` also shows each
    // call on the page; the plain form is `ws::endpoint(demo)`.)
    let tabs = Tabs::of(&hub, counter.room())?;
    let hello = Message::text(format!(r#"{{"node":"{}"}}"#, alias(hub.node())));
    let demo = CounterDemo { counter: counter.clone(), tabs, hello, demos: demos.clone() };
    let app = app.ws("/ws/counter-demo", life::endpoint(demos, demo).text_only().max_message(64));

    // Step 3, the routes: plain HTTP that changes the counter, from anywhere. (`limit` is
    // a rate limit: anyone may press, and no one can lock the others out.)
    let api = axum::Router::new()
        .route("/api/counter", get(current))
        .route("/api/counter/bump", post(bump))
        .route("/api/counter/reset", post(reset))
        .route_layer(from_fn_with_state(demos.clone(), shared::limit))
        .with_state(counter.clone());
    Ok(app.merge(api).sse("/events/counter", &counter))
}

async fn current(State(counter): State<LiveCounter>) -> Result<Json<Value>> {
    Ok(Json(Value { value: counter.get().await? }))
}

/// Adds one. The change and its push are one atomic step, so no tab ever receives an
/// older value after a newer one.
async fn bump(State(counter): State<LiveCounter>) -> Result<Json<Value>> {
    Ok(Json(Value { value: counter.increment().await? }))
}

async fn reset(State(counter): State<LiveCounter>) -> Result<Json<Value>> {
    Ok(Json(Value { value: counter.reset().await? }))
}
