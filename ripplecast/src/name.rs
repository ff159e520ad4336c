//! The checks that names pass.

use crate::{Error, Result, limits::NAME};

/// Rejects a name that is longer than [`NAME`].
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<()> {
    check_length(what, name, NAME)
}

/// Rejects a name that is empty or longer than `limit` bytes.
pub(crate) fn check_filled(what: &'static str, name: &str, limit: usize) -> Result<()> {
    if name.is_empty() { Err(Error::EmptyName { what }) } else { check_length(what, name, limit) }
}

fn check_length(what: &'static str, name: &str, limit: usize) -> Result<()> {
    let len = name.len();
    if len > limit { Err(Error::NameTooLong { what, len, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_limit() {
        assert!(check_name("room", &"x".repeat(NAME)).is_ok());
        let error = check_name("room", &"x".repeat(NAME + 1)).unwrap_err();
        assert!(matches!(error, Error::NameTooLong { what: "room", len: 256, limit: 255 }));
    }

    #[test]
    fn a_name_that_must_be_filled_is_not_empty() {
        assert!(check_filled("topic", "x", 1).is_ok());
        assert!(matches!(check_filled("topic", "", 1), Err(Error::EmptyName { what: "topic" })));
        assert!(matches!(check_filled("topic", "xx", 1), Err(Error::NameTooLong { len: 2, limit: 1, .. })));
    }
}
