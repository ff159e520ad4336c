//! Trouble with accepting connections: whose it is, and what the log says of it.

use std::{io, net::IpAddr};

use crate::log::limited;

/// Logs that the system had nothing to accept with.
pub(super) fn log_failed(error: &io::Error) {
    limited!(WARN, "can't accept a connection: {error}{}", accept_advice(error));
}

/// Logs that every place is taken.
pub(super) fn log_full(limit: usize) {
    limited!(WARN, limit, "all places for connections are taken; new ones wait (max_http_connections)");
}

/// Logs that one address has too many connections.
pub(super) fn log_too_many(address: IpAddr, limit: usize) {
    limited!(
        WARN,
        %address,
        limit,
        "too many plain connections from one address; more are closed (max_http_connections_per_address; if it is a proxy, \
         name it in trusted_proxies)"
    );
}

/// Whether the connection was lost before it was accepted. The next one may be fine.
pub(super) fn is_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// What to do about a connection that can't be accepted.
fn accept_advice(error: &io::Error) -> &'static str {
    /// The process has no descriptor left; the same number on every Unix.
    const EMFILE: i32 = 24;
    /// The machine has no descriptor left; the same number on every Unix.
    const ENFILE: i32 = 23;
    match error.raw_os_error() {
        Some(EMFILE) if cfg!(unix) => {
            "; raise the limit on open files of this process (`ulimit -n`, or LimitNOFILE= in its systemd unit)"
        }
        Some(ENFILE) if cfg!(unix) => "; raise the limit on open files of this machine (sysctl fs.file-max)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_with_accepting_is_told_apart_and_explained() {
        assert!(is_peers_fault(&io::ErrorKind::ConnectionAborted.into()));
        assert!(!is_peers_fault(&io::ErrorKind::OutOfMemory.into()));
        if cfg!(unix) {
            let too_many = io::Error::from_raw_os_error(24);
            assert!(!is_peers_fault(&too_many));
            assert!(accept_advice(&too_many).contains("ulimit -n"));
        }
    }
}
