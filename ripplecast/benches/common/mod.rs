//! Shared by the benches.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use criterion::Criterion;

/// Criterion's settings: a file of benches finishes within about a minute.
pub(crate) fn quick() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

/// Returns the time until each of two threads has run the operation `rounds` times.
/// Both start at once.
#[allow(dead_code, reason = "not every file of benches has threads")]
pub(crate) fn two_threads(rounds: u64, operation: &(impl Fn() + Sync)) -> Duration {
    let barrier = Barrier::new(2);
    let one = || {
        barrier.wait();
        let start = Instant::now();
        (0..rounds).for_each(|_| operation());
        start.elapsed()
    };
    thread::scope(|scope| {
        let other = scope.spawn(one);
        one().max(other.join().expect("the other thread does not panic"))
    })
}
