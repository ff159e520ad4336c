//! The stylesheet, the scripts and the icon. The list below is all that `/assets/` serves: no path reaches a disk.

use std::sync::LazyLock;

use axum::{
    extract::{Path, RawQuery},
    http::HeaderMap,
    response::Response,
};

use crate::{pages, reply};

/// The client script of the counter, which the lesson also shows.
pub(crate) const COUNTER_JS: &str = include_str!("../assets/counter.js");

/// One embedded file.
struct Asset {
    /// What it is called under `/assets/`.
    name: &'static str,
    /// Its media type.
    content_type: &'static str,
    /// Its contents.
    body: &'static str,
    /// Changes with the contents, so that its address may be cached for good.
    version: String,
}

static ASSETS: LazyLock<[Asset; 5]> = LazyLock::new(|| {
    let asset = |name, content_type, body: &'static str| Asset {
        name,
        content_type,
        body,
        version: reply::version(body.as_bytes()),
    };
    [
        asset("site.css", "text/css; charset=utf-8", include_str!("../assets/site.css")),
        asset("docs.css", "text/css; charset=utf-8", include_str!("../assets/docs.css")),
        asset("counter.js", "text/javascript; charset=utf-8", COUNTER_JS),
        asset("page.js", "text/javascript; charset=utf-8", include_str!("../assets/page.js")),
        asset("favicon.svg", "image/svg+xml", include_str!("../assets/favicon.svg")),
    ]
});

fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

/// The address of an asset, with its version. Templates call this.
///
/// # Panics
/// If there is no such asset: a mistake in a template, which the tests find.
pub(crate) fn url(name: &str) -> String {
    let asset = find(name).unwrap_or_else(|| panic!("no asset is named {name:?}"));
    format!("/assets/{name}?v={}", asset.version)
}

/// Serves one asset: for good under its versioned address, checked each time under any other.
pub(crate) async fn serve(
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Some(asset) = find(&name) else { return pages::not_found().await };
    let exact = query.as_deref().and_then(|query| query.strip_prefix("v=")) == Some(&*asset.version);
    let cache = if exact { "public, max-age=31536000, immutable" } else { "no-cache" };
    reply::cached(&headers, &asset.version, cache, asset.content_type, asset.body)
}
