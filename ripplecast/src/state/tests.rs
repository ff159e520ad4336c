//! What can't be seen from outside: observers, versions, expiry by a test clock, forgotten counters.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    CounterObserver, Observation, Store,
    counter::Counter,
    memory::MemoryState,
    table::{Table, TableBuilder},
};

/// A clock that advances only when the test says so.
#[derive(Clone)]
struct TestClock {
    start: Instant,
    /// In milliseconds.
    elapsed: Arc<AtomicU64>,
}

impl TestClock {
    fn new() -> Self {
        Self { start: Instant::now(), elapsed: Arc::default() }
    }

    fn advance(&self, milliseconds: u64) {
        self.elapsed.fetch_add(milliseconds, Relaxed);
    }

    fn memory(&self) -> MemoryState {
        let clock = self.clone();
        MemoryState::with_clock(Arc::new(move || {
            clock.start + Duration::from_millis(clock.elapsed.load(Relaxed))
        }))
    }
}

/// Values and version numbers that a counter's observer received.
type ObserverLog = Arc<Mutex<Vec<(i64, u64)>>>;

/// Returns the value of a counter and the number of its version.
fn known(counter: &Counter) -> (i64, u64) {
    counter.inspect(|known| known.map(|(value, version)| (value, version.number))).unwrap().unwrap()
}

/// Records what the counter's observer receives.
fn watch(counter: &Counter) -> (Observation, ObserverLog) {
    let log = ObserverLog::default();
    let writer = Arc::clone(&log);
    let observer: Arc<CounterObserver> =
        Arc::new(move |value, version| writer.lock().push((value, version.number)));
    (counter.observe(observer).unwrap(), log)
}

#[tokio::test]
async fn a_counter_expires_by_the_clock() {
    let clock = TestClock::new();
    let counter = Store::with(clock.memory()).counter("a");
    let (_observation, log) = watch(&counter);
    assert_eq!(counter.add(5).await.unwrap(), 5);
    assert_eq!(counter.expire(Duration::from_millis(100)).await.unwrap(), 5);
    clock.advance(99);
    assert_eq!(counter.increment().await.unwrap(), 6, "an addition keeps the expiry");
    clock.advance(1);
    assert_eq!(log.lock().len(), 2, "expiry is detected only by the next operation");
    assert_eq!(counter.increment().await.unwrap(), 1);
    assert_eq!(*log.lock(), [(5, 1), (6, 2), (0, 3), (1, 4)]);
    clock.advance(1_000_000);
    assert_eq!(counter.get().await.unwrap(), 1, "the counter expires only once");
}

#[tokio::test]
async fn writes_clear_the_expiry_and_a_second_expire_replaces_it() {
    let clock = TestClock::new();
    let counter = Store::with(clock.memory()).counter("a");
    let soon = Duration::from_millis(10);
    counter.expire(soon).await.unwrap();
    counter.set(1).await.unwrap();
    clock.advance(20);
    assert_eq!(counter.get().await.unwrap(), 1);
    counter.expire(soon).await.unwrap();
    assert_eq!(counter.compare_and_set(1, 2).await.unwrap(), Ok(2));
    clock.advance(20);
    assert_eq!(counter.get().await.unwrap(), 2);
    counter.expire(soon).await.unwrap();
    assert_eq!(
        counter.compare_and_set(1, 3).await.unwrap(),
        Err(2),
        "a failed compare_and_set changes nothing"
    );
    counter.expire(Duration::from_millis(30)).await.unwrap();
    clock.advance(20);
    assert_eq!(counter.get().await.unwrap(), 2);
    clock.advance(10);
    assert_eq!(known(&counter).0, 0);
    counter.set(4).await.unwrap();
    counter.expire(Duration::MAX).await.unwrap();
    clock.advance(1 << 40);
    assert_eq!(counter.get().await.unwrap(), 4, "too long for the clock means never");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn observers_see_each_version_in_order() {
    let store = Store::memory();
    let counter = store.counter("a");
    let (_first, log) = watch(&counter);
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let counter = store.counter("a");
            tokio::spawn(async move {
                for step in 0..500 {
                    match (task + step) % 3 {
                        0 => counter.set(step).await.unwrap(),
                        1 => counter.increment().await.unwrap(),
                        _ => counter.increment_bounded(100).await.unwrap().unwrap_or(0),
                    };
                }
            })
        })
        .collect();
    // A late observer: its calls continue from the inspected state, without a gap.
    let (_late, late) = watch(&counter);
    let (value, version) = known(&counter);
    for task in tasks {
        task.await.unwrap();
    }
    let log = log.lock();
    assert!(log.iter().map(|(_, version)| *version).eq(1..=log.len() as u64));
    assert_eq!(log.last().copied(), Some(known(&counter)));
    if version > 0 {
        assert_eq!(log[version as usize - 1], (value, version));
    }
    let late = late.lock();
    assert_eq!(late[..], log[log.len() - late.len()..]);
}

#[tokio::test]
async fn observers_see_only_changes_and_only_while_observing() {
    let counter = Store::memory().counter("a");
    let (observation, log) = watch(&counter);
    counter.set(i64::MAX).await.unwrap();
    assert!(counter.increment().await.is_err());
    assert_eq!(counter.compare_and_set(1, 2).await.unwrap(), Err(i64::MAX));
    assert_eq!(counter.increment_bounded(i64::MAX).await.unwrap(), None);
    counter.get().await.unwrap();
    assert_eq!(known(&counter), (i64::MAX, 1));
    counter.reset().await.unwrap();
    counter.reset().await.unwrap();
    drop(observation);
    counter.increment().await.unwrap();
    assert_eq!(*log.lock(), [(i64::MAX, 1), (0, 2), (0, 3)]);
    assert_eq!(known(&counter).1, 4);
    assert_eq!(Arc::strong_count(&log), 1, "the observer is dropped with its observation");
}

#[tokio::test]
async fn an_observation_may_be_dropped_by_the_observer() {
    let counter = Store::memory().counter("a");
    let slot: Arc<Mutex<Option<Observation>>> = Arc::default();
    let (own, calls) = (Arc::clone(&slot), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&calls);
    let observer = Arc::new(move |_, _| {
        count.fetch_add(1, Relaxed);
        own.lock().take();
    });
    *slot.lock() = Some(counter.observe(observer).unwrap());
    counter.increment().await.unwrap();
    counter.increment().await.unwrap();
    assert_eq!(calls.load(Relaxed), 1);
}

#[tokio::test]
async fn unused_counters_are_forgotten_and_versions_never_decrease() {
    let clock = TestClock::new();
    let memory = Arc::new(clock.memory());
    for i in 0..20_000 {
        let counter = Counter::new("x", Some(memory.cell(&format!("ip:{i}"))));
        counter.increment().await.unwrap();
        counter.expire(Duration::from_millis(10)).await.unwrap();
        clock.advance(1);
    }
    assert!(memory.kept() < 5_000, "{} counters are kept", memory.kept());

    let held = Counter::new("held", Some(memory.cell("held")));
    let observed = Counter::new("observed", Some(memory.cell("observed")));
    let (_observation, log) = watch(&observed);
    drop(observed);
    let kept = Counter::new("kept", Some(memory.cell("kept")));
    kept.set(7).await.unwrap();
    drop(kept);
    let gone = Counter::new("gone", Some(memory.cell("gone")));
    gone.set(1).await.unwrap();
    gone.reset().await.unwrap();
    let version = known(&gone).1;
    drop(gone);
    clock.advance(1_000_000);
    for i in 0..20_000 {
        memory.cell(&format!("other:{i}"));
    }
    held.increment().await.unwrap();
    assert_eq!(Counter::new("held", Some(memory.cell("held"))).get().await.unwrap(), 1);
    assert_eq!(Counter::new("kept", Some(memory.cell("kept"))).get().await.unwrap(), 7);
    Counter::new("observed", Some(memory.cell("observed"))).increment().await.unwrap();
    assert_eq!(log.lock().len(), 1);
    let again = Counter::new("gone", Some(memory.cell("gone")));
    let (value, now) = known(&again);
    assert!(value == 0 && now > version, "the version never decreases");
}

/// A row with a column of each kind that is formatted differently.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
struct Sample {
    big: u64,
    small: i8,
    on: bool,
    ratio: f32,
    name: String,
    data: Vec<u8>,
}

/// Creates a table of samples.
fn samples() -> Table<Sample> {
    TableBuilder::new(Store::memory(), "samples".into(), 1000).build().unwrap()
}

/// Creates a table of at most three samples with a test clock.
fn timed() -> (Table<Sample>, TestClock) {
    let clock = TestClock::new();
    (TableBuilder::new(Store::with(clock.memory()), "timed".into(), 3).build().unwrap(), clock)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn sample(big: u64) -> Sample {
    Sample { big, small: -1, on: true, ratio: 0.1, name: "ü\"".into(), data: vec![0, 255] }
}

#[tokio::test]
async fn table_observers_see_rows_as_serde_writes_them() {
    let table = samples();
    let log: Arc<Mutex<Vec<(String, String, u64)>>> = Arc::default();
    let writer = Arc::clone(&log);
    let observation = table.observe(Arc::new(move |key, row, version| {
        writer.lock().push((key.to_owned(), serde_json::to_string(&row).unwrap(), version.number));
    }));
    table.set("a", &sample(u64::MAX)).await.unwrap();
    table.decrement("a", "big", 1).await.unwrap();
    table.set_many([("b", sample(1)), ("a", sample(2))]).await.unwrap();
    assert!(table.increment("a", "small", 1000).await.is_err());
    assert!(!table.delete("c").await.unwrap());
    assert!(table.delete("b").await.unwrap());
    assert!(table.compare_and_set("a", Some(&sample(2)), None).await.unwrap());
    table.increment("d", "big", 9).await.unwrap();
    assert_eq!(table.clear().await.unwrap(), 1);
    drop(observation);
    table.set("a", &sample(1)).await.unwrap();

    let json = |row: &Sample| serde_json::to_string(row).unwrap();
    let made = Sample { big: 9, small: 0, on: false, ratio: 0.0, name: String::new(), data: vec![] };
    let expected = [
        ("a", json(&sample(u64::MAX))),
        ("a", json(&sample(u64::MAX - 1))),
        ("b", json(&sample(1))),
        ("a", json(&sample(2))),
        ("b", "null".to_owned()),
        ("a", "null".to_owned()),
        ("d", json(&made)),
        ("d", "null".to_owned()),
    ];
    let log = log.lock();
    let seen: Vec<_> = log.iter().map(|(key, row, _)| (key.as_str(), row.clone())).collect();
    assert_eq!(seen, expected);
    assert!(log.iter().map(|(_, _, version)| *version).eq(1..=8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn table_observers_see_the_changes_of_a_row_in_order() {
    let table = samples();
    table.set("a", &sample(0)).await.unwrap();
    table.set("b", &sample(0)).await.unwrap();
    let log: Arc<Mutex<Vec<(String, u64, u64)>>> = Arc::default();
    let writer = Arc::clone(&log);
    let _observation = table.observe(Arc::new(move |key, row, version| {
        let row = serde_json::to_value(row).unwrap();
        writer.lock().push((key.to_owned(), row["big"].as_u64().unwrap(), version.number));
    }));
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let table = table.clone();
            tokio::spawn(async move {
                for _ in 0..200 {
                    table.increment(if task % 2 == 0 { "a" } else { "b" }, "big", 1).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let log = log.lock();
    for key in ["a", "b"] {
        let of_key: Vec<_> = log.iter().filter(|(of, _, _)| of == key).collect();
        assert!(of_key.iter().map(|(_, value, _)| *value).eq(1..=800));
        assert!(of_key.is_sorted_by(|a, b| a.2 < b.2));
    }
}

#[tokio::test]
async fn rows_expire_by_the_clock_and_every_operation_detects_it() {
    let (table, clock) = timed();
    let log: Arc<Mutex<Vec<(String, bool)>>> = Arc::default();
    let writer = Arc::clone(&log);
    let _observation =
        table.observe(Arc::new(move |key, row, _| writer.lock().push((key.to_owned(), row.is_some()))));
    for key in ["a", "b", "c"] {
        table.set(key, &sample(1)).await.unwrap();
    }
    assert!(table.set("d", &sample(1)).await.is_err(), "the table is full");
    assert!(table.expire("a", ms(100)).await.unwrap() && table.expire("b", ms(50)).await.unwrap());
    assert!(!table.expire("d", ms(1)).await.unwrap());
    clock.advance(49);
    assert_eq!(table.len().await.unwrap(), 3);
    clock.advance(1);
    assert_eq!(log.lock().len(), 3, "expiry is detected only by the next operation");
    assert_eq!(table.len().await.unwrap(), 2);
    assert_eq!(log.lock()[3..], [("b".to_owned(), false)]);
    clock.advance(50);
    table.set_many([("d", sample(1)), ("e", sample(1))]).await.unwrap(); // into the places of `a` and `b`
    assert_eq!(log.lock()[4..], [("a", false), ("d", true), ("e", true)].map(|(key, is)| (key.into(), is)));
    assert!(table.expire("d", Duration::ZERO).await.unwrap());
    assert_eq!(log.lock()[7..], [("d".to_owned(), false)]);
    assert!(!table.exists("d").await.unwrap());
}

#[tokio::test]
async fn no_operation_sees_an_expired_row() {
    type LookUp = fn(&Table<Sample>) -> std::pin::Pin<Box<dyn Future<Output = bool> + '_>>;
    let looks: [(&str, LookUp); 12] = [
        ("get", |t| Box::pin(async { t.get("a").await.unwrap().is_none() })),
        ("get_field", |t| Box::pin(async { t.get_field::<u64>("a", "big").await.unwrap().is_none() })),
        ("exists", |t| Box::pin(async { !t.exists("a").await.unwrap() })),
        ("delete", |t| Box::pin(async { !t.delete("a").await.unwrap() })),
        ("expire", |t| Box::pin(async { !t.expire("a", ms(9)).await.unwrap() })),
        ("increment", |t| Box::pin(async { t.increment("a", "big", 1).await.unwrap() == 1 })),
        ("len", |t| Box::pin(async { t.len().await.unwrap() == 1 })),
        ("scan", |t| Box::pin(async { t.scan(None, 9).await.unwrap().rows.len() == 1 })),
        ("get_many", |t| Box::pin(async { t.get_many(["a"]).await.unwrap() == [None] })),
        ("compare_and_set", |t| Box::pin(async { t.compare_and_set("a", None, None).await.unwrap() })),
        ("clear", |t| Box::pin(async { t.clear().await.unwrap() == 1 })),
        ("inspect", |t| {
            Box::pin(async {
                let mut rows = 0;
                t.inspect(|_, _, _| rows += 1);
                rows == 1
            })
        }),
    ];
    for (name, look) in looks {
        let (table, clock) = timed();
        table.set_many([("a", sample(7)), ("b", sample(7))]).await.unwrap();
        table.expire("a", ms(10)).await.unwrap();
        clock.advance(10);
        assert!(look(&table).await, "{name} saw an expired row");
    }
}

#[tokio::test]
async fn row_writes_clear_the_expiry_and_a_second_expire_replaces_it() {
    let (table, clock) = timed();
    table.set("a", &sample(1)).await.unwrap();
    let soon = ms(10);
    table.expire("a", soon).await.unwrap();
    table.set("a", &sample(2)).await.unwrap();
    clock.advance(20);
    table.expire("a", soon).await.unwrap();
    table.set_many([("a", sample(3))]).await.unwrap();
    clock.advance(20);
    table.expire("a", soon).await.unwrap();
    assert!(table.compare_and_set("a", Some(&sample(3)), Some(&sample(4))).await.unwrap());
    clock.advance(20);
    assert!(table.exists("a").await.unwrap());
    table.expire("a", soon).await.unwrap();
    table.expire("a", ms(30)).await.unwrap();
    clock.advance(20);
    assert_eq!(table.increment("a", "big", 1).await.unwrap(), 5, "the second expire replaces the first");
    assert!(!table.compare_and_set("a", None, Some(&sample(9))).await.unwrap());
    clock.advance(10);
    assert_eq!(
        table.increment("a", "big", 1).await.unwrap(),
        1,
        "increments keep the expiry, and a new row has none"
    );
    table.expire("a", soon).await.unwrap();
    table.expire("a", Duration::MAX).await.unwrap();
    clock.advance(1 << 40);
    assert_eq!(table.len().await.unwrap(), 1, "too long for the clock means never");
    table.expire("a", soon).await.unwrap();
    table.delete("a").await.unwrap();
    table.set("a", &sample(1)).await.unwrap();
    table.expire("b", soon).await.unwrap();
    clock.advance(20);
    assert_eq!(
        table.len().await.unwrap(),
        1,
        "a deleted row's expiry does not apply to a new row with its key"
    );
    table.expire("a", soon).await.unwrap();
    assert_eq!(table.clear().await.unwrap(), 1);
    table.set("a", &sample(1)).await.unwrap();
    clock.advance(20);
    assert_eq!(table.len().await.unwrap(), 1, "clear removes the expiry");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_length_is_exact_while_rows_expire_and_are_added() {
    let clock = TestClock::new();
    let table: Table<Sample> =
        TableBuilder::new(Store::with(clock.memory()), "timed".into(), 100_000).build().unwrap();
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let (table, clock) = (table.clone(), clock.clone());
            tokio::spawn(async move {
                for step in 0..2000_u64 {
                    let key = format!("{task}-{}", step % 200);
                    match step % 5 {
                        0 => drop(table.increment(&key, "big", 1).await.unwrap()),
                        1 => drop(table.delete(&key).await.unwrap()),
                        _ => table.set(&key, &sample(step)).await.unwrap(),
                    }
                    table.expire(&key, ms(1 + step % 7)).await.unwrap();
                    clock.advance(step % 2);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    table.set("stays", &sample(1)).await.unwrap();
    clock.advance(1000);
    let mut rows = 0;
    table.inspect(|_, _, _| rows += 1);
    assert_eq!((table.len().await.unwrap(), rows), (1, 1));
}

#[tokio::test]
async fn a_reply_may_be_pending() {
    let later: std::pin::Pin<Box<dyn Future<Output = crate::Result<i32>> + Send>> = Box::pin(async {
        tokio::task::yield_now().await;
        Ok(7)
    });
    assert_eq!(crate::reply::Reply::from(later).await.unwrap(), 7);
}
