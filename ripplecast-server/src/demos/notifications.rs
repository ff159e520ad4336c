//! Notifications: the server tells, the page listens. This is the whole server side; the page shows this file.

use std::future::ready;

use axum::{
    Json,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::post,
};
use ripplecast::{App, Counter, Frame, Request, Result, sse};
use serde::{Deserialize, Serialize};

use super::{Demos, limit_actions, written};

/// What is pushed here goes to everybody who listens.
const ROOM: &str = "demo:notifications";
/// Those who listen to this node.
const PEOPLE: usize = 1_000;
/// Characters of a notification.
const TEXT: usize = 200;

/// What somebody wants everybody to know.
#[derive(Deserialize)]
struct News {
    text: String,
}

/// What everybody is told.
#[derive(Serialize)]
struct Notification {
    /// Counts up, on all nodes.
    number: i64,
    text: String,
}

/// Sends a notification, with a plain POST: there are few of them, and none needs an open connection.
async fn send(State((demos, sent)): State<(Demos, Counter)>, Json(news): Json<News>) -> Result<Response> {
    let Some(text) = written(&news.text, TEXT) else {
        let advice = format!("Write something, in at most {TEXT} characters.\n");
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, advice).into_response());
    };
    let number = sent.increment().await?;
    demos.hub.room(ROOM).push(Frame::json(&Notification { number, text })?).ignore();
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Puts the stream and the way in on the app.
pub(super) fn add(app: App, demos: &Demos) -> Result<App> {
    let listeners = demos.clone();
    let stream = sse::room(ROOM).on_request(move |request: Request| {
        let is_full = listeners.hub.room(ROOM).len_here() >= PEOPLE;
        let accept = listeners.accept(&request, "notifications");
        ready(if is_full {
            Err((StatusCode::SERVICE_UNAVAILABLE, "Too many listen already; try again later.\n"))
        } else {
            Ok(accept)
        })
    });
    let send = post(send).with_state((demos.clone(), demos.hub.counter("demo-notifications")));
    // What one address may send is limited before anything is read of it.
    let limit = from_fn_with_state(demos.clone(), limit_actions);
    let send = send.layer(DefaultBodyLimit::max(4 * 1024)).layer(limit);
    Ok(app.sse("/events/demos/notifications", stream).route("/api/demos/notifications", send))
}
