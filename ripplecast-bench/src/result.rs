//! How commands fail.

use std::io;

use tokio::runtime::Runtime;

/// A value, or one line that says what went wrong.
pub(crate) type Result<T, E = String> = std::result::Result<T, E>;

/// Returns the runtime, or the error as a sentence.
pub(crate) fn started(runtime: io::Result<Runtime>) -> Result<Runtime> {
    runtime.map_err(|error| format!("failed to start a runtime: {error}"))
}
