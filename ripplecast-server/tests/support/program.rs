//! The binary, as whoever tests it starts it.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

/// Time in which a program must have started or done what it was told; far longer than that takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary, without any setting of whoever runs the tests.
pub(crate) fn ripplecast() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ripplecast"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RIPPLECAST_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}
