//! A socket that takes what a test lets it take, and what is written to it, read back.

use super::*;

/// A socket whose peer takes what the test lets it take.
#[derive(Clone, Default)]
pub(super) struct FakeSocket(pub(super) Arc<FakeSocketState>);

#[derive(Default)]
pub(super) struct FakeSocketState {
    /// Bytes that it takes before it is full.
    pub(super) space: AtomicUsize,
    /// Whether it has failed.
    pub(super) lost: AtomicBool,
    /// What it has taken.
    pub(super) written: parking_lot::Mutex<Vec<u8>>,
    /// How often it was asked to take something.
    pub(super) writes: AtomicUsize,
}

impl Wire for FakeSocket {
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        assert!(!bytes.is_empty(), "a write of nothing is a wasted system call");
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
    /// How often it was written to since this was asked last.
    pub(super) fn writes(&self) -> usize {
        self.0.writes.swap(0, Relaxed)
    }

    /// What it has taken since this was asked last.
    pub(super) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.written.lock())
    }
}

/// How a frame looks on the wire, written down a second time and plainly.
pub(super) fn encoded(encoding: Encoding, text: &str, position: Option<Position>) -> Vec<u8> {
    match encoding {
        // Nothing is compressed here: the same bytes.
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

/// A chunk, written down a second time and plainly.
pub(super) fn in_a_chunk(event: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", event.len()).as_bytes(), event, b"\r\n"].concat()
}

/// Splits what was written into whole frames or events, and what is left.
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
