//! The minimum of the protocol.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha1::{Digest as _, Sha1};

/// Returns the response to a complete request, and whether it is for `/echo`.
pub(crate) fn handshake(bytes: &[u8]) -> Option<(String, bool)> {
    let head = std::str::from_utf8(bytes.strip_suffix(b"\r\n\r\n")?).ok()?;
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    let (_, key) = headers.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))?;
    let digest =
        Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        STANDARD.encode(digest)
    );
    Some((answer, head.starts_with("GET /echo")))
}

/// Passes each text frame to `each`, ready to be sent. Returns the incomplete rest. Messages are
/// limited to 64 KiB.
pub(crate) fn texts(mut bytes: &[u8], mut each: impl FnMut(Vec<u8>)) -> &[u8] {
    while let [first, second, rest @ ..] = bytes {
        let (length, rest) = match (second & 0x7F, rest) {
            (126, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            (126, _) => break,
            (short, rest) => (usize::from(short), rest),
        };
        let Some((key, rest)) = rest.split_first_chunk::<4>() else { break };
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        if first & 0x0F == 1 {
            let mut frame = Vec::with_capacity(length + 4);
            frame.push(0x81);
            if length < 126 {
                frame.push(length as u8);
            } else {
                frame.push(126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
            each(frame);
        }
        bytes = rest;
    }
    bytes
}
