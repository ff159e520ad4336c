//! The nodes, the tabs on each, and the path that a message takes.

use std::{collections::BTreeMap, future::ready};

use axum::{
    Json,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, request::Parts},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use ripplecast::{App, Connection, Message, Result, ws, ws::Handler};
use serde::{Deserialize, Serialize};

use crate::{
    alias::{alias, is_alias},
    shared::{self, Demos},
};

/// The room of tabs that show the panel.
const ROOM: &str = "learn:nodes";
/// The most tabs on this node.
const PEOPLE: usize = 500;
/// The most tabs listed.
const LISTED: usize = 200;
/// Tabs acknowledge a message to all others only while there are at most this many: more would cause a flood.
const ANSWERS: usize = 20;

/// The panel's endpoint; cheap to clone.
#[derive(Clone)]
struct Panel {
    demos: Demos,
    /// Whether the nodes share a backend.
    is_shared: bool,
}

/// The response of `/api/nodes`. It contains aliases, because node and connection ids are for operators only.
#[derive(Serialize)]
struct Nodes {
    /// The responding node.
    node: String,
    /// All nodes, including this one. Only this node while the backend is unavailable.
    nodes: Vec<String>,
    /// `memory` or `redis`, for clients that may see `/metrics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'static str>,
    /// Whether the backend is unavailable.
    degraded: bool,
    /// The tabs that show the panel, by node.
    tabs: BTreeMap<String, Vec<String>>,
}

/// A message from a tab.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ask {
    /// Acknowledges the message with this number.
    Got(u64),
}

/// A message to tabs.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Tell {
    /// The tab's own id and node.
    You { id: String, node: String },
    /// A message: its number, and the node that accepted it.
    Message { number: u64, posted: String, one: bool },
    /// An acknowledgement: a tab on `node` received the message with this number.
    Got { number: u64, id: String, node: String },
}

/// A request to send a message.
#[derive(Deserialize)]
struct Send {
    /// The sender's own number for the message.
    number: u64,
    /// The receiving tab, or `None` for all.
    to: Option<TabId>,
}

/// The id of a tab, as JSON.
#[derive(Deserialize)]
struct TabId(String);

/// The route of a sent message.
#[derive(Serialize)]
struct SentTo {
    /// The node that accepted it.
    posted: String,
    /// The number of connections reached, for a message to one tab.
    reached: Option<usize>,
    /// The nodes that the one tab is connected to.
    owners: Vec<String>,
}

impl Panel {
    fn node(&self) -> String {
        alias(self.demos.hub.node())
    }

    async fn nodes(&self, is_operator: bool) -> Result<Nodes> {
        let hub = &self.demos.hub;
        let nodes = match hub.nodes().await {
            Err(error) if error.is_unavailable() => vec![hub.node()],
            nodes => nodes?,
        };
        let members = match hub.room(ROOM).members_after(None, LISTED).await {
            Err(error) if error.is_unavailable() => Vec::new(),
            members => members?,
        };
        let mut tabs: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for id in members {
            tabs.entry(alias(id.node())).or_default().push(alias(id));
        }
        Ok(Nodes {
            node: self.node(),
            nodes: nodes.iter().map(alias).collect(),
            backend: is_operator.then_some(if self.is_shared { "redis" } else { "memory" }),
            degraded: hub.stats().remote.degraded,
            tabs,
        })
    }

    async fn send(&self, Send { number, to }: Send) -> Result<SentTo> {
        let message = |one| Message::json(&Tell::Message { number, posted: self.node(), one });
        let hub = &self.demos.hub;
        let Some(TabId(id)) = to else {
            hub.room(ROOM).push(message(false)?).ignore();
            return Ok(SentTo { posted: self.node(), reached: None, owners: Vec::new() });
        };
        // Each tab that shows the panel is a separate user, under its alias, so this push reaches it on any node.
        let client = hub.user(&id);
        let reached = client.push(message(true)?).await?;
        let owners = client.nodes().await?;
        Ok(SentTo { posted: self.node(), reached: Some(reached), owners: owners.iter().map(alias).collect() })
    }
}

impl Handler for Panel {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        if !self.demos.admit(&conn, ROOM, PEOPLE) {
            return Ok(());
        }
        let id = alias(conn.id());
        conn.identify(&id).await?;
        conn.push(Message::json(&Tell::You { id, node: self.node() })?).ignore();
        conn.join_confirmed(ROOM).await?; // the next message may be posted on any node
        Ok(())
    }

    async fn on_message(&self, conn: Connection, message: Message) -> Result<()> {
        let room = self.demos.hub.room(ROOM);
        if let Some(Ok(Ask::Got(number))) = message.as_text().map(serde_json::from_str)
            && room.len_here() <= ANSWERS
            && self.demos.is_in(&conn)
            && self.demos.may_move(&conn)
        {
            let id = alias(conn.id());
            room.push(Message::json(&Tell::Got { number, id, node: self.node() })?).ignore();
        }
        Ok(())
    }
}

async fn list(State(panel): State<Panel>, parts: Parts) -> Result<Json<Nodes>> {
    let is_operator = panel.demos.is_operator(&parts);
    panel.nodes(is_operator).await.map(Json)
}

async fn send(State(panel): State<Panel>, parts: Parts, Json(send): Json<Send>) -> Result<Response> {
    if let Err(too_much) = panel.demos.allow(&parts) {
        return Ok(too_much.into_response());
    }
    if send.to.as_ref().is_some_and(|id| !is_alias(&id.0)) {
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, "Not a tab id.\n").into_response());
    }
    match panel.send(send).await {
        Err(error) if error.is_unavailable() => {
            let text = "Redis is unavailable: until it returns, only tabs on this node can be reached.\n";
            Ok((StatusCode::SERVICE_UNAVAILABLE, text).into_response())
        }
        sent => Ok(Json(sent?).into_response()),
    }
}

/// Adds the panel's endpoint and routes to the app.
pub(super) fn add(app: App, demos: &Demos, is_shared: bool) -> App {
    let panel = Panel { demos: demos.clone(), is_shared };
    let visitors = demos.clone();
    let limit = from_fn_with_state(demos.clone(), shared::limit);
    let endpoint = ws::endpoint(panel.clone())
        .text_only()
        .max_message(256)
        .on_upgrade(move |request| ready(visitors.accept(&request, "lesson: nodes")));
    app.ws("/ws/learn/nodes", endpoint)
        .route("/api/nodes", get(list).with_state(panel.clone()).layer(limit))
        .route("/api/learn/send", post(send).with_state(panel).layer(DefaultBodyLimit::max(1024)))
}
