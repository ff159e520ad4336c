//! The cost of operations on a row of a typed table: get, set, one column, and an atomic update of the whole row, alone
//! and with two threads on the same row.
//!
//! The tables are in memory, so this measures encoding, locking and decoding. An update reads, changes and writes the
//! row with `compare_and_set`, and repeats until there was no conflict, as in the guide.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt as _;
use ripplecast::{Hub, Table};
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;

/// A row with columns of different kinds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Player {
    name: String,
    points: u64,
    speed: f64,
    online: bool,
}

criterion_group! {
    name = table;
    config = common::quick();
    targets = row
}
criterion_main!(table);

mod common;

fn row(criterion: &mut Criterion) {
    // The hub's shards are tasks of a runtime.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let hub = Hub::builder().build().expect("the settings are valid");
    let players = hub.table::<Player>("players", 1000).expect("the columns are valid");
    let ada = Player { name: "Ada Lovelace".into(), points: 0, speed: 1.5, online: true };
    // Several rows, as in practice.
    for key in 0..500 {
        now(players.set(key, &ada));
    }
    let mut group = criterion.benchmark_group("table");
    group.bench_function("get", |bencher| bencher.iter(|| black_box(now(players.get(black_box(7))))));
    group.bench_function("set", |bencher| bencher.iter(|| now(players.set(black_box(7), &ada))));
    group.bench_function("increment", |bencher| {
        bencher.iter(|| black_box(now(players.increment(black_box(7), "points", 1))));
    });
    group.bench_function("update", |bencher| bencher.iter(|| update(&players)));

    type Operation = fn(&Table<Player>);
    let contended: [(&str, Operation); 4] = [
        ("get", |players| drop(black_box(now(players.get(7))))),
        ("set", |players| {
            let bob = Player { name: "Bob".into(), points: 1, speed: 0.5, online: false };
            now(players.set(7, &bob));
        }),
        ("increment", |players| {
            black_box(now(players.increment(7, "points", 1)));
        }),
        ("update", update),
    ];
    for (name, operation) in contended {
        group.bench_function(format!("{name}_by_two_threads"), |bencher| {
            bencher.iter_custom(|rounds| common::two_threads(rounds, &|| operation(&players)));
        });
    }
    group.finish();
}

/// Adds a point and toggles `online`: a change to two columns at once, which requires the whole row.
fn update(players: &Table<Player>) {
    loop {
        let old = now(players.get(7)).expect("the row exists");
        let new = Player { points: old.points.wrapping_add(1), online: !old.online, ..old.clone() };
        if now(players.compare_and_set(7, Some(&old), Some(&new))) {
            return;
        }
    }
}

/// Returns the result of an operation in memory, which never waits.
fn now<T>(operation: impl Future<Output = ripplecast::Result<T>>) -> T {
    operation.now_or_never().expect("memory does not wait").expect("the operation is valid")
}
