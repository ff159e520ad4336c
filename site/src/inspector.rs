//! The inspector's pages, which the host shows to those who may see them.

use std::sync::LazyLock;

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header::CACHE_CONTROL},
    response::{Html, IntoResponse, Response},
};

use crate::pages::{Page as Rendered, render};

/// A page that is not for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Page {
    /// The inspector itself.
    Inspector,
    /// The form for the token that opens it.
    InspectorToken,
    /// The same form, for whoever has sent another token.
    InspectorWrongToken,
    /// What to do to open it.
    InspectorClosed,
}

/// Where the host shows them.
const INSPECTOR_PATH: &str = "/inspect";

#[derive(Template)]
#[template(path = "inspect.html")]
struct Inspector;

#[derive(Template)]
#[template(path = "inspect_closed.html")]
struct Closed {
    /// Whether there is a token that opens it.
    has_token: bool,
    /// Whether another one was sent.
    is_wrong: bool,
}

static INSPECTOR: LazyLock<Rendered> = LazyLock::new(|| render(&Inspector, INSPECTOR_PATH));
static TOKEN: LazyLock<Rendered> =
    LazyLock::new(|| render(&Closed { has_token: true, is_wrong: false }, INSPECTOR_PATH));
static WRONG_TOKEN: LazyLock<Rendered> =
    LazyLock::new(|| render(&Closed { has_token: true, is_wrong: true }, INSPECTOR_PATH));
static CLOSED: LazyLock<Rendered> =
    LazyLock::new(|| render(&Closed { has_token: false, is_wrong: false }, INSPECTOR_PATH));

/// A page that the host shows, at `/inspect`, to those who may see it. It is not to be kept by caches.
pub fn page(page: Page, status: StatusCode) -> Response {
    let (html, _) = match page {
        Page::Inspector => &*INSPECTOR,
        Page::InspectorToken => &*TOKEN,
        Page::InspectorWrongToken => &*WRONG_TOKEN,
        Page::InspectorClosed => &*CLOSED,
    };
    let mut response = (status, Html(html.as_str())).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    crate::protected(response)
}
