//! The demo pages, each with the source of its server side and its script.

use std::sync::LazyLock;

use askama::Template;
use axum::{Router, http::HeaderMap, response::Response, routing::get};

use crate::{
    highlight::{Language, highlight},
    pages::{Listing, Page, render, serve},
};

#[derive(Template)]
#[template(path = "demos/index.html")]
struct Index;

/// The two source listings of a demo.
struct Sources {
    server: Listing,
    client: Listing,
}

#[derive(Template)]
#[template(path = "demos/chat.html")]
struct Chat {
    sources: Sources,
}

#[derive(Template)]
#[template(path = "demos/dashboard.html")]
struct Dashboard {
    sources: Sources,
}

#[derive(Template)]
#[template(path = "demos/notifications.html")]
struct Notifications {
    sources: Sources,
}

#[derive(Template)]
#[template(path = "demos/cursors.html")]
struct Cursors {
    sources: Sources,
}

/// The listings of the demo named `$name`.
macro_rules! sources {
    ($name:literal) => {
        Sources {
            server: Listing {
                name: concat!($name, ".rs"),
                path: concat!("ripplecast-demo/src/demos/", $name, ".rs"),
                id: "server-code",
                html: highlight(
                    include_str!(concat!("../../ripplecast-demo/src/demos/", $name, ".rs")),
                    Language::Rust,
                    "server",
                ),
            },
            client: Listing {
                name: concat!($name, ".js"),
                path: concat!("site/assets/", $name, ".js"),
                id: "browser-code",
                html: highlight(
                    include_str!(concat!("../assets/", $name, ".js")),
                    Language::JavaScript,
                    "browser",
                ),
            },
        }
    };
}

static INDEX: LazyLock<Page> = LazyLock::new(|| render(&Index, "/demos"));
static CHAT: LazyLock<Page> = LazyLock::new(|| render(&Chat { sources: sources!("chat") }, "/demos/chat"));
static DASHBOARD: LazyLock<Page> =
    LazyLock::new(|| render(&Dashboard { sources: sources!("dashboard") }, "/demos/dashboard"));
static NOTIFICATIONS: LazyLock<Page> =
    LazyLock::new(|| render(&Notifications { sources: sources!("notifications") }, "/demos/notifications"));
static CURSORS: LazyLock<Page> =
    LazyLock::new(|| render(&Cursors { sources: sources!("cursors") }, "/demos/cursors"));

/// The paths of the demo pages.
pub(crate) const PATHS: [&str; 5] =
    ["/demos", "/demos/chat", "/demos/dashboard", "/demos/notifications", "/demos/cursors"];

pub(crate) fn router() -> Router {
    let [index, chat, dashboard, notifications, cursors] = PATHS;
    Router::new()
        .route(index, get(async |headers: HeaderMap| -> Response { serve(&headers, &INDEX) }))
        .route(chat, get(async |headers: HeaderMap| -> Response { serve(&headers, &CHAT) }))
        .route(dashboard, get(async |headers: HeaderMap| -> Response { serve(&headers, &DASHBOARD) }))
        .route(notifications, get(async |headers: HeaderMap| -> Response { serve(&headers, &NOTIFICATIONS) }))
        .route(cursors, get(async |headers: HeaderMap| -> Response { serve(&headers, &CURSORS) }))
}
