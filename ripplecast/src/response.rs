//! Single-sentence responses, and the response to an error.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};

use crate::{
    Error,
    log::{cut, limited},
};

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

/// Lets a route return the crate's [`Result`](crate::Result). An invalid request gets 400. If something is closed or
/// overloaded, or a backend is unavailable or does not answer, the response is 503 with `Retry-After`. Any
/// other error is logged and gets 500.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        if let Self::BadRequest { reason } = &self {
            return (StatusCode::BAD_REQUEST, format!("{reason}\n")).into_response();
        }
        if self.is_timeout() {
            return plain(503, "The request timed out; it may or may not have taken effect.\n");
        }
        if self.is_closed() || self.is_overloaded() || self.is_unavailable() {
            return plain(503, "The server can't handle this request now; try again later.\n");
        }
        limited!(ERROR, error = %cut(&self), "a route failed");
        plain(500, "The request failed; the server's log contains the reason.\n")
    }
}
