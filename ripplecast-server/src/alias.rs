//! What visitors see in place of the ids of nodes and connections, which are for operators.

use std::fmt::{Display, Write as _};

use sha2::{Digest as _, Sha256};

/// Bytes of an alias, before they are written in hexadecimal. Enough that two never meet by chance.
const BYTES: usize = 8;

/// Returns the name under which visitors know an id: the same on all nodes, and no way back to the id.
pub(crate) fn alias(id: impl Display) -> String {
    let hash = Sha256::digest(format!("ripplecast alias {id}"));
    hash[..BYTES].iter().fold(String::with_capacity(2 * BYTES), |mut alias, byte| {
        let _ = write!(alias, "{byte:02x}"); // writing to a String can't fail
        alias
    })
}

/// Whether a text is an alias, as [`alias`] writes it.
pub(crate) fn is_alias(text: &str) -> bool {
    text.len() == 2 * BYTES && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_stands_for_one_id_and_tells_nothing_of_it() {
        let id = "3f9a2c7e51b0d846-010000030000002a";
        assert!(is_alias(&alias(id)) && alias(id) == alias(id));
        assert_ne!(alias(id), alias("3f9a2c7e51b0d846-010000030000002b"));
        assert_ne!(alias(id), id[..16]);
        for text in ["", "x", id, "3F9A2C7E51B0D846", "3f9a2c7e51b0d84"] {
            assert!(!is_alias(text), "{text}");
        }
    }
}
