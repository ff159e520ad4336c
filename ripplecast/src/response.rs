//! Single-sentence responses.

use axum::{body::Body, response::Response};
use http::header;

/// The response to requests during shutdown.
pub(crate) const STOPPING: &str = "The server is shutting down; try again in a moment.\n";

/// Creates a plain-text response.
pub(crate) fn plain(status: u16, text: &'static str) -> Response {
    let response =
        Response::builder().status(status).header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
    let response =
        if matches!(status, 429 | 503) { response.header(header::RETRY_AFTER, "5") } else { response };
    response.body(Body::from(text)).expect("a status and headers that are constants")
}
