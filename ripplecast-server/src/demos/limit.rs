//! How much one address may do in the public demos.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::visitor::Visitor;

/// Addresses that are remembered at once; some 500 KiB. One that has been quiet is forgotten first.
const ADDRESSES: usize = 10_000;

/// Least time between two looks at all of them.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// One kind of thing that may be done so often.
#[derive(Clone, Copy)]
pub(crate) struct Rate {
    /// How many at once.
    pub(crate) burst: f64,
    /// How many a second after that.
    pub(crate) per_second: f64,
}

/// Things that a person does: opening a connection, saying something.
const ACTIONS: Rate = Rate { burst: 20.0, per_second: 2.0 };
/// Things that a mouse does, and what a page asks by itself.
const MOVES: Rate = Rate { burst: 120.0, per_second: 60.0 };

/// The limits of all demos. A clone is a handle to the same.
#[derive(Clone)]
pub(crate) struct Limits {
    /// What people do.
    pub(crate) actions: Limiter,
    /// What mice do, and small requests.
    pub(crate) moves: Limiter,
}

impl Limits {
    /// The limits; whether they hold for loopback too.
    pub(crate) fn new(loopback_too: bool) -> Self {
        Self { actions: Limiter::new(ACTIONS, loopback_too), moves: Limiter::new(MOVES, loopback_too) }
    }
}

/// Counts one kind of thing by address.
#[derive(Clone)]
pub(crate) struct Limiter {
    /// How often.
    rate: Rate,
    /// Whether it holds for loopback too.
    loopback_too: bool,
    /// What each address has left.
    buckets: Arc<Mutex<Buckets>>,
}

/// What each address has left.
#[derive(Default)]
struct Buckets {
    by_address: HashMap<IpAddr, Bucket>,
    /// When quiet addresses were last forgotten.
    swept: Option<Instant>,
    /// Buckets looked at for that so far.
    #[cfg(test)]
    looked_at: usize,
}

impl Buckets {
    /// Forgets quiet addresses, at most once every [`SWEEP_EVERY`]: it takes a look at each, while all others wait.
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

/// What an address has left.
struct Bucket {
    /// Things that it may do at once.
    left: f64,
    /// When that was counted.
    at: Instant,
}

impl Limiter {
    pub(crate) fn new(rate: Rate, loopback_too: bool) -> Self {
        Self { rate, loopback_too, buckets: Arc::default() }
    }

    /// Takes one of what the visitor has left.
    ///
    /// # Errors
    /// A sentence for the visitor, when there is nothing left.
    pub(crate) fn take(&self, visitor: Visitor) -> Result<(), TooMuch> {
        if visitor.is_loopback && !self.loopback_too {
            return Ok(());
        }
        self.take_at(key(visitor), Instant::now())
    }

    /// Whether [`take`](Self::take) would find something left; takes nothing. Who has taken nothing so far has all left.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub(crate) fn check_at(&self, key: IpAddr, now: Instant) -> Result<(), TooMuch> {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bucket) = buckets.by_address.get(&key) else { return Ok(()) };
        let Rate { per_second, .. } = self.rate;
        let left = bucket.left + now.saturating_duration_since(bucket.at).as_secs_f64() * per_second;
        if left < 1.0 {
            return Err(TooMuch(Duration::from_secs_f64((1.0 - left) / per_second)));
        }
        Ok(())
    }

    pub(crate) fn take_at(&self, key: IpAddr, now: Instant) -> Result<(), TooMuch> {
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

/// Under what a visitor is counted. Who is not known shares one place with all who are not.
pub(crate) fn key(visitor: Visitor) -> IpAddr {
    visitor.network.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))
}

/// The visitor has to wait this long.
#[derive(Debug, PartialEq)]
pub(crate) struct TooMuch(Duration);

impl TooMuch {
    /// Whole seconds to wait.
    fn seconds(&self) -> u64 {
        self.0.as_secs() + 1
    }
}

impl std::fmt::Display for TooMuch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.seconds();
        let unit = if seconds == 1 { "second" } else { "seconds" };
        write!(f, "That is more than this demo takes from one address; try again in {seconds} {unit}.")
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
    fn a_burst_and_then_so_many_a_second() {
        let limiter = Limiter::new(RATE, true);
        let (start, a) = (Instant::now(), addr("192.0.2.1"));
        let take = |after: f64| limiter.take_at(a, start + Duration::from_secs_f64(after)).is_ok();
        assert!(take(0.0) && take(0.0) && !take(0.0));
        assert!(!take(0.5) && take(1.0) && !take(1.0));
        assert!(take(60.0) && take(60.0) && !take(60.0), "no more than the burst is saved up");
        assert!(limiter.take_at(addr("192.0.2.2"), start).is_ok(), "another address has its own");
    }

    #[test]
    fn the_sentence_says_how_long() {
        let limiter = Limiter::new(RATE, true);
        let visitor = Visitor { addr: None, network: Some(addr("192.0.2.1")), is_loopback: false };
        assert!(limiter.take(visitor).is_ok() && limiter.take(visitor).is_ok());
        let sentence = limiter.take(visitor).unwrap_err().to_string();
        assert!(sentence.ends_with("try again in 1 second."), "{sentence}");
    }

    #[test]
    fn this_machine_is_free_unless_asked_for() {
        let here = Visitor { addr: None, network: Some(addr("127.0.0.1")), is_loopback: true };
        let (free, counted) = (Limiter::new(RATE, false), Limiter::new(RATE, true));
        assert!((0..100).all(|_| free.take(here).is_ok()));
        assert!(!(0..100).all(|_| counted.take(here).is_ok()));
        // A proxy on this machine brings strangers.
        let behind = Visitor { addr: None, network: Some(addr("127.0.0.1")), is_loopback: false };
        assert!(!(0..100).all(|_| free.take(behind).is_ok()));
    }

    #[test]
    fn strangers_at_a_full_limiter_cost_no_look_at_all_others() {
        let limiter = Limiter::new(RATE, true);
        let start = Instant::now();
        for n in 0..(3 * ADDRESSES) as u32 {
            let _ = limiter.take_at(IpAddr::V4(n.into()), start);
        }
        assert_eq!(limiter.buckets.lock().unwrap().looked_at, ADDRESSES, "one look, and not one a stranger");
    }

    #[test]
    fn memory_is_bounded() {
        let limiter = Limiter::new(RATE, true);
        let start = Instant::now();
        let nth = |n: u32| IpAddr::V4(n.into());
        for n in 0..ADDRESSES as u32 {
            assert!(limiter.take_at(nth(n), start).is_ok());
        }
        assert!(limiter.take_at(nth(u32::MAX), start).is_err(), "all places are taken");
        assert!(limiter.take_at(nth(5), start).is_ok(), "who has one keeps it");
        assert!(
            limiter.take_at(nth(u32::MAX), start + Duration::from_secs(9)).is_ok(),
            "quiet ones are forgotten"
        );
        assert_eq!(limiter.buckets.lock().unwrap().by_address.len(), 1);
    }
}
