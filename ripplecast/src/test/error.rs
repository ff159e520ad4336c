//! What went wrong at a client.

use std::{fmt, time::Duration};

/// Why a step of a client failed. `Debug` shows the message of `Display`, for `unwrap` in tests.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server refused the upgrade or the stream.
    #[error("the server answered {status}: {body}")]
    Refused {
        /// The status of the response.
        status: u16,
        /// The body of the response.
        body: String,
    },
    /// Something else arrived.
    #[error("expected {expected}, received {received}")]
    Unexpected {
        /// What was expected.
        expected: String,
        /// What arrived.
        received: String,
    },
    /// Nothing arrived in time.
    #[error("expected {expected}, received nothing within {after:?}")]
    TimedOut {
        /// What was expected.
        expected: String,
        /// The deadline.
        after: Duration,
    },
    /// A header or a path is not valid, or a value can't be written as JSON.
    #[error("not valid: {0}")]
    Invalid(String),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Connection(String),
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    /// Describes a failed connection.
    pub(super) fn connection(error: impl fmt::Display) -> Self {
        Self::Connection(error.to_string())
    }

    /// Describes an argument that is not valid.
    pub(super) fn invalid(error: impl fmt::Display) -> Self {
        Self::Invalid(error.to_string())
    }

    /// Describes what arrived instead.
    pub(super) fn unexpected(expected: &str, received: impl Into<String>) -> Self {
        Self::Unexpected { expected: expected.to_owned(), received: received.into() }
    }
}

/// Waits for something, until the deadline.
pub(super) async fn within<T>(
    after: Duration,
    expected: &str,
    future: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let timed_out = |_| Error::TimedOut { expected: expected.to_owned(), after };
    tokio::time::timeout(after, future).await.map_err(timed_out)?
}
