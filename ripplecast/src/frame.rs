//! One message, shared by reference by everyone that it goes to.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::{
    Result,
    codec::deflate::{Deflated, compress},
};

/// One message, text or binary. Cloning it is cheap: the clones share the payload.
///
/// Strings convert into text frames, so `conn.push("pong")` works; bytes convert into binary frames.
///
/// ```
/// use ripplecast::Frame;
///
/// let frame = Frame::text("hello");
/// assert_eq!(frame.as_text(), Some("hello"));
/// assert_eq!(Frame::json(&[1, 2])?.as_text(), Some("[1,2]"));
/// # Ok::<(), ripplecast::Error>(())
/// ```
#[derive(Clone)]
pub struct Frame {
    /// Whether the payload is UTF-8 text; decides the WebSocket opcode.
    text: bool,
    /// What the message says, not yet framed for any transport.
    payload: Bytes,
    /// What it is the newest value of.
    key: Option<Arc<str>>,
    /// What an event stream calls it.
    event: Option<Arc<str>>,
    /// Its compressed form, where many want it.
    deflated: Option<Arc<Deflated>>,
}

impl Frame {
    /// A text frame.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: true, payload: Bytes::from(text.into()), key: None, event: None, deflated: None }
    }

    /// A binary frame.
    pub fn binary(payload: impl Into<Bytes>) -> Self {
        Self { text: false, payload: payload.into(), key: None, event: None, deflated: None }
    }

    /// A text frame with `value` as JSON.
    ///
    /// # Errors
    /// [`Error::Json`](crate::Error::Json) when `value` can't be written as JSON, such as a map whose keys are no strings.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        Ok(Self {
            text: true,
            payload: Bytes::from(serde_json::to_vec(value)?),
            key: None,
            event: None,
            deflated: None,
        })
    }

    /// A text frame from bytes that a decoder has found to be UTF-8.
    pub(crate) fn from_checked_text(payload: Bytes) -> Self {
        debug_assert!(simdutf8::basic::from_utf8(&payload).is_ok());
        Self { text: true, payload, key: None, event: None, deflated: None }
    }

    /// Says what this is the newest value of. Where [`Overflow::LatestPerKey`](crate::Overflow::LatestPerKey) holds, it
    /// takes the place of a frame with the same key that still waits for a slow reader; elsewhere the key makes no
    /// difference. It is not sent. Keys of different rooms are different. At most a few dozen bytes are sensible.
    ///
    /// ```
    /// use ripplecast::Frame;
    ///
    /// let position = Frame::text("x=3,y=4").with_key("cursor of ada");
    /// assert_eq!(position.key(), Some("cursor of ada"));
    /// ```
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// What this is the newest value of, if anybody said so.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Names the event that it is in an event stream (`event:`, HTML standard, section 9.2): a page hears it with
    /// `addEventListener(name, …)`, htmx with `sse-swap="name"`. Without a name it is a `message`, and bytes are `binary`. A
    /// WebSocket has no such names, so there it makes no difference. What follows a line break in the name is left out, and an
    /// empty name is none.
    ///
    /// ```
    /// use ripplecast::Frame;
    ///
    /// let frame = Frame::text("<li>hello</li>").with_event("said");
    /// assert_eq!(frame.event(), Some("said"));
    /// assert_eq!(frame.with_event("").event(), None);
    /// ```
    #[must_use]
    pub fn with_event(mut self, name: &str) -> Self {
        let line = name.split(['\n', '\r']).next().unwrap_or_default();
        self.event = (!line.is_empty()).then(|| line.into());
        self
    }

    /// What an event stream calls it, if anybody said so.
    pub fn event(&self) -> Option<&str> {
        self.event.as_deref()
    }

    /// Makes its clones share one compressed form.
    pub(crate) fn with_shared_deflated(mut self) -> Self {
        self.deflated.get_or_insert_default();
        self
    }

    /// Its payload compressed: if its clones share that, or else if it is longer than `above`. `None` when it is to be sent
    /// as it is.
    pub(crate) fn deflated(&self, above: usize) -> Option<Bytes> {
        match &self.deflated {
            Some(shared) => shared.of(&self.payload),
            None if self.payload.len() > above => compress(&self.payload).map(Bytes::from),
            None => None,
        }
    }

    /// The key, to be shared.
    pub(crate) fn shared_key(&self) -> Option<&Arc<str>> {
        self.key.as_ref()
    }

    /// Whether this is a text frame.
    pub fn is_text(&self) -> bool {
        self.text
    }

    /// The payload as text; `None` for a binary frame.
    pub fn as_text(&self) -> Option<&str> {
        if self.text { simdutf8::basic::from_utf8(&self.payload).ok() } else { None }
    }

    /// The payload, of a text or a binary frame.
    pub fn as_bytes(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.payload
    }

    /// Length of the payload in bytes.
    pub fn len(&self) -> usize {
        self.payload.len()
    }

    /// Whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }
}

/// Frames are equal when their kinds, payloads, keys and events are.
impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        (self.text, &self.payload, &self.key, &self.event)
            == (other.text, &other.payload, &other.key, &other.event)
    }
}

impl Eq for Frame {}

impl From<&'static str> for Frame {
    fn from(text: &'static str) -> Self {
        Self {
            text: true,
            payload: Bytes::from_static(text.as_bytes()),
            key: None,
            event: None,
            deflated: None,
        }
    }
}

impl From<String> for Frame {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<Bytes> for Frame {
    fn from(payload: Bytes) -> Self {
        Self::binary(payload)
    }
}

impl From<Vec<u8>> for Frame {
    fn from(payload: Vec<u8>) -> Self {
        Self::binary(payload)
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 64;
        match self.as_text() {
            Some(text) if text.len() <= SHOWN => write!(f, "Frame::text({text:?})"),
            Some(text) => write!(f, "Frame::text({} bytes)", text.len()),
            None => write!(f, "Frame::binary({} bytes)", self.payload.len()),
        }
    }
}
