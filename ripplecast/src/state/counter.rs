//! Counters: 64-bit integers that many change at once.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    Counted, CounterBackend, CounterObserver, CounterOp, LEAST_EXPIRY, Observation, Version, check_name,
};
use crate::{Error, Result, error::BackendError};

/// A shared 64-bit signed integer with a name; see [`Hub::counter`](crate::Hub::counter). Clones are handles of the same
/// counter.
///
/// Each operation is one atomic step, whoever else works on the counter, and returns the value after it. An overflow is
/// an error that changes nothing, never a wrap. A counter that is 0 and that nobody holds takes no memory, so names may
/// be made up as you go (`format!("logins:{address}")`).
///
/// # Errors
/// Every operation reports a name that is empty or longer than 255 bytes as a [`StoreError`](crate::StoreError): then it has
/// changed nothing. On Redis each may also fail with [`Error::Backend`](crate::Error::Backend), within its time limit: when
/// Redis is known to be away nothing was done; when the time was up or the connection was lost meanwhile, the change may have
/// been made or not. `set` and `compare_and_set` may simply be tried again; `increment` and `add` would then count twice.
///
/// # Cancellation
/// In memory an operation is done at its first poll. A future that is dropped before has done nothing. On Redis, one that
/// is dropped after its first poll may have been done or not.
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
    /// For messages, and to tell again what is wrong with it.
    name: Arc<str>,
    /// The counter itself; none if the name is wrong.
    cell: Option<Arc<dyn CounterBackend>>,
}

impl Counter {
    /// A handle; `cell` is none if the name is wrong.
    pub(super) fn new(name: &str, cell: Option<Arc<dyn CounterBackend>>) -> Self {
        Self { name: name.into(), cell }
    }

    /// The counter's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds 1.
    ///
    /// # Errors
    /// [`StoreError::CounterOverflow`](crate::StoreError::CounterOverflow) at `i64::MAX`.
    pub async fn increment(&self) -> Result<i64> {
        self.add(1).await
    }

    /// Subtracts 1.
    ///
    /// # Errors
    /// [`StoreError::CounterOverflow`](crate::StoreError::CounterOverflow) at `i64::MIN`.
    pub async fn decrement(&self) -> Result<i64> {
        self.add(-1).await
    }

    /// Adds `n`, which may be negative.
    ///
    /// # Errors
    /// [`StoreError::CounterOverflow`](crate::StoreError::CounterOverflow) when the sum is no `i64`.
    pub async fn add(&self, n: i64) -> Result<i64> {
        Ok(self.apply(CounterOp::Add(n)).await?.value)
    }

    /// The value.
    ///
    /// # Errors
    /// Only a wrong name.
    pub async fn get(&self) -> Result<i64> {
        Ok(self.apply(CounterOp::Get).await?.value)
    }

    /// Replaces the value. The counter then no longer [expires](Self::expire).
    ///
    /// # Errors
    /// Only a wrong name.
    pub async fn set(&self, value: i64) -> Result<i64> {
        Ok(self.apply(CounterOp::Set(value)).await?.value)
    }

    /// Back to 0; the same as `set(0)`.
    ///
    /// # Errors
    /// Only a wrong name.
    pub async fn reset(&self) -> Result<i64> {
        self.set(0).await
    }

    /// Replaces the value by `new` if it is `expected`: `Ok(new)`, or else `Err` with the value that it is instead. Like
    /// [`set`](Self::set), one that succeeds ends an expiry.
    ///
    /// # Errors
    /// The outer result: only a wrong name.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let leader = hub.counter("leader");
    /// assert_eq!(leader.compare_and_set(0, 7).await?, Ok(7));
    /// assert_eq!(leader.compare_and_set(0, 8).await?, Err(7)); // somebody was faster
    /// # Ok(())
    /// # }
    /// ```
    pub async fn compare_and_set(&self, expected: i64, new: i64) -> Result<Result<i64, i64>> {
        let Counted { value, applied, .. } = self.swap(expected, new, None).await?;
        Ok(if applied { Ok(value) } else { Err(value) })
    }

    /// As [`compare_and_set`](Self::compare_and_set), and lets the counter return to 0 after that time, in the same
    /// step. Use it for a lock that expires if its holder dies: between two separate steps, a handler may be dropped,
    /// or its process may end.
    ///
    /// # Errors
    /// The outer result: only a wrong name.
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

    /// Adds 1 if the value is below `max`; none if it isn't, and then nothing changes.
    ///
    /// # Errors
    /// Only a wrong name.
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

    /// Allows `max` increments in each window of time: adds 1 if the value is below `max`, or returns the time until the
    /// window ends.
    ///
    /// The first increment begins the window: a counter that does not [expire](Self::expire) then returns to 0 after
    /// `window`. Later calls leave the end of the window where it is. All of this is one step, so neither a
    /// handler that is dropped nor a process that ends leaves a counter that never returns to 0. A counter that is refused and
    /// does not expire, since it was made in another way, expires after `window` as well.
    ///
    /// The outer result is that of the operation; the inner one is `Ok` with the new value, or `Err` with the time to wait. It is
    /// [`Duration::MAX`] for a `window` that is too long for the clock, and for a `max` of 0 or less. A `window` is at least
    /// a millisecond.
    ///
    /// # Errors
    /// The outer result: only a wrong name.
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

    /// Lets the counter return to 0 after that time, and returns its value; a zero time does it at once.
    ///
    /// To let a counter expire that is changed at the same time, use
    /// [`increment_bounded_for`](Self::increment_bounded_for) or [`compare_and_set_for`](Self::compare_and_set_for): between
    /// two steps, a handler may be dropped, or its process end.
    ///
    /// As in Redis, additions keep the expiry, and `set`, `reset`, a `compare_and_set` that succeeds and the expiry itself
    /// end it; a second `expire` replaces the first. A time too long for the clock means never. No timer runs:
    /// the expiry is noticed by the next operation on the counter, and only then do those who watch it hear of it.
    /// Redis keeps times to the millisecond, by its own clock: if that clock jumps, the counter expires early or late. It
    /// forgets a counter 15 minutes after it expired.
    ///
    /// # Errors
    /// Only a wrong name.
    pub async fn expire(&self, after: Duration) -> Result<i64> {
        Ok(self.apply(CounterOp::Expire(after)).await?.value)
    }

    /// Calls `observer` with the value and the version for each change through any handle, under the counter's own lock:
    /// in order, the version 1 higher each time. A `set` to the same value is a change; an expiry is one when it is
    /// noticed and the value was not 0. The observer must be quick, and must not use this counter.
    pub(crate) fn observe(&self, observer: Arc<CounterObserver>) -> Result<Observation> {
        Ok(self.cell()?.observe(observer))
    }

    /// Waits until what [`inspect`](Self::inspect) shows is known on this node: at once in memory, and wherever it was known
    /// before, even if its backend is away by now.
    pub(crate) async fn ready(&self) -> Result<()> {
        self.cell()?.ready().await
    }

    /// Runs `look` with the value and its version under the counter's own lock: no change and no observer's call runs
    /// meanwhile. It must be quick, and must not use this counter.
    ///
    /// `look` gets nothing if the value is not known, as the counter is not in memory and not observed and
    /// [`ready`](Self::ready). Then the observers will be called with the first value that becomes known.
    ///
    /// # Errors
    /// Only a wrong name.
    pub(crate) fn inspect<R>(&self, look: impl FnOnce(Option<(i64, Version)>) -> R) -> Result<R> {
        let (mut look, mut seen) = (Some(look), None);
        self.cell()?.inspect(&mut |known| seen = look.take().map(|look| look(known)));
        seen.ok_or_else(|| {
            let reason = format!("the value of counter `{}` was not read yet; try again", self.name);
            Error::Backend(BackendError::Unavailable { reason })
        })
    }

    /// Does one step.
    async fn apply(&self, op: CounterOp) -> Result<Counted> {
        self.cell()?.apply(op).await
    }

    /// The counter itself, or what is wrong with its name.
    fn cell(&self) -> Result<&Arc<dyn CounterBackend>> {
        check_name("counter", &self.name)?;
        Ok(self.cell.as_ref().expect("a counter with a right name has a cell"))
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counter").field("name", &self.name).finish_non_exhaustive()
    }
}
