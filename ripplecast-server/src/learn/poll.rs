//! What a poll costs: the value of the counter, with the bytes that asking for it took.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header, request::Parts},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::get,
};
use ripplecast::{App, Counter, Result};

use crate::demos::{self, Demos};

/// `HTTP/1.1 200 OK` and the end of the line.
const STATUS_LINE: usize = 17;
/// What the server adds by itself: `date: Tue, 24 Nov 2026 12:00:00 GMT` and the end of the line.
const DATE: usize = 37;

/// The bytes of a request line: method, address, and ` HTTP/1.1` with the spaces and the end of the line.
fn request_line(parts: &Parts) -> usize {
    let address = parts.uri.path_and_query().map_or(1, |address| address.as_str().len());
    parts.method.as_str().len() + address + 12
}

/// The bytes of headers, and of the empty line behind them.
fn bytes(headers: &HeaderMap) -> usize {
    let lines = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    lines.sum::<usize>() + 2
}

/// `{"value":N,"request":BYTES,"response":BYTES}`.
async fn poll(State(counter): State<Counter>, parts: Parts) -> Result<Response> {
    let value = counter.get().await?;
    let request = request_line(&parts) + bytes(&parts.headers);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // The length of the answer is part of the answer; it is the same whatever three digits stand there.
    let answer =
        |response: usize| format!(r#"{{"value":{value},"request":{request},"response":{response:>3}}}"#);
    let length = answer(0).len();
    headers.insert(header::CONTENT_LENGTH, length.into());
    let response = STATUS_LINE + DATE + bytes(&headers) + length;
    Ok((headers, answer(response)).into_response())
}

/// Puts it on the app.
pub(super) fn add(app: App, demos: &Demos) -> App {
    let counter = app.hub().counter("demo");
    let limit = from_fn_with_state(demos.clone(), demos::limit);
    app.route("/api/learn/poll", get(poll).with_state(counter).layer(limit))
}
