//! The client's half of the opening handshake.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha1::{Digest as _, Sha1};

use super::random::Random;

/// The longest response head, in bytes.
const LONGEST: usize = 16 << 10;
/// The length of a `Sec-WebSocket-Accept`.
const ACCEPT: usize = 28;

/// The expected `Sec-WebSocket-Accept` of a response.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Accept([u8; ACCEPT]);

impl Accept {
    /// Creates a value that matches no response.
    pub(crate) const fn new() -> Self {
        Self([0; ACCEPT])
    }
}

/// Appends a request with a fresh key, and returns the expected accept value.
pub(crate) fn request(path: &str, host: &str, random: &mut Random, out: &mut Vec<u8>) -> Accept {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&random.next().to_ne_bytes());
    nonce[8..].copy_from_slice(&random.next().to_ne_bytes());
    let key = STANDARD.encode(nonce);
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nOrigin: http://{host}\r\n\r\n"
    );
    out.extend_from_slice(head.as_bytes());
    accept(key.as_bytes())
}

/// Returns the accept value of a key.
fn accept(key: &[u8]) -> Accept {
    let digest =
        Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    let mut text = [0; ACCEPT];
    // 20 bytes always encode to 28 characters.
    let _ = STANDARD.encode_slice(digest, &mut text);
    Accept(text)
}

/// Returns the length of a valid response at the start of `bytes`, or `None` if it is incomplete. An error reads
/// well after "the server".
pub(crate) fn check(bytes: &[u8], accept: Accept) -> Result<Option<usize>, String> {
    let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else {
        if bytes.len() > LONGEST {
            return Err("sent a response head that is too long".to_owned());
        }
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let Some(status) = status.strip_prefix("HTTP/1.1 ") else {
        return Err("does not speak HTTP/1.1".to_owned());
    };
    if !status.starts_with("101") {
        return Err(format!(
            "answered {status:?} instead of 101: is there a WebSocket endpoint at this path?"
        ));
    }
    let mut values = lines.filter_map(|line| line.split_once(':'));
    let value = values.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-accept"));
    if value.is_none_or(|(_, value)| value.trim().as_bytes() != accept.0) {
        return Err("answered with a wrong Sec-WebSocket-Accept".to_owned());
    }
    Ok(Some(end + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let expected = accept(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(expected.0, *b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\
                       sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x00";
        assert_eq!(check(answer, expected), Ok(Some(answer.len() - 2)));
        assert_eq!(check(&answer[..40], expected), Ok(None));
        assert!(check(answer, accept(b"another")).unwrap_err().contains("Sec-WebSocket-Accept"));
    }

    #[test]
    fn other_responses_are_reported() {
        let check = |answer: &[u8]| check(answer, Accept::new()).unwrap_err();
        assert!(check(b"HTTP/1.1 404 Not Found\r\n\r\n").contains("404 Not Found"));
        assert!(check(b"220 mail.example ESMTP\r\n\r\n").contains("HTTP/1.1"));
        assert!(check(&vec![b'a'; LONGEST + 1]).contains("too long"));
    }

    #[test]
    fn every_request_has_its_own_key() {
        let (mut random, mut out) = (Random::new(3), Vec::new());
        let first = request("/bc?a=1", "localhost:80", &mut random, &mut out);
        assert_ne!(first, request("/bc", "localhost:80", &mut random, &mut out));
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("GET /bc?a=1 HTTP/1.1\r\nHost: localhost:80\r\n"), "{text}");
    }
}
