//! The header of a client's frame: what it says, and whether it may say so.

use super::event::ProtocolError;

/// Longest header of a frame in bytes: two, a length of eight and a mask of four. A server's own is at most ten.
pub const MAX_HEADER: usize = 14;

/// Longest payload of a control frame (RFC 6455, section 5.5).
pub(super) const MAX_CONTROL: usize = 125;

/// The bit of a frame's first byte that says that the message is compressed (RFC 7692, section 6).
pub(super) const RSV1: u8 = 0x40;

/// What a frame is (RFC 6455, section 5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Opcode {
    /// A further part of a fragmented message.
    Continuation = 0,
    /// A text message, or its first part.
    Text = 1,
    /// A binary message, or its first part.
    Binary = 2,
    /// The end of the connection, from one side.
    Close = 8,
    /// A question whether the other side is there.
    Ping = 9,
    /// The answer to a ping.
    Pong = 10,
}

impl Opcode {
    /// The opcode in the low half of a frame's first byte.
    #[inline]
    fn from_bits(first: u8) -> Option<Self> {
        Some(match first & 0x0F {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    /// Whether frames of this kind may come in the middle of a message, and are short and whole.
    #[inline]
    pub fn is_control(self) -> bool {
        self as u8 >= Self::Close as u8
    }
}

/// A header that obeys the rules, with its length within the limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// Whether the frame ends its message.
    pub(super) fin: bool,
    /// What the frame is.
    pub(super) opcode: Opcode,
    /// Whether its message is compressed: RSV1 of permessage-deflate.
    pub(super) compressed: bool,
    /// What the payload is masked with.
    pub(super) mask: [u8; 4],
    /// Length of the payload.
    pub(super) len: usize,
    /// Length of the header itself.
    pub(super) size: usize,
}

impl Header {
    /// Reads the header at the start of `bytes`; `None` when more of it must arrive.
    ///
    /// With `deflate`, a message may be compressed. `open` is the length that a fragmented message has so far, `None` outside one. Each rule is checked with the first
    /// byte that can break it, so the verdict depends on the bytes alone, never on the pieces in which they came.
    #[inline]
    pub(super) fn parse(
        bytes: &[u8],
        open: Option<usize>,
        max_message: usize,
        deflate: bool,
    ) -> Result<Option<Self>, ProtocolError> {
        let &[first, ref rest @ ..] = bytes else { return Ok(None) };
        let (fin, opcode, compressed) = check_first(first, open.is_some(), deflate)?;
        let &[second, ref rest @ ..] = rest else { return Ok(None) };
        if second & 0x80 == 0 {
            return Err(ProtocolError::UNMASKED);
        }
        let short = second & 0x7F;
        if opcode.is_control() && usize::from(short) > MAX_CONTROL {
            return Err(ProtocolError::LONG_CONTROL);
        }

        let Some((len, rest)) = parse_len(short, rest)? else { return Ok(None) };
        let room = max_message.saturating_sub(open.unwrap_or(0));
        let len = match usize::try_from(len) {
            Ok(len) if len <= room || opcode.is_control() => len,
            _ => return Err(ProtocolError::TOO_BIG),
        };
        let Some((&mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
        Ok(Some(Self { fin, opcode, compressed, mask, len, size: bytes.len() - rest.len() }))
    }
}

/// Checks a frame's first byte: FIN, the reserved bits, the opcode, and whether its kind of frame may come now.
#[inline]
fn check_first(first: u8, in_message: bool, deflate: bool) -> Result<(bool, Opcode, bool), ProtocolError> {
    let compressed = first & 0x70 == RSV1 && deflate;
    if first & 0x70 != 0 && !compressed {
        return Err(ProtocolError::RESERVED_BITS);
    }
    let fin = first & 0x80 != 0;
    let opcode = Opcode::from_bits(first).ok_or(ProtocolError::UNKNOWN_OPCODE)?;
    // Only the first frame of a message says that it is compressed (RFC 7692, section 6.1).
    if compressed && !matches!(opcode, Opcode::Text | Opcode::Binary) {
        return Err(ProtocolError::RESERVED_BITS);
    }
    match opcode {
        Opcode::Close | Opcode::Ping | Opcode::Pong if !fin => Err(ProtocolError::FRAGMENTED_CONTROL),
        Opcode::Continuation if !in_message => Err(ProtocolError::STRAY_CONTINUATION),
        Opcode::Text | Opcode::Binary if in_message => Err(ProtocolError::UNFINISHED_MESSAGE),
        _ => Ok((fin, opcode, compressed)),
    }
}

/// The payload's length, and what follows it; `None` when more of it must arrive. `short` is the second byte's low part.
#[inline]
fn parse_len(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, ProtocolError> {
    let (len, rest, least) = match short {
        126 => {
            let Some((&len, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(len)), rest, 126)
        }
        127 => {
            // The top bit is the very first to arrive, and must be 0.
            if rest.first().is_some_and(|top| top & 0x80 != 0) {
                return Err(ProtocolError::NEGATIVE_LENGTH);
            }
            let Some((&len, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (u64::from_be_bytes(len), rest, 1 << 16)
        }
        _ => (u64::from(short), rest, 0),
    };
    if len < least { Err(ProtocolError::PADDED_LENGTH) } else { Ok(Some((len, rest))) }
}
