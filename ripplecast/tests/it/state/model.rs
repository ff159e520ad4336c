//! Compares a table in memory with a map.

use std::collections::HashMap;

use proptest::prelude::*;
use ripplecast::{Result, Table};

use super::{Pair, hub};

#[tokio::test]
async fn a_cursor_beyond_the_table_is_at_the_end() -> Result<()> {
    let table = hub().table::<Pair>("pairs", 10)?;
    table.set("key", &Pair::new(1)).await?;
    let beyond = format!("1-{}-{}", usize::MAX, usize::MAX).parse().unwrap();
    assert_eq!(table.scan(Some(beyond), 1).await?.rows, []);
    Ok(())
}

/// An operation on a table and its model.
#[derive(Clone, Debug)]
enum Step {
    Set(u8, u64),
    Delete(u8),
    Add(u8, i64),
    SetMany(Vec<(u8, u64)>),
    Replace(u8, Option<u64>, Option<u64>),
    Clear,
}

/// Generates a step from few keys and values, so that steps collide.
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

/// The capacity of the table under test.
const MODEL_CAPACITY: usize = 8;

/// Applies the step to the model. Returns whether the table must succeed.
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

/// Applies the step to the table. Returns whether it succeeded.
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
    fn a_table_behaves_like_a_map(steps in prop::collection::vec(step(), 0..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let table = hub().table::<Pair>("pairs", MODEL_CAPACITY).unwrap();
            let mut rows = HashMap::new();
            for step in &steps {
                assert_eq!(apply(&table, step).await, model(&mut rows, step), "{step:?}");
                assert_eq!(table.len().await.unwrap(), rows.len());
                let (mut seen, mut iter) = (HashMap::new(), table.iter());
                while let Some((key, row)) = iter.next().await.unwrap() {
                    assert_eq!(seen.insert(key.parse().unwrap(), row), None);
                }
                assert_eq!(seen, rows);
                let found = table.get_many(0..12).await.unwrap();
                assert!((0..12_u8).all(|key| found[usize::from(key)].as_ref() == rows.get(&key)));
            }
        });
    }
}
