//! Concurrent callers, and scans during writes.

use std::collections::{HashMap, HashSet};

use ripplecast::{Error, Result, Table, error::StateError, state::Cursor};

use super::World;
use crate::state::{Pair, state_error};

pub(super) async fn concurrent_increments_lose_nothing(world: &World) -> Result<()> {
    let (hub, rounds) = (&world.hub, world.rounds(200));
    let (all, bound) = (i64::from(64 * rounds), i64::from(25 * rounds));
    let table = hub.table::<Pair>("pairs", 4)?;
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let hub = world.one_of_both(task);
            let table = hub.table::<Pair>("pairs", 4).unwrap();
            tokio::spawn(async move {
                let counter = hub.counter("a");
                for _ in 0..rounds {
                    counter.increment().await.unwrap();
                    hub.counter("bounded").increment_bounded(bound).await.unwrap();
                    table.increment("row", "left", 2).await.unwrap();
                    table.decrement("row", "left", 1).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(hub.counter("a").get().await?, all);
    assert_eq!(hub.counter("bounded").get().await?, bound);
    assert_eq!(table.get_field::<i64>("row", "left").await?, Some(all));
    Ok(())
}

pub(super) async fn nobody_sees_half_a_row(world: &World) -> Result<()> {
    let (table, rounds) = (world.hub.table::<Pair>("pairs", 100)?, world.rounds(500));
    let keys = || ["a", "b", "c", "d"];
    table.set_many(keys().map(|key| (key, Pair::new(0)))).await?;
    let writers: Vec<_> = (0..4_u64)
        .map(|writer| {
            let table = table.clone();
            tokio::spawn(async move {
                for step in 0..u64::from(rounds) {
                    let row = Pair::new(writer * 1000 + step);
                    table.set_many(keys().map(|key| (key, &row))).await.unwrap();
                    table.set("single", &row).await.unwrap();
                }
            })
        })
        .collect();
    let readers: Vec<_> = (0..4)
        .map(|reader| {
            let table = world.one_of_both(reader).table::<Pair>("pairs", 100).unwrap();
            tokio::spawn(async move {
                for _ in 0..rounds {
                    if let Some(row) = table.get("single").await.unwrap() {
                        assert_eq!(row, Pair::new(row.left));
                    }
                    let rows = table.get_many(keys()).await.unwrap();
                    assert_eq!(rows[0], Some(Pair::new(rows[0].as_ref().unwrap().left)));
                    assert!(rows.iter().all(|row| *row == rows[0]), "several rows as of one moment");
                }
            })
        })
        .collect();
    for task in writers.into_iter().chain(readers) {
        task.await.unwrap();
    }
    Ok(())
}

pub(super) async fn the_capacity_is_exact_under_eight_inserters(world: &World) -> Result<()> {
    let table = world.hub.table::<Pair>("pairs", 1000)?;
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let table = world.one_of_both(task).table::<Pair>("pairs", 1000).unwrap();
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
                        Err(Error::State(StateError::TableFull { capacity: 1000, rows: 1001, .. })) => {}
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

/// Scans to the end. Fails if a key appears twice.
async fn scan_all(table: &Table<Pair>) -> HashSet<String> {
    let mut seen = HashSet::new();
    let mut rows = table.iter();
    while let Some((key, _)) = rows.next().await.unwrap() {
        assert!(seen.insert(key), "a key appeared twice");
    }
    assert!(rows.next().await.unwrap().is_none());
    seen
}

pub(super) async fn writes_complete_during_a_paused_scan(world: &World) -> Result<()> {
    let table = world.hub.table::<Pair>("pairs", 3000)?;
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
        assert!(later.insert(key), "a key appeared twice");
    }
    assert!(later.len() <= 64, "rows deleted before they were fetched are not returned");
    assert_eq!(scan_all(&table).await.len(), 1);
    Ok(())
}

pub(super) async fn a_scan_returns_each_lasting_row_once_under_churn(world: &World) -> Result<()> {
    let table = world.hub.table::<Pair>("pairs", 100_000)?;
    let lasting = u64::from(world.rounds(2000));
    for n in 0..lasting {
        table.set(format!("stays-{n}"), &Pair::new(n)).await?;
        table.set(format!("goes-{n}"), &Pair::new(n)).await?;
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let churn: Vec<_> = (0..3_u64)
        .map(|task| {
            let stopped = stopped.clone();
            let table = world.one_of_both(task as usize).table::<Pair>("pairs", 100_000).unwrap();
            tokio::spawn(async move {
                let mut n = 0_u64;
                while !*stopped.borrow() {
                    n += 1;
                    table.set(format!("new-{task}-{}", n % 5000), &Pair::new(n)).await.unwrap();
                    table.delete(format!("goes-{}", n % lasting)).await.unwrap();
                    table.set(format!("goes-{}", n * 7 % lasting), &Pair::new(n)).await.unwrap();
                    table.increment(format!("stays-{}", n % lasting), "left", 1).await.unwrap();
                    table.delete(format!("new-{task}-{}", n * 3 % 5000)).await.unwrap();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for _ in 0..20 {
        let seen = scan_all(&table).await;
        assert_eq!(seen.iter().filter(|key| key.starts_with("stays-")).count() as u64, lasting);
    }
    stop.send_replace(true);
    for task in churn {
        task.await.unwrap();
    }
    Ok(())
}

pub(super) async fn pages_cover_the_table(world: &World) -> Result<()> {
    let table = world.hub.table::<Pair>("pairs", 5000)?;
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
        let error = state_error(table.scan(Some(wrong.parse().unwrap()), 1).await);
        assert_eq!(error, StateError::UnknownCursor { table: "pairs".into(), cursor: wrong.into() });
    }
    Ok(())
}

pub(super) async fn only_one_of_many_wins(world: &World) -> Result<()> {
    let table = world.hub.table::<Pair>("pairs", 10)?;
    let tasks: Vec<_> = (0..16_u64)
        .map(|task| {
            let hub = world.one_of_both(task as usize);
            let table = hub.table::<Pair>("pairs", 10).unwrap();
            tokio::spawn(async move {
                let led = hub.counter("leader").compare_and_set(0, task as i64 + 1).await.unwrap().is_ok();
                let took = table.compare_and_set("seat", None, Some(&Pair::new(task))).await.unwrap();
                (led, took)
            })
        })
        .collect();
    let (mut leaders, mut seats) = (0, 0);
    for task in tasks {
        let (led, took) = task.await.unwrap();
        (leaders, seats) = (leaders + u32::from(led), seats + u32::from(took));
    }
    assert_eq!((leaders, seats, table.len().await?), (1, 1, 1));
    Ok(())
}

pub(super) async fn a_page_ends_where_the_table_ends(world: &World) -> Result<()> {
    let table = world.hub.table::<Pair>("pairs", 100)?;
    table.set_many((0..20).map(|n| (n, Pair::new(n)))).await?;
    let page = table.scan(None, 15).await?;
    let next = page.next.expect("there are more rows");
    for n in 0..20 {
        table.delete(n).await?;
    }
    table.set_many((0..20).map(|n| (n, Pair::new(n)))).await?;
    let mut rest = table.scan(Some(next.clone()), 15).await?;
    assert_eq!(rest.rows, [], "these rows were created after the scan began");
    assert_eq!(rest.next.take(), None);
    assert_eq!(table.scan(Some(next), 15).await?, rest, "a cursor can be used again");
    Ok(())
}
