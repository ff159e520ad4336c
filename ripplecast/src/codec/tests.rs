//! Tests each rule of the codec on its own. `tests/it/codec.rs` compares random input with another
//! implementation.

use super::*;

const MAX: usize = 1000;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// First bytes of frames: FIN with an opcode, and data frames without FIN.
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;
const TEXT_PART: u8 = 0x01;
const BINARY_PART: u8 = 0x02;
const PART: u8 = 0x00;
const LAST_PART: u8 = 0x80;

/// A client's frame.
fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_header(&mut bytes, Opcode::Text, payload.as_ref().len());
    bytes[0] = first;
    bytes[1] |= 0x80;
    bytes.extend_from_slice(&MASK);
    bytes.extend(payload.as_ref().iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A decoder's output, in readable form.
#[derive(Debug, PartialEq, Clone)]
enum Got {
    Text(String),
    Binary(Vec<u8>),
    Compressed(bool, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Failed(u16, &'static str),
}

fn text(text: &str) -> Got {
    Got::Text(text.into())
}

fn failed(error: ProtocolError) -> Got {
    Got::Failed(error.code, error.reason)
}

impl From<Event<'_>> for Got {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(payload) => {
                Self::Text(String::from_utf8(payload.to_vec()).expect("text is valid UTF-8"))
            }
            Event::Binary(payload) => Self::Binary(payload.to_vec()),
            Event::Compressed { text, payload } => Self::Compressed(text, payload.to_vec()),
            Event::Ping(payload) => Self::Ping(payload.to_vec()),
            Event::Pong(payload) => Self::Pong(payload.to_vec()),
            Event::Close { code, reason } => Self::Close(code, reason.into_owned()),
        }
    }
}

/// Decodes `bytes` in pieces of `piece` bytes, to the end or the first error.
fn decode_pieces(bytes: &[u8], piece: usize) -> (Vec<Got>, Decoder) {
    decode_pieces_as(bytes, piece, false)
}

/// Like [`decode_pieces`], with or without permessage-deflate.
fn decode_pieces_as(bytes: &[u8], piece: usize, deflate: bool) -> (Vec<Got>, Decoder) {
    let (mut decoder, mut got) = (Decoder::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        let mut buffer = piece.to_vec();
        let mut at = 0;
        while at < buffer.len() {
            let left = buffer.len() - at;
            let decoded = if deflate {
                decoder.decode_deflate(&mut buffer[at..], MAX)
            } else {
                decoder.decode(&mut buffer[at..], MAX)
            };
            match decoded {
                Ok((taken, Some(event))) => {
                    assert!(taken <= left);
                    got.push(event.into());
                    at += taken;
                }
                Ok((taken, None)) => {
                    assert_eq!(taken, left, "without an event, all input is consumed");
                    at += taken;
                }
                Err(error) => {
                    assert!(decoder.is_idle(), "an error frees the held memory");
                    got.push(failed(error));
                    return (got, decoder);
                }
            }
        }
    }
    (got, decoder)
}

/// Decodes the frames whole and in pieces of several sizes. The result must not depend on the pieces.
#[track_caller]
fn decode(frames: &[Vec<u8>]) -> Vec<Got> {
    let bytes = frames.concat();
    let (whole, _) = decode_pieces(&bytes, usize::MAX);
    for piece in 1..=20 {
        assert_eq!(decode_pieces(&bytes, piece).0, whole, "in pieces of {piece}");
    }
    whole
}

#[test]
fn complete_messages_are_decoded() {
    let long = "x".repeat(126);
    let cases: &[(Vec<u8>, Got)] = &[
        (frame(TEXT, "Hello"), text("Hello")),
        (frame(TEXT, ""), text("")),
        (frame(TEXT, "grüß dich, 世界 🌍"), text("grüß dich, 世界 🌍")),
        (frame(TEXT, &long), text(&long)),
        (frame(BINARY, [0, 255, 128]), Got::Binary(vec![0, 255, 128])),
        (frame(BINARY, [7; MAX]), Got::Binary(vec![7; MAX])),
        (frame(PING, ""), Got::Ping(vec![])),
        (frame(PING, [9; 125]), Got::Ping(vec![9; 125])),
        (frame(PONG, "back"), Got::Pong(b"back".to_vec())),
        (frame(CLOSE, ""), Got::Close(None, String::new())),
        (frame(CLOSE, b"\x03\xe8"), Got::Close(Some(1000), String::new())),
        (frame(CLOSE, "\x0f\u{0}ade, grüß dich"), Got::Close(Some(0x0f00), "ade, grüß dich".into())),
    ];
    for (bytes, expected) in cases {
        assert_eq!(decode(std::slice::from_ref(bytes)), std::slice::from_ref(expected));
    }
}

#[test]
fn the_examples_from_the_rfc_are_decoded() {
    let mut hello = *b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    let mut decoder = Decoder::default();
    let (taken, event) = decoder.decode(&mut hello, MAX).expect("a valid frame from the RFC");
    assert_eq!((taken, event), (11, Some(Event::Text(Payload::Borrowed(b"Hello")))));
    assert_eq!(
        decode(&[b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58".to_vec()]),
        [Got::Pong(b"Hello".to_vec())]
    );
}

#[test]
fn control_frames_may_arrive_within_a_fragmented_message() {
    let frames = [
        frame(TEXT_PART, b"gr\xc3"), // A character is split between frames.
        frame(PING, "there?"),
        frame(PART, ""),
        frame(PART, b"\xbc\xc3\x9f"),
        frame(PONG, ""),
        frame(LAST_PART, " dich"),
        frame(BINARY_PART, ""),
        frame(LAST_PART, ""),
        frame(TEXT, "next"),
        frame(CLOSE, ""),
    ];
    let expected = [
        Got::Ping(b"there?".to_vec()),
        Got::Pong(vec![]),
        text("grüß dich"),
        Got::Binary(vec![]),
        text("next"),
        Got::Close(None, String::new()),
    ];
    assert_eq!(decode(&frames), expected);
}

#[test]
fn forbidden_frames_are_rejected() {
    let unmasked = b"\x81\x02hi".to_vec();
    let half_code = frame(CLOSE, [3]);
    let text_part = frame(TEXT_PART, "a");
    let cases: &[(&[Vec<u8>], ProtocolError)] = &[
        (&[frame(TEXT | 0x40, "")], ProtocolError::RESERVED_BITS),
        (&[frame(TEXT | 0x20, "")], ProtocolError::RESERVED_BITS),
        (&[frame(PING | 0x10, "")], ProtocolError::RESERVED_BITS),
        (&[frame(0x83, "")], ProtocolError::UNKNOWN_OPCODE),
        (&[frame(0x87, "")], ProtocolError::UNKNOWN_OPCODE),
        (&[frame(0x8B, "")], ProtocolError::UNKNOWN_OPCODE),
        (&[frame(0x8F, "")], ProtocolError::UNKNOWN_OPCODE),
        (&[unmasked], ProtocolError::UNMASKED),
        (&[frame(PING, [0; 126])], ProtocolError::LONG_CONTROL),
        (&[frame(CLOSE, [0; 70_000])], ProtocolError::LONG_CONTROL),
        (&[frame(0x09, "")], ProtocolError::FRAGMENTED_CONTROL),
        (&[frame(0x08, "")], ProtocolError::FRAGMENTED_CONTROL),
        (&[frame(PART, "a")], ProtocolError::STRAY_CONTINUATION),
        (&[frame(LAST_PART, "a")], ProtocolError::STRAY_CONTINUATION),
        (&[text_part.clone(), frame(TEXT, "b")], ProtocolError::UNFINISHED_MESSAGE),
        (&[text_part.clone(), frame(BINARY_PART, "b")], ProtocolError::UNFINISHED_MESSAGE),
        (&[b"\x81\xfe\x00\x7d".to_vec()], ProtocolError::PADDED_LENGTH),
        (&[b"\x81\xff\x00\x00\x00\x00\x00\x00\xff\xff".to_vec()], ProtocolError::PADDED_LENGTH),
        (&[b"\x81\xff\x80".to_vec()], ProtocolError::NEGATIVE_LENGTH),
        (&[half_code], ProtocolError::HALF_CODE),
        (&[frame(CLOSE, b"\x03\xe8\xff")], ProtocolError::INVALID_REASON),
        (&[frame(CLOSE, b"\x03\xe8gr\xc3")], ProtocolError::INVALID_REASON),
    ];
    for (frames, error) in cases {
        assert_eq!(decode(frames), [failed(*error)], "{frames:x?}");
    }
    // Events before the error are delivered.
    assert_eq!(
        decode(&[frame(TEXT, "a"), frame(PART, "")]),
        [text("a"), failed(ProtocolError::STRAY_CONTINUATION)]
    );
}

#[test]
fn an_error_in_a_header_is_detected_at_the_byte_that_causes_it() {
    let cases: &[(&[u8], u16)] = &[
        (b"\xc1", 1002),
        (b"\x83", 1002),
        (b"\x09", 1002),
        (b"\x80", 1002),
        (b"\x81\x01", 1002),
        (b"\x89\xfe", 1002),
        (b"\x82\xff\x80", 1002),
        (b"\x82\xfe\x03\xe9", 1009), // 1001 bytes, before the mask.
        (b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 1009),
    ];
    for (bytes, code) in cases {
        for end in 1..bytes.len() {
            assert_eq!(decode_pieces(&bytes[..end], usize::MAX).0, [], "{bytes:x?}[..{end}]");
        }
        let (got, decoder) = decode_pieces(bytes, 1);
        assert!(matches!(got[..], [Got::Failed(found, _)] if found == *code), "{bytes:x?}: {got:?}");
        assert_eq!(decoder.held_bytes(), 0);
    }
}

#[test]
fn only_close_codes_that_may_be_sent_are_accepted() {
    let allowed = |code| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    for code in 0..=u16::MAX {
        let mut bytes = frame(CLOSE, code.to_be_bytes());
        match Decoder::new().decode(&mut bytes, MAX) {
            Ok((8, Some(Event::Close { code: Some(got), .. }))) => {
                assert!(got == code && allowed(code), "{code}");
            }
            Err(ProtocolError { code: 1002, .. }) => assert!(!allowed(code), "{code}"),
            other => panic!("{code}: {other:?}"),
        }
    }
}

#[test]
fn text_that_is_not_utf8_is_rejected() {
    let cases: &[&[u8]] = &[
        b"\xff",
        b"abc\x80",
        b"\xc0\xaf",         // An overlong encoding.
        b"\xed\xa0\x80",     // A surrogate.
        b"\xf4\x90\x80\x80", // Above the last code point.
        b"gr\xc3",           // Ends within a character.
        b"\xf0\x9f\x8c",
    ];
    for bytes in cases {
        assert_eq!(decode(&[frame(TEXT, bytes)]), [failed(ProtocolError::INVALID_UTF8)], "{bytes:x?}");
        assert_eq!(decode(&[frame(BINARY, bytes)]), [Got::Binary(bytes.to_vec())]);
        for cut in 0..bytes.len() {
            let frames = [frame(TEXT_PART, &bytes[..cut]), frame(PING, ""), frame(LAST_PART, &bytes[cut..])];
            assert_eq!(
                decode(&frames).last(),
                Some(&failed(ProtocolError::INVALID_UTF8)),
                "{bytes:x?} at {cut}"
            );
        }
    }
}

#[test]
fn invalid_text_is_detected_before_its_frame_is_complete() {
    // (payload, number of bytes after which it can't become valid any more)
    let cases: &[(&[u8], usize)] = &[
        (b"abc\xffdef", 4),
        (b"\xe2\x28\xa1", 2),
        (b"\xed\xa0\x80", 2),
        (b"\xf4\x90\x80\x80", 2),
        (b"\xc0\xaf", 1),
    ];
    for (payload, fatal) in cases {
        for first in [TEXT, TEXT_PART] {
            let bytes = frame(first, payload);
            let header = bytes.len() - payload.len();
            for piece in [1, usize::MAX] {
                let before = decode_pieces(&bytes[..header + fatal - 1], piece);
                assert_eq!(before.0, [], "{payload:x?}");
                let (got, _) = decode_pieces(&bytes[..header + fatal], piece);
                assert_eq!(got, [failed(ProtocolError::INVALID_UTF8)], "{payload:x?}");
            }
        }
    }
}

#[test]
fn messages_above_the_limit_are_rejected() {
    let too_big = failed(ProtocolError::TOO_BIG);
    assert_eq!(decode(&[frame(BINARY, [0; MAX + 1])]), std::slice::from_ref(&too_big));
    // The total of the fragments counts, and the fragment that exceeds the limit is rejected at its header.
    let mut last = frame(LAST_PART, [0; 501]);
    last.truncate(4);
    assert_eq!(decode(&[frame(BINARY_PART, [0; 500]), last]), [too_big]);
    let fits = decode(&[frame(BINARY_PART, [1; 500]), frame(PING, ""), frame(LAST_PART, [1; 500])]);
    assert_eq!(fits, [Got::Ping(vec![]), Got::Binary(vec![1; MAX])]);
    // Control frames do not count towards a message.
    let mut ping = frame(PING, [0; 125]);
    assert!(Decoder::new().decode(&mut ping, 0).is_ok());
}

#[test]
fn memory_grows_only_with_the_bytes_received() {
    let mut decoder = Decoder::new();
    assert_eq!(size_of::<Decoder>(), size_of::<usize>());
    assert_eq!(decoder.held_bytes(), 0);
    let fixed = size_of::<Partial>();
    assert!(fixed <= 160, "{fixed}");

    // The header claims a terabyte, and the limit allows it.
    let mut header = *b"\x82\xff\x00\x00\x01\x00\x00\x00\x00\x00abcd";
    assert_eq!(decoder.decode(&mut header, usize::MAX), Ok((14, None)));
    assert_eq!(decoder.held_bytes(), fixed);
    let mut arrived = 0;
    for _ in 0..1000 {
        assert_eq!(decoder.decode(&mut [0; 99], usize::MAX), Ok((99, None)));
        arrived += 99;
        assert!(decoder.held_bytes() <= fixed + 2 * arrived, "{} for {arrived}", decoder.held_bytes());
    }
}

#[test]
fn memory_does_not_exceed_the_message_length() {
    let mut decoder = Decoder::new();
    let bytes = frame(BINARY, [0; MAX]);
    for piece in bytes[..bytes.len() - 1].chunks(90) {
        assert_eq!(decoder.decode(&mut piece.to_vec(), MAX), Ok((piece.len(), None)));
        assert!(decoder.held_bytes() <= size_of::<Partial>() + MAX);
    }
}

#[test]
fn empty_fragments_use_no_memory() {
    let mut decoder = Decoder::new();
    let mut start = frame(BINARY_PART, "");
    assert_eq!(decoder.decode(&mut start, MAX), Ok((6, None)));
    for _ in 0..10_000 {
        assert_eq!(decoder.decode(&mut frame(PART, ""), MAX), Ok((6, None)));
    }
    assert_eq!(decoder.held_bytes(), size_of::<Partial>());
    assert_eq!(
        decoder.decode(&mut frame(LAST_PART, ""), MAX),
        Ok((6, Some(Event::Binary(Payload::Borrowed(b"")))))
    );
    assert!(decoder.is_idle());
}

#[test]
fn no_memory_is_held_between_messages() {
    let frames = [frame(TEXT, "a"), frame(PING, "b"), frame(CLOSE, b"\x03\xe8bye")];
    for bytes in &frames {
        for cut in 1..bytes.len() {
            let mut decoder = Decoder::new();
            let (mut head, mut tail) = (bytes[..cut].to_vec(), bytes[cut..].to_vec());
            assert_eq!(decoder.decode(&mut head, MAX), Ok((cut, None)));
            assert!(!decoder.is_idle());
            let (taken, event) = decoder.decode(&mut tail, MAX).expect("valid");
            assert!(taken == bytes.len() - cut && event.is_some());
            assert!(decoder.is_idle());
            assert_eq!(decoder.held_bytes(), 0);
        }
    }
    let mut decoder = Decoder::new();
    assert_eq!(decoder.decode(&mut [], MAX), Ok((0, None)));
    assert!(decoder.is_idle());
}

#[test]
fn a_complete_frame_is_not_copied() {
    let mut bytes = [frame(TEXT, "one"), frame(PING, "two")].concat();
    let all = bytes.as_ptr_range();
    let mut decoder = Decoder::new();
    let (taken, Some(Event::Text(Payload::Borrowed(one)))) = decoder.decode(&mut bytes, MAX).expect("valid")
    else {
        panic!("not borrowed")
    };
    assert!(all.contains(&one.as_ptr()));
    let (_, Some(Event::Ping(Payload::Borrowed(two)))) =
        decoder.decode(&mut bytes[taken..], MAX).expect("valid")
    else {
        panic!("not borrowed")
    };
    assert!(all.contains(&two.as_ptr()));
}

#[test]
fn every_length_is_unmasked() {
    for len in 0..100 {
        let plain: Vec<u8> = (0..len).map(|n| (n * 37) as u8).collect();
        let mut masked = frame(BINARY, &plain)[6..].to_vec();
        for cut in 0..=masked.len() {
            let mut copy = masked.clone();
            let (head, tail) = copy.split_at_mut(cut);
            mask::apply(head, MASK);
            mask::apply(tail, mask::advance(MASK, cut));
            assert_eq!(copy, plain);
        }
        mask::apply(&mut masked, MASK);
        assert_eq!(masked, plain);
    }
}

#[test]
fn headers_are_encoded_with_the_shortest_length() {
    let cases: &[(Opcode, usize, &[u8])] = &[
        (Opcode::Text, 0, b"\x81\x00"),
        (Opcode::Binary, 125, b"\x82\x7d"),
        (Opcode::Text, 126, b"\x81\x7e\x00\x7e"),
        (Opcode::Continuation, 0xffff, b"\x80\x7e\xff\xff"),
        (Opcode::Binary, 0x1_0000, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        (Opcode::Ping, 3, b"\x89\x03"),
        (Opcode::Pong, 0, b"\x8a\x00"),
        (Opcode::Close, 2, b"\x88\x02"),
    ];
    for (opcode, len, expected) in cases {
        let mut out = Vec::new();
        encode_header(&mut out, *opcode, *len);
        assert_eq!(out, *expected);
    }
}

#[test]
fn encoded_close_frames_are_cut_between_characters() {
    for (reason, kept) in
        [("x".repeat(200), 123), ("é".repeat(100), 122), ("🌍".repeat(50), 120), ("ok".into(), 2)]
    {
        let mut out = Vec::new();
        encode_close(&mut out, Some(4321), &reason);
        assert_eq!(out[..4], [0x88, 2 + kept as u8, 0x10, 0xe1]);
        assert_eq!(&out[4..], &reason.as_bytes()[..kept]);
    }
}

/// The bit that marks a compressed message.
const RSV1: u8 = 0x40;

#[test]
fn compressed_messages_need_negotiation() {
    // Not UTF-8, which compressed text need not be.
    let data = [0xff, 0xfe, 0xfd];
    let frames = [
        frame(TEXT | RSV1, data),
        frame(BINARY | RSV1, data),
        frame(TEXT, "plain"),
        frame(TEXT_PART | RSV1, [0xff]),
        frame(PING, "?"),
        frame(PART, [0xfe]),
        frame(LAST_PART, [0xfd]),
        frame(BINARY | RSV1, ""),
    ];
    let bytes = frames.concat();
    for piece in (1..=20).chain([usize::MAX]) {
        let (got, decoder) = decode_pieces_as(&bytes, piece, true);
        let compressed = |text| Got::Compressed(text, data.into());
        assert_eq!(
            got,
            [
                compressed(true),
                compressed(false),
                text("plain"),
                Got::Ping(b"?".into()),
                compressed(true),
                Got::Compressed(false, Vec::new())
            ],
            "in pieces of {piece}"
        );
        assert!(decoder.is_idle());
        assert_eq!(decode_pieces(&bytes, piece).0, [failed(ProtocolError::RESERVED_BITS)]);
    }
}

#[test]
fn only_the_first_frame_of_a_message_may_be_marked_as_compressed() {
    let part = frame(TEXT_PART | RSV1, "a");
    for (frames, what) in [
        (frame(PING | RSV1, ""), "a control frame"),
        (frame(CLOSE | RSV1, ""), "a close frame"),
        (frame(TEXT | 0x20, ""), "RSV2"),
        (frame(TEXT | 0x10, ""), "RSV3"),
        (frame(TEXT | RSV1 | 0x20, ""), "RSV1 and RSV2"),
        ([part.clone(), frame(LAST_PART | RSV1, "b")].concat(), "a continuation"),
    ] {
        for piece in [1, usize::MAX] {
            let got = decode_pieces_as(&frames, piece, true).0;
            assert_eq!(got, [failed(ProtocolError::RESERVED_BITS)], "{what}");
        }
    }
    // The compressed form must not exceed the limit of a message, either.
    let got = decode_pieces_as(&frame(BINARY | RSV1, vec![0; MAX + 1]), usize::MAX, true).0;
    assert_eq!(got, [failed(ProtocolError::TOO_BIG)]);
}
