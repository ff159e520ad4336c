//! A fake socket, and the frames written to it.

use super::*;

/// A socket that accepts as many bytes as the test allows.
#[derive(Clone, Default)]
pub(super) struct FakeSocket(pub(super) Arc<FakeSocketState>);

#[derive(Default)]
pub(super) struct FakeSocketState {
    /// The bytes that it accepts before it is full.
    pub(super) space: AtomicUsize,
    /// Whether it has failed.
    pub(super) lost: AtomicBool,
    /// The bytes that it has accepted.
    pub(super) written: parking_lot::Mutex<Vec<u8>>,
    /// The number of write calls.
    pub(super) writes: AtomicUsize,
}

impl Wire for FakeSocket {
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!bytes.is_empty(), "an empty write wastes a system call");
        self.0.writes.store(self.0.writes.load(Relaxed) + 1, Relaxed);
        if self.0.lost.load(Relaxed) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = bytes.len().min(self.0.space.load(Relaxed));
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.space.store(self.0.space.load(Relaxed) - n, Relaxed);
        self.0.written.lock().extend_from_slice(&bytes[..n]);
        Ok(n)
    }
}

impl FakeSocket {
    /// Returns the number of write calls since the last call.
    pub(super) fn writes(&self) -> usize {
        self.0.writes.swap(0, Relaxed)
    }

    /// Returns the bytes accepted since the last call.
    pub(super) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.written.lock())
    }
}

/// Encodes a frame, independently of the code under test.
pub(super) fn encoded(encoding: Encoding, text: &str, position: Option<Position>) -> Vec<u8> {
    match encoding {
        // These tests compress nothing.
        Encoding::WebSocket | Encoding::Deflate => {
            let mut bytes = vec![0x81];
            match text.len() {
                len @ 0..=125 => bytes.push(len as u8),
                len => bytes.extend_from_slice(&[126, (len >> 8) as u8, len as u8]),
            }
            [&bytes, text.as_bytes()].concat()
        }
        Encoding::Sse => {
            let id = position.map_or(String::new(), |c| format!("id: {:x}:{}\n", c.epoch, c.offset));
            format!("{id}data: {text}\n\n").into_bytes()
        }
        Encoding::SseChunked => in_a_chunk(&encoded(Encoding::Sse, text, position)),
    }
}

/// Encodes a chunk, independently of the code under test.
pub(super) fn in_a_chunk(event: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", event.len()).as_bytes(), event, b"\r\n"].concat()
}

/// Splits written bytes into whole frames or events, and the rest.
pub(super) fn units(encoding: Encoding, mut bytes: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut units = Vec::new();
    loop {
        let len = match encoding {
            Encoding::WebSocket | Encoding::Deflate => match bytes {
                [_, 126, a, b, ..] => Some(4 + (usize::from(*a) << 8 | usize::from(*b))),
                [_, 126, ..] => None,
                [_, len, ..] => Some(2 + usize::from(*len)),
                _ => None,
            },
            Encoding::Sse => bytes.windows(2).position(|pair| pair == b"\n\n").map(|at| at + 2),
            Encoding::SseChunked => bytes.windows(2).position(|pair| pair == b"\r\n").map(|at| {
                let size = std::str::from_utf8(&bytes[..at]).expect("digits");
                at + 4 + usize::from_str_radix(size, 16).expect("the size of a chunk")
            }),
        };
        match len {
            Some(len) if len <= bytes.len() => {
                units.push(bytes[..len].to_vec());
                bytes = &bytes[len..];
            }
            _ => return (units, bytes.to_vec()),
        }
    }
}
