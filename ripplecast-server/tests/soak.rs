//! A short soak test: the test itself works, and its server survives.

#![cfg(target_os = "linux")]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
};

/// The soak test, without the environment's settings.
fn soak(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ripplecast"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RIPPLECAST_") {
            command.env_remove(name);
        }
    }
    command.args(["bench", "soak", "--connections", "60"]).args(args).stdin(Stdio::null());
    command
}

#[test]
fn a_short_soak_passes() {
    let output = soak(&["--minutes", "0.1", "--seed", "1"]).output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{out}{}", String::from_utf8_lossy(&output.stderr));
    for part in ["--seed 1", "ended by SIGTERM; 60 were notified", "ended by SIGKILL", "\nclean\n"] {
        assert!(out.contains(part), "no {part:?} in {out}");
    }
}

#[test]
fn ctrl_c_shows_the_results_so_far_and_leaves_no_server_behind() {
    let mut process = soak(&["--minutes", "60"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(process.stdout.take().unwrap());
    let mut text = String::new();
    // The first line, the column names, the first cycle.
    for _ in 0..3 {
        out.read_line(&mut text).unwrap();
    }
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", process.id())).unwrap();
    let server: u32 = children.trim().parse().unwrap();
    assert!(Command::new("kill").args(["-s", "INT", &process.id().to_string()]).status().unwrap().success());
    out.read_to_string(&mut text).unwrap();
    assert!(process.wait().unwrap().success(), "{text}");
    assert!(text.contains("\nclean until it was interrupted\n"), "{text}");
    assert!(!std::fs::exists(format!("/proc/{server}")).unwrap(), "the server is still running");
}
