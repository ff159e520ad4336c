//! Taps observe the frames of one connection. (Named after the wire tap of Hohpe and Woolf, Enterprise Integration
//! Patterns, 2003.)

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::batch::Encoding;
use crate::{
    codec::{Event, deflate::inflate},
    limits::{TAP_FRAMES, TAP_HEAD, TAP_INFLATE},
};

/// The direction of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// The peer sent it.
    In,
    /// It was sent to the peer.
    Out,
}

/// The kind of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum FrameKind {
    /// A text message.
    Text,
    /// A binary message.
    Binary,
    /// A ping; a pong answers it.
    Ping,
    /// A pong.
    Pong,
    /// A close frame. Its head is the reason, and [`TappedFrame::code`] the code.
    Close,
    /// An event of an event stream, or a comment that keeps it alive. Its head is as it was written: `id:` and
    /// `data:` lines.
    Event,
}

/// A frame observed by a [`Tap`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct TappedFrame {
    /// Whether it was sent or received.
    pub direction: Direction,
    /// What kind of frame it was.
    pub kind: FrameKind,
    /// The length of its payload in bytes, as transmitted: compressed, if it was compressed.
    pub len: usize,
    /// The first bytes of its payload, inflated: at most 256. Text may be cut in the middle of a character.
    pub head: Bytes,
    /// Whether it was compressed.
    pub compressed: bool,
    /// The code of a close frame, if it had one.
    pub code: Option<u16>,
    /// The bytes that already waited for the peer when it was sent; 0 for received frames.
    pub waiting: usize,
}

impl TappedFrame {
    /// The longest [`head`](Self::head), in bytes.
    pub const HEAD: usize = TAP_HEAD;
}

/// Observes the frames of one connection until dropped. Created by [`Connection::tap`](crate::Connection::tap).
///
/// **Under overload:** at most 256 frames wait to be read. Any others are dropped and [counted](Self::missed). The
/// connection itself is not affected.
#[derive(Debug)]
pub struct Tap {
    frames: mpsc::Receiver<TappedFrame>,
    missed: Arc<AtomicU64>,
}

impl Tap {
    /// Creates a tap and the shard's end of it.
    pub(crate) fn new() -> (Self, TapSender) {
        let (sender, frames) = mpsc::channel(TAP_FRAMES);
        let missed = Arc::new(AtomicU64::new(0));
        (Self { frames, missed: missed.clone() }, TapSender { sender, missed })
    }

    /// Returns the next frame; `None` once the connection has closed, or once newer taps have ended this one (see
    /// [`Connection::tap`](crate::Connection::tap)). Cancel safe: no frame is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<TappedFrame> {
        self.frames.recv().await
    }

    /// Returns the number of frames dropped so far because too many waited.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

/// The shard's end of a tap, which reports frames to it.
pub(crate) struct TapSender {
    sender: mpsc::Sender<TappedFrame>,
    missed: Arc<AtomicU64>,
}

impl TapSender {
    /// Returns whether the tap has been dropped.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Reports whole frames that are sent to the peer, as written.
    pub(crate) fn sent(&self, encoding: Encoding, bytes: &[u8], waiting: usize) {
        if encoding.is_stream() {
            let report = |event: &[u8]| {
                self.report(Direction::Out, FrameKind::Event, event, Form { waiting, ..Form::default() });
            };
            match encoding {
                Encoding::SseChunked => chunks(bytes).for_each(|chunk| events(chunk).for_each(report)),
                _ => events(bytes).for_each(report),
            }
            return;
        }
        for WrittenFrame { first, payload } in frames(bytes) {
            let compressed = first & 0x40 != 0;
            let form = Form { waiting, compressed, ..Form::default() };
            match first & 0x0f {
                0x1 => self.report(Direction::Out, FrameKind::Text, payload, form),
                0x2 => self.report(Direction::Out, FrameKind::Binary, payload, form),
                0x9 => self.report(Direction::Out, FrameKind::Ping, payload, form),
                0xa => self.report(Direction::Out, FrameKind::Pong, payload, form),
                _ => {
                    let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    let reason = payload.get(2..).unwrap_or_default();
                    self.report(Direction::Out, FrameKind::Close, reason, Form { code, ..form });
                }
            }
        }
    }

    /// Reports a frame received from the peer. A compressed message is reported as received.
    pub(crate) fn received(&self, event: &Event<'_>) {
        let form = Form::default();
        match event {
            Event::Text(payload) => self.report(Direction::In, FrameKind::Text, payload, form),
            Event::Binary(payload) => self.report(Direction::In, FrameKind::Binary, payload, form),
            Event::Compressed { text, payload } => {
                let kind = if *text { FrameKind::Text } else { FrameKind::Binary };
                self.report(Direction::In, kind, payload, Form { compressed: true, ..form });
            }
            Event::Ping(payload) => self.report(Direction::In, FrameKind::Ping, payload, form),
            Event::Pong(payload) => self.report(Direction::In, FrameKind::Pong, payload, form),
            Event::Close { code, reason } => {
                let form = Form { code: *code, ..form };
                self.report(Direction::In, FrameKind::Close, reason.as_bytes(), form);
            }
        }
    }

    fn report(&self, direction: Direction, kind: FrameKind, payload: &[u8], form: Form) {
        let Ok(place) = self.sender.try_reserve() else {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let Form { compressed, code, waiting } = form;
        let head = if compressed { head_of_compressed(payload) } else { head(payload) };
        place.send(TappedFrame { direction, kind, len: payload.len(), head, compressed, code, waiting });
    }
}

/// Further properties of a frame.
#[derive(Clone, Copy, Default)]
struct Form {
    compressed: bool,
    code: Option<u16>,
    waiting: usize,
}

/// Returns the first bytes of a payload.
fn head(payload: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&payload[..payload.len().min(TAP_HEAD)])
}

/// Returns the first bytes of a compressed payload, inflated; empty if that would cost too much or fails.
fn head_of_compressed(payload: &[u8]) -> Bytes {
    inflate(payload, TAP_INFLATE).map_or_else(|_| Bytes::new(), |inflated| head(&inflated))
}

/// A frame as a server writes it (RFC 6455, section 5.2): whole and unmasked.
struct WrittenFrame<'a> {
    /// The first byte of the header.
    first: u8,
    payload: &'a [u8],
}

/// Returns the frames in written bytes.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = WrittenFrame<'_>> {
    std::iter::from_fn(move || {
        let (&[first, second], rest) = bytes.split_first_chunk()?;
        let (len, rest) = match second {
            126 => rest.split_first_chunk().map(|(len, rest)| (u64::from(u16::from_be_bytes(*len)), rest))?,
            127 => rest.split_first_chunk().map(|(len, rest)| (u64::from_be_bytes(*len), rest))?,
            len => (u64::from(len), rest),
        };
        let (payload, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
        bytes = rest;
        Some(WrittenFrame { first, payload })
    })
}

/// Returns the contents of written chunks, except the last one, which is empty.
fn chunks(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        let len = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).ok()?, 16).ok()?;
        let (chunk, rest) = bytes[end + 2..].split_at_checked(len)?;
        bytes = rest.strip_prefix(b"\r\n")?;
        Some(chunk)
    })
}

/// Returns the events in written bytes, without the empty line that ends each.
fn events(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let end = bytes.windows(2).position(|pair| pair == b"\n\n")?;
        let event = &bytes[..end];
        bytes = &bytes[end + 2..];
        Some(event)
    })
}

#[cfg(all(test, not(ripplecast_loom)))]
mod tests {
    use crate::codec::{self, Opcode};

    use super::*;

    fn reported(tap: &mut Tap) -> Vec<TappedFrame> {
        std::iter::from_fn(|| tap.frames.try_recv().ok()).collect()
    }

    #[test]
    fn frames_of_any_length_are_reported() {
        let (mut tap, sender) = Tap::new();
        let mut bytes = Vec::new();
        let lengths = [0, 1, 125, 126, 65_535, 65_536];
        for len in lengths {
            codec::encode_frame(&mut bytes, Opcode::Text, &vec![b'x'; len]);
        }
        codec::encode_close(&mut bytes, Some(1001), "going away");
        sender.sent(Encoding::WebSocket, &bytes, 7);
        let reported = reported(&mut tap);
        assert_eq!(
            reported.iter().map(|frame| frame.len).collect::<Vec<_>>(),
            [0, 1, 125, 126, 65_535, 65_536, 10]
        );
        assert!(
            reported.iter().all(|frame| frame.head.len() == frame.len.min(TAP_HEAD) && frame.waiting == 7)
        );
        assert_eq!(
            (reported[6].kind, reported[6].code, &reported[6].head[..]),
            (FrameKind::Close, Some(1001), &b"going away"[..])
        );
    }

    #[test]
    fn events_are_reported_one_by_one() {
        let (mut tap, sender) = Tap::new();
        let forms = [
            (Encoding::Sse, &b"id: 1:2\ndata: a\ndata: b\n\n: \n\n"[..]),
            (Encoding::SseChunked, b"19\r\nid: 1:2\ndata: a\ndata: b\n\n\r\n4\r\n: \n\n\r\n0\r\n\r\n"),
        ];
        for (encoding, bytes) in forms {
            sender.sent(encoding, bytes, 0);
            let reported = reported(&mut tap);
            assert_eq!(
                reported.iter().map(|event| &event.head[..]).collect::<Vec<_>>(),
                [&b"id: 1:2\ndata: a\ndata: b"[..], b": "]
            );
        }
    }

    #[test]
    fn frames_that_do_not_fit_are_counted() {
        let (mut tap, sender) = Tap::new();
        for _ in 0..TAP_FRAMES + 3 {
            sender.received(&Event::Text(codec::Payload::Borrowed(b"hello")));
        }
        assert_eq!((reported(&mut tap).len(), tap.missed()), (TAP_FRAMES, 3));
        drop(tap);
        assert!(sender.is_closed());
    }
}
