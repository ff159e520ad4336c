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
    sequence::{FIRST_EPOCH, ReplayWindow, SeqNumber},
    wire::{Body, Envelope},
};

/// Maximum age of a message, and maximum difference of clocks.
const WINDOW: Duration = Duration::from_secs(30);
/// Bytes of the signature and the time before it.
const SIGNATURE: usize = 32 + 8;
/// Senders for which a receiver keeps windows: far more than there are nodes.
const SENDERS: usize = 1024;

/// Signs what a node sends, if there is a secret.
pub(crate) struct Signer {
    node: u64,
    /// The HMAC, keyed with the secret.
    mac: Option<Hmac<Sha256>>,
    /// The number of the next message that is not a push to a room.
    next: AtomicU64,
    /// Messages rejected so far.
    rejected: AtomicU64,
}

impl Signer {
    /// Creates a signer for that node.
    pub(crate) fn new(node: u64, secret: Option<&[u8]>) -> Self {
        let mac = secret.and_then(|secret| Hmac::new_from_slice(secret).ok());
        Self { node, mac, next: AtomicU64::new(1), rejected: AtomicU64::new(0) }
    }

    /// Returns whether there is a secret.
    pub(crate) fn has_secret(&self) -> bool {
        self.mac.is_some()
    }

    /// Counts a rejected message.
    pub(crate) fn count_rejected(&self) {
        self.rejected.fetch_add(1, Relaxed);
    }

    /// Returns the number of rejected messages.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Relaxed)
    }

    /// Encodes and signs a message for that channel, with the next number of messages that are not pushes to
    /// rooms.
    pub(crate) fn sign(&self, channel: &str, body: Body) -> Bytes {
        let sequence = SeqNumber { epoch: FIRST_EPOCH, offset: self.next.fetch_add(1, Relaxed) };
        self.sign_envelope(channel, &Envelope { node: self.node, sequence, body })
    }

    /// Encodes and signs a message for that channel.
    pub(super) fn sign_envelope(&self, channel: &str, message: &Envelope) -> Bytes {
        let mut bytes = message.encode();
        if let Some(mac) = &self.mac {
            bytes.put_u64(now());
            let signature = hmac_over(mac, channel, &bytes).finalize().into_bytes();
            bytes.extend_from_slice(&signature);
        }
        bytes.into()
    }

    /// Verifies and decodes a message received on a channel. Returns `None` if it is malformed or not properly signed.
    pub(super) fn verify(&self, channel: &str, mut bytes: Bytes) -> Option<Envelope> {
        if let Some(mac) = &self.mac {
            let body = bytes.len().checked_sub(SIGNATURE)?;
            let signature = bytes.split_off(bytes.len() - 32);
            hmac_over(mac, channel, &bytes).verify_slice(&signature).ok()?; // compares in constant time
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
fn hmac_over(mac: &Hmac<Sha256>, channel: &str, bytes: &[u8]) -> Hmac<Sha256> {
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

/// Accepts each message that is not a push to a room at most once.
#[derive(Default)]
pub(crate) struct ReplayFilter(HashMap<u64, ReplayWindow>);

impl ReplayFilter {
    /// Verifies and decodes a message received on a channel; `None` if it is rejected. Without a secret, no message is
    /// received twice.
    pub(crate) fn verify(&mut self, signer: &Signer, channel: &str, bytes: Bytes) -> Option<Envelope> {
        let message = signer.verify(channel, bytes)?;
        if signer.has_secret() {
            if self.0.len() >= SENDERS && !self.0.contains_key(&message.node) {
                self.0.clear();
            }
            if !self.0.entry(message.node).or_default().accept(message.sequence) {
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
        Body::ToUser { user: "ann".into(), message: "hello".into() }
    }

    #[test]
    fn only_a_recent_signature_for_the_channel_is_accepted() {
        let (one, two) = (Signer::new(1, Some(KEY)), Signer::new(2, Some(KEY)));
        let bytes = one.sign("c", body());
        let verified = two.verify("c", bytes.clone()).unwrap();
        assert_eq!((verified.node, verified.body), (1, body()));
        assert!(two.verify("d", bytes.clone()).is_none(), "another channel");
        assert!(
            Signer::new(2, Some(b"another secret!!")).verify("c", bytes.clone()).is_none(),
            "another secret"
        );
        assert!(two.verify("c", Signer::new(1, None).sign("c", body())).is_none(), "not signed");
        assert!(two.verify("c", Bytes::new()).is_none());
        for at in 0..bytes.len() {
            let mut forged = bytes.to_vec();
            forged[at] ^= 1;
            assert!(two.verify("c", forged.into()).is_none(), "byte {at} was changed");
        }
        // Without a secret, a signed message is rejected as a whole rather than half understood.
        let unsigned = Signer::new(3, None).verify("c", bytes);
        assert_ne!(unsigned.map(|message| message.body), Some(body()));
    }

    #[test]
    fn an_old_message_is_rejected() {
        let signer = Signer::new(1, Some(KEY));
        let message = Envelope { node: 1, sequence: SeqNumber { epoch: 1, offset: 1 }, body: body() };
        let signed_at = |time: u64| {
            let mut bytes = message.encode();
            bytes.put_u64(time);
            let signature = hmac_over(signer.mac.as_ref().unwrap(), "c", &bytes).finalize().into_bytes();
            bytes.extend_from_slice(&signature);
            Bytes::from(bytes)
        };
        assert!(signer.verify("c", signed_at(now())).is_some());
        assert!(signer.verify("c", signed_at(now() - 60_000)).is_none());
        assert!(signer.verify("c", signed_at(now() + 60_000)).is_none());
    }

    #[test]
    fn a_repeated_message_is_rejected() {
        let (one, two) = (Signer::new(1, Some(KEY)), Signer::new(2, Some(KEY)));
        let mut replays = ReplayFilter::default();
        let (first, second) = (one.sign("c", body()), one.sign("c", body()));
        assert!(replays.verify(&two, "c", second.clone()).is_some());
        assert!(replays.verify(&two, "c", first.clone()).is_some(), "an overtaken message is still new");
        assert!(replays.verify(&two, "c", first).is_none());
        assert!(replays.verify(&two, "c", second).is_none());
    }
}
