//! While you work: open pages are told when a file in `assets` or `templates` changes, and when the program has started
//! anew. `assets/dev.js` then reloads them, or only their styles. A debug build has this, a release build does not.

use std::time::Duration;

use axum::Router;
use ripplecast::{Connection, Frame, Hub, Result, sse};
use serde::Serialize;

use crate::web;

/// How often the files are looked at, while a page is open; and how soon a page looks for a program that has gone.
const EVERY: Duration = Duration::from_millis(300);

/// What a page compares with what it was told first.
#[derive(PartialEq, Serialize)]
struct Version {
    /// Another one: load the page anew.
    page: String,
    /// Another one: load the styles anew.
    styles: String,
}

impl Version {
    /// The present one, in this run of the program.
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
            let version = Frame::json(&Version::of(&first));
            async move { version.map(|version| conn.push(version).ignore()) }
        });
    Router::new().route("/dev/events", hub.sse(events))
}

/// Looks for changes, and tells the pages.
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
            room.push(Frame::json(&version)?).ignore();
            known = version;
        }
    }
}
