//! Trouble with accepting connections: whose it is, and what the log says of it.

use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Least time between two warnings about the same trouble with accepting: it lasts, and the log should be readable.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Warns about trouble with accepting, without filling the log.
#[derive(Default)]
pub(super) struct AcceptLog {
    /// When the last warning was written.
    last: Option<Instant>,
}

impl AcceptLog {
    /// The system had nothing to accept with.
    pub(super) fn failed(&mut self, error: &io::Error) {
        if self.may_warn() {
            tracing::warn!("can't accept a connection: {error}{}", accept_advice(error));
        }
    }

    /// Every place is taken.
    pub(super) fn full(&mut self, limit: usize) {
        if self.may_warn() {
            tracing::warn!(
                limit,
                "all places for connections are taken; new ones wait (max_http_connections)"
            );
        }
    }

    /// There are too many from one address.
    pub(super) fn too_many(&mut self, address: IpAddr, limit: usize) {
        if self.may_warn() {
            tracing::warn!(
                %address,
                limit,
                "too many plain connections from one address; more are closed (max_http_connections_per_address; if it is a \
                 proxy, name it in trusted_proxies)"
            );
        }
    }

    /// Whether the last warning is long enough ago; if so, this is the last.
    fn may_warn(&mut self) -> bool {
        let now = Instant::now();
        let may = self.last.is_none_or(|last| now.duration_since(last) >= WARN_EVERY);
        if may {
            self.last = Some(now);
        }
        may
    }
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
        let mut log = AcceptLog::default();
        assert!(log.may_warn());
        assert!(!log.may_warn(), "a second warning at once");
    }
}
