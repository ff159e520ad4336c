//! The documents' pictures, in light and dark variants.

use std::sync::LazyLock;

use axum::{
    extract::{Path, RawQuery},
    http::{
        HeaderMap, StatusCode, Uri,
        header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH},
    },
    response::{IntoResponse, Response},
};

use crate::{pages, reply};

/// The name and contents of each file in `docs/images`.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/pictures.rs"));

/// The pictures' directory in the repository.
const DIRECTORY: &str = "docs/images/";

struct Picture {
    name: &'static str,
    bytes: &'static [u8],
    /// Changes with the contents, so that the versioned address can be cached forever.
    version: String,
}

static PICTURES: LazyLock<Vec<Picture>> = LazyLock::new(|| {
    let picture = |&(name, bytes)| Picture { name, bytes, version: reply::version(bytes) };
    FILES.iter().map(picture).collect()
});

fn find(name: &str) -> Option<&'static Picture> {
    PICTURES.iter().find(|picture| picture.name == name)
}

impl Picture {
    /// Returns its address, including its version.
    fn href(&self) -> String {
        format!("/docs/images/{}?v={}", self.name, self.version)
    }

    /// Returns the width and height in pixels, which begin a PNG (RFC 2083, section 4.1.1).
    fn size(&self) -> Option<(u32, u32)> {
        let number = |at: usize| Some(u32::from_be_bytes(self.bytes.get(at..at + 4)?.try_into().ok()?));
        Some((number(16)?, number(20)?))
    }
}

/// Returns the HTML of the picture at `path`, with its dimensions, so that nothing shifts when it loads. `alt` must be
/// escaped.
pub(super) fn html(path: &str, alt: &str) -> Option<String> {
    let name = path.strip_prefix(DIRECTORY)?;
    let light = find(name)?;
    let (width, height) = light.size()?;
    let dark = find(&name.replace(".png", "-dark.png")).filter(|dark| dark.name != light.name);
    let dark = dark.map_or_else(String::new, |dark| {
        format!("<source media=\"(prefers-color-scheme: dark)\" srcset=\"{}\">", dark.href())
    });
    let src = light.href();
    Some(format!(
        "<picture>{dark}<img src=\"{src}\" alt=\"{alt}\" width=\"{width}\" height=\"{height}\" loading=\"lazy\"></picture>"
    ))
}

/// Serves a picture: cached forever under its versioned address, revalidated each time under any other.
pub(super) async fn serve(
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let Some(picture) = find(&name) else { return pages::not_found(uri).await };
    let exact = query.as_deref().and_then(|query| query.strip_prefix("v=")) == Some(&*picture.version);
    let cache = if exact { "public, max-age=31536000, immutable" } else { "no-cache" };
    let etag = format!("\"{}\"", picture.version);
    let head = [(ETAG, etag.clone()), (CACHE_CONTROL, cache.to_owned())];
    if headers.get(IF_NONE_MATCH).is_some_and(|held| held.as_bytes() == etag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, head).into_response();
    }
    (head, [(CONTENT_TYPE, "image/png")], picture.bytes).into_response()
}
