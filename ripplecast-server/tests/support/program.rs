//! The binary under test.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

/// The time limit for a program to start or respond, far longer than it needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary, without the environment's settings.
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
