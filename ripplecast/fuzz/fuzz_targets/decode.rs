//! Feeds arbitrary bytes to the WebSocket decoder, in arbitrary pieces.
//!
//! It must not panic. The events must not depend on the pieces. It must not hold more memory than twice the bytes that
//! arrived, plus a fixed amount.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ripplecast::codec::{Decoder, Event, ProtocolError};

/// The memory a decoder may hold regardless of its input: its state, and the smallest buffers.
const FIXED: usize = 512;

/// A copy of an event that outlives its buffer.
#[derive(Debug, PartialEq)]
enum Got {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Compressed(bool, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Failed(ProtocolError),
}

/// Decodes the pieces up to the first close frame or error.
fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>, max_message: usize, deflate: bool) -> Vec<Got> {
    let (mut decoder, mut got) = (Decoder::new(), Vec::new());
    let mut arrived = 0;
    for piece in pieces {
        let mut buffer = piece.to_vec();
        let mut at = 0;
        while at < buffer.len() {
            let left = buffer.len() - at;
            let decoded = if deflate {
                decoder.decode_deflate(&mut buffer[at..], max_message)
            } else {
                decoder.decode(&mut buffer[at..], max_message)
            };
            let (taken, event) = match decoded {
                Ok(decoded) => decoded,
                Err(error) => {
                    assert!(matches!(error.code, 1002 | 1007 | 1009) && error.reason.len() <= 123);
                    assert_eq!(decoder.held_bytes(), 0);
                    got.push(Got::Failed(error));
                    return got;
                }
            };
            assert!(taken <= left && (taken == left || event.is_some()) && (taken > 0 || event.is_some()));
            at += taken;
            arrived += taken;
            got.extend(event.map(|event| own(event, max_message)));
            assert!(decoder.held_bytes() <= FIXED + (2 * arrived).min(max_message));
            assert_eq!(decoder.held_bytes() == 0, decoder.is_idle());
            if let Some(Got::Close(..)) = got.last() {
                return got;
            }
        }
    }
    got
}

/// Checks a single event, and copies it.
fn own(event: Event<'_>, max_message: usize) -> Got {
    match event {
        Event::Text(text) => {
            assert!(text.len() <= max_message && std::str::from_utf8(&text).is_ok());
            Got::Text(text.to_vec())
        }
        Event::Binary(data) => {
            assert!(data.len() <= max_message);
            Got::Binary(data.into_bytes().to_vec())
        }
        Event::Compressed { text, payload } => {
            assert!(payload.len() <= max_message);
            Got::Compressed(text, payload.to_vec())
        }
        Event::Ping(data) => {
            assert!(data.len() <= 125);
            Got::Ping(data.to_vec())
        }
        Event::Pong(data) => {
            assert!(data.len() <= 125);
            Got::Pong(data.to_vec())
        }
        Event::Close { code, reason } => {
            assert!(reason.len() <= 123 && (code.is_some() || reason.is_empty()));
            Got::Close(code, reason.into_owned())
        }
        event => panic!("{event:?} is unknown"),
    }
}

/// Cuts bytes into pieces of the given sizes, repeated cyclically.
fn pieces<'a>(mut bytes: &'a [u8], sizes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut sizes = sizes.iter().cycle();
    std::iter::from_fn(move || {
        let size = usize::from(*sizes.next()?).clamp(1, bytes.len().max(1));
        let (piece, rest) = bytes.split_at_checked(size)?;
        bytes = rest;
        Some(piece)
    })
}

// The input consists of the logarithm of the limit, whose top bit says that permessage-deflate was negotiated, four
// piece sizes, and the bytes sent by the client.
fuzz_target!(|input: &[u8]| {
    let Some((&[limit, ref sizes @ ..], bytes)) = input.split_first_chunk::<5>() else { return };
    let max_message = 1_usize.checked_shl(u32::from(limit) % 64).unwrap_or(usize::MAX) - 1;
    let deflate = limit & 0x80 != 0;
    let whole = decode(std::iter::once(bytes), max_message, deflate);
    assert_eq!(decode(pieces(bytes, sizes), max_message, deflate), whole);
    assert_eq!(decode(bytes.chunks(1), max_message, deflate), whole);
    assert!(deflate || !whole.iter().any(|got| matches!(got, Got::Compressed(..))));
});
