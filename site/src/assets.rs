//! The stylesheets, the scripts and the icon. `/assets/` serves only this list: no path reaches the disk.

use std::sync::LazyLock;

use axum::{
    extract::{Path, RawQuery},
    http::{HeaderMap, Uri},
    response::Response,
};

use crate::{pages, reply};

/// The counter's client script, which the lesson also shows.
pub(crate) const COUNTER_JS: &str = include_str!("../assets/counter.js");

/// One embedded file.
struct Asset {
    /// The name under `/assets/`.
    name: &'static str,
    content_type: &'static str,
    body: &'static str,
    /// Changes with the contents, so that the versioned address can be cached forever.
    version: String,
}

macro_rules! script {
    ($name:literal) => {
        ($name, "text/javascript; charset=utf-8", include_str!(concat!("../assets/", $name)))
    };
}

macro_rules! style {
    ($name:literal) => {
        ($name, "text/css; charset=utf-8", include_str!(concat!("../assets/", $name)))
    };
}

/// Name, media type and contents of each asset.
const FILES: [(&str, &str, &str); 20] = [
    style!("site.css"),
    style!("docs.css"),
    style!("demos.css"),
    style!("learn.css"),
    ("favicon.svg", "image/svg+xml", include_str!("../assets/favicon.svg")),
    ("htmx-LICENSE.txt", "text/plain; charset=utf-8", include_str!("../assets/htmx-LICENSE.txt")),
    ("counter.js", "text/javascript; charset=utf-8", COUNTER_JS),
    script!("page.js"),
    script!("tab.js"),
    script!("live.js"),
    script!("chat.js"),
    script!("cursors.js"),
    script!("dashboard.js"),
    script!("inspect.js"),
    script!("notifications.js"),
    script!("htmx-2.0.11.min.js"),
    script!("learn-life.js"),
    script!("learn-poll.js"),
    script!("learn-streams.js"),
    script!("learn-nodes.js"),
];

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let asset = |(name, content_type, body): (&'static str, &'static str, &'static str)| Asset {
        name,
        content_type,
        body,
        version: reply::version(body.as_bytes()),
    };
    FILES.into_iter().map(asset).collect()
});

fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

/// Returns the address of an asset, including its version. Called by templates.
///
/// # Panics
/// Panics if no asset has this name: a mistake in a template, which the tests catch.
pub(crate) fn url(name: &str) -> String {
    let asset = find(name).unwrap_or_else(|| panic!("no asset is named {name:?}"));
    format!("/assets/{name}?v={}", asset.version)
}

/// Serves an asset: cached forever under its versioned address, revalidated each time under any other.
pub(crate) async fn serve(
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let Some(asset) = find(&name) else { return pages::not_found(uri).await };
    let exact = query.as_deref().and_then(|query| query.strip_prefix("v=")) == Some(&*asset.version);
    let cache = if exact { "public, max-age=31536000, immutable" } else { "no-cache" };
    reply::cached(&headers, &asset.version, cache, asset.content_type, asset.body)
}
