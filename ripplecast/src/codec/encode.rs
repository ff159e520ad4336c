//! Encodes a server's frames, which are never masked or fragmented.

use super::header::{MAX_HEADER, Opcode};
use crate::{limits::CLOSE_REASON, text::prefix};

/// Appends the header of a server frame with a payload of `len` bytes, which must follow.
///
/// One encoded frame can be sent to any number of clients, because servers don't mask.
///
/// ```
/// use ripplecast::codec::{Opcode, encode_header};
///
/// let mut out = Vec::new();
/// encode_header(&mut out, Opcode::Text, 3);
/// out.extend_from_slice(b"one");
/// assert_eq!(out, b"\x81\x03one");
/// ```
#[inline]
pub fn encode_header(out: &mut Vec<u8>, opcode: Opcode, len: usize) {
    let first = 0x80 | opcode as u8;
    // `usize` has at most 64 bits, so the casts lose nothing.
    match len {
        0..=125 => out.extend_from_slice(&[first, len as u8]),
        126..=0xFFFF => {
            let [a, b] = (len as u16).to_be_bytes();
            out.extend_from_slice(&[first, 126, a, b]);
        }
        _ => {
            let [a, b, c, d, e, f, g, h] = (len as u64).to_be_bytes();
            out.extend_from_slice(&[first, 127, a, b, c, d, e, f, g, h]);
        }
    }
}

/// Appends a complete server frame.
///
/// The payload of a control frame must not be longer than 125 bytes; that of a received ping never is.
///
/// ```
/// use ripplecast::codec::{Opcode, encode_frame};
///
/// let mut out = Vec::new();
/// encode_frame(&mut out, Opcode::Ping, b"");
/// encode_frame(&mut out, Opcode::Binary, &[1, 2]);
/// assert_eq!(out, b"\x89\x00\x82\x02\x01\x02");
/// ```
#[inline]
pub fn encode_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    debug_assert!(!opcode.is_control() || payload.len() <= crate::codec::header::MAX_CONTROL);
    out.reserve(MAX_HEADER + payload.len());
    encode_header(out, opcode, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a complete server frame with a compressed payload (RFC 7692): `deflated` without the four bytes
/// that end a flush.
///
/// ```
/// use ripplecast::codec::{Opcode, encode_compressed};
///
/// let mut out = Vec::new();
/// encode_compressed(&mut out, Opcode::Text, b"\xf2\x48\xcd\xc9\xc9\x07\x00"); // "Hello", from RFC 7692, section 7.2.3.1
/// assert_eq!(out, b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00");
/// ```
pub fn encode_compressed(out: &mut Vec<u8>, opcode: Opcode, deflated: &[u8]) {
    let start = out.len();
    encode_frame(out, opcode, deflated);
    out[start] |= crate::codec::header::RSV1;
}

/// Appends a close frame. The reason is cut to the 123 bytes that fit, between characters, and omitted
/// without a code.
///
/// ```
/// use ripplecast::codec::encode_close;
///
/// let mut out = Vec::new();
/// encode_close(&mut out, Some(1001), "bye");
/// encode_close(&mut out, None, "");
/// assert_eq!(out, b"\x88\x05\x03\xe9bye\x88\x00");
/// ```
pub fn encode_close(out: &mut Vec<u8>, code: Option<u16>, reason: &str) {
    let Some(code) = code else { return encode_header(out, Opcode::Close, 0) };
    let reason = prefix(reason, CLOSE_REASON);
    encode_header(out, Opcode::Close, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}
