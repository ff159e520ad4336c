//! The opening handshake (RFC 6455, section 4.2): pure functions over the types of `http`.

use std::borrow::Cow;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use base64::{
    Engine, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
    header::{
        ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
    },
};
use sha1::{Digest, Sha1};

/// What a server appends to the client's key before hashing it (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Reads keys as some clients write them: the four bits after the sixteenth byte needn't be 0.
const KEY_ENCODING: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// An upgrade request that may be answered with 101.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// The value of `Sec-WebSocket-Accept`.
    pub(crate) accept: HeaderValue,
}

/// The most subprotocols that a client may offer. Clients offer a handful, and each more costs every upgrade.
pub(crate) const MAX_PROTOCOLS: usize = 32;

/// Checks an upgrade request, except for its [`protocols`].
///
/// HTTP/2 has a handshake of its own, extended CONNECT (RFC 8441): no `Upgrade`, no key, a `:protocol` of `websocket`. It
/// would branch off here, by the version.
///
/// # Errors
/// The first thing that is wrong, as the response to answer with.
pub(crate) fn check(method: &Method, version: Version, headers: &HeaderMap) -> Result<Handshake, Refusal> {
    if method != Method::GET {
        return Err(Refusal::Method);
    }
    if version != Version::HTTP_11 {
        return Err(Refusal::HttpVersion);
    }
    if !has_token(headers, &UPGRADE, "websocket") {
        return Err(Refusal::NoUpgrade);
    }
    if !has_token(headers, &CONNECTION, "upgrade") {
        return Err(Refusal::Connection);
    }
    if has_content(headers) {
        return Err(Refusal::Content);
    }
    if single(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version.as_bytes().trim_ascii() != b"13")
    {
        return Err(Refusal::WebSocketVersion);
    }
    let key = single(headers, &SEC_WEBSOCKET_KEY).ok_or(Refusal::Key)?;
    let accept = accept(key.as_bytes().trim_ascii()).ok_or(Refusal::Key)?;
    Ok(Handshake { accept })
}

/// The subprotocol to speak: the first of `supported` that the client offered, so the server's order decides.
///
/// Names are compared exactly, as RFC 6455 has them. `None`: they have none in common. The handshake may go on without
/// one, and the client then decides whether it can live with that.
pub(crate) fn choose<'a>(offered: &[String], supported: &'a [String]) -> Option<&'a str> {
    supported.iter().find(|name| offered.contains(name)).map(String::as_str)
}

/// Returns the subprotocols that the client offered, in its order of preference. Stops reading at the first one too many.
///
/// # Errors
/// [`Refusal::Protocols`], [`Refusal::TooManyProtocols`].
pub(crate) fn protocols(headers: &HeaderMap) -> Result<Vec<String>, Refusal> {
    let mut protocols = Vec::new();
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        let value = value.to_str().map_err(|_| Refusal::Protocols)?;
        for name in
            value.split(',').map(|name| name.trim_matches([' ', '\t'])).filter(|name| !name.is_empty())
        {
            if protocols.len() == MAX_PROTOCOLS {
                return Err(Refusal::TooManyProtocols);
            }
            if !name.bytes().all(is_token) {
                return Err(Refusal::Protocols);
            }
            protocols.push(name.to_owned());
        }
    }
    Ok(protocols)
}

/// The answer to a key, which must be 16 bytes in base64.
fn accept(key: &[u8]) -> Option<HeaderValue> {
    if KEY_ENCODING.decode(key).ok()?.len() != 16 {
        return None;
    }
    let hash = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    HeaderValue::try_from(BASE64_STANDARD.encode(hash)).ok()
}

/// Whether one of the headers of this name lists the token, in any case.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether a request with these headers has a body (RFC 9112, section 6.3). Its length has been validated by the server.
///
/// The connection changes its protocol behind the body (RFC 9110, section 7.8): a server that does not read the body first
/// takes it for frames.
pub(crate) fn has_content(headers: &HeaderMap) -> bool {
    let is_zero = |length: &HeaderValue| length.as_bytes().trim_ascii().iter().all(|&digit| digit == b'0');
    headers.contains_key(TRANSFER_ENCODING) || !headers.get_all(CONTENT_LENGTH).iter().all(is_zero)
}

/// The value of a header that must be there exactly once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Whether a token may contain this byte (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Why a request can't be upgraded. Converts into the response that says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// Another method than GET.
    Method,
    /// Another version than HTTP/1.1.
    HttpVersion,
    /// No upgrade to WebSocket was asked for; perhaps somebody opened the address in a browser.
    NoUpgrade,
    /// `Connection` doesn't say that `Upgrade` is meant for this hop.
    Connection,
    /// The request has a body.
    Content,
    /// Another version of WebSocket than 13.
    WebSocketVersion,
    /// No key, several, or one that isn't 16 bytes in base64.
    Key,
    /// The subprotocols are not a list of tokens.
    Protocols,
    /// More than [`MAX_PROTOCOLS`] subprotocols.
    TooManyProtocols,
}

impl Refusal {
    /// The status, what to do about it, and headers that belong to it.
    fn parts(self) -> (StatusCode, &'static str, &'static [(HeaderName, &'static str)]) {
        const UPGRADE_TO: &[(HeaderName, &str)] = &[(UPGRADE, "websocket"), (CONNECTION, "Upgrade")];
        match self {
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "A WebSocket is opened with GET; send the upgrade request with that method.",
                &[(ALLOW, "GET")],
            ),
            Self::HttpVersion => (
                StatusCode::BAD_REQUEST,
                "A WebSocket is opened over HTTP/1.1 here; send the upgrade request with that version.",
                &[],
            ),
            Self::NoUpgrade => (
                StatusCode::UPGRADE_REQUIRED,
                "This address is for WebSocket connections: open it with a WebSocket client, such as \
                 new WebSocket(address) in a page's script; if you did, a proxy on the way dropped the Upgrade header.",
                UPGRADE_TO,
            ),
            Self::Connection => (
                StatusCode::BAD_REQUEST,
                "The header \"Connection: Upgrade\" is missing; send it, and let proxies on the way pass it on.",
                &[],
            ),
            Self::Content => (
                StatusCode::BAD_REQUEST,
                "An upgrade request must not have a body; send it without one.",
                &[],
            ),
            Self::WebSocketVersion => (
                StatusCode::UPGRADE_REQUIRED,
                "Only version 13 of WebSocket is spoken here; send \"Sec-WebSocket-Version: 13\".",
                &[(SEC_WEBSOCKET_VERSION, "13"), (UPGRADE, "websocket"), (CONNECTION, "Upgrade")],
            ),
            Self::Key => (
                StatusCode::BAD_REQUEST,
                "Send exactly one header \"Sec-WebSocket-Key\", with 16 random bytes in base64.",
                &[],
            ),
            Self::Protocols => (
                StatusCode::BAD_REQUEST,
                "Send \"Sec-WebSocket-Protocol\" as names with commas between them, or leave it out.",
                &[],
            ),
            Self::TooManyProtocols => {
                (StatusCode::BAD_REQUEST, "Offer at most 32 names in \"Sec-WebSocket-Protocol\".", &[])
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text, headers) = self.parts();
        let mut response = Response::new(Body::from(Cow::Borrowed(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        for (name, value) in headers {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    /// The headers of a request in order, such as a browser sends them.
    const GOOD: [(&str, &str); 5] = [
        ("host", "example.com"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];

    /// Good headers, but for one name that has these values.
    fn with(name: &'static str, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (good, value) in GOOD.into_iter().filter(|(good, _)| *good != name) {
            headers.append(good, value.parse().expect("a header's value"));
        }
        for value in values {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a header's value"));
        }
        headers
    }

    fn get(headers: &HeaderMap) -> Result<(Handshake, Vec<String>), Refusal> {
        Ok((check(&Method::GET, Version::HTTP_11, headers)?, protocols(headers)?))
    }

    #[test]
    fn the_rfcs_key_gets_the_rfcs_answer() {
        let (handshake, protocols) = get(&with("host", &["example.com"])).expect("a good request");
        assert_eq!(handshake.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(protocols.is_empty());
    }

    #[test]
    fn headers_that_pass_and_headers_that_do_not() {
        let cases: &[(&str, &[&str], Option<Refusal>)] = &[
            ("upgrade", &["WebSocket"], None),
            ("upgrade", &["h2c, websocket"], None),
            ("upgrade", &["h2c", "\tWEBSOCKET "], None),
            ("upgrade", &[], Some(Refusal::NoUpgrade)),
            ("upgrade", &["h2c"], Some(Refusal::NoUpgrade)),
            ("upgrade", &["websockets"], Some(Refusal::NoUpgrade)),
            ("connection", &["keep-alive, upgrade"], None),
            ("connection", &["keep-alive", "UPGRADE"], None),
            ("connection", &[], Some(Refusal::Connection)),
            ("connection", &["keep-alive"], Some(Refusal::Connection)),
            ("connection", &["no-upgrade"], Some(Refusal::Connection)),
            ("content-length", &["0"], None),
            ("content-length", &["7"], Some(Refusal::Content)),
            ("content-length", &["0", "7"], Some(Refusal::Content)),
            ("content-length", &["07"], Some(Refusal::Content)),
            ("transfer-encoding", &["chunked"], Some(Refusal::Content)),
            ("transfer-encoding", &["gzip, chunked"], Some(Refusal::Content)),
            ("sec-websocket-version", &["13"], None),
            ("sec-websocket-version", &[], Some(Refusal::WebSocketVersion)),
            ("sec-websocket-version", &["8"], Some(Refusal::WebSocketVersion)),
            ("sec-websocket-version", &["13, 8"], Some(Refusal::WebSocketVersion)),
            ("sec-websocket-version", &["13", "8"], Some(Refusal::WebSocketVersion)),
            ("sec-websocket-key", &["AAAAAAAAAAAAAAAAAAAAAA=="], None),
            ("sec-websocket-key", &["AAAAAAAAAAAAAAAAAAAAAB=="], None), // Bits after the last byte.
            ("sec-websocket-key", &[], Some(Refusal::Key)),
            ("sec-websocket-key", &[""], Some(Refusal::Key)),
            ("sec-websocket-key", &[KEY, KEY], Some(Refusal::Key)),
            ("sec-websocket-key", &["AAAAAAAAAAAAAAAAAAAAAA"], Some(Refusal::Key)), // Unpadded.
            ("sec-websocket-key", &["AAAAAAAAAAAAAAAAAAAA"], Some(Refusal::Key)),   // 15 bytes.
            ("sec-websocket-key", &["AAAAAAAAAAAAAAAAAAAAAAA="], Some(Refusal::Key)), // 17 bytes.
            ("sec-websocket-key", &["!AAAAAAAAAAAAAAAAAAAAA=="], Some(Refusal::Key)),
            ("sec-websocket-protocol", &["chat"], None),
            ("sec-websocket-protocol", &[""], None),
            ("sec-websocket-protocol", &["two words"], Some(Refusal::Protocols)),
            ("sec-websocket-protocol", &["grüß"], Some(Refusal::Protocols)),
        ];
        for (name, values, refusal) in cases {
            assert_eq!(get(&with(name, values)).err(), *refusal, "{name}: {values:?}");
        }
    }

    #[test]
    fn the_method_and_the_version() {
        let headers = with("host", &["example.com"]);
        for method in [Method::POST, Method::HEAD, Method::OPTIONS, Method::CONNECT] {
            assert_eq!(check(&method, Version::HTTP_11, &headers).err(), Some(Refusal::Method));
        }
        for version in [Version::HTTP_10, Version::HTTP_2] {
            assert_eq!(check(&Method::GET, version, &headers).err(), Some(Refusal::HttpVersion));
        }
    }

    #[test]
    fn subprotocols() {
        let headers = with("sec-websocket-protocol", &["chat, superchat,,chat", " v2.json\t"]);
        let (_, offered) = get(&headers).expect("a good request");
        assert_eq!(offered, ["chat", "superchat", "chat", "v2.json"]);

        let cases: &[(&[&str], Option<&str>)] = &[
            (&["superchat", "chat"], Some("superchat")), // The server's order.
            (&["mqtt", "v2.json"], Some("v2.json")),
            (&["Chat"], None), // Case matters.
            (&[], None),
        ];
        for (supported, chosen) in cases {
            let supported: Vec<String> = supported.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(choose(&offered, &supported), *chosen, "{supported:?}");
        }
        assert_eq!(choose(&[], &["chat".to_owned()]), None);
    }

    #[test]
    fn no_more_subprotocols_are_read_than_may_be_offered() {
        let names = |count: usize| (0..count).map(|n| format!("{n:x}")).collect::<Vec<_>>().join(",");
        let offer = |names: &str| protocols(&with("sec-websocket-protocol", &[names]));
        assert_eq!(offer(&names(MAX_PROTOCOLS)).unwrap().len(), MAX_PROTOCOLS);
        assert_eq!(offer(&names(MAX_PROTOCOLS + 1)), Err(Refusal::TooManyProtocols));
        assert_eq!(offer(&names(5_300)), Err(Refusal::TooManyProtocols));
        // Repeated names count each time, and nothing after the limit is read.
        assert_eq!(offer(&(names(MAX_PROTOCOLS) + ",0")), Err(Refusal::TooManyProtocols));
        assert_eq!(offer(&(names(MAX_PROTOCOLS) + ",0,two words")), Err(Refusal::TooManyProtocols));
        assert_eq!(offer(&",".repeat(16_000)), Ok(Vec::new()));
    }

    #[test]
    fn refusals_say_what_to_do() {
        type Headers = &'static [(&'static str, &'static str)];
        let cases: [(Refusal, u16, Headers); 9] = [
            (Refusal::Method, 405, &[("allow", "GET")]),
            (Refusal::HttpVersion, 400, &[]),
            (Refusal::NoUpgrade, 426, &[("upgrade", "websocket"), ("connection", "Upgrade")]),
            (Refusal::Connection, 400, &[]),
            (Refusal::Content, 400, &[]),
            (Refusal::WebSocketVersion, 426, &[("sec-websocket-version", "13")]),
            (Refusal::Key, 400, &[]),
            (Refusal::Protocols, 400, &[]),
            (Refusal::TooManyProtocols, 400, &[]),
        ];
        for (refusal, status, headers) in cases {
            let response = refusal.into_response();
            assert_eq!(response.status(), status, "{refusal:?}");
            assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
            for (name, value) in headers {
                assert_eq!(response.headers()[*name], *value, "{refusal:?}");
            }
            let (_, text, _) = refusal.parts();
            assert!(text.ends_with('.') && text.is_ascii(), "{refusal:?}");
        }
    }
}
