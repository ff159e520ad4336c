//! An unfinished header, frame or message.

use super::{
    Decoded,
    event::{Event, Payload, ProtocolError},
    header::{Header, MAX_HEADER, Opcode},
    mask,
};

/// Initial buffer of a message in pieces, so that single bytes do not each cause a reallocation.
const FIRST_CAPACITY: usize = 64;

/// The unfinished part of a decoder's input.
#[derive(Debug, Default)]
pub(super) struct Partial {
    /// The first bytes of an incomplete header.
    header: [u8; MAX_HEADER],
    header_len: usize,
    /// The frame whose payload is incomplete.
    frame: Option<PartialFrame>,
    /// The payload of an incomplete control frame. Separate from `message`, because it may arrive within one.
    control: Vec<u8>,
    /// The incomplete message, in one frame or several.
    message: Option<PartialMessage>,
}

/// A frame whose header is complete.
#[derive(Debug)]
struct PartialFrame {
    fin: bool,
    opcode: Opcode,
    compressed: bool,
    /// The mask of the remaining payload, rotated so that its first byte is next.
    mask: [u8; 4],
    /// Payload bytes still missing.
    remaining: usize,
}

/// A text or binary message that is being assembled.
#[derive(Debug)]
struct PartialMessage {
    text: bool,
    /// If so, its bytes can't be validated as text yet.
    compressed: bool,
    /// The unmasked bytes so far.
    bytes: Vec<u8>,
    /// How many of these bytes are validated text. At most three trailing bytes are not.
    checked: usize,
}

impl Partial {
    /// Returns whether nothing is unfinished.
    pub(super) fn is_empty(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }

    /// Returns the heap bytes held, excluding this struct.
    pub(super) fn held_bytes(&self) -> usize {
        self.control.capacity() + self.message.as_ref().map_or(0, |message| message.bytes.capacity())
    }

    /// Decodes `input` up to the first event. See [`Decoder::decode`](crate::codec::Decoder::decode).
    pub(super) fn decode<'a>(
        &mut self,
        input: &'a mut [u8],
        max_message: usize,
        deflate: bool,
    ) -> Result<Decoded<'a>, ProtocolError> {
        let mut at = 0;
        loop {
            let mut frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.next_frame(&input[at..], max_message, deflate)? {
                    (taken, Some(frame)) => {
                        at += taken;
                        frame
                    }
                    (_, None) => return Ok((input.len(), None)),
                },
            };

            let start = at;
            at += frame.remaining.min(input.len() - at);
            let payload = &mut input[start..at];
            mask::apply(payload, frame.mask);
            frame.mask = mask::advance(frame.mask, payload.len());
            frame.remaining -= payload.len();

            if frame.opcode.is_control() {
                if frame.remaining == 0 && self.control.is_empty() {
                    return Ok((
                        at,
                        Some(Event::control(frame.opcode, Payload::Borrowed(&input[start..at]))?),
                    ));
                }
                // At most 125 bytes, as checked in the header.
                self.control.reserve_exact(payload.len() + frame.remaining);
                self.control.extend_from_slice(payload);
                if frame.remaining == 0 {
                    let payload = Payload::Owned(std::mem::take(&mut self.control));
                    return Ok((at, Some(Event::control(frame.opcode, payload)?)));
                }
            } else if let Some(event) = self.data(&frame, payload, max_message)? {
                return Ok((at, Some(event)));
            }

            if frame.remaining > 0 {
                // All input is consumed.
                self.frame = Some(frame);
                return Ok((at, None));
            }
        }
    }

    /// Parses the next header, whose first bytes may have arrived earlier. Returns how many bytes of `input`
    /// it consumed.
    fn next_frame(
        &mut self,
        input: &[u8],
        max_message: usize,
        deflate: bool,
    ) -> Result<(usize, Option<PartialFrame>), ProtocolError> {
        let open = self.message.as_ref().map(|message| message.bytes.len());
        let (header, taken) = if self.header_len == 0 {
            let header = Header::parse(input, open, max_message, deflate)?;
            if header.is_none() {
                self.header[..input.len()].copy_from_slice(input);
                self.header_len = input.len();
            }
            (header, header.map_or(input.len(), |header| header.size))
        } else {
            let had = self.header_len;
            let room = &mut self.header[had..];
            let more = room.len().min(input.len());
            room[..more].copy_from_slice(&input[..more]);
            self.header_len += more;
            let header = Header::parse(&self.header[..self.header_len], open, max_message, deflate)?;
            if header.is_some() {
                self.header_len = 0;
            }
            (header, header.map_or(more, |header| header.size - had))
        };
        let frame = header.map(|Header { fin, opcode, compressed, mask, len, .. }| PartialFrame {
            fin,
            opcode,
            compressed,
            mask,
            remaining: len,
        });
        Ok((taken, frame))
    }

    /// Appends a piece of a data frame to its message. Returns the message if it is now complete.
    fn data<'a>(
        &mut self,
        frame: &PartialFrame,
        piece: &[u8],
        max_message: usize,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let message = self
            .message
            .get_or_insert_with(|| PartialMessage::new(frame.opcode == Opcode::Text, frame.compressed));
        // The header has been checked against the limit, and a final frame determines the message's length.
        let end = message.bytes.len() + piece.len() + frame.remaining;
        message.append(piece, if frame.fin { end } else { max_message.max(end) })?;
        if !frame.fin || frame.remaining > 0 {
            return Ok(None);
        }
        let Some(message) = self.message.take() else { return Ok(None) };
        message.finish().map(Some)
    }
}

impl PartialMessage {
    /// Creates an empty message, without allocating.
    const fn new(text: bool, compressed: bool) -> Self {
        Self { text, compressed, bytes: Vec::new(), checked: 0 }
    }

    /// Appends unmasked bytes. The message will not become longer than `longest`.
    fn append(&mut self, piece: &[u8], longest: usize) -> Result<(), ProtocolError> {
        let needed = self.bytes.len() + piece.len();
        if needed > self.bytes.capacity() {
            // Doubling uses at most twice the memory of what has arrived, up to the longest possible message.
            let capacity = (2 * self.bytes.capacity()).max(FIRST_CAPACITY).min(longest).max(needed);
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
        if !self.text || self.compressed {
            return Ok(());
        }
        match simdutf8::compat::from_utf8(&self.bytes[self.checked..]) {
            Ok(_) => self.checked = needed,
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(ProtocolError::INVALID_UTF8),
        }
        Ok(())
    }

    /// Returns the complete message.
    fn finish<'a>(self) -> Result<Event<'a>, ProtocolError> {
        if self.compressed {
            return Ok(Event::Compressed { text: self.text, payload: Payload::Owned(self.bytes) });
        }
        match self.text {
            true if self.checked < self.bytes.len() => Err(ProtocolError::INVALID_UTF8),
            true => Ok(Event::Text(Payload::Owned(self.bytes))),
            false => Ok(Event::Binary(Payload::Owned(self.bytes))),
        }
    }
}
