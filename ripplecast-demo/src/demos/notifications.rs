//! Notifications: the server pushes, the page listens. This is the whole server side, as shown on the page.

use std::future::ready;

use axum::{
    Json,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::post,
};
use ripplecast::{App, Counter, Message, Request, Result, sse};
use serde::{Deserialize, Serialize};

use crate::shared::{Demos, limit_actions, written};

/// The room of all listeners.
const ROOM: &str = "demo:notifications";
/// The most listeners on this node.
const PEOPLE: usize = 1_000;
/// The most characters in a notification.
const TEXT: usize = 200;

/// A request to notify everyone.
#[derive(Deserialize)]
struct News {
    text: String,
}

/// The notification that everyone receives.
#[derive(Serialize)]
struct Notification {
    /// Increases with each notification, across all nodes.
    number: i64,
    text: String,
}

/// Sends a notification. A plain POST is enough: notifications are rare, and need no open connection.
async fn send(State((demos, sent)): State<(Demos, Counter)>, Json(news): Json<News>) -> Result<Response> {
    let Some(text) = written(&news.text, TEXT) else {
        let advice = format!("Expected a text of at most {TEXT} characters.\n");
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, advice).into_response());
    };
    let number = sent.increment().await?;
    demos.hub.room(ROOM).push(Message::json(&Notification { number, text })?).ignore();
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Adds the event stream and the POST route to the app.
pub(super) fn add(app: App, demos: &Demos) -> Result<App> {
    let listeners = demos.clone();
    let stream = sse::room(ROOM).on_request(move |request: Request| {
        let is_full = listeners.hub.room(ROOM).len_here() >= PEOPLE;
        let accept = listeners.accept(&request, "notifications");
        ready(if is_full {
            Err((StatusCode::SERVICE_UNAVAILABLE, "Too many listeners; try again later.\n"))
        } else {
            Ok(accept)
        })
    });
    let send = post(send).with_state((demos.clone(), demos.hub.counter("demo-notifications")));
    // The limit applies before the body is read.
    let limit = from_fn_with_state(demos.clone(), limit_actions);
    let send = send.layer(DefaultBodyLimit::max(4 * 1024)).layer(limit);
    Ok(app.sse("/events/demos/notifications", stream).route("/api/demos/notifications", send))
}
