//! Counters and tables that publish their changes to a room. A change and its push are atomic, and so are a
//! join and its snapshot.

mod counter;
mod table;

pub use self::{counter::LiveCounter, table::LiveTable};

use std::time::Duration;

use crate::Result;

/// Interval between attempts to publish what was skipped during overload.
const RETRY: Duration = Duration::from_millis(20);

/// Treats an unavailable backend as success: a member that joins receives the state once the backend is back.
fn unless_unavailable(ready: Result<()>) -> Result<()> {
    match ready {
        Err(error) if error.is_unavailable() => Ok(()),
        ready => ready,
    }
}
