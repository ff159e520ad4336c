//! What is half done: a header, a frame or a message of which more must arrive.

use super::{
    Decoded,
    event::{Event, Payload, ProtocolError},
    header::{Header, MAX_HEADER, Opcode},
    mask,
};

/// The smallest buffer for a message in pieces, so that one that drips in is not moved at each byte.
const FIRST_CAPACITY: usize = 64;

/// A decoder's memory of what has arrived in part.
#[derive(Debug, Default)]
pub(super) struct Partial {
    /// The first bytes of a header that isn't whole.
    header: [u8; MAX_HEADER],
    /// How many of them there are.
    header_len: usize,
    /// The frame whose payload isn't whole.
    frame: Option<Frame>,
    /// The payload of a control frame that isn't whole. It may come in the middle of a message, so it has a place of its own.
    control: Vec<u8>,
    /// The message that isn't whole, in one frame or in several.
    message: Option<Message>,
}

/// A frame whose header has been read.
#[derive(Debug)]
struct Frame {
    /// Whether the frame ends its message.
    fin: bool,
    /// What the frame is.
    opcode: Opcode,
    /// Whether its message is compressed.
    compressed: bool,
    /// What the rest of the payload is masked with, turned so that its first byte is the next to use.
    mask: [u8; 4],
    /// How much of the payload has still to arrive.
    remaining: usize,
}

/// A text or binary message that is being put together.
#[derive(Debug)]
struct Message {
    /// Whether it is text.
    text: bool,
    /// Whether it is compressed, so that its bytes are no text yet.
    compressed: bool,
    /// What has arrived of it, unmasked.
    bytes: Vec<u8>,
    /// How many of these bytes are whole characters of text. At most three are not.
    checked: usize,
}

impl Partial {
    /// Whether nothing is half done.
    pub(super) fn is_empty(&self) -> bool {
        self.header_len == 0 && self.frame.is_none() && self.message.is_none()
    }

    /// Bytes on the heap, besides this struct's own.
    pub(super) fn held_bytes(&self) -> usize {
        self.control.capacity() + self.message.as_ref().map_or(0, |message| message.bytes.capacity())
    }

    /// Goes through `input` up to the first event. See [`Decoder::decode`](crate::codec::Decoder::decode).
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
                // At most 125 bytes, which the header's check saw to.
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
                // The input is used up.
                self.frame = Some(frame);
                return Ok((at, None));
            }
        }
    }

    /// Reads the next header, of which the first bytes may have come earlier. Returns how much of `input` it took.
    fn next_frame(
        &mut self,
        input: &[u8],
        max_message: usize,
        deflate: bool,
    ) -> Result<(usize, Option<Frame>), ProtocolError> {
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
        let frame = header.map(|Header { fin, opcode, compressed, mask, len, .. }| Frame {
            fin,
            opcode,
            compressed,
            mask,
            remaining: len,
        });
        Ok((taken, frame))
    }

    /// Adds a piece of a data frame to its message. Returns the message if that is whole now.
    fn data<'a>(
        &mut self,
        frame: &Frame,
        piece: &[u8],
        max_message: usize,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let message =
            self.message.get_or_insert_with(|| Message::new(frame.opcode == Opcode::Text, frame.compressed));
        // The header was checked against the limit: a final frame says how long the message is going to be.
        let end = message.bytes.len() + piece.len() + frame.remaining;
        message.append(piece, if frame.fin { end } else { max_message.max(end) })?;
        if !frame.fin || frame.remaining > 0 {
            return Ok(None);
        }
        let Some(message) = self.message.take() else { return Ok(None) };
        message.finish().map(Some)
    }
}

impl Message {
    /// A message of which nothing has arrived. Holds no memory of its own yet.
    const fn new(text: bool, compressed: bool) -> Self {
        Self { text, compressed, bytes: Vec::new(), checked: 0 }
    }

    /// Adds unmasked bytes. The message will never be longer than `longest`.
    fn append(&mut self, piece: &[u8], longest: usize) -> Result<(), ProtocolError> {
        let needed = self.bytes.len() + piece.len();
        if needed > self.bytes.capacity() {
            // Doubles, so memory is at most twice what has arrived, and stops at the longest that it can become.
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

    /// The whole message.
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
