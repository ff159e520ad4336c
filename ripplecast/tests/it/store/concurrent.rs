//! Many callers at once, walks while others write, and a table against a map.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use ripplecast::{Cursor, Error, Result, StoreError, Table};

use super::{Pair, hub, store_error};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_bumpers_lose_nothing() -> Result<()> {
    let hub = hub();
    let table = hub.table::<Pair>("pairs", 4)?;
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (hub, table) = (hub.clone(), table.clone());
            tokio::spawn(async move {
                let counter = hub.counter("a");
                for _ in 0..200 {
                    counter.increment().await.unwrap();
                    hub.counter("bounded").increment_bounded(5000).await.unwrap();
                    table.increment("row", "left", 2).await.unwrap();
                    table.decrement("row", "left", 1).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(hub.counter("a").get().await?, 64 * 200);
    assert_eq!(hub.counter("bounded").get().await?, 5000);
    assert_eq!(table.get_field::<u64>("row", "left").await?, Some(64 * 200));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_sees_half_a_row() -> Result<()> {
    let table = hub().table::<Pair>("pairs", 100)?;
    let keys = || ["a", "b", "c", "d"];
    table.set_many(keys().map(|key| (key, Pair::new(0)))).await?;
    let writers: Vec<_> = (0..4_u64)
        .map(|writer| {
            let table = table.clone();
            tokio::spawn(async move {
                for step in 0..500 {
                    let row = Pair::new(writer * 1000 + step);
                    table.set_many(keys().map(|key| (key, &row))).await.unwrap();
                    table.set("single", &row).await.unwrap();
                }
            })
        })
        .collect();
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let table = table.clone();
            tokio::spawn(async move {
                for _ in 0..500 {
                    if let Some(row) = table.get("single").await.unwrap() {
                        assert_eq!(row, Pair::new(row.left));
                    }
                    let rows = table.get_many(keys()).await.unwrap();
                    assert_eq!(rows[0], Some(Pair::new(rows[0].as_ref().unwrap().left)));
                    assert!(rows.iter().all(|row| *row == rows[0]), "several rows of one moment");
                }
            })
        })
        .collect();
    for task in writers.into_iter().chain(readers) {
        task.await.unwrap();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_capacity_is_exact_under_eight_inserters() -> Result<()> {
    let table = hub().table::<Pair>("pairs", 1000)?;
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let table = table.clone();
            tokio::spawn(async move {
                let mut inserted = 0;
                for step in 0..300 {
                    let done = match step % 3 {
                        0 => table.set(format!("{task}-{step}"), &Pair::new(step)).await,
                        1 => table.increment(format!("{task}-{step}"), "left", 1).await.map(drop),
                        _ => table.set_many([(format!("{task}-{step}"), Pair::new(step))]).await,
                    };
                    match done {
                        Ok(()) => inserted += 1,
                        Err(Error::Store(StoreError::TableFull { capacity: 1000, rows: 1001, .. })) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
                inserted
            })
        })
        .collect();
    let mut inserted = 0;
    for task in tasks {
        inserted += task.await.unwrap();
    }
    assert_eq!((inserted, table.len().await?), (1000, 1000));
    assert_eq!(table.clear().await?, 1000);
    Ok(())
}

/// Walks to the end; fails if a key comes twice.
async fn walk(table: &Table<Pair>) -> HashSet<String> {
    let mut seen = HashSet::new();
    let mut rows = table.iter();
    while let Some((key, _)) = rows.next().await.unwrap() {
        assert!(seen.insert(key), "a key twice");
    }
    assert!(rows.next().await.unwrap().is_none());
    seen
}

#[tokio::test]
async fn writes_complete_while_a_walk_is_held() -> Result<()> {
    let table = hub().table::<Pair>("pairs", 3000)?;
    for n in 0..1000 {
        table.set(n, &Pair::new(n)).await?;
    }
    let mut rows = table.iter();
    let (first, _) = rows.next().await?.unwrap();
    for n in 0..1000 {
        table.set(n, &Pair::new(n + 1)).await?;
        table.set(n + 1000, &Pair::new(n)).await?;
        table.increment(n, "left", 1).await?;
    }
    table.clear().await?;
    table.set(&first, &Pair::new(1)).await?;
    let mut later = HashSet::from([first]);
    while let Some((key, _)) = rows.next().await? {
        assert!(later.insert(key), "a key twice");
    }
    assert!(later.len() <= 64, "rows that were deleted before they were fetched are not seen");
    assert_eq!(walk(&table).await.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_walk_sees_each_lasting_row_once_under_churn() -> Result<()> {
    let table = hub().table::<Pair>("pairs", 100_000)?;
    for n in 0..2000 {
        table.set(format!("stays-{n}"), &Pair::new(n)).await?;
        table.set(format!("goes-{n}"), &Pair::new(n)).await?;
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let churn: Vec<_> = (0..3_u64)
        .map(|task| {
            let (table, stopped) = (table.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut n = 0_u64;
                while !*stopped.borrow() {
                    n += 1;
                    table.set(format!("new-{task}-{}", n % 5000), &Pair::new(n)).await.unwrap();
                    table.delete(format!("goes-{}", n % 2000)).await.unwrap();
                    table.set(format!("goes-{}", n * 7 % 2000), &Pair::new(n)).await.unwrap();
                    table.increment(format!("stays-{}", n % 2000), "left", 1).await.unwrap();
                    table.delete(format!("new-{task}-{}", n * 3 % 5000)).await.unwrap();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for _ in 0..20 {
        let seen = walk(&table).await;
        assert_eq!(seen.iter().filter(|key| key.starts_with("stays-")).count(), 2000);
    }
    stop.send_replace(true);
    for task in churn {
        task.await.unwrap();
    }
    Ok(())
}

#[tokio::test]
async fn pages_cover_the_table() -> Result<()> {
    let table = hub().table::<Pair>("pairs", 5000)?;
    assert_eq!(table.scan(None, 10).await?.rows, []);
    let rows: Vec<_> = (0..2500).map(|n| (n.to_string(), Pair::new(n))).collect();
    table.set_many(rows.iter().map(|(key, row)| (key, row))).await?;
    for (limit, largest) in [(0, 1), (1, 1), (7, 7), (1_000_000, 1000)] {
        let (mut seen, mut cursor) = (HashMap::new(), None);
        loop {
            let page = table.scan(cursor, limit).await?;
            assert!(page.rows.len() <= largest);
            seen.extend(page.rows);
            let Some(next) = page.next else { break };
            cursor = Some(next.to_string().parse::<Cursor>().unwrap());
        }
        assert_eq!(seen, rows.iter().cloned().collect());
    }
    for wrong in ["", "x", "1-2", "1-2-3-4", "-1-0-0", "99999999999999999999999-0-0"] {
        let error = store_error(table.scan(Some(wrong.parse().unwrap()), 1).await);
        assert_eq!(error, StoreError::UnknownCursor { table: "pairs".into(), cursor: wrong.into() });
    }
    let beyond = format!("1-{}-{}", usize::MAX, usize::MAX).parse().unwrap();
    assert_eq!(table.scan(Some(beyond), 1).await?.rows, []);
    Ok(())
}

/// Something to do to a table and to its model.
#[derive(Clone, Debug)]
enum Step {
    Set(u8, u64),
    Delete(u8),
    Add(u8, i64),
    SetMany(Vec<(u8, u64)>),
    Replace(u8, Option<u64>, Option<u64>),
    Clear,
}

/// Few keys and few values, so that steps meet.
fn step() -> impl Strategy<Value = Step> {
    let key = || 0..12_u8;
    let value = || prop_oneof![4 => 0..3_u64, 1 => Just(u64::MAX)];
    prop_oneof![
        5 => (key(), value()).prop_map(|(key, value)| Step::Set(key, value)),
        3 => key().prop_map(Step::Delete),
        5 => (key(), -3..=3_i64).prop_map(|(key, by)| Step::Add(key, by)),
        2 => prop::collection::vec((key(), value()), 0..6).prop_map(Step::SetMany),
        4 => (key(), prop::option::of(value()), prop::option::of(value()))
            .prop_map(|(key, expected, new)| Step::Replace(key, expected, new)),
        1 => Just(Step::Clear),
    ]
}

/// The capacity in the model's test.
const MODEL_CAPACITY: usize = 8;

/// Does the step to the model; whether the table should succeed.
fn model(rows: &mut HashMap<u8, Pair>, step: &Step) -> bool {
    let mut after = rows.clone();
    match *step {
        Step::Set(key, value) => drop(after.insert(key, Pair::new(value))),
        Step::Delete(key) => drop(after.remove(&key)),
        Step::Add(key, by) => {
            let row = after.entry(key).or_default();
            let Some(sum) = row.left.checked_add_signed(by) else { return false };
            row.left = sum;
        }
        Step::SetMany(ref many) => after.extend(many.iter().map(|&(key, value)| (key, Pair::new(value)))),
        Step::Replace(key, expected, new) => {
            if after.get(&key) == expected.map(Pair::new).as_ref() {
                after.remove(&key);
                after.extend(new.map(|new| (key, Pair::new(new))));
            }
        }
        Step::Clear => after.clear(),
    }
    let fits = after.len() <= MODEL_CAPACITY;
    if fits {
        *rows = after;
    }
    fits
}

/// Does the step to the table; whether it succeeded.
async fn apply(table: &Table<Pair>, step: &Step) -> bool {
    match *step {
        Step::Set(key, value) => table.set(key, &Pair::new(value)).await.is_ok(),
        Step::Delete(key) => table.delete(key).await.is_ok(),
        Step::Add(key, by) if by < 0 => table.decrement(key, "left", -by).await.is_ok(),
        Step::Add(key, by) => table.increment(key, "left", by).await.is_ok(),
        Step::SetMany(ref many) => {
            table.set_many(many.iter().map(|&(key, value)| (key, Pair::new(value)))).await.is_ok()
        }
        Step::Replace(key, expected, new) => {
            let (expected, new) = (expected.map(Pair::new), new.map(Pair::new));
            table.compare_and_set(key, expected.as_ref(), new.as_ref()).await.is_ok()
        }
        Step::Clear => table.clear().await.is_ok(),
    }
}

proptest! {
    #[test]
    fn a_table_is_a_map(steps in prop::collection::vec(step(), 0..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let table = hub().table::<Pair>("pairs", MODEL_CAPACITY).unwrap();
            let mut rows = HashMap::new();
            for step in &steps {
                assert_eq!(apply(&table, step).await, model(&mut rows, step), "{step:?}");
                assert_eq!(table.len().await.unwrap(), rows.len());
                let (mut seen, mut walk) = (HashMap::new(), table.iter());
                while let Some((key, row)) = walk.next().await.unwrap() {
                    assert_eq!(seen.insert(key.parse().unwrap(), row), None);
                }
                assert_eq!(seen, rows);
                let found = table.get_many(0..12).await.unwrap();
                assert!((0..12_u8).all(|key| found[usize::from(key)].as_ref() == rows.get(&key)));
            }
        });
    }
}
