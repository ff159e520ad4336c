//! A WebSocket codec for servers (RFC 6455), without any I/O.
//!
//! [`Decoder`] turns the bytes that a client sent into [`Event`]s; the `encode_…` functions turn a server's answers into
//! bytes. Neither knows a socket: read into any buffer, hand it over, write the bytes wherever they belong.
//!
//! - **Idle costs nothing.** Between messages a decoder is one null pointer. One buffer serves any number of connections,
//!   because what is unfinished at the end of a read moves into the decoder, and nothing else does.
//! - **No copy for the common frame.** A message that lies whole in the buffer is unmasked there and borrowed.
//! - **Bounded.** A message's memory grows with the bytes that arrived, never with the length that a header claims, and a
//!   header that claims too much is refused before its payload.
//! - **Strict.** Every frame that RFC 6455 forbids ends with a [`ProtocolError`] whose code is the one to close with. Text
//!   is checked as it streams in, also within a frame of which more must arrive.
//!
//! # Example
//! ```
//! use ripplecast::codec::{Decoder, Event, Opcode, encode_close, encode_frame};
//!
//! /// Answers what a client sent, as an echo server would. False: the connection is over, write `out` and hang up.
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
//!             // Comes only where permessage-deflate was negotiated, and from `decode_deflate`.
//!             Some(Event::Compressed { .. }) => {}
//!             Some(Event::Pong(_)) | None => {}
//!             Some(Event::Close { code, .. }) => {
//!                 encode_close(out, code, "");
//!                 return false;
//!             }
//!         }
//!     }
//!     true
//! }
//!
//! // "Hello", masked: the example of RFC 6455, section 5.7. It arrives in two pieces.
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
//! After an [`Event::Close`] or an error nothing further that the client sent has a meaning: answer with [`encode_close`],
//! and don't call [`Decoder::decode`] again. An unfinished message goes with the decoder.

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

/// What [`Decoder::decode`] took from the input, in bytes, and the event that this completed.
pub type Decoded<'a> = (usize, Option<Event<'a>>);

/// Decodes what one client sends. Eight bytes, as long as no frame or message is half done.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The frame or message that is half done. `None` between messages, which is where a connection spends its life.
    partial: Option<Box<Partial>>,
}

impl Decoder {
    /// A decoder for a new connection.
    pub const fn new() -> Self {
        Self { partial: None }
    }

    /// Decodes up to one event from `input`, whose first byte follows the last one that an earlier call took.
    ///
    /// Returns how many bytes of `input` were taken, and the event if they complete one. Without an event all of `input`
    /// was taken. So call it until the buffer is used up, and stop after any event to go on later with the rest, which is
    /// left as it was. Payloads are unmasked in place, and a message that is whole in `input` is borrowed from it.
    ///
    /// A message longer than `max_message` bytes is refused; control frames are not counted.
    ///
    /// # Errors
    /// A [`ProtocolError`] when the client broke the protocol. The events before it were already returned. The decoder
    /// drops what it held; close the connection with the error's code.
    #[inline]
    pub fn decode<'a>(
        &mut self,
        input: &'a mut [u8],
        max_message: usize,
    ) -> Result<Decoded<'a>, ProtocolError> {
        self.decode_as(input, max_message, false)
    }

    /// As [`decode`](Self::decode), for a connection that has negotiated permessage-deflate (RFC 7692): a message may be an
    /// [`Event::Compressed`], whose length as it came is at most `max_message`. It is to be inflated by the caller, within a
    /// limit, and a text is to be checked.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
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

    /// Decodes what is not one whole frame at the start of the input: the boxed state comes into being, and goes.
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

    /// Whether no frame or message is half done, and so no memory is held.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// Bytes on the heap that this decoder holds for a frame or message that is half done.
    pub fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| size_of::<Partial>() + partial.held_bytes())
    }
}
