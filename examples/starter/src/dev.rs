//! For development: notifies open pages when a file in `assets` or `templates` changes, and when the program has
//! restarted. `assets/dev.js` then reloads the page, or only its styles. Only a debug build includes this module.

use std::time::Duration;

use axum::Router;
use ripplecast::{Connection, Hub, Message, Result, sse};
use serde::Serialize;

use crate::web;

/// How often the files are checked while a page is open, and how soon a page reconnects after the program has stopped.
const EVERY: Duration = Duration::from_millis(300);

/// The version that a page compares with the first one it received.
#[derive(PartialEq, Serialize)]
struct Version {
    /// If this changes, the page reloads.
    page: String,
    /// If this changes, the styles reload.
    styles: String,
}

impl Version {
    /// Returns the current version in this run of the program.
    fn of(hub: &Hub) -> Self {
        let (styles, rest) = web::versions();
        Self {
            page: format!("{}-{rest:x}", hub.node()),
            styles: format!("{styles:x}"),
        }
    }
}

/// The event stream that `assets/dev.js` listens to.
pub fn routes(hub: &Hub) -> Router {
    tokio::spawn(watch(hub.clone()));
    let first = hub.clone();
    let events = sse::room("dev")
        .retry(EVERY)
        .on_open(move |conn: Connection| {
            let version = Message::json(&Version::of(&first));
            async move { version.map(|version| conn.push(version).ignore()) }
        });
    Router::new().route("/dev/events", hub.sse(events))
}

/// Watches for changes, and notifies the pages.
async fn watch(hub: Hub) -> Result<()> {
    let (room, mut every) = (hub.room("dev"), tokio::time::interval(EVERY));
    let mut known = Version::of(&hub);
    loop {
        every.tick().await;
        if room.is_empty().await? {
            continue;
        }
        let version = Version::of(&hub);
        if version != known {
            room.push(Message::json(&version)?).ignore();
            known = version;
        }
    }
}
