//! A room's frames, encoded once for each transport and joined, so that each member costs one write.

use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;

use super::{
    budget::MemoryBudget,
    outbox::{FrameKey, Overflow},
    position::{Position, RoomSource, Snapshot},
};
use crate::{
    Message,
    codec::{self, Opcode},
    limits::{COMMANDS_PER_TURN, READ_BUFFER},
};

/// How a transport writes a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Encoding {
    /// RFC 6455.
    WebSocket = 0,
    /// An event stream, as in section 9.2 of the HTML standard.
    Sse = 1,
    /// RFC 6455 with permessage-deflate, RFC 7692.
    Deflate = 2,
    /// Like [`Sse`](Self::Sse), with each event in a chunk of the chunked transfer coding (RFC 9112, section 7.1). A
    /// client that reads a body without chunks in blocks would see nothing until a block is full. Where another server
    /// writes the body, it makes the chunks.
    SseChunked = 3,
}

/// The number of encodings.
pub(crate) const ENCODINGS: usize = 4;

impl Encoding {
    /// All encodings, each at its own index.
    pub(crate) const ALL: [Self; ENCODINGS] = [Self::WebSocket, Self::Sse, Self::Deflate, Self::SseChunked];

    /// Returns whether it is an event stream, which is one-way.
    pub(crate) fn is_stream(self) -> bool {
        matches!(self, Self::Sse | Self::SseChunked)
    }

    /// Appends a part of an event stream.
    pub(crate) fn encode_raw(self, part: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(part);
        if self == Self::SseChunked {
            chunk(start, out);
        }
    }

    /// Returns the last chunk, which ends a body after its last frame; empty without chunks.
    pub(crate) fn last_chunk(self) -> &'static [u8] {
        if self == Self::SseChunked { b"0\r\n\r\n" } else { b"" }
    }

    /// Appends `frame` to `out`. Where compression is negotiated, compresses it if it is longer than `compress_above`
    /// bytes or has a shared compressed form.
    pub(crate) fn encode(
        self,
        message: &Message,
        position: Option<Position>,
        compress_above: usize,
        out: &mut Vec<u8>,
    ) {
        let opcode = if message.is_text() { Opcode::Text } else { Opcode::Binary };
        match self {
            Self::WebSocket => codec::encode_frame(out, opcode, message.as_bytes()),
            Self::Deflate => match message.deflated(compress_above) {
                Some(deflated) => codec::encode_compressed(out, opcode, &deflated),
                None => codec::encode_frame(out, opcode, message.as_bytes()),
            },
            Self::Sse => encode_event(message, position, out),
            Self::SseChunked => {
                let start = out.len();
                encode_event(message, position, out);
                chunk(start, out);
            }
        }
    }
}

/// Turns the bytes of `out` from `start` on into a chunk: inserts their length in hexadecimal digits, and appends a
/// line break.
fn chunk(start: usize, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let len = out.len() - start;
    let digits = (len.max(1).ilog2() / 4 + 1) as usize;
    let size = (0..digits).rev().map(|digit| DIGITS[(len >> (4 * digit)) & 0xf]);
    out.splice(start..start, size.chain(*b"\r\n"));
    out.extend_from_slice(b"\r\n");
}

/// Appends an event, under its name. Each line of a text becomes a `data:` line; bytes become base64, under the name
/// `binary` unless they have another.
fn encode_event(message: &Message, position: Option<Position>, out: &mut Vec<u8>) {
    if let Some(Position { epoch, offset }) = position {
        out.extend_from_slice(format!("id: {epoch:x}:{offset}\n").as_bytes());
    }
    let text = message.as_text();
    if let Some(name) = message.event().or_else(|| text.is_none().then_some("binary")) {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
    }
    match text {
        Some(text) => {
            // A lone carriage return ends a line of an event stream too.
            for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
                out.extend_from_slice(b"data: ");
                out.extend_from_slice(line.as_bytes());
                out.push(b'\n');
            }
        }
        None => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(message.as_bytes());
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(encoded.as_bytes());
            out.push(b'\n');
        }
    }
    out.push(b'\n');
}

/// What an outbox needs to know about a frame.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tag {
    /// Frames with the same key replace each other.
    pub(crate) key: Option<FrameKey>,
    /// The policy when it does not fit; `None` for the endpoint's.
    pub(crate) overflow: Option<Overflow>,
    /// From this frame on, no frame of this scope replaces one queued before.
    pub(crate) barrier: Option<u64>,
}

impl Tag {
    /// Returns the tag of a frame pushed to one connection, perhaps as part of a room's state.
    pub(crate) fn of(message: &Message, of: Option<Snapshot>) -> Self {
        let source = of.map_or(RoomSource { scope: 0, overflow: None }, |of| of.source);
        let barrier = of.filter(|of| of.is_first).map(|of| of.source.scope);
        Self { barrier, ..source.tag(message.shared_key()) }
    }
}

/// Encoded frames for one connection, joined, so that they leave in one write.
#[derive(Default)]
pub(crate) struct Joined {
    /// The frames.
    pub(crate) bytes: Vec<u8>,
    /// Where each ends.
    pub(crate) ends: Vec<(usize, Tag)>,
}

impl Joined {
    /// Appends a frame.
    pub(crate) fn push(
        &mut self,
        encoding: Encoding,
        message: &Message,
        of: Option<Snapshot>,
        compress_above: usize,
    ) {
        encoding.encode(message, of.and_then(|of| of.position), compress_above, &mut self.bytes);
        self.ends.push((self.bytes.len(), Tag::of(message, of)));
    }

    /// Ends a frame that was appended to `bytes`.
    pub(crate) fn end(&mut self, tag: Tag) {
        self.ends.push((self.bytes.len(), tag));
    }

    /// Moves all frames of `other` to the end.
    pub(crate) fn append(&mut self, other: &mut Self) {
        if self.bytes.is_empty() {
            std::mem::swap(self, other);
            return;
        }
        let start = self.bytes.len();
        self.bytes.append(&mut other.bytes);
        self.ends.extend(other.ends.drain(..).map(|(end, tag)| (start + end, tag)));
    }

    /// Removes all frames. Keeps the memory unless it is large.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.bytes.shrink_to(READ_BUFFER);
        self.ends.shrink_to(COMMANDS_PER_TURN);
    }
}

/// Frames that wait in a room, in one buffer for each transport that has members.
#[derive(Default)]
pub(crate) struct RoomBatch {
    /// The buffers while the batch grows.
    open: [Vec<u8>; ENCODINGS],
    /// The buffers once the batch is being delivered, shared by all outboxes that they wait in.
    sealed: [Bytes; ENCODINGS],
    /// Where each frame ends in the buffers, with its stamp.
    marks: Vec<Mark>,
}

/// The end of a frame.
struct Mark {
    /// The stamp of the push.
    stamp: u64,
    /// Where the frame ends, by transport.
    ends: [usize; ENCODINGS],
    /// The key that it was pushed with.
    key: Option<Arc<str>>,
}

/// A frame of a batch, for one connection.
pub(crate) struct Part<'a> {
    /// The stamp of the push.
    pub(crate) stamp: u64,
    /// The encoded frame.
    pub(crate) bytes: &'a [u8],
    /// The key that it was pushed with.
    pub(crate) key: Option<&'a Arc<str>>,
    pub(crate) source: RoomSource,
}

impl Part<'_> {
    /// Returns what an outbox needs to know about it.
    pub(crate) fn tag(&self) -> Tag {
        self.source.tag(self.key)
    }
}

impl RoomSource {
    /// Returns what an outbox needs to know about a frame of this room.
    fn tag(self, key: Option<&Arc<str>>) -> Tag {
        let key = key.map(|name| FrameKey { scope: self.scope, name: name.clone() });
        Tag { key, overflow: self.overflow, barrier: None }
    }
}

impl RoomBatch {
    /// Appends a frame for one transport.
    pub(crate) fn encode(&mut self, encoding: Encoding, message: &Message, position: Option<Position>) {
        // The room has already decided whether to compress: if so, the frame has a shared compressed form.
        encoding.encode(message, position, usize::MAX, &mut self.open[encoding as usize]);
    }

    /// Ends a frame, in all buffers.
    pub(crate) fn mark(&mut self, stamp: u64, key: Option<Arc<str>>) {
        self.marks.push(Mark { stamp, ends: self.open.each_ref().map(Vec::len), key });
    }

    /// Makes the batch ready to be shared by outboxes.
    pub(crate) fn seal(mut self, budget: &Arc<MemoryBudget>) -> Self {
        self.sealed = self.open.map(|buffer| budget.share(buffer));
        self.open = Default::default();
        self
    }

    /// Returns all frames for one transport; empty before the batch is sealed.
    pub(crate) fn of(&self, encoding: Encoding) -> &Bytes {
        &self.sealed[encoding as usize]
    }

    /// Returns where each frame ends, for one transport.
    pub(crate) fn ends(&self, encoding: Encoding, source: RoomSource) -> impl Iterator<Item = (usize, Tag)> {
        self.marks.iter().map(move |mark| (mark.ends[encoding as usize], source.tag(mark.key.as_ref())))
    }

    /// Returns the stamp of its first frame.
    pub(crate) fn first(&self) -> Option<u64> {
        self.marks.first().map(|mark| mark.stamp)
    }

    /// Returns the stamp of its last frame; 0, which is never a stamp, when it is empty.
    pub(crate) fn last(&self) -> u64 {
        self.marks.last().map_or(0, |mark| mark.stamp)
    }

    /// Returns whether it has no frames.
    pub(crate) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Returns the bytes that it holds, over all transports.
    pub(crate) fn bytes(&self) -> usize {
        self.open.iter().map(Vec::len).sum::<usize>() + self.sealed.iter().map(Bytes::len).sum::<usize>()
    }

    /// Appends to `parts` the frames with a stamp above `seen`.
    pub(crate) fn since<'a>(
        &'a self,
        seen: u64,
        encoding: Encoding,
        source: RoomSource,
        parts: &mut Vec<Part<'a>>,
    ) {
        let index = encoding as usize;
        let bytes: &[u8] =
            if self.sealed[index].is_empty() { &self.open[index] } else { &self.sealed[index] };
        let first = self.marks.partition_point(|mark| mark.stamp <= seen);
        let mut start = first.checked_sub(1).map_or(0, |before| self.marks[before].ends[index]);
        for mark in &self.marks[first..] {
            let end = mark.ends[index];
            if end > start {
                let (stamp, key) = (mark.stamp, mark.key.as_ref());
                parts.push(Part { stamp, bytes: &bytes[start..end], key, source });
            }
            start = end;
        }
    }
}

#[cfg(all(test, not(ripplecast_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_says_how_long_its_event_is() {
        for len in [0, 1, 9, 10, 246, 247, 4086, 4087, 65_526, 65_527, 1 << 20] {
            let message = Message::text("x".repeat(len));
            let (mut bare, mut chunked) = (Vec::new(), b"before".to_vec());
            Encoding::Sse.encode(&message, None, usize::MAX, &mut bare);
            Encoding::SseChunked.encode(&message, None, usize::MAX, &mut chunked);
            let wanted = [format!("before{:x}\r\n", bare.len()).as_bytes(), &bare, b"\r\n"].concat();
            assert!(chunked == wanted, "{len}");
        }
    }
}
