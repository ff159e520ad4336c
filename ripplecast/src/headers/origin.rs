//! Decides which web pages may open a WebSocket.

use http::HeaderValue;

use super::authority::{Authority, AuthorityHost};

/// Which web pages may open a WebSocket.
///
/// Browsers let any page connect to any server and send the user's cookies along. Without a check, another
/// site's page could act in the name of a user who has it open ("cross-site WebSocket hijacking"). Browsers
/// state the page's origin in the header `Origin`, which a page can't forge.
///
/// Programs other than browsers need not send the header. A request without it always passes: it carries no
/// cookies that its sender doesn't have. This policy does not replace authentication.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub enum OriginPolicy {
    /// Pages from the host and port that they connect to: those in the request's target if it has them,
    /// otherwise those in `Host`. This is the default. An HTTP/1.0 request without a host is rejected if it
    /// has an `Origin`.
    ///
    /// If a proxy changes `Host`, configure it to forward the original, or use a [`List`](Self::List). The
    /// scheme must be `https` if the server knows that the request was sent over TLS: because it terminates
    /// TLS itself, or because a [trusted proxy](crate::HubBuilder::trusted_proxies) reports it. Otherwise
    /// both `http` and `https` match.
    #[default]
    Same,
    /// Pages from anywhere. Use this for public data, or if users are identified by a token that only your
    /// own pages have, and not by a cookie.
    Any,
    /// Pages from these origins, each written as `https://example.com` or `http://localhost:3000`.
    ///
    /// Build it with [`OriginPolicy::list`], which reports mistakes. An entry that is not an origin matches
    /// nothing. The server's own origin is included only if it is listed.
    List(Vec<String>),
}

impl OriginPolicy {
    /// Allows pages from these origins. Each has a scheme and a host, and a port unless it is the scheme's
    /// default.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) for the first entry that is not an origin, with the reason.
    pub fn list<O: Into<String>>(origins: impl IntoIterator<Item = O>) -> crate::Result<Self> {
        let origins: Vec<String> = origins.into_iter().map(Into::into).collect();
        for origin in &origins {
            if let Some(mistake) = mistake(origin) {
                return Err(crate::Error::setting("origins", origin, mistake));
            }
        }
        Ok(Self::List(origins))
    }
}

/// Returns whether a request with this `Origin` for this host may be upgraded.
///
/// A request without an `Origin` comes from no page and is allowed. An origin that is `null` (a sandboxed
/// frame, a local file) or can't be parsed is rejected unless any is allowed. Pass a repeated header as one
/// that can't be parsed.
pub(crate) fn allowed(
    policy: &OriginPolicy,
    origin: Option<&HeaderValue>,
    host: Option<&Authority>,
    over_tls: bool,
) -> bool {
    let Some(origin) = origin else { return true };
    let origin = || Origin::parse(origin.to_str().ok()?);
    match policy {
        OriginPolicy::Any => true,
        OriginPolicy::Same => {
            origin().zip(host).is_some_and(|(origin, host)| origin.is_served_by(host.as_str(), over_tls))
        }
        OriginPolicy::List(entries) => origin()
            .is_some_and(|origin| entries.iter().any(|entry| Origin::parse(entry).as_ref() == Some(&origin))),
    }
}

/// Returns what is wrong with an entry of a list; `None` if it is an origin.
fn mistake(entry: &str) -> Option<&'static str> {
    if Origin::parse(entry).is_some() {
        return None;
    }
    let Some((_, rest)) = entry.split_once("://") else {
        return Some(match entry {
            "*" => "to allow any origin, use OriginPolicy::Any",
            "null" => "null stands for pages without an origin, which only OriginPolicy::Any allows",
            _ => "it must start with a scheme, as in https://example.com",
        });
    };
    Some(match rest {
        "" => "it has no host",
        _ if rest.contains('*') => "wildcards are not supported, list each host",
        _ if rest.contains('@') => "it must not contain a user",
        _ if rest.contains(['/', '?', '#']) => {
            "it must end after the host and port, without a path or a slash"
        }
        _ if !rest.is_ascii() => "a host with non-ASCII letters must be written in its xn-- form",
        _ => "write it as https://example.com, or with a port as http://localhost:3000",
    })
}

/// An origin (RFC 6454). Pages with the same origin may see each other's data.
#[derive(Debug)]
struct Origin<'a> {
    scheme: &'a str,
    host: AuthorityHost<'a>,
    /// The scheme's default port if the origin has none and the scheme has one.
    port: Option<u16>,
}

impl<'a> Origin<'a> {
    /// Parses exactly `scheme://host` or `scheme://host:port`.
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let (host, port) = AuthorityHost::parse_with_port(authority)?;
        is_scheme.then(|| Self { scheme, host, port: port.or_else(|| usual_port(scheme)) })
    }

    /// Returns whether pages of this origin come from the server at `host`, which may have a port.
    ///
    /// Only pages fetched over HTTP come from a server: those of a browser extension with the same name do
    /// not.
    ///
    /// A page without TLS can be modified in transit, and so can its scripts. If the request was sent over
    /// TLS, the page must have been, too.
    fn is_served_by(&self, host: &str, over_tls: bool) -> bool {
        let Some(usual) = usual_port(self.scheme) else { return false };
        if over_tls && !self.scheme.eq_ignore_ascii_case("https") {
            return false;
        }
        AuthorityHost::parse_with_port(host)
            .is_some_and(|(host, port)| host == self.host && Some(port.unwrap_or(usual)) == self.port)
    }
}

impl PartialEq for Origin<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.scheme.eq_ignore_ascii_case(other.scheme) && self.host == other.host && self.port == other.port
    }
}

/// The port that a scheme uses when none is written.
fn usual_port(scheme: &str) -> Option<u16> {
    match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => Some(80),
        _ if scheme.eq_ignore_ascii_case("https") => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(policy: &OriginPolicy, origin: &str, host: &str) -> bool {
        let origin = HeaderValue::from_bytes(origin.as_bytes()).expect("a valid header value");
        allowed(policy, Some(&origin), Authority::parse(host.as_bytes()).as_ref(), false)
    }

    #[test]
    fn same() {
        let cases: &[(&str, &str)] = &[
            ("http://example.com", "example.com"),
            ("https://example.com", "example.com"),
            ("HTTPS://Example.COM", "example.com"),
            ("https://example.com", "EXAMPLE.com"),
            ("http://example.com:8080", "example.com:8080"),
            ("http://example.com", "example.com:80"),
            ("http://example.com:80", "example.com"),
            ("https://example.com", "example.com:443"),
            ("https://example.com:443", "example.com"),
            ("http://localhost:8080", "localhost:8080"),
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://[::1]:8080", "[::1]:8080"),
            ("http://[::1]", "[::1]:80"),
            ("http://[2001:DB8::1]", "[2001:db8:0::1]"),
            ("https://my_app.example.com", "my_app.example.com"),
            ("https://xn--gr-mia.example", "xn--gr-mia.example"),
            ("https://example.com.", "example.com."),
        ];
        for (origin, host) in cases {
            assert!(allows(&OriginPolicy::Same, origin, host), "{origin} on {host}");
        }
    }

    #[test]
    fn others() {
        let cases: &[(&str, &str)] = &[
            // Different hosts and ports.
            ("http://evil.org", "example.com"),
            ("http://sub.example.com", "example.com"),
            ("http://example.com", "sub.example.com"),
            ("http://example.com", "example.org"),
            ("http://example.com:8080", "example.com"),
            ("http://example.com", "example.com:8080"),
            ("http://example.com:8080", "example.com:8081"),
            ("https://example.com", "example.com:80"),
            ("http://example.com", "example.com:443"),
            ("https://example.com.", "example.com"),
            ("http://localhost", "127.0.0.1"),
            ("http://[::1]", "[::2]"),
            ("http://[::ffff:127.0.0.1]", "127.0.0.1"),
            // Look-alikes.
            ("http://example.com.evil.org", "example.com"),
            ("http://evil-example.com", "example.com"),
            ("http://example.com@evil.org", "example.com"),
            ("http://evil.org@example.com", "example.com"),
            ("http://user:pass@example.com", "example.com"),
            ("http://evil.org/example.com", "example.com"),
            ("http://evil.org/http://example.com", "example.com"),
            ("http://evil.org#example.com", "example.com"),
            ("http://evil.org?example.com", "example.com"),
            ("http://evil.org\\example.com", "example.com"),
            ("http://evil.org%2eexample.com", "example.com"),
            ("http://example.com%00.evil.org", "example.com"),
            ("http://example.com:80@evil.org", "example.com"),
            // Not an origin in the form that browsers send.
            ("null", "example.com"),
            ("null", "null"),
            ("", "example.com"),
            ("example.com", "example.com"),
            ("//example.com", "example.com"),
            ("://example.com", "example.com"),
            ("http:example.com", "example.com"),
            ("http:/example.com", "example.com"),
            ("http:///example.com", "example.com"),
            ("http://", ""),
            ("http://:80", ":80"),
            ("http://example.com/", "example.com"),
            ("http://example.com/page", "example.com"),
            ("http://example.com ", "example.com "),
            ("http://example.com http://evil.org", "example.com"),
            ("http://example.com, http://evil.org", "example.com"),
            ("http://example.com:", "example.com"),
            ("http://example.com:+80", "example.com"),
            ("http://example.com:-80", "example.com"),
            ("http://example.com:8o", "example.com"),
            ("http://example.com:65616", "example.com"), // 80 modulo 65536.
            ("http://example.com:80:80", "example.com"),
            ("http://::1", "::1"),
            ("http://[::1", "[::1"),
            ("http://[::1]80", "[::1]80"),
            ("http://[::1]x:80", "[::1]"),
            ("http://[example.com]", "[example.com]"),
            ("http://exämple.com", "exämple.com"),
            // Invalid `Host` headers.
            ("http://example.com", ""),
            ("http://example.com", "user@example.com"),
            ("http://example.com", "example.com/"),
            ("http://example.com", "example.com, evil.org"),
            ("http://example.com", "example.com:+80"),
            // Not fetched from a server.
            ("chrome-extension://example", "example"),
            ("file://example.com", "example.com"),
        ];
        for (origin, host) in cases {
            assert!(!allows(&OriginPolicy::Same, origin, host), "{origin} on {host}");
            assert!(allows(&OriginPolicy::Any, origin, host), "{origin} on {host}");
        }
    }

    #[test]
    fn requests_without_an_origin_or_a_host() {
        let list = OriginPolicy::list(["https://example.com"]).expect("an origin");
        for policy in [OriginPolicy::Same, OriginPolicy::Any, list.clone()] {
            assert!(allowed(&policy, None, Authority::parse(b"example.com").as_ref(), false));
            assert!(allowed(&policy, None, None, true));
        }
        let origin = HeaderValue::from_static("https://example.com");
        assert!(!allowed(&OriginPolicy::Same, Some(&origin), None, false));
        assert!(allowed(&OriginPolicy::Any, Some(&origin), None, false));
        assert!(allowed(&list, Some(&origin), None, false));
        let unreadable = HeaderValue::from_bytes(b"https://example.com\xff").expect("a valid header value");
        assert!(!allowed(&list, Some(&unreadable), Authority::parse(b"example.com").as_ref(), false));
        assert_eq!(OriginPolicy::default(), OriginPolicy::Same);
    }

    #[test]
    fn a_list() {
        let list = OriginPolicy::list([
            "https://example.com",
            "http://Localhost:3000",
            "http://intra:80",
            "https://[::1]:8443",
            "tauri://localhost",
        ])
        .expect("they are all origins");
        let cases: &[(&str, bool)] = &[
            ("https://example.com", true),
            ("https://EXAMPLE.com:443", true),
            ("http://localhost:3000", true),
            ("http://intra", true),
            ("https://[0::1]:8443", true),
            ("tauri://localhost", true),
            ("http://example.com", false), // A different scheme.
            ("http://example.com:443", false),
            ("https://example.com:8443", false),
            ("https://www.example.com", false),
            ("https://example.com.evil.org", false),
            ("https://example.com@evil.org", false),
            ("https://example.com/", false),
            ("http://localhost", false),
            ("tauri://localhost:80", false),
            ("https://server", false), // The server's own host isn't listed.
            ("null", false),
        ];
        for (origin, expected) in cases {
            assert_eq!(allows(&list, origin, "server"), *expected, "{origin}");
        }
        assert!(!allows(&OriginPolicy::List(vec!["null".into(), "*".into()]), "null", "server"));
        assert!(!allows(&OriginPolicy::List(vec![]), "https://server", "server"));
    }

    #[test]
    fn mistakes_in_a_list() {
        let cases: &[(&str, &str)] = &[
            ("*", "OriginPolicy::Any"),
            ("null", "OriginPolicy::Any"),
            ("example.com", "scheme"),
            ("", "scheme"),
            ("https://", "no host"),
            ("https://*.example.com", "wildcards"),
            ("https://me@example.com", "user"),
            ("https://example.com/", "path"),
            ("https://example.com/chat", "path"),
            ("https://grüße.example", "xn--"),
            ("https://example.com:http", "port"),
            ("https://example.com:99999", "port"),
            ("ht tp://example.com", "https://example.com"),
        ];
        for (entry, hint) in cases {
            let reason = OriginPolicy::list(["https://fine.example", entry]).expect_err(entry);
            let reason = reason.to_string();
            assert!(reason.contains(&format!("{entry:?}")) && reason.contains(hint), "{reason}");
        }
    }
}
