//! Per-address rate limits for the public demos.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::visitor::Visitor;

/// The most addresses remembered at once, about 500 KiB. The quiet ones are forgotten first.
const ADDRESSES: usize = 10_000;

/// The shortest time between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The rate limit of one kind of action.
#[derive(Clone, Copy)]
pub struct Rate {
    /// The actions that are possible at once.
    pub burst: f64,
    /// The refill rate after the burst.
    pub per_second: f64,
}

/// A person's actions: opening a connection, sending a message.
const ACTIONS: Rate = Rate { burst: 20.0, per_second: 2.0 };
/// Mouse moves, and a page's automatic requests.
const MOVES: Rate = Rate { burst: 120.0, per_second: 60.0 };

/// The limits of all demos. Clones share the same state.
#[derive(Clone)]
pub(crate) struct Limits {
    /// A person's actions.
    pub(crate) actions: Limiter,
    /// Mouse moves and small requests.
    pub(crate) moves: Limiter,
}

impl Limits {
    /// Creates the limits. `loopback_too` applies them to loopback as well.
    pub(crate) fn new(loopback_too: bool) -> Self {
        Self { actions: Limiter::new(ACTIONS, loopback_too), moves: Limiter::new(MOVES, loopback_too) }
    }
}

/// Limits one kind of action per address.
#[derive(Clone)]
pub struct Limiter {
    rate: Rate,
    /// Whether the limit also applies to loopback.
    loopback_too: bool,
    buckets: Arc<Mutex<Buckets>>,
}

/// The remaining allowance of each address.
#[derive(Default)]
struct Buckets {
    by_address: HashMap<IpAddr, Bucket>,
    /// When quiet addresses were last removed.
    swept: Option<Instant>,
    /// The number of buckets inspected by sweeps so far.
    #[cfg(test)]
    looked_at: usize,
}

impl Buckets {
    /// Removes quiet addresses, at most once every [`SWEEP_EVERY`]: a sweep inspects every bucket while all requests
    /// wait.
    fn sweep(&mut self, now: Instant, is_quiet: impl Fn(&Bucket) -> bool) {
        if self.swept.is_some_and(|swept| now.saturating_duration_since(swept) < SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        #[cfg(test)]
        {
            self.looked_at += self.by_address.len();
        }
        self.by_address.retain(|_, bucket| !is_quiet(bucket));
    }
}

/// The remaining allowance of an address.
struct Bucket {
    /// The actions left.
    left: f64,
    /// When `left` was computed.
    at: Instant,
}

impl Limiter {
    /// Creates a limiter. `loopback_too` applies it to loopback as well.
    pub fn new(rate: Rate, loopback_too: bool) -> Self {
        Self { rate, loopback_too, buckets: Arc::default() }
    }

    /// Takes one action from the visitor's allowance.
    ///
    /// # Errors
    /// Returns a sentence for the visitor if the allowance is used up.
    pub fn take(&self, visitor: Visitor) -> Result<(), TooMuch> {
        if visitor.is_loopback && !self.loopback_too {
            return Ok(());
        }
        self.take_at(key(visitor), Instant::now())
    }

    /// Checks whether [`take`](Self::take) would succeed, without taking anything. A new address has its full
    /// allowance.
    ///
    /// # Errors
    /// See [`take`](Self::take).
    pub fn check_at(&self, key: IpAddr, now: Instant) -> Result<(), TooMuch> {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bucket) = buckets.by_address.get(&key) else { return Ok(()) };
        let Rate { per_second, .. } = self.rate;
        let left = bucket.left + now.saturating_duration_since(bucket.at).as_secs_f64() * per_second;
        if left < 1.0 {
            return Err(TooMuch(Duration::from_secs_f64((1.0 - left) / per_second)));
        }
        Ok(())
    }

    /// Like [`take`](Self::take), for an address and a moment.
    ///
    /// # Errors
    /// See [`take`](Self::take).
    pub fn take_at(&self, key: IpAddr, now: Instant) -> Result<(), TooMuch> {
        let Rate { burst, per_second } = self.rate;
        let refilled = |bucket: &Bucket| {
            (bucket.left + now.saturating_duration_since(bucket.at).as_secs_f64() * per_second).min(burst)
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.by_address.len() >= ADDRESSES && !buckets.by_address.contains_key(&key) {
            buckets.sweep(now, |bucket| refilled(bucket) >= burst);
            if buckets.by_address.len() >= ADDRESSES {
                return Err(TooMuch(Duration::from_secs(10)));
            }
        }
        let bucket = buckets.by_address.entry(key).or_insert(Bucket { left: burst, at: now });
        *bucket = Bucket { left: refilled(bucket), at: now };
        if bucket.left < 1.0 {
            return Err(TooMuch(Duration::from_secs_f64((1.0 - bucket.left) / per_second)));
        }
        bucket.left -= 1.0;
        Ok(())
    }
}

/// Returns the address that a visitor is counted under. All unknown visitors share one.
pub fn key(visitor: Visitor) -> IpAddr {
    visitor.network.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
}

/// How long the visitor has to wait.
#[derive(Debug, PartialEq)]
pub struct TooMuch(Duration);

impl TooMuch {
    /// Returns the wait in whole seconds.
    fn seconds(&self) -> u64 {
        self.0.as_secs() + 1
    }
}

impl std::fmt::Display for TooMuch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.seconds();
        let unit = if seconds == 1 { "second" } else { "seconds" };
        write!(f, "Too many requests from your address; try again in {seconds} {unit}.")
    }
}

impl axum::response::IntoResponse for TooMuch {
    fn into_response(self) -> axum::response::Response {
        use axum::http::{StatusCode, header::RETRY_AFTER};
        let wait = [(RETRY_AFTER, self.seconds().to_string())];
        (StatusCode::TOO_MANY_REQUESTS, wait, format!("{self}\n")).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 2.0, per_second: 1.0 };

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_is_allowed_and_then_a_steady_rate() {
        let limiter = Limiter::new(RATE, true);
        let (start, a) = (Instant::now(), addr("192.0.2.1"));
        let take = |after: f64| limiter.take_at(a, start + Duration::from_secs_f64(after)).is_ok();
        assert!(take(0.0) && take(0.0) && !take(0.0));
        assert!(!take(0.5) && take(1.0) && !take(1.0));
        assert!(take(60.0) && take(60.0) && !take(60.0), "no more than the burst accumulates");
        assert!(limiter.take_at(addr("192.0.2.2"), start).is_ok(), "another address has its own allowance");
    }

    #[test]
    fn the_sentence_names_the_wait() {
        let limiter = Limiter::new(RATE, true);
        let visitor = Visitor { addr: None, network: Some(addr("192.0.2.1")), is_loopback: false };
        assert!(limiter.take(visitor).is_ok() && limiter.take(visitor).is_ok());
        let sentence = limiter.take(visitor).unwrap_err().to_string();
        assert!(sentence.ends_with("try again in 1 second."), "{sentence}");
    }

    #[test]
    fn loopback_is_limited_only_on_request() {
        let here = Visitor { addr: None, network: Some(addr("127.0.0.1")), is_loopback: true };
        let (free, counted) = (Limiter::new(RATE, false), Limiter::new(RATE, true));
        assert!((0..100).all(|_| free.take(here).is_ok()));
        assert!(!(0..100).all(|_| counted.take(here).is_ok()));
        // A proxy on this machine forwards strangers.
        let behind = Visitor { addr: None, network: Some(addr("127.0.0.1")), is_loopback: false };
        assert!(!(0..100).all(|_| free.take(behind).is_ok()));
    }

    #[test]
    fn strangers_at_a_full_limiter_do_not_cause_a_sweep_each() {
        let limiter = Limiter::new(RATE, true);
        let start = Instant::now();
        for n in 0..(3 * ADDRESSES) as u32 {
            let _ = limiter.take_at(IpAddr::V4(n.into()), start);
        }
        assert_eq!(limiter.buckets.lock().unwrap().looked_at, ADDRESSES, "one sweep, not one per stranger");
    }

    #[test]
    fn memory_is_bounded() {
        let limiter = Limiter::new(RATE, true);
        let start = Instant::now();
        let nth = |n: u32| IpAddr::V4(n.into());
        for n in 0..ADDRESSES as u32 {
            assert!(limiter.take_at(nth(n), start).is_ok());
        }
        assert!(limiter.take_at(nth(u32::MAX), start).is_err(), "the limiter is full");
        assert!(limiter.take_at(nth(5), start).is_ok(), "a known address keeps its bucket");
        assert!(
            limiter.take_at(nth(u32::MAX), start + Duration::from_secs(9)).is_ok(),
            "quiet addresses are removed"
        );
        assert_eq!(limiter.buckets.lock().unwrap().by_address.len(), 1);
    }
}
