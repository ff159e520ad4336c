//! Where shared state and messages are kept.

use std::str::FromStr;

use crate::{Error, redis_client::Address};

/// Where shared state and messages are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Backend {
    #[default]
    Memory,
    /// In Redis, shared with other nodes.
    Redis(Address),
}

impl FromStr for Backend {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "memory" { Ok(Self::Memory) } else { text.parse().map(Self::Redis) }
    }
}
