//! Errors of ids.

use std::fmt;

/// Characters of a rejected text that are kept.
const KEPT: usize = 64;

/// A text that is not an id of the expected type; found in [`Error::Id`](crate::Error::Id).
///
/// ```
/// use ripplecast::{ConnectionId, error::ParseIdError};
///
/// let error: ParseIdError = "seven".parse::<ConnectionId>().unwrap_err();
/// assert_eq!(error.text(), "seven");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseIdError {
    expected: &'static str,
    text: String,
}

impl ParseIdError {
    /// Creates the error. `expected` names the type and shows an example. A long text is cut.
    pub(crate) fn new(expected: &'static str, text: &str) -> Self {
        Self { expected, text: text.chars().take(KEPT).collect() }
    }

    /// Returns the start of the rejected text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not {}", self.text, self.expected)
    }
}

impl std::error::Error for ParseIdError {}
