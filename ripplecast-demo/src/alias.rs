//! Public aliases of node and connection ids, which only operators may see.

use std::fmt::{Display, Write as _};

use sha2::{Digest as _, Sha256};

/// Bytes in an alias, before hexadecimal encoding. Enough to make collisions negligible.
const BYTES: usize = 8;

/// Returns the public alias of an id. It is the same on all nodes, and does not reveal the id.
pub(crate) fn alias(id: impl Display) -> String {
    let hash = Sha256::digest(format!("ripplecast alias {id}"));
    hash[..BYTES].iter().fold(String::with_capacity(2 * BYTES), |mut alias, byte| {
        let _ = write!(alias, "{byte:02x}"); // writing to a String cannot fail
        alias
    })
}

/// Returns whether `text` has the format of an alias.
pub(crate) fn is_alias(text: &str) -> bool {
    text.len() == 2 * BYTES && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_identifies_one_id_without_revealing_it() {
        let id = "3f9a2c7e51b0d846-010000030000002a";
        assert!(is_alias(&alias(id)) && alias(id) == alias(id));
        assert_ne!(alias(id), alias("3f9a2c7e51b0d846-010000030000002b"));
        assert_ne!(alias(id), id[..16]);
        for text in ["", "x", id, "3F9A2C7E51B0D846", "3f9a2c7e51b0d84"] {
            assert!(!is_alias(text), "{text}");
        }
    }
}
