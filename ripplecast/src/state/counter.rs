//! Counters: 64-bit integers that many tasks change at once.

use std::{fmt, sync::Arc, time::Duration};

use super::{Counted, CounterBackend, CounterObserver, CounterOp, LEAST_EXPIRY, Observation, Version};
use crate::{Error, Result, error::BackendError, limits::NAME, name::check_filled};

/// A named, shared, signed 64-bit integer; see [`Hub::counter`](crate::Hub::counter). Clones are handles of
/// the same counter.
///
/// Each operation is one atomic step and returns the value after it. An overflow is an error and changes
/// nothing; values never wrap. A counter that is 0 and has no handle takes no memory, so you can make up
/// names as you go (`format!("logins:{address}")`).
///
/// # Errors
/// Every operation reports a name that is empty or longer than 255 bytes as a
/// [`StateError`](crate::error::StateError) and changes nothing. On Redis each may also fail with
/// [`Error::Backend`](crate::Error::Backend), within its time limit. If Redis was known to be unavailable,
/// nothing was done. After a timeout or a lost connection, the change may or may not have been made. You can
/// simply repeat `set` and `compare_and_set`; `increment` and `add` would then count twice.
///
/// # Cancellation
/// In memory an operation completes at its first poll; a future that is dropped earlier has done nothing. On
/// Redis, an operation dropped after its first poll may or may not have been done.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ripplecast::Result<()> {
/// # let hub = ripplecast::Hub::builder().build()?;
/// let likes = hub.counter("likes");
/// assert_eq!(likes.increment().await?, 1);
/// assert_eq!(likes.add(9).await?, 10);
/// assert_eq!(likes.reset().await?, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Counter {
    /// For error messages, and to repeat the check of a name that is not valid.
    name: Arc<str>,
    /// `None` if the name is not valid.
    cell: Option<Arc<dyn CounterBackend>>,
}

impl Counter {
    /// Creates a handle; `cell` is `None` if the name is not valid.
    pub(super) fn new(name: &str, cell: Option<Arc<dyn CounterBackend>>) -> Self {
        Self { name: name.into(), cell }
    }

    /// Returns the counter's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds 1.
    ///
    /// # Errors
    /// [`StateError::CounterOverflow`](crate::error::StateError::CounterOverflow) at `i64::MAX`.
    pub async fn increment(&self) -> Result<i64> {
        self.add(1).await
    }

    /// Subtracts 1.
    ///
    /// # Errors
    /// [`StateError::CounterOverflow`](crate::error::StateError::CounterOverflow) at `i64::MIN`.
    pub async fn decrement(&self) -> Result<i64> {
        self.add(-1).await
    }

    /// Adds `n`, which may be negative.
    ///
    /// # Errors
    /// [`StateError::CounterOverflow`](crate::error::StateError::CounterOverflow) when the sum does not fit an
    /// `i64`.
    pub async fn add(&self, n: i64) -> Result<i64> {
        Ok(self.apply(CounterOp::Add(n)).await?.value)
    }

    /// Returns the value.
    ///
    /// # Errors
    /// Only for an invalid name.
    pub async fn get(&self) -> Result<i64> {
        Ok(self.apply(CounterOp::Get).await?.value)
    }

    /// Replaces the value. Clears any [expiry](Self::expire).
    ///
    /// # Errors
    /// Only for an invalid name.
    pub async fn set(&self, value: i64) -> Result<i64> {
        Ok(self.apply(CounterOp::Set(value)).await?.value)
    }

    /// Resets the counter to 0; the same as `set(0)`.
    ///
    /// # Errors
    /// Only for an invalid name.
    pub async fn reset(&self) -> Result<i64> {
        self.set(0).await
    }

    /// Replaces the value with `new` if it is `expected`. Returns `Ok(new)`, or `Err` with the actual value.
    /// Like [`set`](Self::set), a successful call clears any expiry.
    ///
    /// # Errors
    /// The outer result: only for an invalid name.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let leader = hub.counter("leader");
    /// assert_eq!(leader.compare_and_set(0, 7).await?, Ok(7));
    /// assert_eq!(leader.compare_and_set(0, 8).await?, Err(7)); // another node won
    /// # Ok(())
    /// # }
    /// ```
    pub async fn compare_and_set(&self, expected: i64, new: i64) -> Result<Result<i64, i64>> {
        let Counted { value, applied, .. } = self.swap(expected, new, None).await?;
        Ok(if applied { Ok(value) } else { Err(value) })
    }

    /// Like [`compare_and_set`](Self::compare_and_set), but also returns the counter to 0 after that time, in
    /// the same step. Use it for a lock that expires if its holder dies. Two separate steps are not safe: the
    /// handler may be dropped, or its process may end, between them.
    ///
    /// # Errors
    /// The outer result: only for an invalid name.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let lease = std::time::Duration::from_secs(30);
    /// let job = hub.counter("nightly job");
    /// assert_eq!(job.compare_and_set_for(0, 1, lease).await?, Ok(1)); // ours for 30 s
    /// assert_eq!(job.compare_and_set_for(0, 1, lease).await?, Err(1));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn compare_and_set_for(
        &self,
        expected: i64,
        new: i64,
        expires: Duration,
    ) -> Result<Result<i64, i64>> {
        let Counted { value, applied, .. } = self.swap(expected, new, Some(expires)).await?;
        Ok(if applied { Ok(value) } else { Err(value) })
    }

    /// Replaces the value if it is the expected one.
    async fn swap(&self, expected: i64, new: i64, expires: Option<Duration>) -> Result<Counted> {
        let expires = expires.map(|expires| expires.max(LEAST_EXPIRY));
        self.apply(CounterOp::CompareAndSet { expected, new, expires }).await
    }

    /// Adds 1 if the value is below `max`. Otherwise returns `None` and changes nothing.
    ///
    /// # Errors
    /// Only for an invalid name.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let seats = hub.counter("seats taken");
    /// assert_eq!(seats.increment_bounded(2).await?, Some(1));
    /// assert_eq!(seats.increment_bounded(2).await?, Some(2));
    /// assert_eq!(seats.increment_bounded(2).await?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn increment_bounded(&self, max: i64) -> Result<Option<i64>> {
        let below = CounterOp::IncrementBelow { max, window: None };
        let Counted { value, applied, .. } = self.apply(below).await?;
        Ok(applied.then_some(value))
    }

    /// Allows `max` increments in each window of time. Adds 1 if the value is below `max`; otherwise returns
    /// the time until the window ends.
    ///
    /// The first increment starts the window: a counter without an [expiry](Self::expire) then returns to 0
    /// after `window`. Later calls do not move the end of the window. All of this is one step, so neither a
    /// dropped handler nor an ended process leaves a counter that never returns to 0. If the increment is
    /// refused and the counter has no expiry, because it was set by other means, it also expires after
    /// `window`.
    ///
    /// The inner result is `Ok` with the new value, or `Err` with the time to wait. That time is
    /// [`Duration::MAX`] if `window` is too long for the clock or `max` is 0 or less. A `window` is at least
    /// a millisecond.
    ///
    /// # Errors
    /// The outer result: only for an invalid name.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// // Two attempts a minute.
    /// let minute = std::time::Duration::from_secs(60);
    /// let attempts = hub.counter("logins:198.51.100.7");
    /// assert_eq!(attempts.increment_bounded_for(2, minute).await?, Ok(1));
    /// assert_eq!(attempts.increment_bounded_for(2, minute).await?, Ok(2));
    /// let wait = attempts.increment_bounded_for(2, minute).await?.unwrap_err();
    /// assert!(wait <= minute);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn increment_bounded_for(&self, max: i64, window: Duration) -> Result<Result<i64, Duration>> {
        let below = CounterOp::IncrementBelow { max, window: Some(window.max(LEAST_EXPIRY)) };
        let Counted { value, applied, expires_in } = self.apply(below).await?;
        Ok(if applied { Ok(value) } else { Err(expires_in.unwrap_or(Duration::MAX)) })
    }

    /// Returns the counter to 0 after that time, or at once if the time is zero. Returns the current value.
    ///
    /// To change a counter and set its expiry in one step, use
    /// [`increment_bounded_for`](Self::increment_bounded_for) or
    /// [`compare_and_set_for`](Self::compare_and_set_for). Between two steps, the handler may be dropped or
    /// its process may end.
    ///
    /// As in Redis, additions keep the expiry. `set`, `reset`, a successful `compare_and_set` and the expiry
    /// itself clear it. A second `expire` replaces the first. A time too long for the clock means never. No
    /// timer runs: the next operation on the counter detects the expiry, and only then are observers
    /// notified. Redis keeps times to the millisecond by its own clock, so if that clock jumps, the counter
    /// expires early or late. Redis forgets a counter 15 minutes after it expired.
    ///
    /// # Errors
    /// Only for an invalid name.
    pub async fn expire(&self, after: Duration) -> Result<i64> {
        Ok(self.apply(CounterOp::Expire(after)).await?.value)
    }

    /// Calls `observer` with the value and the version for each change through any handle, in order, under
    /// the counter's own lock. Each version is 1 higher than the last. Setting the same value is a change. An
    /// expiry of a nonzero value is a change once it is detected. The observer must be quick and must not use
    /// this counter.
    pub(crate) fn observe(&self, observer: Arc<CounterObserver>) -> Result<Observation> {
        Ok(self.cell()?.observe(observer))
    }

    /// Waits until this node knows the value that [`inspect`](Self::inspect) shows. Completes at once in
    /// memory, and also if the value was known before, even if the backend is unavailable by now.
    pub(crate) async fn ready(&self) -> Result<()> {
        self.cell()?.ready().await
    }

    /// Calls `look` with the value and its version under the counter's own lock, so no change and no observer
    /// call runs meanwhile. It must be quick and must not use this counter.
    ///
    /// `look` receives `None` if the value is not known, which means that the counter is not in memory and
    /// not both observed and [`ready`](Self::ready). The observers will then be called with the first value
    /// that becomes known.
    ///
    /// # Errors
    /// Only for an invalid name.
    pub(crate) fn inspect<R>(&self, look: impl FnOnce(Option<(i64, Version)>) -> R) -> Result<R> {
        let (mut look, mut seen) = (Some(look), None);
        self.cell()?.inspect(&mut |known| seen = look.take().map(|look| look(known)));
        seen.ok_or_else(|| {
            let reason = format!("the value of counter `{}` has not been read yet; try again", self.name);
            Error::Backend(BackendError::Unavailable { reason })
        })
    }

    /// Runs one operation.
    async fn apply(&self, op: CounterOp) -> Result<Counted> {
        self.cell()?.apply(op).await
    }

    /// Returns the counter itself, or the error of its name.
    fn cell(&self) -> Result<&Arc<dyn CounterBackend>> {
        check_filled("counter", &self.name, NAME)?;
        Ok(self.cell.as_ref().expect("a counter with a right name has a cell"))
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counter").field("name", &self.name).finish_non_exhaustive()
    }
}
