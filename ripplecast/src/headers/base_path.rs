//! Serves routes below a path, for a proxy that forwards the path unchanged.

use std::sync::Arc;

use axum::{Router, extract::Request, response::IntoResponse as _, response::Redirect};
use http::{Uri, uri::PathAndQuery};
use tower_service::Service as _;

use crate::{Error, Result};

/// A request extension: the base path that the request was received below.
#[derive(Clone)]
pub(crate) struct BasePath(pub(crate) Arc<str>);

/// Returns whether `path` is a valid base path, such as `/rt`. Its characters are safe in a shell, in HTML
/// and in headers.
pub(super) fn is_path(path: &str) -> bool {
    let is_part = |part: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        !matches!(part, "" | "." | "..") && part.bytes().all(is_plain)
    };
    path.strip_prefix('/').is_some_and(|parts| parts.split('/').all(is_part))
}

/// Serves the routes at their own paths and also below `base`.
pub(crate) fn below(base: &str, routes: Router) -> Result<Router> {
    if !is_path(base) {
        let reason = "expected a path such as /rt, made of letters, digits, `-`, `.`, `_` and `~`, without a trailing slash";
        return Err(Error::setting("base_path", base, reason));
    }
    let base = Arc::<str>::from(base);
    Ok(Router::new().fallback(move |mut request: Request| {
        let (mut routes, base, relative) = (routes.clone(), base.clone(), relative(&base, request.uri()));
        async move {
            match relative {
                RelativePath::Elsewhere => {}
                RelativePath::Root(root) => return Redirect::permanent(&root).into_response(),
                RelativePath::Below(uri) => {
                    *request.uri_mut() = uri;
                    let base = match request.extensions().get::<BasePath>() {
                        Some(outer) => format!("{}{base}", outer.0).into(),
                        None => base,
                    };
                    request.extensions_mut().insert(BasePath(base));
                }
            }
            // A router is always ready and never fails.
            routes.call(request).await.into_response()
        }
    }))
}

/// How a request's path relates to the base.
#[derive(Debug, PartialEq, Eq)]
enum RelativePath {
    /// A path that is not below the base.
    Elsewhere,
    /// The base without a trailing slash. Contains the redirect's target, with the query.
    Root(String),
    /// A path below the base. Contains the URI without the base.
    Below(Uri),
}

/// Compares a request's URI with the base.
fn relative(base: &str, uri: &Uri) -> RelativePath {
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    match uri.path().strip_prefix(base) {
        // A relative target, so that it also works behind a proxy that adds another prefix.
        Some("") => RelativePath::Root(format!("{}/{query}", base.rsplit('/').next().unwrap_or_default())),
        Some(path) if path.starts_with('/') => {
            let mut parts = uri.clone().into_parts();
            parts.path_and_query = PathAndQuery::try_from(format!("{path}{query}")).ok();
            Uri::from_parts(parts).map_or(RelativePath::Elsewhere, RelativePath::Below)
        }
        _ => RelativePath::Elsewhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_matches_only_whole_parts() {
        let below = |uri: &'static str| RelativePath::Below(Uri::from_static(uri));
        for (uri, expected) in [
            ("/a/rt/", below("/")),
            ("/a/rt/x/y?q=/a/rt", below("/x/y?q=/a/rt")),
            ("/a/rt//x", below("//x")),
            ("http://example.org/a/rt/x", below("http://example.org/x")),
            ("/a/rt", RelativePath::Root("rt/".into())),
            ("/a/rt?x=1", RelativePath::Root("rt/?x=1".into())),
            ("/a/rtx", RelativePath::Elsewhere),
            ("/x/a/rt/", RelativePath::Elsewhere),
            ("/", RelativePath::Elsewhere),
            ("*", RelativePath::Elsewhere),
        ] {
            assert_eq!(relative("/a/rt", &Uri::from_static(uri)), expected, "{uri}");
        }
    }

    #[test]
    fn invalid_base_paths_are_rejected() {
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
