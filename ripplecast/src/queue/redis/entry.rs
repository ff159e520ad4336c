//! Parses messages from Redis without trusting them: anybody may have written to the queue.

use std::sync::Arc;

use bytes::Bytes;
use redis::Value;

use crate::queue::{
    backend::QueueDelivery,
    id::MessageId,
    message::{DeadLetter, QueueMessage},
};

/// A message as Redis returns it.
pub(super) struct StreamEntry {
    pub(super) id: MessageId,
    /// Names and values.
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    deliveries: u32,
}

impl StreamEntry {
    /// Returns the message for a handler, with a fault if this library did not publish it.
    pub(super) fn into_delivery(self, queue: &Arc<str>, claimed: bool) -> QueueDelivery {
        let dead = self.dead();
        let payload = self.field(b"p").map(Bytes::copy_from_slice);
        let fault = payload.is_none().then(|| {
            "it has no field `p`, so this library did not publish it; a manual XADD must set that field"
                .to_owned()
        });
        let message = QueueMessage {
            id: self.id,
            queue: Arc::clone(queue),
            payload: payload.unwrap_or_default(),
            deliveries: self.deliveries,
            dead,
        };
        QueueDelivery { message, claimed, fault }
    }

    /// Returns the origin of a dead letter.
    fn dead(&self) -> Option<DeadLetter> {
        let text = |name: &[u8]| self.field(name).map(|value| String::from_utf8_lossy(value).into_owned());
        Some(DeadLetter {
            id: text(b"i")?.parse().ok()?,
            group: text(b"g")?,
            reason: text(b"r")?,
            deliveries: text(b"n")?.parse().ok()?,
        })
    }

    /// Returns the value of a field.
    fn field(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| &value[..])
    }
}

/// Parses the messages of a script's answer: id, fields and deliveries of each.
pub(super) fn entries(found: &Value) -> Vec<StreamEntry> {
    items(found).iter().filter_map(entry).collect()
}

/// Parses the messages of a reply to `XREADGROUP` with one queue. All of them are delivered for the first
/// time.
pub(super) fn read_reply(found: &Value) -> Vec<StreamEntry> {
    let of_queue = match found {
        Value::Map(queues) => queues.first().map(|(_, entries)| entries),
        Value::Array(queues) => queues.first().and_then(|queue| items(queue).get(1)),
        _ => None, // no messages
    };
    of_queue.map(entries).unwrap_or_default()
}

/// Parses a message: id, fields, and the number of deliveries, 1 if missing.
fn entry(value: &Value) -> Option<StreamEntry> {
    let [id, fields, rest @ ..] = items(value) else { return None };
    let deliveries = match rest.first() {
        Some(Value::Int(deliveries)) => u32::try_from(*deliveries).unwrap_or(u32::MAX),
        _ => 1,
    };
    let id = std::str::from_utf8(bytes(id)?).ok()?.parse().ok()?;
    let fields = items(fields).chunks_exact(2);
    let fields = fields.filter_map(|pair| Some((bytes(&pair[0])?.to_vec(), bytes(&pair[1])?.to_vec())));
    Some(StreamEntry { id, fields: fields.collect(), deliveries })
}

/// Returns the items of an array, or none for anything else.
fn items(value: &Value) -> &[Value] {
    if let Value::Array(items) = value { items } else { &[] }
}

/// Returns the bytes of a string.
fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}
