//! Limits the number of connections: in total, and from one address.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;

/// Counts connections, and rejects those beyond the limits.
pub(crate) struct Admissions {
    max: usize,
    max_per_address: usize,
    /// Leading bits of an IPv6 address that count.
    ipv6_prefix: u8,
    counts: Mutex<ConnectionCounts>,
}

/// The connections of a node.
#[derive(Default)]
struct ConnectionCounts {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Why a connection was rejected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// The node is full.
    Full { limit: usize },
    /// There are too many from this address.
    TooManyFromAddress { limit: usize },
}

impl Admissions {
    /// Creates a counter without connections.
    pub(crate) fn new(max: usize, max_per_address: usize, ipv6_prefix: u8) -> Self {
        Self { max, max_per_address, ipv6_prefix, counts: Mutex::default() }
    }

    /// Returns the number of leading bits of an IPv6 address that count.
    pub(crate) fn ipv6_prefix(&self) -> u8 {
        self.ipv6_prefix
    }

    /// Returns the network that an address counts toward.
    pub(crate) fn network(&self, address: IpAddr) -> IpAddr {
        network(address, self.ipv6_prefix)
    }

    /// Admits one more connection until the permit is dropped. Without an address it counts toward the total only.
    pub(crate) fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Permit, Refused> {
        let address = address.map(|address| self.network(address));
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

/// Returns the network that an address counts toward: an IPv4 address itself, even if written as IPv6, or the IPv6
/// network of `prefix` bits.
pub(crate) fn network(address: IpAddr, prefix: u8) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let rest = 128_u32.saturating_sub(prefix.into());
            IpAddr::V6((address.to_bits() & u128::MAX.checked_shl(rest).unwrap_or(0)).into())
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Returns whether it is this machine: tests, tools and proxies, which are not limited by address.
pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// A permit for one connection, which counts until this is dropped.
pub(crate) struct Permit {
    admissions: Arc<Admissions>,
    address: Option<Box<IpAddr>>,
}

impl Permit {
    /// Returns the address that the connection is counted for: none for a loopback or unknown one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.address.as_deref().copied()
    }
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
        let admissions = Arc::new(Admissions::new(3, 1, 64));
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

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let addr = |text: &str| text.parse::<IpAddr>().unwrap();
        let admissions = Arc::new(Admissions::new(100, 2, 64));
        let admit = |text: &str| admissions.admit(Some(addr(text)));
        let held = [admit("2001:db8:1:2::1").ok().unwrap(), admit("2001:db8:1:2:ffff::2").ok().unwrap()];
        assert_eq!(admit("2001:db8:1:2:3::3").err(), Some(Refused::TooManyFromAddress { limit: 2 }));
        assert!(admit("2001:db8:1:3::1").is_ok(), "another network");
        drop(held);
        assert!(admit("2001:db8:1:2:3::3").is_ok());
        assert!(admissions.counts.lock().by_address.is_empty());

        let all = "2001:db8:1:2:3:4:5:6";
        for (prefix, expected) in
            [(128, all), (64, "2001:db8:1:2::"), (48, "2001:db8:1::"), (1, "::"), (0, "::"), (255, all)]
        {
            assert_eq!(network(addr(all), prefix), addr(expected), "/{prefix}");
        }
        for text in ["192.0.2.7", "::ffff:192.0.2.7"] {
            assert_eq!(network(addr(text), 64), addr("192.0.2.7"), "{text}");
        }
    }
}
