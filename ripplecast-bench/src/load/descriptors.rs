//! Open files: every connection needs one.

use crate::result::Result;

/// Open files other than the connections.
const OTHERS: u64 = 64;

/// Raises the limit on open files as far as `connections` needs. An error explains how to raise
/// it further.
pub(crate) fn allow(connections: usize) -> Result<()> {
    let needed = connections as u64 + OTHERS;
    let limit = rlimit::increase_nofile_limit(needed).unwrap_or(0);
    if limit >= needed {
        return Ok(());
    }
    Err(format!(
        "{connections} connections need {needed} open files, and this process is limited to {limit}: run `ulimit -n {needed}` in \
         this shell first (as root, or after raising the hard limit in /etc/security/limits.conf), or use fewer \
         --connections"
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_impossible_limit_is_rejected_with_advice() {
        assert!(super::allow(1).is_ok());
        let line = super::allow(usize::MAX >> 8).unwrap_err();
        assert!(line.contains("ulimit -n") && line.contains("--connections"), "{line}");
    }
}
