//! Negotiates permessage-deflate (RFC 7692, sections 5 and 7.1).

use http::{HeaderMap, header::SEC_WEBSOCKET_EXTENSIONS};

/// The usual answer: neither side keeps its window between messages.
const ACCEPTED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The answer to an offer with `server_max_window_bits`, which must repeat that parameter (RFC 7692, section
/// 7.1.2.1).
const ACCEPTED_WITH_WINDOW: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15";

/// Returns the answer to the first acceptable offer of permessage-deflate. Other offers and malformed ones
/// are skipped.
pub(super) fn accept(headers: &HeaderMap) -> Option<&'static str> {
    headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().find_map(|value| {
        // A non-ASCII byte invalidates only the offer that contains it.
        let offers = String::from_utf8_lossy(value.as_bytes());
        split(&offers, b',').find_map(answer)
    })
}

/// Returns the answer to one offer, if it is permessage-deflate with parameters that we support.
fn answer(offer: &str) -> Option<&'static str> {
    let mut parts = split(offer, b';').map(str::trim_ascii);
    if parts.next().is_none_or(|name| !name.eq_ignore_ascii_case("permessage-deflate")) {
        return None;
    }
    let mut seen = Vec::new();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            None => (part, None),
            Some((name, value)) => (name.trim_ascii_end(), Some(unquoted(value.trim_ascii_start()))),
        };
        let acceptable = match (name, value) {
            (
                "server_no_context_takeover" | "client_no_context_takeover" | "client_max_window_bits",
                None,
            ) => true,
            // The client may use any window: we inflate with the largest one.
            ("client_max_window_bits", Some(bits)) => window_bits(bits).is_some(),
            // We deflate with the largest window.
            ("server_max_window_bits", Some(bits)) => window_bits(bits) == Some(15),
            _ => false,
        };
        if !acceptable || seen.contains(&name) {
            return None;
        }
        seen.push(name);
    }
    Some(if seen.contains(&"server_max_window_bits") { ACCEPTED_WITH_WINDOW } else { ACCEPTED })
}

/// Parses a window size: 8 to 15, without a leading zero.
fn window_bits(value: &str) -> Option<u8> {
    matches!(value, "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15").then(|| value.parse().ok())?
}

/// Removes quotes from a value. Escapes are ignored: no valid value contains one.
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// Splits a header at separators that are not in quotes.
fn split(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = text.bytes().position(|byte| {
            let is_end = byte == separator && !quoted;
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = quoted,
                b'"' => quoted = !quoted,
                _ => {}
            }
            is_end
        });
        match end {
            Some(end) => {
                rest = Some(&text[end + 1..]);
                Some(&text[..end])
            }
            None => rest.take(),
        }
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn offered(values: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(value));
        }
        accept(&headers).is_some()
    }

    #[test]
    fn valid_offers_are_accepted() {
        for offer in [
            "permessage-deflate",
            "Permessage-Deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate ; client_max_window_bits=10;server_no_context_takeover",
            "permessage-deflate; client_max_window_bits=\"8\"; client_no_context_takeover",
            "permessage-deflate; server_max_window_bits=15",
            "x-webkit-deflate-frame, permessage-deflate",
            "foo; bar=\"a, permessage-deflate\", permessage-deflate",
            "permessage-deflate; server_max_window_bits=10, permessage-deflate",
            ", , permessage-deflate",
        ] {
            assert!(offered(&[offer]), "{offer}");
        }
        assert!(offered(&["foo", "bar, permessage-deflate"]));
    }

    #[test]
    fn our_window_is_named_only_if_the_client_names_it() {
        assert_eq!(answer("permessage-deflate; server_max_window_bits=15"), Some(ACCEPTED_WITH_WINDOW));
        assert_eq!(answer("permessage-deflate; client_max_window_bits=15"), Some(ACCEPTED));
    }

    #[test]
    fn unsupported_and_malformed_offers_are_declined() {
        for offer in [
            "",
            "foo",
            "permessage-deflated",
            "permessage-deflate; server_max_window_bits=14",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=08",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; client_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; unknown",
            "permessage-deflate;",
            "foo; bar=\"permessage-deflate, permessage-deflate\"",
            "foo; bar=\", permessage-deflate",
        ] {
            assert!(!offered(&[offer]), "{offer}");
        }
        assert!(!offered(&[]));
    }
}
