//! The purpose of each connection, for the inspector.

use std::time::Instant;

/// Connection state: its endpoint, and when it was opened.
pub struct Seen {
    /// The name of the endpoint.
    pub what: &'static str,
    since: Instant,
}

impl Seen {
    /// Describes a connection that is being opened.
    pub(crate) fn now(what: &'static str) -> Self {
        Self { what, since: Instant::now() }
    }

    /// Returns the seconds since the connection was opened.
    pub fn seconds(&self) -> u64 {
        self.since.elapsed().as_secs()
    }
}
