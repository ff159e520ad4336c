//! A long job and its progress: the page starts it, and an event stream says how far it is.
//!
//! `cargo run -p ripplecast-examples --example sse-progress`, or `curl -N` on the address that `POST /jobs` answers with.

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

/// Jobs at once.
const MAX_JOBS: usize = 32;
/// How long the end of a job can still be looked at.
const KEPT: Duration = Duration::from_secs(60);

/// The jobs that run, and how far each is, in per cent.
#[derive(Clone)]
struct Jobs {
    hub: Hub,
    running: Arc<Mutex<HashMap<String, LiveCounter>>>,
}

impl Jobs {
    fn with<R>(&self, look: impl FnOnce(&mut HashMap<String, LiveCounter>) -> R) -> R {
        look(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does a job, of which this one has nothing to do.
    async fn work(self, id: String, progress: LiveCounter) -> Result<()> {
        while progress.increment_bounded(100).await?.is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(KEPT).await;
        self.with(|jobs| jobs.remove(&id));
        progress.set(0).await.map(drop) // a counter that is 0 is forgotten when nobody holds it
    }
}

/// Starts a job, and says where it can be followed.
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

    // The present value first, then each change. Which counter it is depends on the path; no such job is answered with 404.
    let progress = {
        let jobs = jobs.clone();
        sse::counter_by(move |request| jobs.with(|jobs| jobs.get(request.param("id")?).cloned()))
    };

    println!("open http://127.0.0.1:{port}");
    let check = SameOrigin::new(&app.hub());
    app.sse("/jobs/{id}/events", progress)
        .route("/jobs", post(start).with_state(jobs))
        .layer(check) // refuses other sites' POSTs
        .route("/", get(async || Html(include_str!("page.html"))))
        .route("/page.js", get(async || ([(CONTENT_TYPE, "text/javascript")], include_str!("page.js"))))
        .route("/style.css", get(async || ([(CONTENT_TYPE, "text/css")], include_str!("../style.css"))))
        .run(format!("127.0.0.1:{port}"))
        .await
}
