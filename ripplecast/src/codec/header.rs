//! Parses and validates the header of a client's frame.

use super::event::ProtocolError;

/// Maximum length of a frame header in bytes: two, a length of eight and a mask of four. A server's own
/// header has at most ten.
pub const MAX_HEADER: usize = 14;

/// Maximum payload of a control frame (RFC 6455, section 5.5).
pub(super) const MAX_CONTROL: usize = 125;

/// The bit of a frame's first byte that marks a compressed message (RFC 7692, section 6).
pub(super) const RSV1: u8 = 0x40;

/// The type of a frame (RFC 6455, section 5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[non_exhaustive]
pub enum Opcode {
    /// A later fragment of a message.
    Continuation = 0,
    /// A text message, or its first fragment.
    Text = 1,
    /// A binary message, or its first fragment.
    Binary = 2,
    /// Starts or answers the close of the connection.
    Close = 8,
    /// Asks whether the peer is alive.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

impl Opcode {
    /// Returns the opcode in the low half of a frame's first byte.
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

    /// Returns whether this is a control frame, which is short, not fragmented, and may arrive within a
    /// fragmented message.
    #[inline]
    pub fn is_control(self) -> bool {
        self as u8 >= Self::Close as u8
    }
}

/// A valid header, with a length within the limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) fin: bool,
    pub(super) opcode: Opcode,
    /// RSV1 of permessage-deflate.
    pub(super) compressed: bool,
    pub(super) mask: [u8; 4],
    /// Length of the payload in bytes.
    pub(super) len: usize,
    /// Length of the header in bytes.
    pub(super) size: usize,
}

impl Header {
    /// Parses the header at the start of `bytes`; `None` if it is incomplete.
    ///
    /// With `deflate`, a message may be compressed. `open` is the length of the fragmented message so far,
    /// `None` outside one. Each rule is checked at the first byte that can break it, so the result never
    /// depends on how the bytes were split.
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

/// Checks a frame's first byte: FIN, the reserved bits, the opcode, and whether this type of frame is allowed
/// now.
#[inline]
fn check_first(first: u8, in_message: bool, deflate: bool) -> Result<(bool, Opcode, bool), ProtocolError> {
    let compressed = first & 0x70 == RSV1 && deflate;
    if first & 0x70 != 0 && !compressed {
        return Err(ProtocolError::RESERVED_BITS);
    }
    let fin = first & 0x80 != 0;
    let opcode = Opcode::from_bits(first).ok_or(ProtocolError::UNKNOWN_OPCODE)?;
    // Only the first frame of a message marks it as compressed (RFC 7692, section 6.1).
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

/// Parses the payload's length and returns it with the bytes that follow; `None` if it is incomplete. `short`
/// is the length in the second byte.
#[inline]
fn parse_len(short: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, ProtocolError> {
    let (len, rest, least) = match short {
        126 => {
            let Some((&len, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(len)), rest, 126)
        }
        127 => {
            // The top bit arrives first and must be 0.
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
