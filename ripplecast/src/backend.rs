//! Where shared state and messages live.

use std::str::FromStr;

use crate::{Error, redis_client::Address};

/// Where shared state and messages live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Backend {
    /// In this process.
    #[default]
    Memory,
    /// In Redis, where other nodes share it.
    Redis(Address),
}

impl FromStr for Backend {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "memory" { Ok(Self::Memory) } else { text.parse().map(Self::Redis) }
    }
}
