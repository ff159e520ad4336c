//! The origin check for plain requests that may change something.

use std::{
    future::{Ready, ready},
    task::{Context, Poll},
};

use axum::response::Response;
use futures_util::future::Either;
use http::{HeaderMap, Method, Request, header};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    Hub,
    headers::{ForwardedPeer, OriginPolicy},
    request,
    ws::{origin_allowed, refuse_origin},
};

const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// A tower layer that rejects requests from other sites' pages with 403 if they may change something.
///
/// A browser lets any page send a POST to any server, with that server's cookies. The layer accepts `GET`, `HEAD`,
/// `OPTIONS` and `TRACE`, and any other method only if it comes from an allowed page, or from no page at all. It reads
/// `Sec-Fetch-Site` first, which browsers set and pages can't forge, and for older browsers `Origin`, as upgrades do. A
/// request with neither header is accepted: browsers always send one of them.
///
/// ```
/// use axum::routing::post;
/// use ripplecast::{App, SameOrigin};
///
/// async fn order() {}
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
/// let app = App::builder().build().await?;
/// let check = SameOrigin::new(&app.hub());
/// let app = app.route("/orders", post(order)).layer(check); // all routes added so far
/// # let _ = app;
/// # Ok(()) }
/// ```
///
/// `GET` is not checked, so a `GET` handler must not change anything. The layer does not replace authentication.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is added"]
pub struct SameOrigin {
    hub: Hub,
    origins: OriginPolicy,
}

impl SameOrigin {
    /// Creates a layer that allows pages of the request's own host, with the hub's [trusted
    /// proxies](crate::HubBuilder::trusted_proxies).
    pub fn new(hub: &Hub) -> Self {
        Self { hub: hub.clone(), origins: OriginPolicy::Same }
    }

    /// Allows pages of these origins instead.
    pub fn origins(mut self, origins: OriginPolicy) -> Self {
        self.origins = origins;
        self
    }
}

impl<S> Layer<S> for SameOrigin {
    type Service = SameOriginService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SameOriginService { check: self.clone(), inner }
    }
}

/// A service behind the check of [`SameOrigin`].
#[derive(Clone, Debug)]
pub struct SameOriginService<S> {
    check: SameOrigin,
    inner: S,
}

impl<S, B> Service<Request<B>> for SameOriginService<S>
where
    S: Service<Request<B>, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE) {
            return Either::Left(self.inner.call(request));
        }
        let (parts, body) = request.into_parts();
        let SameOrigin { hub, origins } = &self.check;
        let peer = match request::peer(hub, &parts) {
            Ok(peer) => peer,
            Err(bad) => return Either::Right(ready(Ok(bad.into()))),
        };
        if allowed(origins, &parts.headers, &peer) {
            return Either::Left(self.inner.call(Request::from_parts(parts, body)));
        }
        Either::Right(ready(Ok(refuse_origin(&parts, &peer, "SameOrigin::origins"))))
    }
}

/// Returns whether a request comes from an allowed page, or from no page at all.
fn allowed(policy: &OriginPolicy, headers: &HeaderMap, peer: &ForwardedPeer) -> bool {
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter().peekable();
    let is_from_browser = sites.peek().is_some();
    let is_own = sites.all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
    match policy {
        OriginPolicy::Any => true,
        // The browser knows the page's address and ours, even if a proxy changes the host.
        OriginPolicy::Same if is_from_browser => is_own,
        OriginPolicy::List(_) if headers.get(header::ORIGIN).is_none() => is_own,
        _ => origin_allowed(policy, headers, peer),
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, http::StatusCode, routing::any};
    use tower::ServiceExt as _;

    use super::*;

    async fn status(layer: &SameOrigin, method: Method, headers: &[(&str, &str)]) -> StatusCode {
        let app = Router::new().route("/", any(async || "done")).layer(layer.clone());
        let mut request = Request::builder().method(method).uri("/").header("host", "shop.example");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
    }

    const SITE: &str = SEC_FETCH_SITE;
    const UNSAFE: [Method; 4] = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

    #[tokio::test]
    async fn pages_of_other_origins_change_nothing() {
        let layer = SameOrigin::new(&Hub::builder().build().unwrap());
        let cases: &[(&[(&str, &str)], bool)] = &[
            (&[], true), // not a browser
            (&[("origin", "https://shop.example")], true),
            (&[("origin", "https://evil.example")], false),
            (&[("origin", "https://shop.example.evil.example")], false),
            (&[("origin", "null")], false),
            (&[("origin", "https://shop.example"), ("origin", "https://evil.example")], false),
            (&[(SITE, "same-origin"), ("origin", "https://shop.example")], true),
            // Behind a proxy that changes the host.
            (&[(SITE, "same-origin"), ("origin", "https://outside.example")], true),
            (&[(SITE, "none")], true), // typed by the user
            (&[(SITE, "same-site"), ("origin", "https://blog.shop.example")], false),
            (&[(SITE, "same-site"), ("origin", "http://shop.example")], false),
            (&[(SITE, "cross-site"), ("origin", "https://evil.example")], false),
            (&[(SITE, "cross-site")], false),
            (&[(SITE, "")], false),
            (&[(SITE, "same-origin"), (SITE, "cross-site")], false),
        ];
        for (headers, passes) in cases {
            for method in UNSAFE {
                let expected = if *passes { StatusCode::OK } else { StatusCode::FORBIDDEN };
                assert_eq!(status(&layer, method.clone(), headers).await, expected, "{method} {headers:?}");
            }
            for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
                assert_eq!(
                    status(&layer, method.clone(), headers).await,
                    StatusCode::OK,
                    "{method} {headers:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_list_allows_its_origins_and_any_allows_all() {
        let hub = Hub::builder().build().unwrap();
        let list = SameOrigin::new(&hub).origins(OriginPolicy::list(["https://app.example"]).unwrap());
        let any = SameOrigin::new(&hub).origins(OriginPolicy::Any);
        let cases: &[(&[(&str, &str)], bool)] = &[
            (&[], true),
            (&[(SITE, "cross-site"), ("origin", "https://app.example")], true),
            (&[("origin", "https://app.example")], true),
            (&[(SITE, "cross-site"), ("origin", "https://evil.example")], false),
            (&[("origin", "https://shop.example")], false), // not listed
            (&[(SITE, "cross-site")], false),
        ];
        for (headers, passes) in cases {
            let expected = if *passes { StatusCode::OK } else { StatusCode::FORBIDDEN };
            assert_eq!(status(&list, Method::POST, headers).await, expected, "{headers:?}");
            assert_eq!(status(&any, Method::POST, headers).await, StatusCode::OK, "{headers:?}");
        }
    }
}
