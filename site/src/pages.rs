//! The pages, rendered once from the templates.

use std::sync::LazyLock;

use askama::Template;
use axum::{
    http::{HeaderMap, StatusCode},
    response::{Html, IntoResponse, Response},
};

use crate::{
    assets,
    highlight::{Language, highlight},
    reply,
};

/// Where the lesson lives.
pub(crate) const LESSON: &str = "/learn/websocket";

/// The source of the counter as this build runs it.
pub(crate) const COUNTER_RS: &str = include_str!("../../ripplecast-server/src/counter.rs");

#[derive(Template)]
#[template(path = "websocket.html")]
struct Lesson {
    /// The listing of the server's side.
    server: Listing,
    /// The listing of the browser's side.
    client: Listing,
    /// The lines of the server's source where each callback begins, if it can be told.
    open: Option<usize>,
    message: Option<usize>,
    close: Option<usize>,
}

#[derive(Template)]
#[template(path = "not_found.html")]
struct NotFound;

/// A source file, coloured, with a button that copies it.
#[derive(Template)]
#[template(path = "listing.html")]
struct Listing {
    /// The file's name.
    name: &'static str,
    /// Where the file is in the repository.
    path: &'static str,
    /// The id of the element that holds the code.
    id: &'static str,
    /// The code as HTML, escaped already.
    html: String,
}

/// The first line of `source`, counted from 1, that mentions `word` outside a comment.
pub(crate) fn line_of(source: &str, word: &str) -> Option<usize> {
    source
        .lines()
        .position(|line| line.split("//").next().is_some_and(|code| code.contains(word)))
        .map(|index| index + 1)
}

/// A page and its version.
type Page = (String, String);

fn render(page: &impl Template) -> Page {
    let html = page.render().expect("our templates do not fail");
    let version = reply::version(html.as_bytes());
    (html, version)
}

static LESSON_PAGE: LazyLock<Page> = LazyLock::new(|| {
    render(&Lesson {
        server: Listing {
            name: "counter.rs",
            path: "ripplecast-server/src/counter.rs",
            id: "server-code",
            html: highlight(COUNTER_RS, Language::Rust, "server"),
        },
        client: Listing {
            name: "counter.js",
            path: "site/assets/counter.js",
            id: "browser-code",
            html: highlight(assets::COUNTER_JS, Language::JavaScript, "browser"),
        },
        open: line_of(COUNTER_RS, "on_open"),
        message: line_of(COUNTER_RS, "on_message"),
        close: line_of(COUNTER_RS, "on_close"),
    })
});

static NOT_FOUND_PAGE: LazyLock<Page> = LazyLock::new(|| render(&NotFound));

pub(crate) async fn lesson(headers: HeaderMap) -> Response {
    let (html, version) = &*LESSON_PAGE;
    reply::cached(&headers, version, "no-cache", "text/html; charset=utf-8", html)
}

pub(crate) async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, Html(NOT_FOUND_PAGE.0.as_str())).into_response()
}
