//! The lesson and demo pages of Ripplecast, embedded in the binary and served as a plain [`axum::Router`].
//!
//! The pages are only the front end: live data comes from endpoints that the host adds next to this router
//! (`/ws/counter-demo`, `/api/counter/…`, and those of the demos). The router does not include the inspector's pages.
//! The host decides who may see them, and responds with [`page`].
//!
//! ```
//! let app: axum::Router = axum::Router::new().merge(ripplecast_site::router());
//! ```

mod address;
mod assets;
mod demos;
mod docs;
mod highlight;
mod inspector;
mod pages;
mod reply;
mod search;

use axum::{
    Router,
    http::{
        HeaderValue,
        header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::map_response,
    response::{Redirect, Response},
    routing::get,
};

pub use inspector::{Page, page};

/// Everything loads from our own origin, including the WebSocket. Nothing is inline, and no site may frame us.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";

/// Returns the pages and their assets, with a 404 page as the fallback. All addresses in the pages are relative, so the
/// site can be served under any path.
///
/// The headers apply only to this router's own responses, so merging it does not affect other routes. A router that it
/// is merged into must not have a fallback of its own: axum allows only one.
pub fn router() -> Router {
    Router::new()
        .route("/", get(|| async { Redirect::temporary("learn/websocket") }))
        .route(pages::LESSON, get(pages::lesson))
        .route("/learn", get(|| async { Redirect::permanent("learn/websocket") }))
        .route("/learn/search", get(search::search))
        .merge(demos::router())
        .route("/assets/{name}", get(assets::serve))
        // Browsers request this by themselves for anything that is not a page, such as a bare JSON response.
        .route("/favicon.ico", get(|| async { Redirect::permanent("assets/favicon.svg") }))
        .merge(docs::router())
        .fallback(pages::not_found)
        .layer(map_response(protect))
}

/// Sets the headers of every response of the site.
async fn protect(response: Response) -> Response {
    protected(response)
}

/// Adds the headers that protect a page.
pub(crate) fn protected(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

#[cfg(test)]
mod tests;
