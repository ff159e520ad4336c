//! The endpoints of `bench serve` for the soak test: one room with several paths, and the hub's counts.

use std::{io::Read as _, time::Duration};

use axum::{Json, routing::get};
use ripplecast::{App, Connection, Hub, Message, Overflow, Result, Room, sse, ws};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::message::JOINED;

/// The room that everyone is in.
const ROOM: &str = "soak";
/// The outbox of a reader that must receive everything: large enough for a burst that the driver does not
/// read at all.
const ROOMY: usize = 64 << 20;
/// The outbox of a reader that must be too slow.
const TIGHT: usize = 64 << 10;
/// The longest message. Longer ones violate the endpoint's limit.
pub(super) const LONGEST: usize = 16 << 10;

/// The response of `/stats`: the counts of the hub that the test checks.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Counts {
    pub(super) connections: u64,
    pub(super) rooms: u64,
    pub(super) opened: u64,
    pub(super) closed: u64,
    pub(super) messages: u64,
    pub(super) slow_consumers: u64,
    pub(super) failed_callbacks: u64,
    pub(super) protocol_errors: u64,
}

/// Adds the endpoints.
pub(crate) fn add(app: App, ping: Duration) -> App {
    let hub = app.hub();
    let endpoint = |outbox: usize, overflow: Overflow| {
        ws::endpoint(Member { room: hub.room(ROOM) })
            .max_message(LONGEST)
            .outbox(outbox)
            .overflow(overflow)
            .ping_interval(ping)
    };
    let events = sse::room(ROOM).outbox(ROOMY).on_open(async |conn: Connection| conn.push(JOINED).ignore());
    let counted = hub.clone();
    app.ws("/soak", endpoint(ROOMY, Overflow::Disconnect))
        .ws("/soak/tight", endpoint(TIGHT, Overflow::Disconnect))
        .ws("/soak/newest", endpoint(TIGHT, Overflow::DropOldest))
        .sse("/soak/events", events)
        .route("/stats", get(async move || Json(counts(&counted))))
}

/// Resolves when standard input closes: the parent process has exited.
pub(crate) async fn parent_is_gone() {
    let (request, requested) = oneshot::channel();
    std::thread::spawn(move || {
        let mut byte = [0];
        while std::io::stdin().read(&mut byte).is_ok_and(|read| read > 0) {}
        let _ = request.send(());
    });
    let _ = requested.await;
}

fn counts(hub: &Hub) -> Counts {
    let stats = hub.stats();
    Counts {
        connections: stats.connections as u64,
        rooms: stats.rooms as u64,
        opened: stats.opened,
        closed: stats.closed,
        messages: stats.messages,
        slow_consumers: stats.slow_consumers,
        failed_callbacks: stats.failed_callbacks,
        protocol_errors: stats.protocol_errors,
    }
}

/// Broadcasts each message to everyone.
struct Member {
    room: Room,
}

impl ws::Handler for Member {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        conn.join(self.room.name())?;
        // A private room, so that rooms are created and removed as well.
        conn.join(&conn.id().to_string())?;
        // Everything sent after the client has received this must reach it.
        conn.push(JOINED).ignore();
        Ok(())
    }

    async fn on_message(&self, _conn: Connection, message: Message) -> Result<()> {
        self.room.push(message).ignore();
        Ok(())
    }
}
