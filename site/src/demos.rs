//! The pages of the demos: each with the file that runs behind it and the script that runs in it.

use std::sync::LazyLock;

use askama::Template;
use axum::{Router, http::HeaderMap, response::Response, routing::get};

use crate::{
    highlight::{Language, highlight},
    pages::{Listing, Page, render, serve},
};

/// The list of the demos.
#[derive(Template)]
#[template(path = "demos/index.html")]
struct Index;

/// The listings of a demo.
struct Sources {
    /// The server's side.
    server: Listing,
    /// The browser's side.
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

/// The listings of the demo of that name.
macro_rules! sources {
    ($name:literal) => {
        Sources {
            server: Listing {
                name: concat!($name, ".rs"),
                path: concat!("ripplecast-server/src/demos/", $name, ".rs"),
                id: "server-code",
                html: highlight(
                    include_str!(concat!("../../ripplecast-server/src/demos/", $name, ".rs")),
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

/// Where the demos are.
pub(crate) const PATHS: [&str; 5] =
    ["/demos", "/demos/chat", "/demos/dashboard", "/demos/notifications", "/demos/cursors"];

/// The routes of the demos.
pub(crate) fn router() -> Router {
    let [index, chat, dashboard, notifications, cursors] = PATHS;
    Router::new()
        .route(index, get(async |headers: HeaderMap| -> Response { serve(&headers, &INDEX) }))
        .route(chat, get(async |headers: HeaderMap| -> Response { serve(&headers, &CHAT) }))
        .route(dashboard, get(async |headers: HeaderMap| -> Response { serve(&headers, &DASHBOARD) }))
        .route(notifications, get(async |headers: HeaderMap| -> Response { serve(&headers, &NOTIFICATIONS) }))
        .route(cursors, get(async |headers: HeaderMap| -> Response { serve(&headers, &CURSORS) }))
}
