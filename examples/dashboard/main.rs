//! A dashboard of this server itself: its figures go to all viewers once a second, beginning with those of the last
//! minute.
//!
//! `cargo run -p ripplecast-examples --example dashboard`, then open the page in a few tabs to move the lines.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{http::header::CONTENT_TYPE, response::Html, routing::get};
use ripplecast::{App, Connection, Hub, Message, Result, sse};
use serde::Serialize;

/// The number of samples kept, one per second.
const KEPT: usize = 60;

/// The figures of one second.
#[derive(Clone, Serialize)]
struct Sample {
    connections: usize,
    rooms: usize,
    opened: u64,
    encoded_frames: u64,
    queued_bytes: usize,
}

impl Sample {
    fn of(hub: &Hub) -> Self {
        let stats = hub.stats();
        Self {
            connections: stats.connections,
            rooms: stats.rooms,
            opened: stats.opened,
            encoded_frames: stats.encoded_frames,
            queued_bytes: stats.queued_bytes,
        }
    }
}

/// The samples of the last minute.
#[derive(Clone, Default)]
struct Minute(Arc<Mutex<VecDeque<Sample>>>);

impl Minute {
    fn with<R>(&self, look: impl FnOnce(&mut VecDeque<Sample>) -> R) -> R {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a sample once a second and pushes it to the viewers. Storing and pushing happen under one lock, so that a
    /// page opening at that moment receives the sample exactly once, with the history or after it.
    async fn watch(self, hub: Hub) -> Result<()> {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        loop {
            every.tick().await;
            let sample = Sample::of(&hub);
            let message = Message::json(&sample)?;
            self.with(|samples| {
                samples.push_back(sample);
                while samples.len() > KEPT {
                    samples.pop_front();
                }
                hub.room("dashboard").push(message).ignore();
            });
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().init();
    let port = std::env::args().nth(1).unwrap_or("8080".into());
    let app = App::from_env().await?;
    let minute = Minute::default();
    tokio::spawn(minute.clone().watch(app.hub()));

    // A page that opens or reconnects first receives the history as a list, which replaces what it had.
    let figures = sse::room("dashboard").on_open(move |conn: Connection| {
        let pushed = minute.with(|samples| Message::json(samples).map(|past| conn.push(past).ignore()));
        async move { pushed }
    });

    println!("open http://127.0.0.1:{port} in a few tabs");
    app.sse("/figures", figures)
        .route("/", get(async || Html(include_str!("page.html"))))
        .route("/page.js", get(async || ([(CONTENT_TYPE, "text/javascript")], include_str!("page.js"))))
        .route("/style.css", get(async || ([(CONTENT_TYPE, "text/css")], include_str!("../style.css"))))
        .run(format!("127.0.0.1:{port}"))
        .await
}
