//! Live view of a connection's callbacks, for the page that the connection belongs to.

use std::future::ready;

use ripplecast::{
    Accept, App, Close, CloseCode, Connection, ConnectionId, Message, Request, Result, ws,
    ws::{Endpoint, Handler},
};
use serde::{Deserialize, Serialize};

use crate::{
    alias::alias,
    seen::Seen,
    shared::Demos,
    visitor::Visitor,
    watched::{Tab, WATCHERS},
};

/// The number of characters shown of a message or a reason.
const SHOWN: usize = 40;
/// A callback that the server has called.
#[derive(Serialize)]
struct Called<'a> {
    callback: &'static str,
    id: String,
    /// The argument of the call, for display.
    with: &'a str,
    /// Whether the call happened before the page started watching.
    earlier: bool,
}

/// Callbacks whose calls are reported to watchers.
pub(crate) struct Observed<H> {
    handler: H,
    demos: Demos,
}

/// Creates an endpoint whose callbacks the page can watch.
pub(crate) fn endpoint<H: Handler>(demos: &Demos, handler: H) -> Endpoint<Observed<H>> {
    let visitors = demos.hub.clone();
    ws::endpoint(Observed { handler, demos: demos.clone() }).on_upgrade(move |request: Request| {
        let accept = Accept::new().state(Visitor::of(&visitors, request.parts())).state(Seen::now("counter"));
        ready(with_tab(accept, &request))
    })
}

/// Returns the tab named in a request, if any.
fn tab(request: &Request) -> Option<Tab> {
    #[derive(Deserialize)]
    struct Query {
        tab: String,
    }
    let tab = request.query::<Query>().ok()?.tab;
    (tab.len() == 32 && tab.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(Tab(tab))
}

/// Attaches the request's tab to the connection, if it names one.
fn with_tab(accept: Accept, request: &Request) -> Accept {
    match tab(request) {
        Some(tab) => accept.state(tab),
        None => accept,
    }
}

/// Returns the name of the room in which watchers of a tab listen.
fn watch_room(tab: &Tab) -> String {
    format!("learn:life:{}", tab.0)
}

impl<H> Observed<H> {
    /// Reports a call to the watchers.
    fn report(&self, conn: &Connection, callback: &'static str, with: &str) {
        let Some(tab) = conn.state::<Tab>() else { return };
        if let Ok(message) = called(callback, conn.id(), with, false) {
            self.demos.hub.room(watch_room(&tab)).push(message).ignore();
        }
    }
}

/// Encodes the report of a call.
fn called(callback: &'static str, id: ConnectionId, with: &str, earlier: bool) -> Result<Message> {
    let with = with.char_indices().nth(SHOWN).map_or(with, |(end, _)| &with[..end]);
    Message::json(&Called { callback, id: alias(id), with, earlier })
}

impl<H: Handler> Handler for Observed<H> {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        if let Some(tab) = conn.state::<Tab>() {
            self.demos.watched.add(&tab, conn.id());
        }
        self.report(&conn, "on_open", "");
        self.handler.on_open(conn).await
    }

    async fn on_message(&self, conn: Connection, message: Message) -> Result<()> {
        self.report(&conn, "on_message", message.as_text().unwrap_or("bytes"));
        self.handler.on_message(conn, message).await
    }

    async fn on_close(&self, conn: Connection, close: Close) -> Result<()> {
        if let Some(tab) = conn.state::<Tab>() {
            self.demos.watched.remove(&tab, conn.id());
        }
        self.report(&conn, "on_close", &close.to_string());
        self.handler.on_close(conn, close).await
    }
}

/// The callbacks of a watching page.
struct Watcher {
    demos: Demos,
}

impl Handler for Watcher {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        let Some(tab) = conn.state::<Tab>() else {
            conn.close(CloseCode::POLICY, "missing tab id").ignore();
            return Ok(());
        };
        if !self.demos.admit(&conn, &watch_room(&tab), WATCHERS) {
            return Ok(());
        }
        conn.join(&watch_room(&tab))?;
        for own in self.connections(&tab) {
            conn.push(called("on_open", own.id(), "", true)?).ignore();
        }
        Ok(())
    }

    /// The page asks the server to close the tab's counter connection.
    async fn on_message(&self, conn: Connection, message: Message) -> Result<()> {
        if let Some(tab) = conn.state::<Tab>()
            && message.as_text() == Some("close")
            && self.demos.may_act(&conn)
        {
            for own in self.connections(&tab) {
                own.close(CloseCode::RESTART, "closed on request").ignore();
            }
        }
        Ok(())
    }
}

impl Watcher {
    /// Returns the tab's counter connections on this node, normally none or one.
    fn connections(&self, tab: &Tab) -> Vec<Connection> {
        self.demos.watched.of(tab).into_iter().filter_map(|id| self.demos.hub.connection(id)).collect()
    }
}

/// Adds the watchers' endpoint to the app.
pub(super) fn add(app: App, demos: &Demos) -> App {
    let visitors = demos.clone();
    let endpoint = ws::endpoint(Watcher { demos: demos.clone() }).text_only().max_message(256);
    let endpoint = endpoint.on_upgrade(move |request: Request| {
        ready(with_tab(visitors.accept(&request, "lesson: life"), &request))
    });
    app.ws("/ws/learn/life", endpoint)
}
