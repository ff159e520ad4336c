//! Signatures: with a shared secret, a node accepts a message only if another node that knows the secret sent
//! it, on that channel, recently, and only once.
//!
//! HMAC-SHA-256 (RFC 2104) over the channel, the message and its time. The channel is signed by its full name
//! including the prefix, so a message of one application is not valid on the channels of another with the
//! same secret. A message that is older than [`WINDOW`] is rejected. So is a repeated one: in rooms it is
//! detected by its sequence number, elsewhere by a window over the last numbers, as in IPsec (RFC 4303,
//! section 3.4.3).
//!
//! The time limits how long a recording can be replayed; it never orders messages. Clocks of nodes must not
//! differ by more than the window. If they do, messages are rejected and counted, but never reordered or
//! wrongly accepted.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{BufMut as _, Bytes};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::{
    sequence::{FIRST_SERIES, Number, Window},
    wire::{Body, Envelope},
};

/// Maximum age of a message, and maximum difference of clocks.
const WINDOW: Duration = Duration::from_secs(30);
/// Bytes of the signature and the time before it.
const SEAL: usize = 32 + 8;
/// Senders for which a receiver keeps windows: far more than there are nodes.
const SENDERS: usize = 1024;

/// Signs what a node sends, if there is a secret.
pub(crate) struct Sealer {
    node: u64,
    /// The HMAC, keyed with the secret.
    mac: Option<Hmac<Sha256>>,
    /// The number of the next message that is not a frame of a room.
    next: AtomicU64,
    /// Messages rejected so far.
    refused: AtomicU64,
}

impl Sealer {
    /// Creates a signer for that node.
    pub(crate) fn new(node: u64, secret: Option<&[u8]>) -> Self {
        let mac = secret.and_then(|secret| Hmac::new_from_slice(secret).ok());
        Self { node, mac, next: AtomicU64::new(1), refused: AtomicU64::new(0) }
    }

    /// Returns whether there is a secret.
    pub(crate) fn is_on(&self) -> bool {
        self.mac.is_some()
    }

    /// Counts a rejected message.
    pub(crate) fn refuse(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Returns the number of rejected messages.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Encodes and signs a message for that channel, with the next number of messages that are not frames of
    /// rooms.
    pub(crate) fn message(&self, channel: &str, body: Body) -> Bytes {
        let number = Number { series: FIRST_SERIES, number: self.next.fetch_add(1, Relaxed) };
        self.seal(channel, &Envelope { node: self.node, number, body })
    }

    /// Encodes and signs a message for that channel.
    pub(super) fn seal(&self, channel: &str, message: &Envelope) -> Bytes {
        let mut bytes = message.encode();
        if let Some(mac) = &self.mac {
            bytes.put_u64(now());
            let signature = signed(mac, channel, &bytes).finalize().into_bytes();
            bytes.extend_from_slice(&signature);
        }
        bytes.into()
    }

    /// Decodes a message received on a channel. Returns `None` if it is malformed or not properly signed.
    pub(super) fn open(&self, channel: &str, mut bytes: Bytes) -> Option<Envelope> {
        if let Some(mac) = &self.mac {
            let body = bytes.len().checked_sub(SEAL)?;
            let signature = bytes.split_off(bytes.len() - 32);
            signed(mac, channel, &bytes).verify_slice(&signature).ok()?; // compares in constant time
            let sent = u64::from_be_bytes(bytes[body..].try_into().ok()?);
            if now().abs_diff(sent) > WINDOW.as_millis() as u64 {
                return None;
            }
            bytes.truncate(body);
        }
        Envelope::decode(bytes)
    }
}

/// Computes the signature over the channel, prefixed with its length, and everything before the signature.
fn signed(mac: &Hmac<Sha256>, channel: &str, bytes: &[u8]) -> Hmac<Sha256> {
    let mut mac = mac.clone();
    mac.update(&(channel.len() as u64).to_be_bytes());
    mac.update(channel.as_bytes());
    mac.update(bytes);
    mac
}

/// Returns the time in ms since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// Accepts each message that is not a frame of a room only once.
#[derive(Default)]
pub(crate) struct Once(HashMap<u64, Window>);

impl Once {
    /// Decodes a message received on a channel; `None` if it is rejected. Without a secret, no message is
    /// received twice.
    pub(crate) fn open(&mut self, sealer: &Sealer, channel: &str, bytes: Bytes) -> Option<Envelope> {
        let message = sealer.open(channel, bytes)?;
        if sealer.is_on() {
            if self.0.len() >= SENDERS && !self.0.contains_key(&message.node) {
                self.0.clear();
            }
            if !self.0.entry(message.node).or_default().is_new(message.number) {
                return None;
            }
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"0123456789abcdef";

    fn body() -> Body {
        Body::ToUser { user: "ann".into(), frame: "hello".into() }
    }

    #[test]
    fn only_a_recent_signature_for_the_channel_is_accepted() {
        let (one, two) = (Sealer::new(1, Some(KEY)), Sealer::new(2, Some(KEY)));
        let bytes = one.message("c", body());
        let opened = two.open("c", bytes.clone()).unwrap();
        assert_eq!((opened.node, opened.body), (1, body()));
        assert!(two.open("d", bytes.clone()).is_none(), "another channel");
        assert!(
            Sealer::new(2, Some(b"another secret!!")).open("c", bytes.clone()).is_none(),
            "another secret"
        );
        assert!(two.open("c", Sealer::new(1, None).message("c", body())).is_none(), "not signed");
        assert!(two.open("c", Bytes::new()).is_none());
        for at in 0..bytes.len() {
            let mut forged = bytes.to_vec();
            forged[at] ^= 1;
            assert!(two.open("c", forged.into()).is_none(), "byte {at} was changed");
        }
        // Without a secret, a signed message is rejected as a whole rather than half understood.
        let unsigned = Sealer::new(3, None).open("c", bytes);
        assert_ne!(unsigned.map(|message| message.body), Some(body()));
    }

    #[test]
    fn an_old_message_is_rejected() {
        let sealer = Sealer::new(1, Some(KEY));
        let message = Envelope { node: 1, number: Number { series: 1, number: 1 }, body: body() };
        let sealed_at = |time: u64| {
            let mut bytes = message.encode();
            bytes.put_u64(time);
            let signature = signed(sealer.mac.as_ref().unwrap(), "c", &bytes).finalize().into_bytes();
            bytes.extend_from_slice(&signature);
            Bytes::from(bytes)
        };
        assert!(sealer.open("c", sealed_at(now())).is_some());
        assert!(sealer.open("c", sealed_at(now() - 60_000)).is_none());
        assert!(sealer.open("c", sealed_at(now() + 60_000)).is_none());
    }

    #[test]
    fn a_repeated_message_is_rejected() {
        let (one, two) = (Sealer::new(1, Some(KEY)), Sealer::new(2, Some(KEY)));
        let mut heard = Once::default();
        let (first, second) = (one.message("c", body()), one.message("c", body()));
        assert!(heard.open(&two, "c", second.clone()).is_some());
        assert!(heard.open(&two, "c", first.clone()).is_some(), "an overtaken message is still new");
        assert!(heard.open(&two, "c", first).is_none());
        assert!(heard.open(&two, "c", second).is_none());
    }
}
