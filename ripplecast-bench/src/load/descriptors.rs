//! Open files: every connection is one.

use super::Result;

/// Files that are open besides the connections.
const OTHERS: u64 = 64;

/// Raises the limit on open files as far as `connections` need; the error says how a person can.
pub(crate) fn allow(connections: usize) -> Result<()> {
    let needed = connections as u64 + OTHERS;
    let limit = rlimit::increase_nofile_limit(needed).unwrap_or(0);
    if limit >= needed {
        return Ok(());
    }
    Err(format!(
        "{connections} connections need {needed} open files, and this process may have {limit}: run `ulimit -n {needed}` in \
         this shell first (as root, or after raising the hard limit in /etc/security/limits.conf), or use fewer \
         --connections"
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_no_machine_allows_is_refused_with_advice() {
        assert!(super::allow(1).is_ok());
        let line = super::allow(usize::MAX >> 8).unwrap_err();
        assert!(line.contains("ulimit -n") && line.contains("--connections"), "{line}");
    }
}
