//! A dashboard of this server itself: once a second its figures go to everyone who looks, the last minute of them first.
//!
//! `cargo run -p ripplecast-examples --example dashboard`, and open the page in a few tabs to move the lines.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{http::header::CONTENT_TYPE, response::Html, routing::get};
use ripplecast::{App, Connection, Frame, Hub, Result, sse};
use serde::Serialize;

/// Figures that are kept, one a second.
const KEPT: usize = 60;

/// What is shown of one second.
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

/// The last minute.
#[derive(Clone, Default)]
struct Minute(Arc<Mutex<VecDeque<Sample>>>);

impl Minute {
    fn with<R>(&self, look: impl FnOnce(&mut VecDeque<Sample>) -> R) -> R {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks once a second, and tells those who watch. A figure is kept and pushed under one lock, so that a page which
    /// opens in that moment gets it among the past ones or after them.
    async fn watch(self, hub: Hub) -> Result<()> {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        loop {
            every.tick().await;
            let sample = Sample::of(&hub);
            let frame = Frame::json(&sample)?;
            self.with(|samples| {
                samples.push_back(sample);
                while samples.len() > KEPT {
                    samples.pop_front();
                }
                hub.room("dashboard").push(frame).ignore();
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

    // A page that opens, or comes back, gets the past as a list, in the place of all that it had before.
    let figures = sse::room("dashboard").on_open(move |conn: Connection| {
        let pushed = minute.with(|samples| Frame::json(samples).map(|past| conn.push(past).ignore()));
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
