//! Speed of reading and writing frames, compared with tungstenite in the same run: masked messages of three sizes as
//! sent by a client, whole and fragmented, and frames as sent by a server.
//!
//! Ripplecast unmasks in place, so each round starts with a fresh copy of the bytes; tungstenite copies while it reads
//! from a slice. Throughput counts the payload.

use std::{
    hint::black_box,
    io::{self, Read, Write},
};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ripplecast::codec::{Decoder, Event, Opcode, encode_frame};
use tungstenite::{
    Message, WebSocket,
    protocol::{
        Role,
        frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

/// Longer than every message in these benchmarks.
const MAX_MESSAGE: usize = 1 << 20;

/// Payloads by name: a chat message, an API response and a document.
const SIZES: [(&str, usize); 3] = [("small", 64), ("medium", 2048), ("large", 256 * 1024)];

/// The number of fragments in a fragmented message.
const FRAGMENTS: usize = 8;

/// Any mask works; this one changes every byte.
const MASK: [u8; 4] = [0x9b, 0x27, 0xe1, 0x5c];

criterion_group! {
    name = codec;
    config = common::quick();
    targets = decode, encode
}
criterion_main!(codec);

mod common;

fn decode(criterion: &mut Criterion) {
    for (kind, data) in [("text", Data::Text), ("binary", Data::Binary)] {
        let mut group = criterion.benchmark_group(format!("decode_{kind}"));
        for (name, size) in SIZES {
            compare(&mut group, name, size, &masked(data, size, 1));
        }
        let size = SIZES[1].1;
        compare(&mut group, "fragmented", size, &masked(data, size, FRAGMENTS));
        group.finish();
    }
}

/// Runs both decoders on the same bytes.
fn compare(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    name: &str,
    size: usize,
    wire: &[u8],
) {
    assert_eq!((ours(&mut wire.to_vec()), theirs(wire)), (size, size), "both read the whole message");
    group.throughput(Throughput::Bytes(size as u64));
    group.bench_function(BenchmarkId::new("ripplecast", name), |bencher| {
        bencher.iter_batched_ref(|| wire.to_vec(), |wire| black_box(ours(wire)), BatchSize::SmallInput);
    });
    group.bench_function(BenchmarkId::new("tungstenite", name), |bencher| {
        bencher.iter(|| black_box(theirs(black_box(wire))));
    });
}

/// Returns a message as sent by a client, in `fragments` frames. Its characters take one to three bytes in UTF-8.
fn masked(data: Data, size: usize, fragments: usize) -> Vec<u8> {
    let mut payload = "Grüße aus Zürich, 世界! ".repeat(size / 24 + 1).into_bytes();
    while std::str::from_utf8(&payload[..size]).is_err() {
        payload.insert(0, b'-');
    }
    payload.truncate(size);
    let mut wire = Vec::new();
    let pieces = payload.chunks(size.div_ceil(fragments));
    let last = pieces.len() - 1;
    for (index, piece) in pieces.enumerate() {
        let opcode = OpCode::Data(if index == 0 { data } else { Data::Continue });
        let mut frame = Frame::message(piece.to_vec(), opcode, index == last);
        frame.header_mut().mask = Some(MASK);
        frame.format(&mut wire).expect("writing to a vector cannot fail");
    }
    wire
}

/// Runs our decoder on all of the bytes. Returns the length of the message.
fn ours(wire: &mut [u8]) -> usize {
    let (mut decoder, mut at, mut length) = (Decoder::new(), 0, 0);
    while at < wire.len() {
        let (taken, event) = decoder.decode(&mut wire[at..], MAX_MESSAGE).expect("the bytes are valid");
        at += taken;
        if let Some(Event::Text(message) | Event::Binary(message)) = event {
            length += message.as_slice().len();
        }
    }
    length
}

/// Runs tungstenite on the bytes. Returns the length of the first message.
fn theirs(wire: &[u8]) -> usize {
    let mut socket = WebSocket::from_raw_socket(Wire(wire), Role::Server, None);
    socket.read().expect("the bytes are valid").len()
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for (name, size) in SIZES {
        let payload = vec![b'x'; size];
        let mut out = Vec::with_capacity(size + 64);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("ripplecast", name), |bencher| {
            bencher.iter(|| {
                out.clear();
                encode_frame(&mut out, Opcode::Binary, black_box(&payload));
                black_box(out.len())
            });
        });
        let message = Message::binary(payload);
        group.bench_function(BenchmarkId::new("tungstenite", name), |bencher| {
            let mut socket = WebSocket::from_raw_socket(Wire(&[]), Role::Server, None);
            bencher
                .iter(|| socket.send(black_box(message.clone())).expect("writing to the wire cannot fail"));
        });
    }
    group.finish();
}

/// A socket that reads from the bytes, and accepts all writes.
struct Wire<'a>(&'a [u8]);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(black_box(bytes).len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
