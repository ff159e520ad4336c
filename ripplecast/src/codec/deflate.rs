//! permessage-deflate (RFC 7692) without context takeover on either side. Messages are compressed
//! independently, so each is compressed once for all receivers, and no connection keeps a window.
//!
//! Each thread that needs them keeps a compressor and a decompressor, some 300 KiB together. A connection
//! keeps none.

use std::{
    cell::{Cell, RefCell},
    sync::OnceLock,
};

use bytes::Bytes;
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};

use super::event::ProtocolError;
use crate::limits::FINAL_BLOCKS;

/// The compressed form of a payload, created on first use and shared.
#[derive(Debug, Default)]
pub(crate) struct Deflated(OnceLock<Option<Bytes>>);

impl Deflated {
    /// Returns the compressed form of `payload`; `None` if it is not shorter.
    pub(crate) fn of(&self, payload: &[u8]) -> Option<Bytes> {
        self.0.get_or_init(|| compress(payload).map(Bytes::from)).clone()
    }
}

/// The end of each compressed message, which is not sent (RFC 7692, section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The tail and an empty final block. A complete message ends with them; a truncated one treats them as data.
const END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];

/// zlib's level. Higher levels shorten small messages little for what they cost.
const LEVEL: u32 = 3;

thread_local! {
    static COMPRESSOR: RefCell<Compress> = RefCell::new(Compress::new(flate2::Compression::new(LEVEL), false));
    static DECOMPRESSOR: RefCell<Decompress> = RefCell::new(Decompress::new(false));
    static COMPRESSED: Cell<u64> = const { Cell::new(0) };
}

/// Returns how many messages this thread has compressed since the last call.
pub(crate) fn take_compressed() -> u64 {
    COMPRESSED.take()
}

/// Compresses a payload; `None` if the result is not shorter.
pub(crate) fn compress(payload: &[u8]) -> Option<Vec<u8>> {
    COMPRESSED.set(COMPRESSED.get() + 1);
    COMPRESSOR.with_borrow_mut(|compressor| {
        compressor.reset();
        // Output that does not fit is not shorter. The flush leaves the tail of four bytes, which is cut off.
        let mut out = Vec::with_capacity(payload.len() + TAIL.len());
        let status = compressor.compress_vec(payload, &mut out, FlushCompress::Sync).ok()?;
        let whole = status == Status::Ok && compressor.total_in() == payload.len() as u64;
        if !whole || !out.ends_with(&TAIL) {
            return None;
        }
        out.truncate(out.len() - TAIL.len());
        if out.len() >= payload.len() {
            return None;
        }
        out.shrink_to_fit(); // it may be kept for long and is counted by its length
        Some(out)
    })
}

/// Inflates a message of at most `max_message` bytes. Never holds more, whatever the message would inflate
/// to.
///
/// # Errors
/// 1009 when the message is longer; 1007 when it is truncated or not valid deflate data.
pub(crate) fn inflate(compressed: &[u8], max_message: usize) -> Result<Vec<u8>, ProtocolError> {
    if compressed.is_empty() {
        return Ok(Vec::new()); // RFC 7692, section 7.2.3.6, sends one byte for an empty message, but no byte means the same
    }
    DECOMPRESSOR.with_borrow_mut(|decompressor| {
        let (mut input, mut out) = (compressed, Vec::new());
        for _ in 0..FINAL_BLOCKS {
            decompressor.reset(false);
            let ended = inflate_stream(decompressor, &mut input, &mut out, max_message)?;
            if ended && input.is_empty() {
                return Ok(trimmed(out));
            }
            if !ended {
                let (mut end, len) = (&END[..], out.len());
                let ended = inflate_stream(decompressor, &mut end, &mut out, max_message)?;
                let whole = ended && end.is_empty() && out.len() == len;
                return if whole { Ok(trimmed(out)) } else { Err(ProtocolError::NOT_DEFLATE) };
            }
            // Other blocks may follow a final one (RFC 7692, section 7.2.3.4).
        }
        Err(ProtocolError::NOT_DEFLATE)
    })
}

/// Inflates up to a final block or the end of `input`. Returns whether it was a final block.
fn inflate_stream(
    decompressor: &mut Decompress,
    input: &mut &[u8],
    out: &mut Vec<u8>,
    max_message: usize,
) -> Result<bool, ProtocolError> {
    loop {
        if out.len() == out.capacity() {
            // Starts with a typical ratio and doubles, up to one byte above the limit.
            let left = max_message.saturating_add(1) - out.len();
            out.reserve_exact(out.len().max(4 * input.len()).max(64).min(left));
        }
        let (taken, made) = (decompressor.total_in(), decompressor.total_out());
        let status = decompressor
            .decompress_vec(input, out, FlushDecompress::Sync)
            .map_err(|_| ProtocolError::NOT_DEFLATE)?;
        let (taken, made) = (decompressor.total_in() - taken, decompressor.total_out() - made);
        *input = &input[taken as usize..];
        if out.len() > max_message {
            return Err(ProtocolError::TOO_BIG);
        }
        match status {
            Status::StreamEnd => return Ok(true),
            Status::Ok | Status::BufError if out.len() == out.capacity() => {} // there may be more output
            Status::Ok | Status::BufError if input.is_empty() => return Ok(false),
            Status::Ok | Status::BufError if taken == 0 && made == 0 => {
                return Err(ProtocolError::NOT_DEFLATE);
            }
            Status::Ok | Status::BufError => {}
        }
    }
}

/// Frees excess capacity, so that a message does not hold much more than its length.
fn trimmed(mut message: Vec<u8>) -> Vec<u8> {
    if message.capacity() > 2 * message.len() {
        message.shrink_to_fit();
    }
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn inflated(compressed: &[u8]) -> Vec<u8> {
        inflate(compressed, 1 << 20).unwrap()
    }

    #[test]
    fn the_examples_from_the_rfc_are_inflated() {
        // RFC 7692, sections 7.2.3.1, 7.2.3.3 (stored), 7.2.3.4 (final block) and 7.2.3.5 (two blocks).
        assert_eq!(inflated(b"\xf2\x48\xcd\xc9\xc9\x07\x00"), b"Hello");
        assert_eq!(inflated(b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"), b"Hello");
        assert_eq!(inflated(b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00"), b"Hello");
        assert_eq!(inflated(b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"), b"Hello");
        // An empty message (section 7.2.3.6), and none at all.
        assert_eq!(inflated(b"\x00"), b"");
        assert_eq!(inflated(b""), b"");
    }

    #[test]
    fn a_payload_that_does_not_shrink_is_not_compressed() {
        assert_eq!(compress(b""), None);
        assert_eq!(compress(b"abc"), None);
        let noise: Vec<u8> = (0..1000_u32).map(|n| (n.wrapping_mul(0x9E37_79B9) >> 24) as u8).collect();
        assert!(compress(&noise).is_none_or(|shorter| inflated(&shorter) == noise));
        let same = [b'x'; 10_000];
        let shorter = compress(&same).unwrap();
        assert!(shorter.len() < 100);
        assert_eq!(inflated(&shorter), same);
    }

    #[test]
    fn a_compression_bomb_is_stopped_at_the_limit() {
        let bomb = compress(&vec![0; 100 << 20]).unwrap();
        assert!(bomb.len() < 1 << 20);
        assert_eq!(inflate(&bomb, 1000), Err(ProtocolError::TOO_BIG));
        assert_eq!(inflate(&bomb, (100 << 20) - 1), Err(ProtocolError::TOO_BIG));
        assert_eq!(inflate(&bomb, 100 << 20).unwrap().len(), 100 << 20);
        assert_eq!(inflate(&compress(&[7; 500]).unwrap(), 0), Err(ProtocolError::TOO_BIG));
        assert_eq!(inflate(b"\x00", 0), Ok(Vec::new()));
        assert_eq!(inflate(&compress(&[7; 500]).unwrap(), usize::MAX), Ok(vec![7; 500]));
    }

    #[test]
    fn a_short_message_holds_little_memory_however_long_its_compressed_form() {
        let stored = b"\x00\x00\x00\xff\xff".repeat(10_000);
        let message = inflated(&[&stored[..], b"\x4a\x04\x00"].concat());
        assert_eq!(message, b"a");
        assert!(message.capacity() <= 2);
    }

    #[test]
    fn invalid_and_truncated_data_is_rejected() {
        assert_eq!(inflate(b"\x07", 1000), Err(ProtocolError::NOT_DEFLATE), "a block of the reserved type");
        assert_eq!(inflate(b"\x00\x05\x00\x00\x00Hello", 1000), Err(ProtocolError::NOT_DEFLATE));
        let letters: Vec<u8> = (0..1000).map(|n| b'a' + (n % 7) as u8).collect();
        for message in [&b"Hello, hello"[..], &letters] {
            let whole = compress_always(message);
            assert_eq!(inflated(&whole), message);
            for cut in 1..whole.len() {
                let cut = &whole[..cut];
                assert_eq!(inflate(cut, 1000), Err(ProtocolError::NOT_DEFLATE), "{cut:x?}");
            }
        }
        // Nine stored bytes are announced, and the four that end a flush must not be counted among them.
        assert_eq!(inflate(b"\x00\x09\x00\xf6\xffHello", 1000), Err(ProtocolError::NOT_DEFLATE));
        // The next message is not affected.
        assert_eq!(inflated(b"\xf2\x48\xcd\xc9\xc9\x07\x00"), b"Hello");
    }

    /// Compresses a payload even if the result is not shorter.
    fn compress_always(payload: &[u8]) -> Vec<u8> {
        let (mut compressor, mut out) = (
            Compress::new(flate2::Compression::new(LEVEL), false),
            Vec::with_capacity(2 * payload.len() + 64),
        );
        compressor.compress_vec(payload, &mut out, FlushCompress::Sync).unwrap();
        out.strip_suffix(&TAIL).unwrap().to_vec()
    }

    #[test]
    fn up_to_the_limit_of_final_blocks_is_accepted() {
        let hello = b"\xf3\x48\xcd\xc9\xc9\x07\x00";
        assert_eq!(inflated(hello), b"Hello", "with nothing after it");
        assert_eq!(inflated(&hello.repeat(3)), b"HelloHelloHello");
        assert_eq!(inflated(&[&hello.repeat(3)[..], b"\x00"].concat()), b"HelloHelloHello");
        assert_eq!(inflated(&hello.repeat(FINAL_BLOCKS)).len(), 5 * FINAL_BLOCKS);
        let more = hello.repeat(FINAL_BLOCKS + 1);
        assert_eq!(inflate(&more, 1000), Err(ProtocolError::NOT_DEFLATE));
    }

    #[test]
    fn a_payload_is_compressed_once_for_all_receivers() {
        take_compressed();
        let payload = [b'x'; 500];
        let deflated = Deflated::default();
        let all: Vec<_> = (0..1000).map(|_| deflated.of(&payload).unwrap()).collect();
        assert_eq!(take_compressed(), 1);
        assert!(all.iter().all(|one| one.as_ptr() == all[0].as_ptr()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_compressed_payload_inflates_to_itself(payload in prop::collection::vec(0_u8..4, 0..5000)) {
            if let Some(compressed) = compress(&payload) {
                prop_assert!(compressed.len() < payload.len());
                prop_assert_eq!(inflate(&compressed, payload.len()), Ok(payload.clone()));
                prop_assert_eq!(inflate(&compressed, payload.len() - 1), Err(ProtocolError::TOO_BIG));
            }
        }

        #[test]
        fn any_input_is_inflated_or_rejected(compressed: Vec<u8>, max in 0_usize..2000) {
            match inflate(&compressed, max) {
                Ok(out) => prop_assert!(out.len() <= max && out.capacity() <= 2 * out.len()),
                Err(error) => prop_assert!(matches!(error.code, 1007 | 1009)),
            }
        }
    }
}
