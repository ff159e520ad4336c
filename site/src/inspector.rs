//! The inspector's pages. The host decides who may see them.

use std::sync::LazyLock;

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header::CACHE_CONTROL},
    response::{Html, IntoResponse, Response},
};

use crate::pages::{Page as Rendered, render};

/// A page with restricted access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Page {
    /// The inspector itself.
    Inspector,
    /// The form that asks for the token.
    InspectorToken,
    /// The same form, after a wrong token.
    InspectorWrongToken,
    /// How to enable access.
    InspectorClosed,
}

/// The path at which the host serves them.
const INSPECTOR_PATH: &str = "/inspect";

#[derive(Template)]
#[template(path = "inspect.html")]
struct Inspector;

#[derive(Template)]
#[template(path = "inspect_closed.html")]
struct Closed {
    /// Whether a token is configured.
    has_token: bool,
    /// Whether a wrong token was sent.
    is_wrong: bool,
}

static INSPECTOR: LazyLock<Rendered> = LazyLock::new(|| render(&Inspector, INSPECTOR_PATH));
static TOKEN: LazyLock<Rendered> =
    LazyLock::new(|| render(&Closed { has_token: true, is_wrong: false }, INSPECTOR_PATH));
static WRONG_TOKEN: LazyLock<Rendered> =
    LazyLock::new(|| render(&Closed { has_token: true, is_wrong: true }, INSPECTOR_PATH));
static CLOSED: LazyLock<Rendered> =
    LazyLock::new(|| render(&Closed { has_token: false, is_wrong: false }, INSPECTOR_PATH));

/// Renders a page for the host to serve at `/inspect`. Caches must not store it.
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
