//! How many connections there may be: in all, and from one address.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;

/// Counts connections, and refuses those beyond the limits.
pub(crate) struct Admissions {
    /// Connections at the most.
    max: usize,
    /// Connections from one address at the most.
    max_per_address: usize,
    /// What there is.
    counts: Mutex<Counts>,
}

/// What there is.
#[derive(Default)]
struct Counts {
    /// In all.
    all: usize,
    /// By address.
    by_address: HashMap<IpAddr, usize>,
}

/// Why a connection was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// The node is full.
    Full { limit: usize },
    /// There are too many from this address.
    TooManyFromAddress { limit: usize },
}

impl Admissions {
    /// No connections yet.
    pub(crate) fn new(max: usize, max_per_address: usize) -> Self {
        Self { max, max_per_address, counts: Mutex::default() }
    }

    /// Admits one more, until the permit is dropped. Without an address it counts only among all.
    pub(crate) fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Permit, Refused> {
        let address = address.map(|address| address.to_canonical());
        let mut counts = self.counts.lock();
        if counts.all >= self.max {
            return Err(Refused::Full { limit: self.max });
        }
        if let Some(address) = address {
            let of_address = counts.by_address.get(&address).copied().unwrap_or_default();
            if of_address >= self.max_per_address {
                return Err(Refused::TooManyFromAddress { limit: self.max_per_address });
            }
            counts.by_address.insert(address, of_address + 1);
        }
        counts.all += 1;
        Ok(Permit { admissions: self.clone(), address: address.map(Box::new) })
    }
}

/// Whether it is this machine: tests, tools and proxies, which are not counted by their address.
pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Permission for one connection; it counts until this is dropped.
pub(crate) struct Permit {
    /// Where it counts.
    admissions: Arc<Admissions>,
    /// The address that it counts for.
    address: Option<Box<IpAddr>>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.admissions.counts.lock();
        counts.all -= 1;
        let Some(address) = &self.address else { return };
        if let Some(of_address) = counts.by_address.get_mut(address) {
            *of_address -= 1;
            if *of_address == 0 {
                counts.by_address.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_dropping_gives_back() {
        let admissions = Arc::new(Admissions::new(3, 1));
        let office = Some("203.0.113.7".parse().unwrap());
        let first = admissions.admit(office).ok().unwrap();
        assert_eq!(admissions.admit(office).err(), Some(Refused::TooManyFromAddress { limit: 1 }));
        let mapped = Some("::ffff:203.0.113.7".parse().unwrap());
        assert!(admissions.admit(mapped).is_err(), "an IPv4 address written as IPv6 is the same address");
        let others: Vec<_> = (0..2).map(|_| admissions.admit(None).ok().unwrap()).collect();
        assert_eq!(admissions.admit(None).err(), Some(Refused::Full { limit: 3 }));
        drop(first);
        assert!(admissions.admit(office).is_ok());
        drop(others);
        assert_eq!(admissions.counts.lock().all, 0);
        assert!(admissions.counts.lock().by_address.is_empty());
    }
}
