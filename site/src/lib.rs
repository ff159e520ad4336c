//! The lesson and demo pages of Ripplecast, embedded in the binary and served as a plain [`axum::Router`].
//!
//! The pages only show; whatever moves on them comes from endpoints that the host adds beside this router
//! (`/ws/counter-demo`, `/api/counter/…`, and those of the demos). The inspector's pages are not among its routes: the host
//! decides who may see them, and answers with [`page`].
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

/// Everything comes from our own origin, the WebSocket too; nothing is inline, and nobody may frame us.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";

/// The pages, their assets, and a 404 page as the fallback. All addresses in them are relative, so the site may be served below
/// any path.
///
/// The headers set here are on this router's own responses only, so merging it changes nothing about other routes. A router that
/// it is merged into must not have a fallback of its own: axum allows one.
pub fn router() -> Router {
    Router::new()
        .route("/", get(|| async { Redirect::temporary("learn/websocket") }))
        .route(pages::LESSON, get(pages::lesson))
        .route("/learn", get(|| async { Redirect::permanent("learn/websocket") }))
        .route("/learn/search", get(search::search))
        .merge(demos::router())
        .route("/assets/{name}", get(assets::serve))
        // Browsers ask for this by themselves beside anything that isn't a page, such as a bare JSON answer.
        .route("/favicon.ico", get(|| async { Redirect::permanent("assets/favicon.svg") }))
        .merge(docs::router())
        .fallback(pages::not_found)
        .layer(map_response(protect))
}

/// Sets the headers that every response of the site carries.
async fn protect(response: Response) -> Response {
    protected(response)
}

/// The response with the headers that protect its page.
pub(crate) fn protected(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

#[cfg(test)]
mod tests;
