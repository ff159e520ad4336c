//! Everyone's pointer on one board. A slow tab receives only the latest position of each pointer. This is the whole
//! server side, as shown on the page.

use std::future::ready;

use ripplecast::{App, Close, Connection, Message, Overflow, Result, ws, ws::Handler};
use serde::{Deserialize, Serialize};

use crate::{alias::alias, shared::Demos};

/// The room of all pointers.
const ROOM: &str = "demo:cursors";
/// The most pointers on this node.
const PEOPLE: usize = 100;

/// A position on the board, from 0 to 1 on both axes, so that boards can differ in size.
#[derive(Deserialize)]
struct Place {
    x: f32,
    y: f32,
}

/// A message to tabs.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Tell {
    You(String),
    At { id: String, x: f32, y: f32 },
    Gone(String),
}

struct Cursors {
    demos: Demos,
}

impl Handler for Cursors {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        if self.demos.admit(&conn, ROOM, PEOPLE) {
            conn.push(Message::json(&Tell::You(alias(conn.id())))?).ignore();
            conn.join(ROOM)?;
        }
        Ok(())
    }

    async fn on_message(&self, conn: Connection, message: Message) -> Result<()> {
        let place = message.as_text().and_then(|text| serde_json::from_str::<Place>(text).ok());
        if let Some(Place { x, y }) = place
            && self.demos.is_in(&conn)
            && self.demos.may_move(&conn)
        {
            let id = alias(conn.id());
            let at = Tell::At { id: id.clone(), x: x.clamp(0.0, 1.0), y: y.clamp(0.0, 1.0) };
            // The key identifies the pointer: a newer position replaces an older one that is still queued.
            self.demos.hub.room(ROOM).push(Message::json(&at)?.with_key(id)).ignore();
        }
        Ok(())
    }

    async fn on_close(&self, conn: Connection, _close: Close) -> Result<()> {
        if !self.demos.is_in(&conn) {
            return Ok(());
        }
        let id = alias(conn.id());
        self.demos.hub.room(ROOM).push(Message::json(&Tell::Gone(id.clone()))?.with_key(id)).ignore();
        Ok(())
    }
}

/// Adds the board to the app.
pub(super) fn add(app: App, demos: &Demos) -> App {
    let visitors = demos.clone();
    let board = ws::endpoint(Cursors { demos: demos.clone() })
        .text_only()
        .max_message(256)
        .overflow(Overflow::LatestPerKey)
        .on_upgrade(move |request| ready(visitors.accept(&request, "cursors")));
    app.ws("/ws/demos/cursors", board)
}
