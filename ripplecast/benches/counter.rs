//! The cost of an increment: of a counter alone, of one shared by two threads, and of one that publishes every change
//! to a room.
//!
//! The room is empty, so publishing adds the encoding of a frame and a check for members; the cost of sending is
//! measured in the bench `fan_out`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt as _;
use ripplecast::{Counter, Hub};
use tokio::runtime::Builder;

criterion_group! {
    name = counter;
    config = common::quick();
    targets = increment
}
criterion_main!(counter);

mod common;

fn increment(criterion: &mut Criterion) {
    // The hub's shards are tasks of a runtime.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let hub = Hub::builder().shards(1).build().expect("the settings are valid");
    let plain = hub.counter("plain");
    let published = hub.counter("published");
    let _live = published.publish_to(&hub.room("readers")).expect("the names are valid");

    let mut group = criterion.benchmark_group("counter");
    for (name, counter) in [("increment", &plain), ("increment_published", &published)] {
        group.bench_function(name, |bencher| bencher.iter(|| one(counter)));
        group.bench_function(format!("{name}_by_two_threads"), |bencher| {
            bencher.iter_custom(|rounds| common::two_threads(rounds, &|| one(counter)));
        });
    }
    group.finish();
}

/// Increments once. A counter in memory never waits.
fn one(counter: &Counter) {
    let value = counter.increment().now_or_never().expect("memory does not wait");
    black_box(value.expect("the sum is an i64"));
}
