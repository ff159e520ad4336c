//! A live dashboard of the server itself. It takes figures once a second, pushes them to the viewers, and keeps those of
//! the last two minutes for the next viewer. This is the whole server side, as shown on the page.

use std::{
    collections::VecDeque,
    future::ready,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ripplecast::{App, Connection, Message, Overflow, Request, Result, ws, ws::Handler};

use serde::Serialize;

use crate::{
    sample::{Point, Sample, Traffic},
    shared::Demos,
};

/// The interval between pushes.
const EVERY: Duration = Duration::from_secs(1);
/// The number of earlier figures kept: two minutes, at about 70 bytes each.
const KEPT: usize = 120;
/// The most viewers on this node.
const PEOPLE: usize = 200;

/// The callbacks of a viewer's connection.
struct Dashboard {
    demos: Demos,
    rooms: Rooms,
    history: History,
}

/// The figures of the last two minutes, newest first.
#[derive(Clone, Default)]
struct History(Arc<Mutex<VecDeque<Point>>>);

impl History {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Point>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds figures, and forgets those that are too old.
    fn add(&self, point: Point) {
        let mut points = self.lock();
        points.truncate(KEPT - 1);
        points.push_front(point);
    }

    /// Returns what a viewer may see.
    fn seen_by(&self, is_operator: bool) -> Vec<Point> {
        let points: Vec<Point> = self.lock().iter().rev().cloned().collect();
        if is_operator { points } else { points.into_iter().map(Point::public).collect() }
    }
}

/// A message about the past.
#[derive(Serialize)]
struct Past {
    history: Vec<Point>,
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
            let history = self.history.seen_by(is_operator);
            conn.push(Message::json(&Past { history })?.with_key("history")).ignore();
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

/// Takes figures once a second, and pushes them to the viewers. Runs until the server ends.
async fn tick(demos: Demos, rooms: Rooms, history: History) {
    let mut clock = tokio::time::interval_at(tokio::time::Instant::now() + EVERY, EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        history.add(Point::take(&demos.hub));
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
    let history = History::default();
    history.add(Point::take(&demos.hub));
    tokio::spawn(tick(demos.clone(), rooms.clone(), history.clone()));
    let visitors = demos.clone();
    let endpoint = ws::endpoint(Dashboard { demos: demos.clone(), rooms, history })
        .max_message(256)
        .overflow(Overflow::LatestPerKey)
        .on_upgrade(move |request: Request| {
            let accept = visitors.accept(&request, "dashboard");
            let is_operator = visitors.is_operator(request.parts());
            ready(if is_operator { accept.state(Operator) } else { accept })
        });
    app.ws("/ws/demos/dashboard", endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_history_is_bounded_and_hides_what_only_operators_may_see() {
        let hub = ripplecast::Hub::builder().build().unwrap();
        let history = History::default();
        for _ in 0..KEPT + 5 {
            history.add(Point::take(&hub));
        }
        let private = serde_json::to_string(&history.seen_by(true)).unwrap();
        let public = serde_json::to_string(&history.seen_by(false)).unwrap();
        assert_eq!(history.seen_by(false).len(), KEPT);
        assert!(private.contains("\"memory\"") && private.contains("\"queued_bytes\""), "{private}");
        assert!(!public.contains("memory") && !public.contains("queued"), "{public}");
        assert!(public.contains("\"connections\":0"), "{public}");
    }
}
