//! Communication between nodes: a push on one node reaches the members on all nodes.
//!
//! The interface for the engine is in `engine/cluster.rs`. `cluster/wire.rs` encodes the messages,
//! `cluster/sequence.rs` detects gaps, `cluster/sign.rs` signs, and `cluster/redis.rs` transports them.

mod gaps;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
mod sequence;
#[cfg(feature = "redis")]
mod sign;
#[cfg(feature = "redis")]
mod wire;

pub use self::gaps::GapReport;
pub(crate) use self::gaps::{GapHook, GapLog};
#[cfg(feature = "redis")]
pub(crate) use self::{
    redis::RedisCluster,
    sign::{ReplayFilter, Signer},
    wire::Body,
};

use crate::{Error, Result};

/// Minimum length of a secret in bytes, so that it can't be guessed.
const SECRET: usize = 16;

/// Checks the secret that nodes share.
///
/// # Errors
/// [`Error::Setting`] if it is too short.
pub(crate) fn check_secret(secret: &[u8]) -> Result<()> {
    if secret.len() < SECRET {
        let reason =
            format!("expected at least {SECRET} bytes, such as the output of `openssl rand -hex 32`");
        return Err(Error::setting("node_secret", format!("{} bytes", secret.len()), reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_secret_is_rejected() {
        assert!(check_secret(b"0123456789abcdef").is_ok());
        let error = check_secret(b"secret").unwrap_err().to_string();
        assert!(
            error.contains("node_secret") && error.contains("openssl") && !error.contains("\"secret\""),
            "{error}"
        );
    }
}
