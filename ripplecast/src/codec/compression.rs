//! The setting for compression.

use crate::limits::COMPRESS_ABOVE;

/// Whether messages are compressed (permessage-deflate, RFC 7692); for [`Endpoint::compression`](crate::ws::Endpoint::compression).
///
/// Unless it is [`Off`](Self::Off), compression is negotiated with clients that offer it, which browsers do.
/// Messages are compressed independently ("no context takeover"): a message to a room is compressed once for
/// all members, and connections hold no state. A message that would not become shorter is sent uncompressed.
/// Compressed messages from clients are accepted at any length;
/// [`max_message`](crate::ws::Endpoint::max_message) applies before and after inflating.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Not negotiated. This is the default because compression costs CPU time and because the compressed
    /// length reveals information: a message must not combine a secret with text that someone else can choose
    /// (CRIME, BREACH).
    #[default]
    Off,
    /// Compresses messages longer than 256 bytes. Shorter ones fit in one packet either way.
    On,
    /// Compresses messages longer than this many bytes.
    Above(usize),
}

impl Compression {
    /// Returns the length in bytes above which messages are compressed; `None` if off.
    pub(crate) fn threshold(self) -> Option<usize> {
        match self {
            Self::Off => None,
            Self::On => Some(COMPRESS_ABOVE),
            Self::Above(bytes) => Some(bytes),
        }
    }
}
