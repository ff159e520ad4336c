//! Detects failed nodes from the heartbeats that nodes count in Redis. Each node holds a lease with a unique
//! name.
//!
//! This uses no clock of Redis or of another node. A lease has expired when this node has seen its count
//! unchanged for the whole lease duration, by its own monotonic clock, so setting a clock has no effect. A
//! lease whose count is 0 was given up and has already expired.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::redis_client::Redis;

/// Lease duration without a heartbeat.
pub(super) const LEASE: Duration = Duration::from_secs(20);
/// Interval between heartbeats.
pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// Longest trusted interval between two reads of the counts. After a longer one, this node was suspended or
/// Redis was unavailable, and this node can't tell whether others were able to send heartbeats, so all leases
/// start again.
const BLIND: Duration = Duration::from_secs(10);
/// Maximum number of leases that a node observes: far more than there are nodes. Any others count as alive
/// until some of these are removed.
const MAX_LEASES: usize = 16_384;

/// The lease of a node.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    node: u64,
    /// Its name: the node, a dot, and a number that is new each time.
    field: Arc<str>,
    /// For this node's own lease: how long the node considers itself the holder, in ms after `BEGIN`.
    held: Arc<AtomicU64>,
}

/// The start of this process's time, for leases.
pub(super) static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Lease {
    pub(super) fn new(node: u64) -> Self {
        let number = RandomState::new().hash_one(node);
        Self { node, field: format!("{node:016x}.{number:016x}").into(), held: Arc::default() }
    }

    /// Parses the name of a lease, such as that of another node.
    pub(super) fn parse(field: &str) -> Option<Self> {
        let (node, number) = field.split_once('.')?;
        let is_whole = node.len() == 16 && number.len() == 16;
        let node = u64::from_str_radix(node, 16).ok().filter(|_| is_whole)?;
        Some(Self { node, field: field.into(), held: Arc::default() })
    }

    pub(super) fn node(&self) -> u64 {
        self.node
    }

    pub(super) fn field(&self) -> &str {
        &self.field
    }

    /// Returns the channel of messages for this node alone.
    pub(super) fn inbox(&self, redis: &Redis) -> String {
        redis.key("lease", &self.field, "")
    }

    /// Returns whether the node may still act under its lease. This ends before any other node can have seen
    /// the whole lease duration pass.
    pub(super) fn is_held(&self) -> bool {
        BEGIN.elapsed().as_millis() < u128::from(self.held.load(Relaxed))
    }

    /// Renews the lease from the time when the heartbeat was sent.
    pub(super) fn renew(&self, sent: Instant) {
        let until = sent.saturating_duration_since(*BEGIN) + LEASE;
        self.held.store(until.as_millis() as u64, Relaxed);
    }

    /// Ends the effect of [`renew`](Self::renew).
    pub(super) fn release(&self) {
        self.held.store(0, Relaxed);
    }
}

/// Decides from heartbeats which nodes are alive.
#[derive(Default)]
pub(super) struct FailureDetector {
    /// The count of each lease, and since when it has been unchanged.
    seen: HashMap<String, (u64, Instant)>,
    /// When the last read was sent.
    last_read: Option<Instant>,
}

/// The result of reading all heartbeats.
#[derive(Default)]
pub(super) struct LeaseStates {
    /// Leases that have not expired.
    pub(super) live: Vec<Lease>,
    /// Expired leases, each with its count.
    pub(super) expired: Vec<(Lease, u64)>,
}

impl FailureDetector {
    /// Evaluates the counts of all leases, read by a request sent and answered at these times.
    pub(super) fn observe(
        &mut self,
        sent: Instant,
        answered: Instant,
        counts: &HashMap<String, String>,
    ) -> LeaseStates {
        let is_blind =
            self.last_read.is_none_or(|last_read| sent.saturating_duration_since(last_read) > BLIND);
        // Replies may overtake each other.
        self.last_read = self.last_read.max(Some(sent));
        self.seen.retain(|field, _| counts.contains_key(field));
        let mut states = LeaseStates::default();
        for (field, count) in counts {
            let (Some(lease), Ok(count)) = (Lease::parse(field), count.parse::<u64>()) else { continue };
            let is_full = self.seen.len() >= MAX_LEASES;
            let quiet = match self.seen.get_mut(field) {
                Some((known, since)) if *known == count && !is_blind => {
                    sent.saturating_duration_since(*since)
                }
                Some(known) => {
                    *known = (count, answered);
                    Duration::ZERO
                }
                None => {
                    if !is_full {
                        self.seen.insert(field.clone(), (count, answered));
                    }
                    Duration::ZERO
                }
            };
            if count == 0 || quiet >= LEASE {
                states.expired.push((lease, count));
            } else {
                states.live.push(lease);
            }
        }
        states
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_name_round_trips_and_is_unique() {
        let (one, two) = (Lease::new(7), Lease::new(7));
        assert_ne!(one.field(), two.field());
        let read = Lease::parse(one.field()).unwrap();
        assert_eq!((read.node(), read.field()), (7, one.field()));
        assert!(Lease::parse("7.8").is_none() && Lease::parse("").is_none());
    }

    #[test]
    fn a_lease_is_held_only_for_its_duration() {
        LazyLock::force(&BEGIN);
        let lease = Lease::new(1);
        assert!(!lease.is_held(), "the lease is not confirmed yet");
        lease.renew(Instant::now());
        assert!(lease.is_held());
        lease.release();
        assert!(!lease.is_held());
    }

    const ONE: &str = "0000000000000001.0000000000000001";
    const TWO: &str = "0000000000000002.0000000000000002";

    /// Reads the counts at that second. Returns the nodes of the valid and the expired leases.
    fn look(
        detector: &mut FailureDetector,
        begin: Instant,
        second: u64,
        counts: &[(&str, &str)],
    ) -> (Vec<u64>, Vec<u64>) {
        let now = begin + Duration::from_secs(second);
        let counts = counts.iter().map(|(field, count)| ((*field).to_owned(), (*count).to_owned())).collect();
        let LeaseStates { live, expired } = detector.observe(now, now, &counts);
        let (mut live, mut expired): (Vec<_>, Vec<_>) =
            (live.iter().map(Lease::node).collect(), expired.iter().map(|(lease, _)| lease.node()).collect());
        live.sort_unstable();
        expired.sort_unstable();
        (live, expired)
    }

    #[test]
    fn a_lease_expires_after_its_duration_without_a_change() {
        let (mut detector, begin) = (FailureDetector::default(), Instant::now());
        let mut at = |second, counts: &[_]| look(&mut detector, begin, second, counts);
        assert_eq!(at(0, &[(ONE, "1"), (TWO, "900")]), (vec![1, 2], vec![]));
        for (second, count) in [(5, "2"), (10, "3"), (15, "4"), (19, "5")] {
            assert_eq!(at(second, &[(ONE, count), (TWO, "900")]), (vec![1, 2], vec![]));
        }
        assert_eq!(at(20, &[(ONE, "5"), (TWO, "900")]), (vec![1], vec![2]));
        // Any change is a heartbeat. After a failover the count may be lower.
        assert_eq!(at(25, &[(ONE, "6"), (TWO, "899")]), (vec![1, 2], vec![]));
        assert_eq!(at(26, &[(ONE, "6"), (TWO, "0")]), (vec![1], vec![2]), "the lease was given up");
        assert_eq!(at(27, &[(ONE, "6")]), (vec![1], vec![]));
        assert_eq!(at(28, &[(ONE, "x"), ("nonsense", "1")]), (vec![], vec![]));
        assert!(detector.seen.len() <= 1, "removed leases are forgotten");
    }

    #[test]
    fn a_suspended_node_ignores_what_it_saw_before() {
        let (mut detector, begin) = (FailureDetector::default(), Instant::now());
        let mut at = |second| look(&mut detector, begin, second, &[(ONE, "1")]).1;
        assert!(at(0).is_empty() && at(9).is_empty());
        assert!(at(60).is_empty(), "other nodes may have been suspended as well");
        assert!(at(65).is_empty() && at(70).is_empty() && at(75).is_empty());
        assert_eq!(at(80), [1], "it has observed the whole lease duration");
    }

    #[test]
    fn a_node_suspended_during_a_read_ignores_the_result() {
        let (mut detector, begin) = (FailureDetector::default(), Instant::now());
        let counts = HashMap::from([(ONE.to_owned(), "1".to_owned())]);
        let second = |second| begin + Duration::from_secs(second);
        assert!(detector.observe(second(0), second(0), &counts).expired.is_empty());
        assert!(detector.observe(second(9), second(60), &counts).expired.is_empty());
        assert!(detector.observe(second(61), second(61), &counts).expired.is_empty());
    }

    #[test]
    fn the_detector_has_a_limit() {
        let (mut detector, now) = (FailureDetector::default(), Instant::now());
        let field = |number: usize| format!("{number:016x}.{number:016x}");
        let counts = (0..MAX_LEASES + 10).map(|number| (field(number), "1".to_owned())).collect();
        assert_eq!(detector.observe(now, now, &counts).live.len(), MAX_LEASES + 10);
        assert_eq!(detector.seen.len(), MAX_LEASES);
    }
}
