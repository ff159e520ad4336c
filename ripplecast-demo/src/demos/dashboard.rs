//! A live dashboard of the server itself. It takes and pushes figures once a second, only while someone is watching.
//! This is the whole server side, as shown on the page.

use std::{future::ready, time::Duration};

use ripplecast::{App, Connection, Message, Overflow, Request, Result, ws, ws::Handler};

use crate::{
    sample::{Sample, Traffic},
    shared::Demos,
};

/// The interval between pushes.
const EVERY: Duration = Duration::from_secs(1);
/// The most viewers on this node.
const PEOPLE: usize = 200;

/// The callbacks of a viewer's connection.
struct Dashboard {
    demos: Demos,
    rooms: Rooms,
}

/// This node's rooms; each node shows its own figures.
#[derive(Clone)]
struct Rooms {
    /// Receives the public figures.
    everybody: String,
    /// Receives all figures: viewers that may see `/metrics`.
    operators: String,
}

/// Connection state: the viewer may see `/metrics`.
struct Operator;

impl Handler for Dashboard {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        let is_operator = conn.state::<Operator>().is_some();
        let room = if is_operator { &self.rooms.operators } else { &self.rooms.everybody };
        if self.demos.admit(&conn, room, PEOPLE) {
            conn.join_with(room, figures(&self.demos, is_operator)?)?; // send the first figures immediately
        }
        Ok(())
    }
}

/// Returns the current figures. All have the same key, so a slow tab receives only the latest.
fn figures(demos: &Demos, is_operator: bool) -> Result<Message> {
    let hub = &demos.hub;
    let figures =
        if is_operator { Message::json(&Sample::take(hub)) } else { Message::json(&Traffic::take(hub)) };
    Ok(figures?.with_key("figures"))
}

/// Pushes figures for as long as the server runs.
async fn tick(demos: Demos, rooms: Rooms) {
    let mut clock = tokio::time::interval(EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        for (room, is_operator) in [(&rooms.everybody, false), (&rooms.operators, true)] {
            let room = demos.hub.room(room);
            if room.len_here() > 0
                && let Ok(figures) = figures(&demos, is_operator)
            {
                room.push(figures).ignore();
            }
        }
    }
}

/// Adds the dashboard to the app.
pub(super) fn add(app: App, demos: &Demos) -> App {
    let everybody = format!("demo:dashboard:{}", demos.hub.node());
    let rooms = Rooms { operators: format!("{everybody}:operators"), everybody };
    tokio::spawn(tick(demos.clone(), rooms.clone()));
    let visitors = demos.clone();
    let endpoint = ws::endpoint(Dashboard { demos: demos.clone(), rooms })
        .max_message(256)
        .overflow(Overflow::LatestPerKey)
        .on_upgrade(move |request: Request| {
            let accept = visitors.accept(&request, "dashboard");
            let is_operator = visitors.is_operator(request.parts());
            ready(if is_operator { accept.state(Operator) } else { accept })
        });
    app.ws("/ws/demos/dashboard", endpoint)
}
