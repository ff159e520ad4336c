//! Routes below a path, for a proxy that passes it on.

use std::sync::Arc;

use axum::{Router, extract::Request, response::IntoResponse as _, response::Redirect};
use http::{Uri, uri::PathAndQuery};
use tower_service::Service as _;

use crate::{Error, Result};

/// Among the extensions of a request that came below a base path: that path.
#[derive(Clone)]
pub(crate) struct BasePath(pub(crate) Arc<str>);

/// Whether `path` is one below which something can be served, such as `/rt`. Its characters mean nothing to a shell, in HTML or
/// in a header.
pub(super) fn is_path(path: &str) -> bool {
    let is_part = |part: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        !matches!(part, "" | "." | "..") && part.bytes().all(is_plain)
    };
    path.strip_prefix('/').is_some_and(|parts| parts.split('/').all(is_part))
}

/// The routes at their own paths, and below `base` as well.
pub(crate) fn below(base: &str, routes: Router) -> Result<Router> {
    if !is_path(base) {
        let reason = "expected a path such as /rt, of letters, digits, `-`, `.`, `_` and `~`, without a slash at its end";
        return Err(Error::setting("base_path", base, reason));
    }
    let base = Arc::<str>::from(base);
    Ok(Router::new().fallback(move |mut request: Request| {
        let (mut routes, base, inner) = (routes.clone(), base.clone(), inner(&base, request.uri()));
        async move {
            match inner {
                Inner::Elsewhere => {}
                Inner::Root(root) => return Redirect::permanent(&root).into_response(),
                Inner::Below(uri) => {
                    *request.uri_mut() = uri;
                    let base = match request.extensions().get::<BasePath>() {
                        Some(outer) => format!("{}{base}", outer.0).into(),
                        None => base,
                    };
                    request.extensions_mut().insert(BasePath(base));
                }
            }
            // A router is always ready, and never fails.
            routes.call(request).await.into_response()
        }
    }))
}

/// What a request is for.
#[derive(Debug, PartialEq, Eq)]
enum Inner {
    /// A path that is not below the base.
    Elsewhere,
    /// The base without the slash at its end; where it leads, with its query.
    Root(String),
    /// A path below the base, without it.
    Below(Uri),
}

/// What a request for `uri` is for.
fn inner(base: &str, uri: &Uri) -> Inner {
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    match uri.path().strip_prefix(base) {
        // Relative to it, so that it also holds behind a proxy that puts another path before this one.
        Some("") => Inner::Root(format!("{}/{query}", base.rsplit('/').next().unwrap_or_default())),
        Some(path) if path.starts_with('/') => {
            let mut parts = uri.clone().into_parts();
            parts.path_and_query = PathAndQuery::try_from(format!("{path}{query}")).ok();
            Uri::from_parts(parts).map_or(Inner::Elsewhere, Inner::Below)
        }
        _ => Inner::Elsewhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_is_taken_off_whole_parts() {
        let below = |uri: &'static str| Inner::Below(Uri::from_static(uri));
        for (uri, expected) in [
            ("/a/rt/", below("/")),
            ("/a/rt/x/y?q=/a/rt", below("/x/y?q=/a/rt")),
            ("/a/rt//x", below("//x")),
            ("http://example.org/a/rt/x", below("http://example.org/x")),
            ("/a/rt", Inner::Root("rt/".into())),
            ("/a/rt?x=1", Inner::Root("rt/?x=1".into())),
            ("/a/rtx", Inner::Elsewhere),
            ("/x/a/rt/", Inner::Elsewhere),
            ("/", Inner::Elsewhere),
            ("*", Inner::Elsewhere),
        ] {
            assert_eq!(inner("/a/rt", &Uri::from_static(uri)), expected, "{uri}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for wrong in
            ["", "/", "rt", "/rt/", "//rt", "/a//b", "/a/../b", "/.", "/{x}", "/a b", "/%41", "/ü", "/a?b"]
        {
            let error = below(wrong, Router::new()).unwrap_err().to_string();
            assert!(error.contains("base_path") && error.contains("/rt"), "{error}");
        }
        for fine in ["/rt", "/a/b-c_d.e~1", "/.well-known"] {
            assert!(below(fine, Router::new()).is_ok(), "{fine}");
        }
    }
}
