//! A live dashboard of the server itself. Once a second, and only while somebody looks, it counts and pushes. This is its
//! whole server side; the page shows this file.

use std::{future::ready, time::Duration};

use ripplecast::{App, Connection, Frame, Overflow, Result, ws, ws::Handler};

use super::Demos;
use crate::sample::Sample;

/// Time between two figures.
const EVERY: Duration = Duration::from_secs(1);
/// Those who look at this node.
const PEOPLE: usize = 200;

/// The callbacks of a tab that looks.
struct Dashboard {
    demos: Demos,
    /// The room of this node. Each node shows itself.
    room: String,
}

impl Handler for Dashboard {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        if self.demos.admit(&conn, &self.room, PEOPLE) {
            conn.join_with(&self.room, figures(&self.demos)?)?; // the first figures at once
        }
        Ok(())
    }
}

/// The newest figures. A slow tab gets the newest only, since all have one key.
fn figures(demos: &Demos) -> Result<Frame> {
    Ok(Frame::json(&Sample::take(&demos.hub))?.with_key("figures"))
}

/// Pushes figures for as long as the server runs.
async fn tick(demos: Demos, room: String) {
    let mut clock = tokio::time::interval(EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        let room = demos.hub.room(&room);
        if room.len_here() > 0
            && let Ok(figures) = figures(&demos)
        {
            room.push(figures).ignore();
        }
    }
}

/// Puts the dashboard on the app.
pub(super) fn add(app: App, demos: &Demos) -> App {
    let room = format!("demo:dashboard:{}", demos.hub.node());
    tokio::spawn(tick(demos.clone(), room.clone()));
    let visitors = demos.clone();
    let endpoint = ws::endpoint(Dashboard { demos: demos.clone(), room })
        .max_message(256)
        .overflow(Overflow::LatestPerKey)
        .on_upgrade(move |request| ready(visitors.accept(&request, "dashboard")));
    app.ws("/ws/demos/dashboard", endpoint)
}
