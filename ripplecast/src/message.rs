//! One message, shared by reference among all its recipients.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::{
    Result,
    codec::deflate::{Deflated, compress},
};

/// A text or binary message. Cloning is cheap: clones share the payload.
///
/// Strings convert into text messages, so `conn.push("pong")` works. Bytes convert into binary messages.
///
/// ```
/// use ripplecast::Message;
///
/// let message = Message::text("hello");
/// assert_eq!(message.as_text(), Some("hello"));
/// assert_eq!(Message::json(&[1, 2])?.as_text(), Some("[1,2]"));
/// # Ok::<(), ripplecast::Error>(())
/// ```
#[derive(Clone)]
pub struct Message {
    /// Whether the payload is UTF-8 text; decides the WebSocket opcode.
    text: bool,
    /// The content, before any transport's framing.
    payload: Bytes,
    /// Identifies the value that this message updates; see [`with_key`](Self::with_key).
    key: Option<Arc<str>>,
    /// The event name in an event stream.
    event: Option<Arc<str>>,
    /// The compressed form, cached for clones when many connections need it.
    deflated: Option<Arc<Deflated>>,
}

impl Message {
    /// Creates a text message.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: true, payload: Bytes::from(text.into()), key: None, event: None, deflated: None }
    }

    /// Creates a binary message.
    pub fn binary(payload: impl Into<Bytes>) -> Self {
        Self { text: false, payload: payload.into(), key: None, event: None, deflated: None }
    }

    /// Creates a text message with `value` as JSON.
    ///
    /// # Errors
    /// [`Error::Json`](crate::Error::Json) when `value` can't be written as JSON, such as a map with keys that are not strings.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        Ok(Self {
            text: true,
            payload: Bytes::from(serde_json::to_vec(value)?),
            key: None,
            event: None,
            deflated: None,
        })
    }

    /// Creates a text message from bytes that a decoder has checked to be UTF-8.
    pub(crate) fn from_checked_text(payload: Bytes) -> Self {
        debug_assert!(simdutf8::basic::from_utf8(&payload).is_ok());
        Self { text: true, payload, key: None, event: None, deflated: None }
    }

    /// Sets the key of the value that this message updates. Under
    /// [`Overflow::LatestPerKey`](crate::Overflow::LatestPerKey), the message replaces a waiting message with the same key in a
    /// slow reader's outbox. Other policies ignore the key. The key is not sent, and keys of different rooms
    /// are distinct. Keep it to a few dozen bytes.
    ///
    /// ```
    /// use ripplecast::Message;
    ///
    /// let position = Message::text("x=3,y=4").with_key("cursor of ada");
    /// assert_eq!(position.key(), Some("cursor of ada"));
    /// ```
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Returns the key set with [`with_key`](Self::with_key), if any.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Sets the event name used in an event stream (`event:`, HTML standard, section 9.2). A page receives it
    /// with `addEventListener(name, …)`, htmx with `sse-swap="name"`. Without a name, text is a `message`
    /// event and bytes are a `binary` event. WebSockets have no event names and ignore it. The name ends at
    /// its first line break. An empty name removes the name.
    ///
    /// ```
    /// use ripplecast::Message;
    ///
    /// let message = Message::text("<li>hello</li>").with_event("said");
    /// assert_eq!(message.event(), Some("said"));
    /// assert_eq!(message.with_event("").event(), None);
    /// ```
    #[must_use]
    pub fn with_event(mut self, name: &str) -> Self {
        let line = name.split(['\n', '\r']).next().unwrap_or_default();
        self.event = (!line.is_empty()).then(|| line.into());
        self
    }

    /// Returns the event name set with [`with_event`](Self::with_event), if any.
    pub fn event(&self) -> Option<&str> {
        self.event.as_deref()
    }

    /// Makes this message and its future clones share one compressed form.
    pub(crate) fn with_shared_deflated(mut self) -> Self {
        self.deflated.get_or_insert_default();
        self
    }

    /// Returns the compressed payload if clones share one or the payload is longer than `above`. Returns
    /// `None` if the message is to be sent uncompressed.
    pub(crate) fn deflated(&self, above: usize) -> Option<Bytes> {
        match &self.deflated {
            Some(shared) => shared.of(&self.payload),
            None if self.payload.len() > above => compress(&self.payload).map(Bytes::from),
            None => None,
        }
    }

    /// Returns the key for sharing.
    pub(crate) fn shared_key(&self) -> Option<&Arc<str>> {
        self.key.as_ref()
    }

    /// Returns whether this is a text message.
    pub fn is_text(&self) -> bool {
        self.text
    }

    /// Returns the payload as text, or `None` for a binary message.
    pub fn as_text(&self) -> Option<&str> {
        if self.text { simdutf8::basic::from_utf8(&self.payload).ok() } else { None }
    }

    /// Returns the payload of a text or binary message.
    pub fn as_bytes(&self) -> &[u8] {
        &self.payload
    }

    /// Returns the payload without copying it.
    pub fn into_bytes(self) -> Bytes {
        self.payload
    }

    /// Returns the length of the payload in bytes.
    pub fn len(&self) -> usize {
        self.payload.len()
    }

    /// Returns whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }
}

/// Messages are equal when their kinds, payloads, keys and event names are equal.
impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        (self.text, &self.payload, &self.key, &self.event)
            == (other.text, &other.payload, &other.key, &other.event)
    }
}

impl Eq for Message {}

impl From<&'static str> for Message {
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

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<Bytes> for Message {
    fn from(payload: Bytes) -> Self {
        Self::binary(payload)
    }
}

impl From<Vec<u8>> for Message {
    fn from(payload: Vec<u8>) -> Self {
        Self::binary(payload)
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 64;
        match self.as_text() {
            Some(text) if text.len() <= SHOWN => write!(f, "Message::text({text:?})"),
            Some(text) => write!(f, "Message::text({} bytes)", text.len()),
            None => write!(f, "Message::binary({} bytes)", self.payload.len()),
        }
    }
}
