//! Where shared state and messages are kept.

use std::fmt;

#[cfg(feature = "redis")]
use crate::redis_client::Address;
use crate::{Error, Result};

/// Where shared state and messages between nodes live: `memory`, or the URL of a Redis. See
/// [`HubBuilder::backend`](crate::HubBuilder::backend) for the forms of the URL.
///
/// Made from text. Text that is neither is reported when the hub is built, as
/// [`Error::Setting`](crate::Error::Setting).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let error = ripplecast::Hub::builder().backend("mongodb://localhost").connect().await.unwrap_err();
/// assert!(error.to_string().contains("mongodb"), "{error}");
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Backend(Result<Kind, Invalid>);

/// A backend whose text is valid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// In this process.
    Memory,
    /// In Redis, shared with other nodes.
    #[cfg(feature = "redis")]
    Redis(Address),
}

/// Why a text names no backend. Passwords in `value` are masked.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Invalid {
    value: String,
    reason: String,
}

impl Backend {
    /// Returns the backend, or [`Error::Setting`] if the text was not valid.
    pub(crate) fn kind(&self) -> Result<&Kind> {
        self.0.as_ref().map_err(|Invalid { value, reason }| Error::setting("backend", value, reason))
    }
}

impl From<&str> for Backend {
    fn from(text: &str) -> Self {
        let parsed = if text == "memory" { Ok(Kind::Memory) } else { shared(text) };
        Self(parsed.map_err(|error| match error {
            Error::Setting { value, reason, .. } => Invalid { value, reason },
            error => Invalid { value: String::new(), reason: error.to_string() },
        }))
    }
}

impl From<&String> for Backend {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<String> for Backend {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl Default for Backend {
    /// `memory`.
    fn default() -> Self {
        Self(Ok(Kind::Memory))
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(kind) => kind.fmt(f),
            Err(invalid) => invalid.fmt(f),
        }
    }
}

/// Parses the URL of a backend that nodes share.
#[cfg(feature = "redis")]
fn shared(text: &str) -> Result<Kind> {
    text.parse().map(Kind::Redis)
}

/// Rejects every URL. Its password, if any, is left out of the error.
#[cfg(not(feature = "redis"))]
fn shared(text: &str) -> Result<Kind> {
    let (scheme, reason) = match text.split_once("://") {
        Some((scheme, _)) if scheme.contains("redis") || scheme.contains("valkey") => (
            format!("{scheme}://…"),
            concat!(
                "it needs the feature `redis`: ripplecast = { version = \"",
                env!("CARGO_PKG_VERSION"),
                "\", features = [\"redis\"] }"
            ),
        ),
        Some((scheme, _)) => {
            (format!("{scheme}://…"), "expected memory, or redis:// with the feature `redis`")
        }
        None => (text.to_owned(), "expected memory, or redis:// with the feature `redis`"),
    };
    Err(Error::setting("backend", scheme, reason))
}
