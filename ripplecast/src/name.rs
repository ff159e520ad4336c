//! The length check shared by all names.

use crate::{Error, Result, limits::NAME};

/// Rejects a name that is too long.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<()> {
    if name.len() > NAME {
        return Err(Error::NameTooLong { what, len: name.len(), limit: NAME });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_limit() {
        assert!(check_name("room name", &"x".repeat(NAME)).is_ok());
        let error = check_name("room name", &"x".repeat(NAME + 1)).unwrap_err();
        assert!(matches!(error, Error::NameTooLong { len: 256, limit: 255, .. }));
    }
}
