//! Shared by the peers.

use std::io;

/// Raises the limit on open files. Returns the port, which is the only argument.
pub fn port() -> io::Result<u16> {
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok());
    port.ok_or_else(|| io::Error::other("usage: PROGRAM PORT"))
}

/// The most messages that a connection may lag behind.
pub const BEHIND: usize = 1024;
