//! A room's frames, encoded once for each transport and joined, so that each member costs one write.

use base64::Engine as _;
use bytes::Bytes;

use crate::{
    Frame,
    ws::codec::{self, Opcode},
};

use super::command::Cursor;

/// How a transport writes a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    /// RFC 6455.
    WebSocket = 0,
    /// The event stream format of the HTML standard, section 9.2.
    Sse = 1,
}

impl Dialect {
    /// Appends `frame` to `out`.
    pub(crate) fn encode(self, frame: &Frame, cursor: Option<Cursor>, out: &mut Vec<u8>) {
        match self {
            Self::WebSocket => {
                let opcode = if frame.is_text() { Opcode::Text } else { Opcode::Binary };
                codec::encode_frame(out, opcode, frame.as_bytes());
            }
            Self::Sse => encode_event(frame, cursor, out),
        }
    }
}

/// Appends an event. Each line of a text becomes a `data:` line; bytes become base64 under the event name `binary`.
fn encode_event(frame: &Frame, cursor: Option<Cursor>, out: &mut Vec<u8>) {
    if let Some(Cursor { epoch, offset }) = cursor {
        out.extend_from_slice(format!("id: {epoch:x}:{offset}\n").as_bytes());
    }
    match frame.as_text() {
        Some(text) => {
            // A lone carriage return ends a line of the format too.
            for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
                out.extend_from_slice(b"data: ");
                out.extend_from_slice(line.as_bytes());
                out.push(b'\n');
            }
        }
        None => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(frame.as_bytes());
            out.extend_from_slice(b"event: binary\ndata: ");
            out.extend_from_slice(encoded.as_bytes());
            out.push(b'\n');
        }
    }
    out.push(b'\n');
}

/// Frames that wait in a room, in one buffer for each transport that has members.
#[derive(Default)]
pub(crate) struct Batch {
    /// While the batch grows.
    open: [Vec<u8>; 2],
    /// Once it is being delivered: shared by all outboxes that it has to wait in.
    sealed: [Bytes; 2],
    /// Where each frame ends in the buffers, with its stamp.
    marks: Vec<Mark>,
}

/// The end of a frame.
struct Mark {
    /// The stamp of the push.
    stamp: u64,
    /// Where the frame ends, by transport.
    ends: [usize; 2],
}

impl Batch {
    /// Appends a frame for one transport.
    pub(crate) fn encode(&mut self, dialect: Dialect, frame: &Frame, cursor: Option<Cursor>) {
        dialect.encode(frame, cursor, &mut self.open[dialect as usize]);
    }

    /// Ends a frame, in all buffers.
    pub(crate) fn mark(&mut self, stamp: u64) {
        self.marks.push(Mark { stamp, ends: [self.open[0].len(), self.open[1].len()] });
    }

    /// Makes it ready to be shared.
    pub(crate) fn seal(mut self) -> Self {
        self.sealed = self.open.map(Bytes::from);
        self.open = Default::default();
        self
    }

    /// All of it, for one transport; empty before it is sealed.
    pub(crate) fn of(&self, dialect: Dialect) -> &Bytes {
        &self.sealed[dialect as usize]
    }

    /// Number of frames.
    pub(crate) fn frames(&self) -> u32 {
        self.marks.len() as u32
    }

    /// The stamp of its first frame.
    pub(crate) fn first(&self) -> Option<u64> {
        self.marks.first().map(|mark| mark.stamp)
    }

    /// The stamp of its last frame; 0, which is none, when it is empty.
    pub(crate) fn last(&self) -> u64 {
        self.marks.last().map_or(0, |mark| mark.stamp)
    }

    /// Whether it has no frames.
    pub(crate) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Bytes that it holds, over all transports.
    pub(crate) fn bytes(&self) -> usize {
        self.open.iter().map(Vec::len).sum::<usize>() + self.sealed.iter().map(Bytes::len).sum::<usize>()
    }

    /// Appends to `parts` the frames with a stamp above `seen`, each with its stamp.
    pub(crate) fn since<'a>(&'a self, seen: u64, dialect: Dialect, parts: &mut Vec<(u64, &'a [u8])>) {
        let index = dialect as usize;
        let bytes: &[u8] =
            if self.sealed[index].is_empty() { &self.open[index] } else { &self.sealed[index] };
        let first = self.marks.partition_point(|mark| mark.stamp <= seen);
        let mut start = first.checked_sub(1).map_or(0, |before| self.marks[before].ends[index]);
        for mark in &self.marks[first..] {
            let end = mark.ends[index];
            if end > start {
                parts.push((mark.stamp, &bytes[start..end]));
            }
            start = end;
        }
    }
}
