//! The pages, rendered once from the templates.

use std::sync::LazyLock;

use askama::Template;
use axum::{
    http::{HeaderMap, StatusCode, Uri},
    response::{Html, IntoResponse, Response},
};

use crate::{
    address, assets,
    highlight::{Language, highlight},
    reply,
};

/// The path of the lesson.
pub(crate) const LESSON: &str = "/learn/websocket";

/// The source of the counter, as compiled into this build.
pub(crate) const COUNTER_RS: &str = include_str!("../../ripplecast-demo/src/counter.rs");

/// The source of the broadcast example.
const TABS_RS: &str = include_str!("../../ripplecast-demo/src/tabs.rs");

#[derive(Template)]
#[template(path = "websocket.html")]
struct Lesson {
    server: Listing,
    tabs: Listing,
    client: Listing,
    nginx: Listing,
    /// The line in the server's source where each step begins, if found.
    state: Option<usize>,
    endpoint: Option<usize>,
    routes: Option<usize>,
    /// The line in the server's source where each callback begins, if found.
    open: Option<usize>,
    message: Option<usize>,
    close: Option<usize>,
}

#[derive(Template)]
#[template(path = "not_found.html")]
struct NotFound;

/// A highlighted source file with a copy button.
#[derive(Template)]
#[template(path = "listing.html")]
pub(crate) struct Listing {
    /// The file name.
    pub(crate) name: &'static str,
    /// Its path in the repository.
    pub(crate) path: &'static str,
    /// The id of the element that holds the code.
    pub(crate) id: &'static str,
    /// The code as HTML, already escaped.
    pub(crate) html: String,
}

/// Returns the first line of `source`, counted from 1, that contains `word` outside a
/// comment.
pub(crate) fn line_of(source: &str, word: &str) -> Option<usize> {
    source
        .lines()
        .position(|line| line.split("//").next().is_some_and(|code| code.contains(word)))
        .map(|index| index + 1)
}

/// Returns the first line of `source`, counted from 1, that begins with `comment`.
fn line_of_comment(source: &str, comment: &str) -> Option<usize> {
    source.lines().position(|line| line.trim_start().starts_with(comment)).map(|index| index + 1)
}

/// The HTML of a page, and its version.
pub(crate) type Page = (String, String);

/// Renders the page at `path`.
pub(crate) fn render(page: &impl Template, path: &str) -> Page {
    let html = page.render().expect("rendering a built-in template cannot fail");
    let html = address::relative(&html, path);
    let version = reply::version(html.as_bytes());
    (html, version)
}

static LESSON_PAGE: LazyLock<Page> = LazyLock::new(|| {
    render(
        &Lesson {
            server: Listing {
                name: "counter.rs",
                path: "ripplecast-demo/src/counter.rs",
                id: "server-code",
                html: highlight(COUNTER_RS, Language::Rust, "server"),
            },
            tabs: Listing {
                name: "tabs.rs",
                path: "ripplecast-demo/src/tabs.rs",
                id: "tabs-code",
                html: highlight(TABS_RS, Language::Rust, "tabs"),
            },
            client: Listing {
                name: "counter.js",
                path: "site/assets/counter.js",
                id: "browser-code",
                html: highlight(assets::COUNTER_JS, Language::JavaScript, "browser"),
            },
            nginx: Listing {
                name: "nginx.conf",
                path: "site/assets/nginx.conf",
                id: "nginx-code",
                html: highlight(include_str!("../assets/nginx.conf"), Language::Configuration, "nginx"),
            },
            state: line_of_comment(COUNTER_RS, "// Step 1"),
            endpoint: line_of_comment(COUNTER_RS, "// Step 2"),
            routes: line_of_comment(COUNTER_RS, "// Step 3"),
            open: line_of(COUNTER_RS, "on_open"),
            message: line_of(COUNTER_RS, "on_message"),
            close: line_of(COUNTER_RS, "on_close"),
        },
        LESSON,
    )
});

/// The page for unknown paths, with absolute addresses.
static NOT_FOUND_PAGE: LazyLock<String> =
    LazyLock::new(|| NotFound.render().expect("rendering a built-in template cannot fail"));

/// Responds with a page.
pub(crate) fn serve(headers: &HeaderMap, (html, version): &'static Page) -> Response {
    reply::cached(headers, version, "no-cache", "text/html; charset=utf-8", html)
}

pub(crate) async fn lesson(headers: HeaderMap) -> Response {
    serve(&headers, &LESSON_PAGE)
}

pub(crate) async fn not_found(uri: Uri) -> Response {
    (StatusCode::NOT_FOUND, Html(address::relative(&NOT_FOUND_PAGE, uri.path()))).into_response()
}
