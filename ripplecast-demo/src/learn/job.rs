//! A long job whose progress everyone can watch: a counter from 0 to 100 and log lines, as an event stream.

use std::{future::ready, time::Duration};

use axum::{
    extract::State,
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
    routing::post,
};
use ripplecast::{App, LiveCounter, Message, Request, Result, log, sse};
use serde::Serialize;

use crate::shared::Demos;

/// The time per percent.
const STEP: Duration = Duration::from_millis(60);
/// The longest a job can run. After that, it counts as dead, and a new one can start: its node may have died.
const AT_MOST: Duration = Duration::from_secs(30);
/// The most viewers on this node.
const PEOPLE: usize = 1_000;
/// The log lines, each with the percentage at which it appears.
const LOG: [(i64, &str); 6] = [
    (1, "checking the list of things to do"),
    (18, "18 things found, none of them done"),
    (35, "doing the easy ones first"),
    (60, "the hard one turned out to be easy"),
    (85, "putting everything back where it was"),
    (100, "done"),
];

/// A line of the log.
#[derive(Serialize)]
struct Line<'a> {
    line: &'a str,
}

/// Starts the job, unless it is already running.
async fn start(State((demos, job)): State<(Demos, LiveCounter)>, parts: Parts) -> Result<Response> {
    if let Err(too_much) = demos.allow(&parts) {
        return Ok(too_much.into_response());
    }
    let now = job.get().await?;
    // If two requests start it at once, only one succeeds. The same step sets the expiry, because this handler may be
    // dropped with its client.
    if !(now == 0 || now == 100) || job.compare_and_set_for(now, 1, AT_MOST).await?.is_err() {
        return Ok((StatusCode::CONFLICT, "The job is already running.\n").into_response());
    }
    tokio::spawn(async move {
        static EARLY: log::Limit = log::Limit::new();
        if let Err(error) = run(&demos, &job).await
            && let Some(suppressed) = EARLY.admit()
        {
            tracing::warn!(error = %log::cut(error), suppressed, "the lesson's job failed");
        }
    });
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Counts to 100, and pushes the log lines.
async fn run(demos: &Demos, job: &LiveCounter) -> Result<()> {
    let mut step = tokio::time::interval(STEP);
    for percent in 1..=100 {
        step.tick().await;
        match percent {
            1 => {} // already at 1
            // Incrementing keeps the expiry, so that a job ends even if its node dies. Setting removes the expiry.
            2..100 => drop(job.increment().await?),
            _ => drop(job.set(percent).await?),
        }
        for (_, line) in LOG.iter().filter(|(from, _)| *from == percent) {
            demos.hub.room(job.room().name()).push(Message::json(&Line { line })?).ignore();
        }
    }
    Ok(())
}

/// Adds the event stream and the start route to the app.
pub(super) fn add(app: App, demos: &Demos) -> Result<App> {
    let job = demos.hub.counter("learn-job").publish_to(&demos.hub.room("learn:job"))?;
    let listeners = demos.clone();
    let stream = sse::Endpoint::from(&job).on_request(move |request: Request| {
        let is_full = listeners.hub.room("learn:job").len_here() >= PEOPLE;
        let accept = listeners.accept(&request, "lesson: job");
        ready(if is_full {
            Err((StatusCode::SERVICE_UNAVAILABLE, "Too many viewers; try again later.\n"))
        } else {
            Ok(accept)
        })
    });
    Ok(app
        .sse("/events/learn/job", stream)
        .route("/api/learn/job", post(start).with_state((demos.clone(), job))))
}
