//! What a decoder hands out: events, payloads and errors.

use std::{borrow::Cow, fmt, ops::Deref};

use bytes::Bytes;

use super::header::Opcode;

/// Something complete that a client sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// A whole text message. Its bytes are UTF-8, checked.
    Text(Payload<'a>),
    /// A whole binary message.
    Binary(Payload<'a>),
    /// A whole message, still compressed: only where [`decode_deflate`](crate::codec::Decoder::decode_deflate) was called.
    Compressed {
        /// Whether it is text, which is to be checked once it is inflated.
        text: bool,
        /// The compressed bytes, without the tail that RFC 7692 has removed.
        payload: Payload<'a>,
    },
    /// A ping. Answer with a pong of the same payload, at most 125 bytes.
    Ping(Payload<'a>),
    /// A pong, asked for or not.
    Pong(Payload<'a>),
    /// The client closes. Answer with a close frame; nothing follows.
    Close {
        /// The reason as a number, one that RFC 6455 allows to be sent; `None` when the frame was empty.
        code: Option<u16>,
        /// The reason in words, often empty.
        reason: Cow<'a, str>,
    },
}

impl<'a> Event<'a> {
    /// The event of a frame that is a message of its own, unmasked, with the checks of its content.
    #[inline]
    pub(super) fn whole(opcode: Opcode, payload: &'a [u8]) -> Result<Self, ProtocolError> {
        match opcode {
            Opcode::Text if simdutf8::basic::from_utf8(payload).is_err() => Err(ProtocolError::INVALID_UTF8),
            Opcode::Text => Ok(Self::Text(Payload::Borrowed(payload))),
            Opcode::Binary => Ok(Self::Binary(Payload::Borrowed(payload))),
            _ => Self::control(opcode, Payload::Borrowed(payload)),
        }
    }

    /// The event of a complete control frame.
    pub(super) fn control(opcode: Opcode, payload: Payload<'a>) -> Result<Self, ProtocolError> {
        match opcode {
            Opcode::Ping => Ok(Self::Ping(payload)),
            Opcode::Pong => Ok(Self::Pong(payload)),
            Opcode::Close => Self::close(payload),
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {
                unreachable!("{opcode:?} is no control frame")
            }
        }
    }

    /// Reads the payload of a close frame (RFC 6455, sections 5.5.1 and 7.4).
    fn close(payload: Payload<'a>) -> Result<Self, ProtocolError> {
        let code = match *payload {
            [] => return Ok(Self::Close { code: None, reason: Cow::Borrowed("") }),
            [_] => return Err(ProtocolError::HALF_CODE),
            [high, low, ..] => u16::from_be_bytes([high, low]),
        };
        // 1004 to 1006 and 1015 are never sent; 1012 to 1014 were registered after the RFC.
        if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
            return Err(ProtocolError::BAD_CODE);
        }
        let reason = match payload {
            Payload::Borrowed(bytes) => std::str::from_utf8(&bytes[2..]).map(Cow::Borrowed).ok(),
            Payload::Owned(mut bytes) => String::from_utf8(bytes.split_off(2)).map(Cow::Owned).ok(),
        };
        let reason = reason.ok_or(ProtocolError::INVALID_REASON)?;
        Ok(Self::Close { code: Some(code), reason })
    }
}

/// The bytes of a message or a control frame.
#[derive(Clone)]
pub enum Payload<'a> {
    /// The frame was whole in the input: these are its bytes there, unmasked.
    Borrowed(&'a [u8]),
    /// The bytes came in pieces, and were put together.
    Owned(Vec<u8>),
}

impl Payload<'_> {
    /// The bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }

    /// The bytes, to keep. Copies them if they are borrowed.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Self::Owned(bytes) => Bytes::from(bytes),
        }
    }
}

impl Deref for Payload<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for Payload<'_> {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

/// Payloads are equal when their bytes are, however they came.
impl PartialEq for Payload<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Payload<'_> {}

impl fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 64;
        match self.as_slice() {
            bytes if bytes.len() <= SHOWN => write!(f, "Payload(\"{}\")", bytes.escape_ascii()),
            bytes => write!(f, "Payload({} bytes)", bytes.len()),
        }
    }
}

/// The client broke the protocol. Close the connection with this code and reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProtocolError {
    /// 1002: a frame that RFC 6455 forbids; 1007: text that is not UTF-8, or data that can't be inflated; 1009: a message longer than allowed.
    pub code: u16,
    /// What was wrong, short enough for a close frame.
    pub reason: &'static str,
}

impl ProtocolError {
    pub(super) const RESERVED_BITS: Self = Self::protocol("a reserved bit is set");
    pub(super) const UNKNOWN_OPCODE: Self = Self::protocol("unknown opcode");
    pub(super) const UNMASKED: Self = Self::protocol("a client's frames must be masked");
    pub(super) const LONG_CONTROL: Self = Self::protocol("a control frame is longer than 125 bytes");
    pub(super) const FRAGMENTED_CONTROL: Self = Self::protocol("a control frame is fragmented");
    pub(super) const STRAY_CONTINUATION: Self = Self::protocol("a continuation without a message");
    pub(super) const UNFINISHED_MESSAGE: Self = Self::protocol("a new message inside an unfinished one");
    pub(super) const PADDED_LENGTH: Self = Self::protocol("a length is longer than it need be");
    pub(super) const NEGATIVE_LENGTH: Self = Self::protocol("a length has its top bit set");
    pub(super) const HALF_CODE: Self = Self::protocol("half a close code");
    pub(super) const BAD_CODE: Self = Self::protocol("a close code that must not be sent");
    pub(crate) const INVALID_UTF8: Self = Self { code: 1007, reason: "text is not UTF-8" };
    pub(super) const INVALID_REASON: Self = Self { code: 1007, reason: "a close reason is not UTF-8" };
    pub(crate) const NOT_DEFLATE: Self = Self { code: 1007, reason: "the message can't be inflated" };
    pub(crate) const TOO_BIG: Self = Self { code: 1009, reason: "the message is too long" };

    /// A frame that the RFC forbids.
    const fn protocol(reason: &'static str) -> Self {
        Self { code: 1002, reason }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.code)
    }
}

impl std::error::Error for ProtocolError {}
