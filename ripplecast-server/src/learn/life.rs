//! The life of a connection, as it happens: which of its callbacks the server calls, told to the page that it belongs to.

use std::future::ready;

use ripplecast::{
    Accept, App, Close, CloseCode, Connection, ConnectionId, Frame, Hub, Request, Result, ws,
    ws::{Endpoint, Handler},
};
use serde::{Deserialize, Serialize};

use crate::{demos::Demos, inspect::Seen, visitor::Visitor};

/// Characters of a message or a reason that are shown.
const SHOWN: usize = 40;
/// Pages that may watch one tab; a tab has one.
const WATCHERS: usize = 4;

/// The number that a tab has given itself, at random, so that its page can watch its socket: `?tab=…`.
struct Tab(String);

/// A callback that the server has called.
#[derive(Serialize)]
struct Called<'a> {
    callback: &'static str,
    id: String,
    /// What it was called with.
    with: &'a str,
    /// Whether that was before the page began to watch.
    earlier: bool,
}

/// Callbacks that are told of when they are called.
pub(crate) struct Observed<H> {
    /// The callbacks themselves.
    handler: H,
    /// Where the watchers are.
    hub: Hub,
}

/// An endpoint whose callbacks the page can watch.
pub(crate) fn endpoint<H: Handler>(hub: &Hub, handler: H) -> Endpoint<Observed<H>> {
    let visitors = hub.clone();
    ws::endpoint(Observed { handler, hub: hub.clone() }).on_upgrade(move |request: Request| {
        let accept = Accept::new().state(Visitor::of(&visitors, request.parts())).state(Seen::now("counter"));
        ready(with_tab(accept, &request))
    })
}

/// The tab of a request, if it names one.
fn tab(request: &Request) -> Option<Tab> {
    #[derive(Deserialize)]
    struct Query {
        tab: String,
    }
    let tab = request.query::<Query>().ok()?.tab;
    (tab.len() == 32 && tab.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(Tab(tab))
}

/// Notes the tab of a request, if it names one.
fn with_tab(accept: Accept, request: &Request) -> Accept {
    match tab(request) {
        Some(tab) => accept.state(tab),
        None => accept,
    }
}

/// Where the page listens that watches it.
fn watch_room(tab: &Tab) -> String {
    format!("learn:life:{}", tab.0)
}

impl<H> Observed<H> {
    /// Tells the page that a callback is called.
    fn tell(&self, conn: &Connection, callback: &'static str, with: &str) {
        let Some(tab) = conn.state::<Tab>() else { return };
        if let Ok(frame) = called(callback, conn.id(), with, false) {
            self.hub.room(watch_room(&tab)).push(frame).ignore();
        }
    }
}

/// What the page is told.
fn called(callback: &'static str, id: ConnectionId, with: &str, earlier: bool) -> Result<Frame> {
    let with = &with[..with.floor_char_boundary(SHOWN)];
    Frame::json(&Called { callback, id: id.to_string(), with, earlier })
}

impl<H: Handler> Handler for Observed<H> {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        self.tell(&conn, "on_open", "");
        self.handler.on_open(conn).await
    }

    async fn on_message(&self, conn: Connection, frame: Frame) -> Result<()> {
        self.tell(&conn, "on_message", frame.as_text().unwrap_or("bytes"));
        self.handler.on_message(conn, frame).await
    }

    async fn on_close(&self, conn: Connection, close: Close) -> Result<()> {
        self.tell(&conn, "on_close", &close.to_string());
        self.handler.on_close(conn, close).await
    }
}

/// The callbacks of the page that watches.
struct Watcher {
    demos: Demos,
}

impl Handler for Watcher {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        let Some(tab) = conn.state::<Tab>() else {
            conn.close(CloseCode::POLICY, "the address names no tab").ignore();
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

    /// The page asks the server to close the tab's own connection.
    async fn on_message(&self, conn: Connection, frame: Frame) -> Result<()> {
        if let Some(tab) = conn.state::<Tab>()
            && frame.as_text() == Some("close")
            && self.demos.may_act(&conn)
        {
            for own in self.connections(&tab) {
                own.close(CloseCode::RESTART, "you asked for it").ignore();
            }
        }
        Ok(())
    }
}

impl Watcher {
    /// The tab's own connections on this node: none or one, as a rule.
    fn connections(&self, tab: &Tab) -> Vec<Connection> {
        let own = |conn: &Connection| conn.state::<Tab>().is_some_and(|its| its.0 == tab.0);
        let counter = |conn: &Connection| conn.state::<Seen>().is_some_and(|seen| seen.what == "counter");
        self.demos.hub.connections().filter(|conn| counter(conn) && own(conn)).take(WATCHERS).collect()
    }
}

/// Puts the watchers' endpoint on the app.
pub(super) fn add(app: App, demos: &Demos) -> App {
    let visitors = demos.clone();
    let endpoint = ws::endpoint(Watcher { demos: demos.clone() }).text_only().max_message(256);
    let endpoint = endpoint.on_upgrade(move |request: Request| {
        ready(with_tab(visitors.accept(&request, "lesson: life"), &request))
    });
    app.ws("/ws/learn/life", endpoint)
}
