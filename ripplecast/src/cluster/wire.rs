//! The wire format of messages between nodes. Other processes read them, and anybody who can write to the
//! backend can send them, so decoding never panics and trusts nothing.

use bytes::{Buf as _, BufMut as _, Bytes};

use super::sequence::SeqNumber;
use crate::{Close, CloseCode, Message, limits::NAME, text::prefix};

/// The version of the format; any other is rejected.
const VERSION: u8 = 1;

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Envelope {
    /// The sender.
    pub(crate) node: u64,
    /// Its sequence number. Pushes to a room are numbered per channel; all other messages share one sequence.
    pub(super) sequence: SeqNumber,
    pub(crate) body: Body,
}

/// The content of a message.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Body {
    /// A push to the members of the channel's room, or to all connections.
    Message { message: Message },
    /// A push to the connections of a user.
    ToUser { user: String, message: Message },
    /// A close of the connections of a user.
    CloseUser { user: String, close: Close },
    /// A query for the connections of an audience.
    Query {
        /// Where to send the reply: the lease of a node.
        to: String,
        /// The id of the query.
        id: u64,
        /// Whether the audience is a room rather than a user.
        is_room: bool,
        /// The name of the audience.
        name: String,
        /// Return connections after this one.
        from: u64,
        /// The maximum number of connections.
        limit: u32,
    },
    /// A message of the bus, if messages are signed.
    Bus { payload: Bytes },
    /// The reply to a query.
    Reply {
        /// The id of the query.
        id: u64,
        /// The connections, in order.
        connections: Vec<u64>,
    },
}

impl Envelope {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        out.put_u8(VERSION);
        out.put_u64(self.node);
        out.put_u64(self.sequence.epoch);
        out.put_u64(self.sequence.offset);
        match &self.body {
            Body::Message { message } => {
                out.put_u8(b'f');
                put_message(&mut out, message);
            }
            Body::Bus { payload } => {
                out.put_u8(b'b');
                out.put_slice(payload);
            }
            Body::ToUser { user, message } => {
                out.put_u8(b'c');
                put_text(&mut out, user);
                put_message(&mut out, message);
            }
            Body::CloseUser { user, close } => {
                out.put_u8(b'd');
                put_text(&mut out, user);
                out.put_u16(close.code.get());
                put_text(&mut out, &close.reason);
            }
            Body::Query { to, id, is_room, name, from, limit } => {
                out.put_u8(b'q');
                put_text(&mut out, to);
                out.put_u64(*id);
                out.put_u8(u8::from(*is_room));
                put_text(&mut out, name);
                out.put_u64(*from);
                out.put_u32(*limit);
            }
            Body::Reply { id, connections } => {
                out.put_u8(b'a');
                out.put_u64(*id);
                connections.iter().for_each(|&connection| out.put_u64(connection));
            }
        }
        out
    }

    /// Estimates the encoded size in bytes.
    fn size(&self) -> usize {
        let size_of = |message: &Message| {
            message.len()
                + [message.key(), message.event()].into_iter().flatten().map(str::len).sum::<usize>()
                + 96
        };
        match &self.body {
            Body::Message { message } => size_of(message),
            Body::Bus { payload } => payload.len() + 96,
            Body::ToUser { user, message } => user.len() + size_of(message),
            Body::CloseUser { user, close } => user.len() + close.reason.len() + 64,
            Body::Query { to, name, .. } => to.len() + name.len() + 64,
            Body::Reply { connections, .. } => 8 * connections.len() + 32,
        }
    }

    /// Decodes a message; `None` if it is malformed.
    pub(super) fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let node = bytes.try_get_u64().ok()?;
        let sequence = SeqNumber { epoch: bytes.try_get_u64().ok()?, offset: bytes.try_get_u64().ok()? };
        let body = match bytes.try_get_u8().ok()? {
            b'f' => Body::Message { message: get_message(bytes)? },
            b'b' => Body::Bus { payload: bytes },
            b'c' => Body::ToUser { user: get_text(&mut bytes)?, message: get_message(bytes)? },
            b'd' => {
                let user = get_text(&mut bytes)?;
                let code = CloseCode::from_node(bytes.try_get_u16().ok()?)?;
                Body::CloseUser { user, close: Close::cut(code, get_text(&mut bytes)?) }
            }
            b'q' => Body::Query {
                to: get_text(&mut bytes)?,
                id: bytes.try_get_u64().ok()?,
                is_room: bytes.try_get_u8().ok()? == 1,
                name: get_text(&mut bytes)?,
                from: bytes.try_get_u64().ok()?,
                limit: bytes.try_get_u32().ok()?,
            },
            b'a' => {
                let id = bytes.try_get_u64().ok()?;
                let connections = std::iter::from_fn(|| bytes.try_get_u64().ok()).collect();
                Body::Reply { id, connections }
            }
            _ => return None,
        };
        Some(Self { node, sequence, body })
    }
}

/// Writes a text, prefixed with its length.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = prefix(text, usize::from(u16::MAX));
    out.put_u16(text.len() as u16);
    out.put_slice(text.as_bytes());
}

/// Reads a text.
fn get_text(bytes: &mut Bytes) -> Option<String> {
    let len = usize::from(bytes.try_get_u16().ok()?);
    if bytes.len() < len {
        return None;
    }
    String::from_utf8(bytes.split_to(len).into()).ok()
}

/// Flags of a pushed message.
const TEXT: u8 = 1;
const KEY: u8 = 2;
const EVENT: u8 = 4;

/// Writes a pushed message: flags, key, event, and the payload as the rest.
fn put_message(out: &mut Vec<u8>, message: &Message) {
    // A key or event too long to be a name has no use on other nodes either.
    let short = |text: &&str| text.len() <= usize::from(u16::MAX);
    let (key, event) = (message.key().filter(short), message.event().filter(short));
    let bit = |bit: u8, is_set: bool| if is_set { bit } else { 0 };
    out.put_u8(bit(TEXT, message.is_text()) | bit(KEY, key.is_some()) | bit(EVENT, event.is_some()));
    [key, event].into_iter().flatten().for_each(|text| put_text(out, text));
    out.put_slice(message.as_bytes());
}

/// Reads a pushed message without copying its payload.
fn get_message(mut bytes: Bytes) -> Option<Message> {
    let flags = bytes.try_get_u8().ok()?;
    let key = if flags & KEY == 0 { None } else { Some(get_text(&mut bytes)?) };
    let event = if flags & EVENT == 0 { String::new() } else { get_text(&mut bytes)? };
    let message = if flags & TEXT == 0 {
        Message::binary(bytes)
    } else if simdutf8::basic::from_utf8(&bytes).is_ok() {
        Message::from_checked_text(bytes)
    } else {
        return None;
    };
    let message = message.with_event(&event);
    Some(match key {
        Some(key) => message.with_key(key),
        None => message,
    })
}

/// Returns whether this can be the name of a room or a user.
pub(super) fn is_name(name: &str) -> bool {
    name.len() <= NAME
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Message> {
        let payload =
            prop_oneof![".{0,40}".prop_map(Message::text), any::<Vec<u8>>().prop_map(Message::binary)];
        (payload, proptest::option::of(".{0,20}"), ".{0,9}").prop_map(|(message, key, event)| {
            let message = message.with_event(&event);
            match key {
                Some(key) => message.with_key(key),
                None => message,
            }
        })
    }

    fn bodies() -> impl Strategy<Value = Body> {
        prop_oneof![
            frames().prop_map(|message| Body::Message { message }),
            any::<Vec<u8>>().prop_map(|payload| Body::Bus { payload: payload.into() }),
            (".{0,20}", frames()).prop_map(|(user, message)| Body::ToUser { user, message }),
            (".{0,20}", 3000_u16..5000, ".{0,20}").prop_map(|(user, code, reason)| {
                let code = CloseCode::application(code).unwrap();
                Body::CloseUser { user, close: Close::cut(code, reason) }
            }),
            (".{0,20}", any::<u64>(), any::<bool>(), ".{0,20}", any::<u64>(), any::<u32>()).prop_map(
                |(to, id, is_room, name, from, limit)| Body::Query { to, id, is_room, name, from, limit }
            ),
            (any::<u64>(), proptest::collection::vec(any::<u64>(), 0..9))
                .prop_map(|(id, connections)| Body::Reply { id, connections }),
        ]
    }

    proptest! {
        #[test]
        fn messages_round_trip(node in any::<u64>(), epoch in any::<u64>(), offset in any::<u64>(), body in bodies()) {
            let message = Envelope { node, sequence: SeqNumber { epoch, offset }, body };
            prop_assert_eq!(Envelope::decode(message.encode().into()), Some(message));
        }

        #[test]
        fn decoding_never_panics(bytes in any::<Vec<u8>>(), node in any::<u64>(), body in bodies(), cut in any::<usize>()) {
            let whole = Bytes::from(Envelope { node, sequence: SeqNumber { epoch: 1, offset: 2 }, body }.encode());
            let _ = Envelope::decode(whole.slice(..cut % (whole.len() + 1)));
            let _ = Envelope::decode(bytes.clone().into());
            let _ = Envelope::decode([&[VERSION], &bytes[..]].concat().into());
        }
    }

    #[test]
    fn invalid_utf8_is_rejected() {
        let body = Body::ToUser { user: "a".into(), message: "ö".into() };
        let mut bytes = Envelope { node: 1, sequence: SeqNumber { epoch: 1, offset: 1 }, body }.encode();
        *bytes.last_mut().unwrap() = 0xff;
        assert_eq!(Envelope::decode(bytes.into()), None);
    }
}
