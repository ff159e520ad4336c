//! Ids of nodes and connections.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::ParseIdError;

/// The id of one run of a process with a hub: a random number that is never reused.
///
/// Its text form is the first half of the id of each of its [connections](crate::ConnectionId).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hex = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let number = if is_hex { u64::from_str_radix(text, 16).ok() } else { None };
        number
            .map(Self)
            .ok_or_else(|| ParseIdError::new("a node id; expected 16 digits such as 3f9a2c7e51b0d846", text))
    }
}

/// A connection within its node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Local {
    pub(crate) shard: u8,
    /// The slot within the shard; below 2^24.
    pub(crate) slot: u32,
    /// Distinguishes the connections that used this slot; starts at 1 and is never reused.
    pub(crate) generation: u32,
}

impl Local {
    /// Packs all parts into one number.
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.shard) << 56 | u64::from(self.slot) << 32 | u64::from(self.generation)
    }

    /// Reverses [`Local::pack`].
    pub(crate) fn unpack(packed: u64) -> Self {
        Self {
            shard: (packed >> 56) as u8,
            slot: (packed >> 32) as u32 & 0xff_ffff,
            generation: packed as u32,
        }
    }

    /// Returns the shard as an index.
    pub(crate) fn shard(self) -> usize {
        usize::from(self.shard)
    }
}

/// The id of an open socket or event stream. It is never reused, not even by another node or after a restart.
///
/// Its text form suits table keys and logs, and can be parsed back.
///
/// ```
/// use ripplecast::ConnectionId;
///
/// let id: ConnectionId = "3f9a2c7e51b0d846-010000030000002a".parse()?;
/// assert_eq!(id.to_string(), "3f9a2c7e51b0d846-010000030000002a");
/// # Ok::<(), ripplecast::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    node: u64,
    /// The connection within the node, packed.
    local: u64,
}

impl ConnectionId {
    /// Creates the id of a connection on a node.
    pub(crate) fn new(node: u64, local: Local) -> Self {
        Self { node, local: local.pack() }
    }

    /// Creates the id from a packed local id.
    pub(crate) fn of(node: u64, local: u64) -> Self {
        Self { node, local }
    }

    /// Returns the node that owns the connection.
    pub fn node(self) -> NodeId {
        NodeId(self.node)
    }

    /// Returns the packed local id.
    pub(crate) fn packed(self) -> u64 {
        self.local
    }

    /// Returns the local id if the connection belongs to `node`.
    pub(crate) fn on(self, node: u64) -> Option<Local> {
        (self.node == node).then(|| Local::unpack(self.local))
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.node, self.local)
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionId({self})")
    }
}

impl FromStr for ConnectionId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (node, local) = text.split_once('-')?;
            let hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if node.len() != 16 || local.len() != 16 || !hex(node) || !hex(local) {
                return None;
            }
            Some(Self {
                node: u64::from_str_radix(node, 16).ok()?,
                local: u64::from_str_radix(local, 16).ok()?,
            })
        };
        let expected = "a connection id; expected one such as 3f9a2c7e51b0d846-010000030000002a";
        parse().ok_or_else(|| ParseIdError::new(expected, text))
    }
}

/// Implements serde's traits for ids, in their text form.
macro_rules! serde_as_text {
    ($($id:ty),*) => {$(
        impl Serialize for $id {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(NodeId, ConnectionId);
pub(crate) use serde_as_text;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_text_in_serde_and_wrong_ones_are_refused() {
        let text = "\"3f9a2c7e51b0d846-010000030000002a\"";
        let id: ConnectionId = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), text);
        let node: NodeId = serde_json::from_value(serde_json::to_value(id.node()).unwrap()).unwrap();
        assert_eq!(node, id.node());
        for wrong in ["\"\"", "\"3f9a2c7e51b0d846\"", "\"3F9A2C7E51B0D846-010000030000002a\"", "7"] {
            assert!(serde_json::from_str::<ConnectionId>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_long_text_is_cut_in_the_error() {
        let long = "9".repeat(10_000);
        assert!(long.parse::<NodeId>().unwrap_err().to_string().len() < 200);
        assert!(long.parse::<ConnectionId>().unwrap_err().to_string().len() < 200);
    }
}
