//! Errors while accepting connections: their cause and their log lines.

use std::{io, net::IpAddr};

use crate::log::limited;

/// Logs an error while accepting, with advice.
pub(super) fn log_failed(error: &io::Error) {
    limited!(WARN, "can't accept a connection: {error}{}", accept_advice(error));
}

/// Logs that the limit of connections is reached.
pub(super) fn log_full(limit: usize) {
    limited!(WARN, limit, "too many plain connections; new ones wait (max_http_connections)");
}

/// Logs that one address has too many connections.
pub(super) fn log_too_many(address: IpAddr, limit: usize) {
    limited!(
        WARN,
        %address,
        limit,
        "too many plain connections from one address; further ones are closed (max_http_connections_per_address; if it is a proxy, \
         add it to trusted_proxies)"
    );
}

/// Returns whether the connection was lost before it was accepted. The next one may succeed.
pub(super) fn is_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Returns advice for an error while accepting.
fn accept_advice(error: &io::Error) -> &'static str {
    /// The process has no file descriptor left; the same number on every Unix.
    const EMFILE: i32 = 24;
    /// The system has no file descriptor left; the same number on every Unix.
    const ENFILE: i32 = 23;
    match error.raw_os_error() {
        Some(EMFILE) => {
            "; raise the limit on open files of this process (`ulimit -n`, or LimitNOFILE= in its systemd unit)"
        }
        Some(ENFILE) => "; raise the limit on open files of this machine (sysctl fs.file-max)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_errors_are_classified_and_explained() {
        assert!(is_peers_fault(&io::ErrorKind::ConnectionAborted.into()));
        assert!(!is_peers_fault(&io::ErrorKind::OutOfMemory.into()));
        let too_many = io::Error::from_raw_os_error(24);
        assert!(!is_peers_fault(&too_many));
        assert!(accept_advice(&too_many).contains("ulimit -n"));
    }
}
