//! The parts of RFC 6455 that a load generator needs: masked frames out, whole frames in, and a mark in each message.

use super::random::Random;

/// The opcode of a text frame.
pub(crate) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// The length of a mark in bytes, and so the shortest message.
pub(super) const MARK: usize = 16;

/// Writes and parses the messages of one run: `@`, seven digits for the run, eight for the number, padding.
pub(super) struct Messages {
    /// The message as last written.
    text: Vec<u8>,
}

impl Messages {
    /// Creates messages of `size` bytes, distinct from those of any other run.
    pub(super) fn new(size: usize, random: &mut Random) -> Self {
        let mut text = format!("@{:07x}{:08x}", random.next() & 0xFFF_FFFF, 0).into_bytes();
        text.resize(size.max(MARK), b'x');
        Self { text }
    }

    /// Appends message `number` to `out` as a masked frame.
    pub(super) fn write(&mut self, number: u32, key: [u8; 4], out: &mut Vec<u8>) {
        for (place, digit) in self.text[8..MARK].iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(number >> (28 - 4 * place)) as usize & 15];
        }
        encode(TEXT, &self.text, key, out);
    }

    /// Returns the number of a message, or `None` if it is from another run or was altered.
    #[inline]
    pub(super) fn number(&self, payload: &[u8]) -> Option<u32> {
        if payload.len() != self.text.len() || payload[..8] != self.text[..8] {
            return None;
        }
        payload[8..MARK].iter().try_fold(0_u32, |number, byte| {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                _ => return None,
            };
            Some(number << 4 | u32::from(digit))
        })
    }
}

/// Appends a masked frame.
pub(crate) fn encode(opcode: u8, payload: &[u8], key: [u8; 4], out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match payload.len() {
        short @ 0..=125 => out.push(0x80 | short as u8),
        middle @ 126..=0xFFFF => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&key);
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// A frame from the server.
#[derive(Debug, PartialEq)]
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    /// Whether it is the last frame of its message.
    pub(crate) last: bool,
    pub(crate) payload: &'a [u8],
}

/// Takes the first frame off `bytes`, or returns `None` if it is incomplete. An error describes the server's
/// violation.
#[inline]
pub(crate) fn decode<'a>(bytes: &mut &'a [u8], longest: usize) -> Result<Option<Frame<'a>>, String> {
    let [first, second, rest @ ..] = *bytes else { return Ok(None) };
    if first & 0x70 != 0 || second & 0x80 != 0 {
        return Err("the server sent a frame that is masked or uses an extension".to_owned());
    }
    let (length, rest) = match second & 0x7F {
        126 => match rest.split_first_chunk::<2>() {
            Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest),
            None => return Ok(None),
        },
        short => (u64::from(short), rest),
    };
    let length = usize::try_from(length).ok().filter(|length| *length <= longest);
    let Some(length) = length else {
        return Err(format!("the server sent a frame of more than {longest} bytes"));
    };
    let Some((payload, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    *bytes = rest;
    Ok(Some(Frame { opcode: first & 0x0F, last: first & 0x80 != 0, payload }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the frame as the server would forward it: unmasked.
    fn unmask(frame: &[u8]) -> Vec<u8> {
        let header = match frame[1] & 0x7F {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        let (head, body) = frame.split_at(header);
        let mut bytes = head.to_vec();
        bytes[1] &= 0x7F;
        bytes.extend(body[4..].iter().enumerate().map(|(i, byte)| byte ^ body[i % 4]));
        bytes
    }

    #[test]
    fn messages_keep_their_numbers() {
        let mut random = Random::new(1);
        for size in [MARK, 64, 125, 126, 0xFFFF, 0x10000] {
            let mut messages = Messages::new(size, &mut random);
            for number in [0, 1, 0xDEAD_BEEF, u32::MAX] {
                let mut sent = Vec::new();
                messages.write(number, random.key(), &mut sent);
                let received = unmask(&sent);
                let mut rest = received.as_slice();
                let frame = decode(&mut rest, size).unwrap().unwrap();
                assert!(rest.is_empty() && frame.last);
                assert_eq!((frame.opcode, frame.payload.len()), (TEXT, size));
                assert_eq!(messages.number(frame.payload), Some(number));
                for short in 0..received.len().min(20) {
                    assert_eq!(decode(&mut &received[..short], size), Ok(None));
                }
                assert!(decode(&mut received.as_slice(), size - 1).is_err());
            }
        }
    }

    #[test]
    fn a_message_of_another_run_has_no_number() {
        let mut random = Random::new(2);
        let (ours, theirs) = (Messages::new(64, &mut random), Messages::new(64, &mut random));
        assert_eq!(ours.number(&theirs.text), None);
        assert_eq!(ours.number(b"hello"), None);
        assert_eq!(ours.number(&ours.text[..63]), None);
        let mut broken = ours.text.clone();
        broken[10] = b'x';
        assert_eq!(ours.number(&broken), None);
    }

    #[test]
    fn invalid_server_frames_are_rejected() {
        assert!(decode(&mut &[0x81, 0x80, 0, 0, 0, 0][..], 10).is_err());
        assert!(decode(&mut &[0xC1, 0][..], 10).is_err());
    }
}
