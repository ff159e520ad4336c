//! A WebSocket codec for servers (RFC 6455), without any I/O.
//!
//! [`Decoder`] turns the bytes sent by a client into [`Event`]s. The `encode_…` functions turn a server's
//! answers into bytes. Neither knows about sockets: read into any buffer, pass it to the decoder, and write
//! the bytes wherever they belong.
//!
//! - **Idle costs nothing.** Between messages a decoder is one null pointer. One buffer serves any number of
//!   connections, because only an unfinished frame or message moves into the decoder.
//! - **No copy in the common case.** A message that is complete in the buffer is unmasked there and borrowed.
//! - **Bounded.** A message's memory grows with the bytes received, never with the length in its header. A
//!   header with a length above the limit is rejected before its payload.
//! - **Strict.** Every frame that RFC 6455 forbids ends in a [`ProtocolError`] with the code to close with.
//!   Text is validated as it arrives, even within an unfinished frame.
//!
//! # Example
//! ```
//! use ripplecast::codec::{Decoder, Event, Opcode, encode_close, encode_frame};
//!
//! /// Echoes messages. Returns false when the connection is over: write `out` and close the socket.
//! fn echo(decoder: &mut Decoder, received: &mut [u8], out: &mut Vec<u8>) -> bool {
//!     let mut at = 0;
//!     while at < received.len() {
//!         let (taken, event) = match decoder.decode(&mut received[at..], 1 << 20) {
//!             Ok(decoded) => decoded,
//!             Err(error) => {
//!                 encode_close(out, Some(error.code), error.reason);
//!                 return false;
//!             }
//!         };
//!         at += taken;
//!         match event {
//!             Some(Event::Text(text)) => encode_frame(out, Opcode::Text, &text),
//!             Some(Event::Binary(data)) => encode_frame(out, Opcode::Binary, &data),
//!             Some(Event::Ping(data)) => encode_frame(out, Opcode::Pong, &data),
//!             Some(Event::Close { code, .. }) => {
//!                 encode_close(out, code, "");
//!                 return false;
//!             }
//!             // A pong needs no answer. `Compressed` is returned only by `decode_deflate`.
//!             Some(_) | None => {}
//!         }
//!     }
//!     true
//! }
//!
//! // "Hello", masked: the example in RFC 6455, section 5.7. It arrives in two pieces.
//! let mut frame = *b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
//! let (mut decoder, mut out) = (Decoder::default(), Vec::new());
//! assert!(echo(&mut decoder, &mut frame[..8], &mut out));
//! assert!(out.is_empty() && !decoder.is_idle());
//! assert!(echo(&mut decoder, &mut frame[8..], &mut out));
//! assert_eq!(out, b"\x81\x05Hello");
//! assert!(decoder.is_idle());
//! ```
//!
//! # Closing
//! After an [`Event::Close`] or an error, ignore anything else the client sends: answer with
//! [`encode_close`], and don't call [`Decoder::decode`] again. Dropping the decoder drops an unfinished
//! message.

pub(crate) mod compression;
#[cfg(feature = "deflate")]
pub(crate) mod deflate;
#[cfg(not(feature = "deflate"))]
#[path = "codec/no_deflate.rs"]
pub(crate) mod deflate;
mod encode;
mod event;
mod header;
mod mask;
mod partial;
#[cfg(test)]
mod tests;

pub use self::{
    encode::{encode_close, encode_compressed, encode_frame, encode_header},
    event::{Event, Payload, ProtocolError},
    header::{MAX_HEADER, Opcode},
};

use self::{header::Header, partial::Partial};

/// The number of input bytes that [`Decoder::decode`] consumed, and the event they completed.
pub type Decoded<'a> = (usize, Option<Event<'a>>);

/// Decodes the bytes of one client. Takes eight bytes of memory while no frame or message is unfinished.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The unfinished frame or message. `None` between messages, which is the usual state.
    partial: Option<Box<Partial>>,
}

impl Decoder {
    /// Creates a decoder for a new connection.
    pub const fn new() -> Self {
        Self { partial: None }
    }

    /// Decodes up to one event from `input`, which continues where the previous call stopped.
    ///
    /// Returns how many bytes of `input` were consumed, and the event if they complete one. Without an event,
    /// all of `input` was consumed. Call it until the buffer is empty, or stop after any event and continue
    /// later with the rest, which is unchanged. Payloads are unmasked in place, and a message that is
    /// complete in `input` is borrowed from it.
    ///
    /// A message longer than `max_message` bytes is rejected. Control frames do not count.
    ///
    /// # Errors
    /// A [`ProtocolError`] when the client violated the protocol. The events before it have already been
    /// returned. The decoder drops its state; close the connection with the error's code.
    #[inline]
    pub fn decode<'a>(
        &mut self,
        input: &'a mut [u8],
        max_message: usize,
    ) -> Result<Decoded<'a>, ProtocolError> {
        self.decode_as(input, max_message, false)
    }

    /// Decodes like [`decode`](Self::decode), for a connection that negotiated permessage-deflate (RFC 7692).
    /// A message may be an [`Event::Compressed`], whose compressed length is at most `max_message`. The
    /// caller must inflate it, within a limit, and validate text.
    ///
    /// # Errors
    /// Same as [`decode`](Self::decode).
    #[inline]
    pub fn decode_deflate<'a>(
        &mut self,
        input: &'a mut [u8],
        max_message: usize,
    ) -> Result<Decoded<'a>, ProtocolError> {
        self.decode_as(input, max_message, true)
    }

    #[inline(always)]
    fn decode_as<'a>(
        &mut self,
        input: &'a mut [u8],
        max_message: usize,
        deflate: bool,
    ) -> Result<Decoded<'a>, ProtocolError> {
        if self.partial.is_none()
            && let Some(header) = Header::parse(input, None, max_message, deflate)?
            && header.fin
            && header.len <= input.len() - header.size
        {
            let end = header.size + header.len;
            let payload = &mut input[header.size..end];
            mask::apply(payload, header.mask);
            if header.compressed {
                let (text, payload) = (header.opcode == Opcode::Text, Payload::Borrowed(payload));
                return Ok((end, Some(Event::Compressed { text, payload })));
            }
            return Ok((end, Some(Event::whole(header.opcode, payload)?)));
        }
        self.decode_in_pieces(input, max_message, deflate)
    }

    /// Decodes input that does not start with one complete frame, using the boxed state.
    fn decode_in_pieces<'a>(
        &mut self,
        input: &'a mut [u8],
        max_message: usize,
        deflate: bool,
    ) -> Result<Decoded<'a>, ProtocolError> {
        if self.partial.is_none() && input.is_empty() {
            return Ok((0, None));
        }
        let mut partial = self.partial.take().unwrap_or_default();
        let decoded = partial.decode(input, max_message, deflate)?;
        if !partial.is_empty() {
            self.partial = Some(partial);
        }
        Ok(decoded)
    }

    /// Returns whether no frame or message is unfinished, so that no memory is held.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// Returns the heap bytes held for an unfinished frame or message.
    pub fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| size_of::<Partial>() + partial.held_bytes())
    }
}
