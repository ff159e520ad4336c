//! The output of a decoder: events, payloads and errors.

use std::{borrow::Cow, fmt, ops::Deref};

use bytes::Bytes;

use super::header::Opcode;

/// A complete message or control frame from a client.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A complete text message. Its bytes are valid UTF-8.
    Text(Payload<'a>),
    /// A complete binary message.
    Binary(Payload<'a>),
    /// A complete message that is still compressed. Returned only by
    /// [`decode_deflate`](crate::codec::Decoder::decode_deflate).
    Compressed {
        /// Whether it is text, which must be validated once it is inflated.
        text: bool,
        /// The compressed bytes, without the tail that RFC 7692 removes.
        payload: Payload<'a>,
    },
    /// A ping. Answer with a pong with the same payload of at most 125 bytes.
    Ping(Payload<'a>),
    /// A pong, solicited or not.
    Pong(Payload<'a>),
    /// The client closes the connection. Answer with a close frame; nothing follows.
    Close {
        /// The close code, which RFC 6455 allows to be sent; `None` if the frame was empty.
        code: Option<u16>,
        /// The reason as text, often empty.
        reason: Cow<'a, str>,
    },
}

impl<'a> Event<'a> {
    /// Creates the event of an unmasked, unfragmented frame and validates its content.
    #[inline]
    pub(super) fn whole(opcode: Opcode, payload: &'a [u8]) -> Result<Self, ProtocolError> {
        match opcode {
            Opcode::Text if simdutf8::basic::from_utf8(payload).is_err() => Err(ProtocolError::INVALID_UTF8),
            Opcode::Text => Ok(Self::Text(Payload::Borrowed(payload))),
            Opcode::Binary => Ok(Self::Binary(Payload::Borrowed(payload))),
            _ => Self::control(opcode, Payload::Borrowed(payload)),
        }
    }

    /// Creates the event of a complete control frame.
    pub(super) fn control(opcode: Opcode, payload: Payload<'a>) -> Result<Self, ProtocolError> {
        match opcode {
            Opcode::Ping => Ok(Self::Ping(payload)),
            Opcode::Pong => Ok(Self::Pong(payload)),
            Opcode::Close => Self::close(payload),
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {
                unreachable!("{opcode:?} is not a control frame")
            }
        }
    }

    /// Parses the payload of a close frame (RFC 6455, sections 5.5.1 and 7.4).
    fn close(payload: Payload<'a>) -> Result<Self, ProtocolError> {
        let code = match *payload {
            [] => return Ok(Self::Close { code: None, reason: Cow::Borrowed("") }),
            [_] => return Err(ProtocolError::HALF_CODE),
            [high, low, ..] => u16::from_be_bytes([high, low]),
        };
        // 1004 to 1006 and 1015 must never be sent; 1012 to 1014 were registered after the RFC.
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
#[non_exhaustive]
pub enum Payload<'a> {
    /// The bytes in the input, unmasked: the frame was complete there.
    Borrowed(&'a [u8]),
    /// The bytes, assembled from pieces.
    Owned(Vec<u8>),
}

impl Payload<'_> {
    /// Returns the bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }

    /// Converts into owned bytes, copying them if they are borrowed.
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

/// Payloads are equal if their bytes are, borrowed or owned.
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

/// A protocol violation by the client. Close the connection with this code and reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ProtocolError {
    /// 1002 for a frame that RFC 6455 forbids, 1007 for text that is not UTF-8 or data that can't be
    /// inflated, 1009 for a message above the limit.
    pub code: u16,
    /// The problem, in a text short enough for a close frame.
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
    pub(super) const PADDED_LENGTH: Self = Self::protocol("a length is not minimally encoded");
    pub(super) const NEGATIVE_LENGTH: Self = Self::protocol("a length has its top bit set");
    pub(super) const HALF_CODE: Self = Self::protocol("an incomplete close code");
    pub(super) const BAD_CODE: Self = Self::protocol("a close code that must not be sent");
    pub(crate) const INVALID_UTF8: Self = Self { code: 1007, reason: "text is not UTF-8" };
    pub(super) const INVALID_REASON: Self = Self { code: 1007, reason: "a close reason is not UTF-8" };
    pub(crate) const NOT_DEFLATE: Self = Self { code: 1007, reason: "the message can't be inflated" };
    pub(crate) const TOO_BIG: Self = Self { code: 1009, reason: "the message is too long" };

    /// Creates the error for a frame that the RFC forbids.
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
