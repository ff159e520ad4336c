//! Templates and assets: read from disk in a debug build, part of the program in a release build.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::LazyLock,
};

use axum::{
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use minijinja::{Environment, context};
use rust_embed::RustEmbed;

/// Files in `templates/`.
#[derive(RustEmbed)]
#[folder = "templates"]
struct Templates;

/// Files in `assets/`.
#[derive(RustEmbed)]
#[folder = "assets"]
struct Assets;

/// The loaded templates.
static TEMPLATES: LazyLock<Environment<'static>> = LazyLock::new(templates);

fn templates() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_loader(|name| {
        let file = Templates::get(name);
        Ok(file.map(|file| String::from_utf8_lossy(&file.data).into_owned()))
    });
    environment
}

/// Renders a page. A debug build reloads the template each time, and shows an error in the page.
pub fn page(name: &str) -> Response {
    let debug = cfg!(debug_assertions);
    let fresh = debug.then(templates);
    let environment = fresh.as_ref().unwrap_or(&TEMPLATES);
    let filled = environment
        .get_template(name)
        .and_then(|page| page.render(context! { debug }));
    let error = match filled {
        Ok(html) => return Html(html).into_response(),
        Err(error) => error,
    };
    tracing::error!(%error, name, "failed to render a template");
    if !debug {
        return (
            StatusCode::INTERNAL_SERVER_ERROR,
            "Internal error; see the server's log.",
        )
            .into_response();
    }
    let why = Environment::new()
        .render_named_str(
            "error.html",
            ERROR,
            context! { why => format!("{error:#}") },
        )
        .unwrap_or_default();
    (StatusCode::INTERNAL_SERVER_ERROR, Html(why)).into_response()
}

/// The page shown if a template has an error. It reloads when the error is fixed.
const ERROR: &str = "<!doctype html><html lang=en><title>Template error</title>\
    <link rel=icon href=/assets/icon.svg>\
    <script src=/assets/dev.js type=module></script><h1>Template error</h1><pre>{{ why }}</pre>";

/// Serves an asset. The browser caches it, and revalidates it each time.
pub async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(file) = Assets::get(&name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let version = format!("\"{:016x}\"", hash(&file.metadata.sha256_hash()));
    let known = headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| known == version.as_str());
    let headers = [
        (header::CONTENT_TYPE, content_type(&name).to_owned()),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::ETAG, version),
    ];
    if known {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, file.data.into_owned()).into_response()
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    }
}

/// Sets the security headers of every response: scripts, styles and connections only from this origin.
pub async fn secure(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let policy = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(policy),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("same-origin"),
    );
    response
}

/// Returns two versions: one changes with the stylesheets, the other with any other file. For a debug build, which
/// reads the files from disk.
pub fn versions() -> (u64, u64) {
    let (mut styles, mut rest) = (DefaultHasher::new(), DefaultHasher::new());
    for name in Assets::iter() {
        let hasher = if name.ends_with(".css") {
            &mut styles
        } else {
            &mut rest
        };
        let file = Assets::get(&name).map(|file| file.metadata.sha256_hash());
        (name, file).hash(hasher);
    }
    for name in Templates::iter() {
        let file = Templates::get(&name).map(|file| file.metadata.sha256_hash());
        (name, file).hash(&mut rest);
    }
    (styles.finish(), rest.finish())
}

fn hash(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}
