//! What the peers share.

/// The port: the only argument. Raises the limit on open files as well.
pub fn port() -> u16 {
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok());
    port.expect("usage: PROGRAM PORT")
}

/// Messages that a connection may be behind.
pub const BEHIND: usize = 1024;
