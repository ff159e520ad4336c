//! Responds with a body known in advance: with an ETag, with 304 if the client already has it, and compressed if the
//! client accepts that.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    io::Write as _,
    sync::{LazyLock, Mutex, PoisonError},
};

use axum::{
    body::Bytes,
    http::{
        HeaderMap, HeaderName, StatusCode,
        header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY},
    },
    response::{IntoResponse, Response},
};
use flate2::{Compression, write::GzEncoder};

/// Shorter bodies fit in one packet uncompressed.
const WORTH_COMPRESSING: usize = 1024;

/// Compressed bodies by version, each compressed once. Their number is bounded by the site's.
static COMPRESSED: LazyLock<Mutex<HashMap<String, Bytes>>> = LazyLock::new(Mutex::default);

/// Returns a short hash of `bytes`, for cache validation only.
pub(crate) fn version(bytes: &[u8]) -> String {
    // `DefaultHasher::new()` has fixed keys, so all nodes with the same build agree.
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Responds with `body`, or with 304 if the request already has this version.
pub(crate) fn cached(
    request: &HeaderMap,
    version: &str,
    cache: &'static str,
    content_type: &'static str,
    body: &'static str,
) -> Response {
    let compressed = body.len() > WORTH_COMPRESSING && takes_gzip(request);
    let etag = if compressed { format!("\"{version}-gzip\"") } else { format!("\"{version}\"") };
    let held =
        values(request, IF_NONE_MATCH).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag);
    let headers = [(ETAG, etag), (CACHE_CONTROL, cache.to_owned()), (VARY, "accept-encoding".to_owned())];
    if held {
        (StatusCode::NOT_MODIFIED, headers).into_response()
    } else if compressed && let Some(body) = gzip(version, body) {
        (headers, [(CONTENT_TYPE, content_type), (CONTENT_ENCODING, "gzip")], body).into_response()
    } else {
        (headers, [(CONTENT_TYPE, content_type)], body).into_response()
    }
}

/// Returns the values of a comma-separated header.
fn values(request: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = request.get_all(name).into_iter();
    let entries = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    entries.filter_map(|entry| std::str::from_utf8(entry).ok()).map(str::trim)
}

/// Returns whether the request accepts gzip (RFC 9110, section 12.5.3).
fn takes_gzip(request: &HeaderMap) -> bool {
    values(request, ACCEPT_ENCODING).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let refused =
            weight.trim().strip_prefix("q=").is_some_and(|q| q.parse().is_ok_and(|q: f32| q <= 0.0));
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

fn gzip(version: &str, body: &str) -> Option<Bytes> {
    let mut all = COMPRESSED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = all.get(version) {
        return Some(known.clone());
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body.as_bytes()).ok()?;
    let compressed = Bytes::from(encoder.finish().ok()?);
    all.insert(version.to_owned(), compressed.clone());
    Some(compressed)
}
