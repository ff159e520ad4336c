//! A live dashboard of the server itself. Once a second, and only while somebody looks, it counts and pushes. This is its
//! whole server side; the page shows this file.

use std::{future::ready, time::Duration};

use ripplecast::{App, Connection, Frame, Overflow, Request, Result, ws, ws::Handler};

use super::Demos;
use crate::{
    inspect::Gate,
    sample::{Sample, Traffic},
};

/// Time between two figures.
const EVERY: Duration = Duration::from_secs(1);
/// Those who look at this node.
const PEOPLE: usize = 200;

/// The callbacks of a tab that looks.
struct Dashboard {
    demos: Demos,
    rooms: Rooms,
}

/// The rooms of this node; each node shows itself.
#[derive(Clone)]
struct Rooms {
    /// Where everybody is told what goes on.
    everybody: String,
    /// Where those who may see `/metrics` are told all.
    operators: String,
}

/// State of a connection whose user may see `/metrics`.
struct Operator;

impl Handler for Dashboard {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        let is_operator = conn.state::<Operator>().is_some();
        let room = if is_operator { &self.rooms.operators } else { &self.rooms.everybody };
        if self.demos.admit(&conn, room, PEOPLE) {
            conn.join_with(room, figures(&self.demos, is_operator)?)?; // the first figures at once
        }
        Ok(())
    }
}

/// The newest figures. A slow tab gets the newest only, since all have one key.
fn figures(demos: &Demos, is_operator: bool) -> Result<Frame> {
    let hub = &demos.hub;
    let figures =
        if is_operator { Frame::json(&Sample::take(hub)) } else { Frame::json(&Traffic::take(hub)) };
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

/// Puts the dashboard on the app.
pub(super) fn add(app: App, demos: &Demos, gate: &Gate) -> App {
    let everybody = format!("demo:dashboard:{}", demos.hub.node());
    let rooms = Rooms { operators: format!("{everybody}:operators"), everybody };
    tokio::spawn(tick(demos.clone(), rooms.clone()));
    let (visitors, gate) = (demos.clone(), gate.clone());
    let endpoint = ws::endpoint(Dashboard { demos: demos.clone(), rooms })
        .max_message(256)
        .overflow(Overflow::LatestPerKey)
        .on_upgrade(move |request: Request| {
            let accept = visitors.accept(&request, "dashboard");
            let is_operator = gate.opens(&visitors.hub, request.parts());
            ready(if is_operator { accept.state(Operator) } else { accept })
        });
    app.ws("/ws/demos/dashboard", endpoint)
}
