//! The opening handshake (RFC 6455, section 4.2), as pure functions over the types of `http`.

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

/// The text that a server appends to the client's key before hashing it (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Accepts keys as some clients write them: the four bits after the sixteenth byte may be nonzero.
const KEY_ENCODING: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// A valid upgrade request.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// The value of `Sec-WebSocket-Accept`.
    pub(crate) accept: HeaderValue,
}

/// Maximum number of subprotocols in one request. Clients offer a handful, and each adds work to every
/// upgrade.
pub(crate) const MAX_PROTOCOLS: usize = 32;

/// Checks an upgrade request, except for its [`protocols`].
///
/// HTTP/2 has its own handshake, extended CONNECT (RFC 8441): no `Upgrade`, no key, a `:protocol` of
/// `websocket`. Supporting it would branch here on the version.
///
/// # Errors
/// The first problem found, as the response to send.
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

/// Returns the first of `supported` that the client offered, so the server's order decides.
///
/// Names are compared exactly, as RFC 6455 requires. Returns `None` if there is no common one; the client
/// then decides whether to continue without.
pub(crate) fn choose<'a>(offered: &[String], supported: &'a [String]) -> Option<&'a str> {
    supported.iter().find(|name| offered.contains(name)).map(String::as_str)
}

/// Returns the subprotocols that the client offered, in its order of preference. Stops reading at the first
/// one beyond the limit.
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

/// Returns the `Sec-WebSocket-Accept` value for a key; `None` if the key is not 16 bytes in base64.
fn accept(key: &[u8]) -> Option<HeaderValue> {
    if KEY_ENCODING.decode(key).ok()?.len() != 16 {
        return None;
    }
    let hash = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    HeaderValue::try_from(BASE64_STANDARD.encode(hash)).ok()
}

/// Returns whether one of the headers with this name lists the token, in any case.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Returns whether a request with these headers has a body (RFC 9112, section 6.3). The server has already
/// validated its length.
///
/// The protocol changes after the body (RFC 9110, section 7.8). A server that does not read the body first
/// would parse it as frames.
pub(crate) fn has_content(headers: &HeaderMap) -> bool {
    let is_zero = |length: &HeaderValue| length.as_bytes().trim_ascii().iter().all(|&digit| digit == b'0');
    headers.contains_key(TRANSFER_ENCODING) || !headers.get_all(CONTENT_LENGTH).iter().all(is_zero)
}

/// Returns the value of a header, unless it is missing or occurs more than once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Returns whether a token may contain this byte (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Why a request can't be upgraded. Converts into the response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// The method is not GET.
    Method,
    /// The HTTP version is not 1.1.
    HttpVersion,
    /// There is no `Upgrade: websocket`; perhaps the address was opened in a browser.
    NoUpgrade,
    /// `Connection` does not list `Upgrade`.
    Connection,
    /// The request has a body.
    Content,
    /// The WebSocket version is not 13.
    WebSocketVersion,
    /// There is no key, more than one, or one that is not 16 bytes in base64.
    Key,
    /// The subprotocols are not a valid list of tokens.
    Protocols,
    /// There are more than [`MAX_PROTOCOLS`] subprotocols.
    TooManyProtocols,
}

impl Refusal {
    /// Returns the status, the text of the response, and the headers that belong to it.
    fn parts(self) -> (StatusCode, &'static str, &'static [(HeaderName, &'static str)]) {
        const UPGRADE_TO: &[(HeaderName, &str)] = &[(UPGRADE, "websocket"), (CONNECTION, "Upgrade")];
        match self {
            Self::Method => {
                (StatusCode::METHOD_NOT_ALLOWED, "A WebSocket upgrade must use GET.", &[(ALLOW, "GET")])
            }
            Self::HttpVersion => {
                (StatusCode::BAD_REQUEST, "A WebSocket upgrade must use HTTP/1.1 on this server.", &[])
            }
            Self::NoUpgrade => (
                StatusCode::UPGRADE_REQUIRED,
                "This address accepts only WebSocket connections. Open it with a WebSocket client, such as \
                 new WebSocket(address) in a page's script. If you did, a proxy in between removed the Upgrade header.",
                UPGRADE_TO,
            ),
            Self::Connection => (
                StatusCode::BAD_REQUEST,
                "The header \"Connection: Upgrade\" is missing. Send it, and configure proxies in between to forward it.",
                &[],
            ),
            Self::Content => (StatusCode::BAD_REQUEST, "An upgrade request must not have a body.", &[]),
            Self::WebSocketVersion => (
                StatusCode::UPGRADE_REQUIRED,
                "Unsupported WebSocket version. Send \"Sec-WebSocket-Version: 13\".",
                &[(SEC_WEBSOCKET_VERSION, "13"), (UPGRADE, "websocket"), (CONNECTION, "Upgrade")],
            ),
            Self::Key => (
                StatusCode::BAD_REQUEST,
                "Send exactly one header \"Sec-WebSocket-Key\", with 16 random bytes in base64.",
                &[],
            ),
            Self::Protocols => (
                StatusCode::BAD_REQUEST,
                "\"Sec-WebSocket-Protocol\" is malformed. Send names separated by commas, or leave it out.",
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

    /// The headers of a valid request, as a browser sends them.
    const GOOD: [(&str, &str); 5] = [
        ("host", "example.com"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];

    /// Valid headers, except that the header `name` has these values.
    fn with(name: &'static str, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (good, value) in GOOD.into_iter().filter(|(good, _)| *good != name) {
            headers.append(good, value.parse().expect("a valid header value"));
        }
        for value in values {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a valid header value"));
        }
        headers
    }

    fn get(headers: &HeaderMap) -> Result<(Handshake, Vec<String>), Refusal> {
        Ok((check(&Method::GET, Version::HTTP_11, headers)?, protocols(headers)?))
    }

    #[test]
    fn the_key_from_the_rfc_gets_the_answer_from_the_rfc() {
        let (handshake, protocols) = get(&with("host", &["example.com"])).expect("a good request");
        assert_eq!(handshake.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(protocols.is_empty());
    }

    #[test]
    fn invalid_headers_are_rejected() {
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
    fn only_get_over_http_1_1_is_accepted() {
        let headers = with("host", &["example.com"]);
        for method in [Method::POST, Method::HEAD, Method::OPTIONS, Method::CONNECT] {
            assert_eq!(check(&method, Version::HTTP_11, &headers).err(), Some(Refusal::Method));
        }
        for version in [Version::HTTP_10, Version::HTTP_2] {
            assert_eq!(check(&Method::GET, version, &headers).err(), Some(Refusal::HttpVersion));
        }
    }

    #[test]
    fn the_server_order_selects_the_subprotocol() {
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
    fn each_refusal_has_its_status_and_headers() {
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
