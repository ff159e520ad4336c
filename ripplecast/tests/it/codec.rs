//! Compares the WebSocket codec with tungstenite, and with itself, on random frames split into random pieces.
//!
//! Both must decode the same events and reach the same verdict, with these exceptions:
//!
//! 1. **When.** We reject a frame at the first invalid byte, tungstenite once it has the whole frame. If the last
//!    frame is cut off, we may have failed where tungstenite still waits.
//! 2. **Padded lengths.** A length that is not minimally encoded is forbidden (RFC 6455, section 5.2). tungstenite
//!    accepts it.
//! 3. **Close code 1014** ("bad gateway") was registered with IANA after the RFC. tungstenite rejects it.
//! 4. **A forbidden close code** is an error here; tungstenite returns a close frame with 1002 instead. If the reason
//!    is not UTF-8 either, we report the code, which comes first, and tungstenite the reason.
//! 5. **Large lengths.** tungstenite compares a frame's length with its limit before any other rule about the frame.
//!    The random test sets only a limit for messages. Frames with a length above their content have their own test, in
//!    which nothing else is wrong.

use std::io::{self, Cursor, Read, Write};

use proptest::{collection::vec, prelude::*, sample::select};
use ripplecast::codec::{Decoder, Event, MAX_HEADER};
use tungstenite::{
    Error, Message as WsMessage, WebSocket,
    protocol::{Role, WebSocketConfig, frame::coding::CloseCode},
};

/// WsMessage limit, small enough for random messages to exceed it.
const MAX_MESSAGE: usize = 300;

/// The output of either codec.
#[derive(Debug, PartialEq, Clone)]
enum Got {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    /// The verdict: the code to close with.
    Failed(u16),
}

impl Got {
    /// Returns whether nothing may follow.
    fn ends(&self) -> bool {
        matches!(self, Self::Close(..) | Self::Failed(_))
    }
}

impl From<Event<'_>> for Got {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => {
                Self::Text(String::from_utf8(text.to_vec()).expect("the decoder checks text"))
            }
            Event::Binary(data) => Self::Binary(data.into_bytes().to_vec()),
            Event::Compressed { .. } => panic!("compression was not negotiated"),
            Event::Ping(data) => Self::Ping(data.to_vec()),
            Event::Pong(data) => Self::Pong(data.to_vec()),
            Event::Close { code, reason } => Self::Close(code, reason.into_owned()),
            event => panic!("{event:?} is unknown"),
        }
    }
}

/// Decodes the pieces with our decoder.
fn ours<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Got> {
    let (mut decoder, mut got) = (Decoder::new(), Vec::new());
    for piece in pieces {
        let mut buffer = piece.to_vec();
        let mut at = 0;
        while at < buffer.len() {
            let left = buffer.len() - at;
            match decoder.decode(&mut buffer[at..], MAX_MESSAGE) {
                Ok((taken, event)) => {
                    at += taken;
                    assert!(taken == left || event.is_some(), "without an event, all input is consumed");
                    got.extend(event.map(Got::from));
                }
                Err(error) => got.push(Got::Failed(error.code)),
            }
            if got.last().is_some_and(Got::ends) {
                return got;
            }
        }
    }
    got
}

/// Decodes the bytes with tungstenite, with or without a limit for the length of a frame.
fn theirs(bytes: &[u8], max_frame: Option<usize>) -> Vec<Got> {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(max_frame);
    let mut socket = WebSocket::from_raw_socket(Wire(Cursor::new(bytes)), Role::Server, Some(config));
    let mut got = Vec::new();
    while !got.last().is_some_and(Got::ends) {
        got.push(match socket.read() {
            Ok(WsMessage::Text(text)) => Got::Text(text.to_string()),
            Ok(WsMessage::Binary(data)) => Got::Binary(data.to_vec()),
            Ok(WsMessage::Ping(data)) => Got::Ping(data.to_vec()),
            Ok(WsMessage::Pong(data)) => Got::Pong(data.to_vec()),
            Ok(WsMessage::Close(None)) => Got::Close(None, String::new()),
            // Its replacement for a forbidden code, see (4) above. Random reasons never contain this text.
            Ok(WsMessage::Close(Some(frame)))
                if frame.code == CloseCode::Protocol && frame.reason == "Protocol violation" =>
            {
                Got::Failed(1002)
            }
            Ok(WsMessage::Close(Some(frame))) => {
                Got::Close(Some(frame.code.into()), frame.reason.to_string())
            }
            Ok(WsMessage::Frame(_)) => unreachable!("never read"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(Error::Protocol(_)) => Got::Failed(1002),
            Err(Error::Utf8(_)) => Got::Failed(1007),
            Err(Error::Capacity(_)) => Got::Failed(1009),
            Err(error) => panic!("tungstenite: {error}"),
        });
    }
    got
}

/// A socket that yields the bytes and then would block.
struct Wire<'a>(Cursor<&'a [u8]>);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A frame as a client might send it, valid or not.
#[derive(Debug, Clone)]
struct TestFrame {
    first: u8,
    mask: Option<[u8; 4]>,
    payload: Vec<u8>,
}

impl TestFrame {
    fn bytes(&self) -> Vec<u8> {
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![self.first];
        match self.payload.len() {
            len @ 0..=125 => bytes.push(masked | len as u8),
            len => {
                bytes.push(masked | 126);
                bytes.extend(u16::try_from(len).expect("random payloads are short").to_be_bytes());
            }
        }
        let mask = self.mask.unwrap_or_default();
        bytes.extend(self.mask.iter().flatten());
        bytes.extend(self.payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }
}

/// Generates text payloads: mostly valid, some cut within a character, some invalid.
fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[a-zß世🌍]{0,40}".prop_map(String::into_bytes),
        2 => ("[ß世🌍]{1,40}", 0..=3_usize).prop_map(|(text, cut)| {
            let end = text.len() - cut.min(text.len());
            text.into_bytes()[..end].to_vec()
        }),
        2 => ("[ß世🌍]{1,40}", 0..=3_usize).prop_map(|(text, cut)| text.into_bytes()[cut.min(2)..].to_vec()),
        1 => vec(any::<u8>(), 0..8),
    ]
}

/// Generates payloads of close frames: with any code except 1014 (see 3 above), and with valid and invalid
/// reasons.
fn close() -> impl Strategy<Value = Vec<u8>> {
    let code = prop_oneof![3 => 999_u16..1017, 1 => 2998_u16..3002, 1 => 4998_u16..5002, 1 => any::<u16>()];
    let with_code = (
        code.prop_filter("1014", |code| *code != 1014),
        prop_oneof![
            3 => "[a-zß世🌍]{0,20}".prop_map(String::into_bytes),
            1 => vec(any::<u8>(), 0..8),
        ],
    )
        .prop_filter("a forbidden code and an invalid reason, see (4)", |(code, reason)| {
            matches!(code, 1000..=1003 | 1007..=1013 | 3000..=4999) || std::str::from_utf8(reason).is_ok()
        })
        .prop_map(|(code, reason)| [&code.to_be_bytes()[..], &reason].concat());
    prop_oneof![1 => Just(vec![]), 1 => vec(any::<u8>(), 1), 4 => with_code]
}

/// Generates frames, mostly valid ones, so that sequences do not end early.
fn frame() -> impl Strategy<Value = TestFrame> {
    let data = prop_oneof![4 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 100..310)];
    let control = prop_oneof![6 => vec(any::<u8>(), 0..126), 1 => vec(any::<u8>(), 126..130)];
    let kind = prop_oneof![
        6 => text().prop_map(|payload| (0x81, payload)),
        3 => text().prop_map(|payload| (0x01, payload)),
        6 => (select(vec![0x00, 0x80]), text()),
        6 => (select(vec![0x82, 0x82, 0x02, 0x00, 0x80]), data),
        4 => (select(vec![0x89, 0x8A]), control),
        1 => close().prop_map(|payload| (0x88, payload)),
        1 => (any::<u8>().prop_filter("close frames are above", |first| first & 0x0F != 8), text()),
    ];
    let mask = prop_oneof![30 => any::<[u8; 4]>().prop_map(Some), 1 => Just(None)];
    (kind, mask).prop_map(|((first, payload), mask)| TestFrame { first, mask, payload })
}

/// Generates valid fragmented messages with control frames in between. The last fragment of a text may be
/// invalid.
fn message() -> impl Strategy<Value = Vec<TestFrame>> {
    let control = (select(vec![0x89, 0x8A]), vec(any::<u8>(), 0..20));
    let between = prop_oneof![2 => Just(None), 1 => control.prop_map(Some)];
    let part = |payload: BoxedStrategy<Vec<u8>>| vec((payload, between.clone(), any::<[u8; 4]>()), 1..5);
    // Text is cut anywhere, even within characters.
    let text = part("[a-zß世🌍]{0,12}".prop_map(String::into_bytes).boxed()).prop_flat_map(|parts| {
        (Just(parts), 0..4_usize).prop_map(|(mut parts, shift)| {
            for index in 1..parts.len() {
                let moved = shift.min(parts[index].0.len());
                let moved: Vec<u8> = parts[index].0.drain(..moved).collect();
                parts[index - 1].0.extend(moved);
            }
            (0x01, parts)
        })
    });
    let binary = part(vec(any::<u8>(), 0..40).boxed()).prop_map(|parts| (0x02, parts));
    prop_oneof![text, binary].prop_map(|(opcode, parts)| {
        let last = parts.len() - 1;
        let mut frames = Vec::new();
        for (index, (payload, between, mask)) in parts.into_iter().enumerate() {
            let fin = if index == last { 0x80 } else { 0 };
            let first = fin | if index == 0 { opcode } else { 0 };
            frames.push(TestFrame { first, mask: Some(mask), payload });
            if let Some((first, payload)) = between {
                frames.push(TestFrame { first, mask: Some(mask), payload });
            }
        }
        frames
    })
}

/// Generates valid messages and stray frames, and how many bytes to cut off at the end.
fn conversation() -> impl Strategy<Value = (Vec<TestFrame>, usize)> {
    let stray = frame().prop_map(|frame| vec![frame]);
    let frames = vec(prop_oneof![message(), stray], 0..8).prop_map(|frames| frames.concat());
    (frames, prop_oneof![2 => Just(0), 1 => 1..200_usize])
}

/// Splits bytes into pieces of the given sizes, repeatedly.
fn cut<'a>(bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut sizes = sizes.iter().cycle();
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let size = sizes.next().map_or(rest.len(), |&size| size.clamp(1, rest.len()));
        let (piece, after) = rest.split_at(size);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

fn cases() -> ProptestConfig {
    ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_codec_agrees_with_tungstenite((frames, cut_off) in conversation(), sizes in vec(1..60_usize, 1..6)) {
        let mut bytes: Vec<u8> = frames.iter().flat_map(TestFrame::bytes).collect();
        bytes.truncate(bytes.len().saturating_sub(cut_off));
        let ours = ours(cut(&bytes, &sizes));
        let theirs = theirs(&bytes, None);
        match ours.split_last() {
            // See (1) above.
            Some((Got::Failed(_), before)) if cut_off > 0 && !theirs.last().is_some_and(Got::ends) => {
                prop_assert_eq!(before, theirs);
            }
            _ => prop_assert_eq!(ours, theirs),
        }
    }

    #[test]
    fn the_result_does_not_depend_on_the_pieces((frames, cut_off) in conversation(), sizes in vec(1..60_usize, 1..6)) {
        let mut bytes: Vec<u8> = frames.iter().flat_map(TestFrame::bytes).collect();
        bytes.truncate(bytes.len().saturating_sub(cut_off));
        let whole = ours([&bytes[..]]);
        prop_assert_eq!(&ours(cut(&bytes, &sizes)), &whole);
        prop_assert_eq!(&ours(bytes.chunks(1)), &whole);
    }

    #[test]
    fn the_result_for_noise_does_not_depend_on_the_pieces(bytes in vec(any::<u8>(), 0..200), sizes in vec(1..20_usize, 1..6)) {
        let whole = ours([&bytes[..]]);
        prop_assert_eq!(&ours(cut(&bytes, &sizes)), &whole);
        prop_assert_eq!(&ours(bytes.chunks(1)), &whole);
    }

    /// Headers of data frames with lengths up to 2^63 - 1 give the same verdict, and nothing is allocated for
    /// them.
    #[test]
    fn the_codec_agrees_about_long_lengths(bits in 0..63_u32, noise in any::<u64>(), first in select(vec![0x81_u8, 0x82, 0x01, 0x02])) {
        let len = (1 << bits) | (noise & ((1 << bits) - 1));
        let mut bytes = vec![first];
        match len {
            0..=125 => bytes.push(0x80 | len as u8),
            126..=0xFFFF => {
                bytes.push(0x80 | 126);
                bytes.extend((len as u16).to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend(len.to_be_bytes());
            }
        }
        bytes.extend([1, 2, 3, 4]);
        let expected = if len > MAX_MESSAGE as u64 { vec![Got::Failed(1009)] } else { vec![] };
        prop_assert_eq!(&ours([&bytes[..]]), &expected);
        prop_assert_eq!(theirs(&bytes, Some(MAX_MESSAGE)), expected);
        let mut decoder = Decoder::new();
        // Without a limit the decoder waits, without memory allocated for the claimed length.
        prop_assert!(decoder.decode(&mut bytes, usize::MAX).is_ok());
        prop_assert!(decoder.held_bytes() < 200);
    }
}

/// The exceptions of the comparison are those in the comment at the top.
#[test]
fn the_known_differences_exist() {
    let padded = b"\x81\xfe\x00\x02\0\0\0\0hi";
    assert_eq!(ours([&padded[..]]), [Got::Failed(1002)]);
    assert_eq!(theirs(padded, None), [Got::Text("hi".into())]);

    let close = TestFrame { first: 0x88, mask: Some([0; 4]), payload: 1014_u16.to_be_bytes().into() }.bytes();
    assert_eq!(ours([&close[..]]), [Got::Close(Some(1014), String::new())]);
    assert_eq!(theirs(&close, None), [Got::Failed(1002)]);

    let both = TestFrame { first: 0x88, mask: Some([0; 4]), payload: vec![0, 1, 0xFF] }.bytes();
    assert_eq!(ours([&both[..]]), [Got::Failed(1002)]);
    assert_eq!(theirs(&both, None), [Got::Failed(1007)]);

    let mut negative = [0xFF; MAX_HEADER];
    negative[0] = 0x82;
    assert_eq!(ours([&negative[..]]), [Got::Failed(1002)]);
    assert_eq!(theirs(&negative, Some(MAX_MESSAGE)), [Got::Failed(1009)]);
}
