//! The cost of polling: returns the counter's value with the bytes of the request and the response.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header, request::Parts},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::get,
};
use ripplecast::{App, Counter, Result};

use crate::shared::{self, Demos};

/// The length of `HTTP/1.1 200 OK` and its line ending.
const STATUS_LINE: usize = 17;
/// The length of the header that the server adds: `date: Tue, 24 Nov 2026 12:00:00 GMT` and its line
/// ending.
const DATE: usize = 37;

/// Returns the length of a request line: method, path, and ` HTTP/1.1` with its spaces and line ending.
fn request_line(parts: &Parts) -> usize {
    let address = parts.uri.path_and_query().map_or(1, |address| address.as_str().len());
    parts.method.as_str().len() + address + 12
}

/// Returns the length of the headers and the empty line after them.
fn bytes(headers: &HeaderMap) -> usize {
    let lines = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    lines.sum::<usize>() + 2
}

/// Responds with `{"value":N,"request":BYTES,"response":BYTES}`.
async fn poll(State(counter): State<Counter>, parts: Parts) -> Result<Response> {
    let value = counter.get().await?;
    let request = request_line(&parts) + bytes(&parts.headers);
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // The response contains its own length, which stays the same for any three digits.
    let answer =
        |response: usize| format!(r#"{{"value":{value},"request":{request},"response":{response:>3}}}"#);
    let length = answer(0).len();
    headers.insert(header::CONTENT_LENGTH, length.into());
    let response = STATUS_LINE + DATE + bytes(&headers) + length;
    Ok((headers, answer(response)).into_response())
}

/// Adds the route to the app.
pub(super) fn add(app: App, demos: &Demos) -> App {
    let counter = app.hub().counter("demo");
    let limit = from_fn_with_state(demos.clone(), shared::limit);
    app.route("/api/learn/poll", get(poll).with_state(counter).layer(limit))
}
