//! One way to answer with a body known in advance: an ETag, and 304 for whoever has it already.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::{
    http::{
        HeaderMap, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH},
    },
    response::{IntoResponse, Response},
};

/// A short name for these bytes that changes when they do. It guards caches, not secrets.
pub(crate) fn version(bytes: &[u8]) -> String {
    // `DefaultHasher::new()` has fixed keys, so two nodes of one build agree.
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Answers with `body`, or with 304 if the request says that it holds this very version.
pub(crate) fn cached(
    request: &HeaderMap,
    version: &str,
    cache: &'static str,
    content_type: &'static str,
    body: &'static str,
) -> Response {
    let etag = format!("\"{version}\"");
    let held = request
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag);
    let headers = [(ETAG, etag), (CACHE_CONTROL, cache.to_owned())];
    if held {
        (StatusCode::NOT_MODIFIED, headers).into_response()
    } else {
        (headers, [(CONTENT_TYPE, content_type)], body).into_response()
    }
}
