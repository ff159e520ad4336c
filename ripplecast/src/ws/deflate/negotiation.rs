//! Which of a client's offers is accepted (RFC 7692, sections 5 and 7.1).

use http::{HeaderMap, header::SEC_WEBSOCKET_EXTENSIONS};

/// The answer to an offer: neither side keeps a window from one message to the next.
pub(in crate::ws) const ACCEPTED: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// Whether a client offers permessage-deflate in a way that we can speak. An offer that we can't, or that is malformed, is
/// declined, and the next one looked at.
pub(in crate::ws) fn is_offered(headers: &HeaderMap) -> bool {
    let values = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| split(value, b',')).any(is_acceptable)
}

/// Whether an offer is one of permessage-deflate with parameters that we understand and can keep.
fn is_acceptable(offer: &str) -> bool {
    let mut parts = split(offer, b';').map(str::trim_ascii);
    if parts.next().is_none_or(|name| !name.eq_ignore_ascii_case("permessage-deflate")) {
        return false;
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
            // The client's window may be any: ours for inflating is the full one.
            ("client_max_window_bits", Some(bits)) => window_bits(bits).is_some(),
            // Our window is the full one.
            ("server_max_window_bits", Some(bits)) => window_bits(bits) == Some(15),
            _ => false,
        };
        if !acceptable || seen.contains(&name) {
            return false;
        }
        seen.push(name);
    }
    true
}

/// 8 to 15, without a leading zero.
fn window_bits(value: &str) -> Option<u8> {
    matches!(value, "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15").then(|| value.parse().ok())?
}

/// A value that may stand in quotes. What needs them is no number, so nothing else in them is looked at.
fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// The parts of a header between separators that are not in quotes.
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
        is_offered(&headers)
    }

    #[test]
    fn accepted() {
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
    fn declined() {
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
