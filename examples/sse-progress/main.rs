//! A long job and its progress: the page starts the job, and an event stream reports its progress.
//!
//! `cargo run -p ripplecast-examples --example sse-progress`, or `curl -N` with the address in the response of `POST
//! /jobs`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use ripplecast::{App, Hub, LiveCounter, Result, SameOrigin, sse};

/// The most jobs at a time.
const MAX_JOBS: usize = 32;
/// How long a finished job can still be viewed.
const KEPT: Duration = Duration::from_secs(60);

/// The running jobs and their progress, in percent.
#[derive(Clone)]
struct Jobs {
    hub: Hub,
    running: Arc<Mutex<HashMap<String, LiveCounter>>>,
}

impl Jobs {
    fn with<R>(&self, look: impl FnOnce(&mut HashMap<String, LiveCounter>) -> R) -> R {
        look(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs a job, which does nothing here.
    async fn work(self, id: String, progress: LiveCounter) -> Result<()> {
        while progress.increment_bounded(100).await?.is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(KEPT).await;
        self.with(|jobs| jobs.remove(&id));
        progress.set(0).await.map(drop) // an unused counter is removed when it is 0
    }
}

/// Starts a job, and returns the address of its event stream.
async fn start(State(jobs): State<Jobs>) -> Result<Response> {
    if jobs.with(|jobs| jobs.len()) >= MAX_JOBS {
        return Ok((StatusCode::TOO_MANY_REQUESTS, "too many jobs; try again in a minute").into_response());
    }
    let id = jobs.hub.counter("jobs").increment().await?.to_string();
    let name = format!("job {id}");
    let progress = jobs.hub.counter(&name).publish_to(&jobs.hub.room(&name))?; // pushes {"value":N}
    jobs.with(|jobs| jobs.insert(id.clone(), progress.clone()));
    tokio::spawn(jobs.work(id.clone(), progress));
    Ok((StatusCode::ACCEPTED, Json(format!("/jobs/{id}/events"))).into_response())
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().init();
    let port = std::env::args().nth(1).unwrap_or("8080".into());
    let app = App::from_env().await?;
    let jobs = Jobs { hub: app.hub(), running: Arc::default() };

    // Sends the current value first, then each change. The path selects the counter; an unknown job is answered with
    // 404.
    let progress = {
        let jobs = jobs.clone();
        sse::counter_by(move |request| jobs.with(|jobs| jobs.get(request.param("id")?).cloned()))
    };

    println!("open http://127.0.0.1:{port}");
    let check = SameOrigin::new(&app.hub());
    app.sse("/jobs/{id}/events", progress)
        .route("/jobs", post(start).with_state(jobs))
        .layer(check) // rejects other sites' POSTs
        .route("/", get(async || Html(include_str!("page.html"))))
        .route("/page.js", get(async || ([(CONTENT_TYPE, "text/javascript")], include_str!("page.js"))))
        .route("/style.css", get(async || ([(CONTENT_TYPE, "text/css")], include_str!("../style.css"))))
        .run(format!("127.0.0.1:{port}"))
        .await
}
