//! Streams one answer word by word. The stream belongs to a single request, so it uses axum's own SSE.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::request::Parts,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::get,
};
use futures_util::stream;
use ripplecast::App;

use crate::shared::Demos;

/// The time per word.
const WORD: Duration = Duration::from_millis(90);
const ANSWER: &str = "A stream of events is one answer that does not end. The server writes a word, then the next, and \
                      the page shows each as it comes, so you read while it is still being written.";

/// Streams the answer word by word, and then an event named `end`. (Browsers ignore events without data.)
async fn words(State(demos): State<Demos>, parts: Parts) -> Response {
    if let Err(too_much) = demos.allow(&parts) {
        return too_much.into_response();
    }
    let events = ANSWER.split_whitespace().map(|word| Event::default().data(word));
    let events = events.chain([Event::default().event("end").data("end")]);
    let paced = stream::unfold(events, async |mut events| {
        let event = events.next()?;
        tokio::time::sleep(WORD).await;
        Some((Ok::<_, Infallible>(event), events))
    });
    Sse::new(paced).into_response()
}

/// Adds the route to the app.
pub(super) fn add(app: App, demos: &Demos) -> App {
    app.route("/api/learn/words", get(words).with_state(demos.clone()))
}
