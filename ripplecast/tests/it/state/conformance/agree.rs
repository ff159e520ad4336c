//! The same random steps here and in memory: every result must be equal.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngSeed, TestRunner},
};
use ripplecast::{Counter, Hub, Result, Table};

use super::World;
use crate::state::Every;

/// The table's capacity; there are more keys.
const CAPACITY: usize = 5;
/// Number of random sequences.
const SEQUENCES: u32 = 40;

/// An operation on a table or a counter.
#[derive(Clone, Debug)]
enum Step {
    Set(u8, Every),
    SetMany(Vec<(u8, Every)>),
    Get(u8),
    GetMany(Vec<u8>),
    GetField(u8, &'static str),
    Exists(u8),
    Delete(u8),
    Increment(u8, &'static str, i64),
    Decrement(u8, &'static str, i64),
    /// Replaces or deletes the row if it is the expected one. An outer `None` expects the current row.
    Replace(u8, Option<Option<Every>>, Option<Every>),
    Expire(u8, Duration),
    ExpireMany(Vec<u8>, Duration),
    Len,
    Walk,
    Clear,
    Add(i64),
    Put(i64),
    Swap(Option<i64>, i64),
    Below(i64),
    Forget(Duration),
    Look,
}

/// Generates integers, often at the ends of the range or where a float can't distinguish neighbours.
fn number() -> impl Strategy<Value = i64> + Clone {
    prop_oneof![
        Just(i64::MIN),
        Just(i64::MAX),
        Just(1 << 53),
        Just((1 << 53) + 1),
        -3..=3_i64,
        -300..=300_i64,
        any::<i64>(),
    ]
}

/// Generates a row, often one of a few, so that steps collide.
fn row() -> impl Strategy<Value = Every> + Clone {
    let text = prop_oneof![Just(String::new()), Just("\0".to_owned()), ".{0,20}"];
    let bytes = prop::collection::vec(any::<u8>(), 0..20);
    let float = prop_oneof![Just(f64::NAN), Just(-0.0), Just(0.0), any::<f64>()];
    let full = (number(), number(), any::<bool>(), float, text, bytes).prop_map(
        |(n, m, flag, double, text, bytes)| Every {
            a: n as i8,
            b: n as i16,
            c: n as i32,
            d: n,
            e: m as u8,
            f: m as u16,
            g: m as u32,
            h: m as u64,
            flag,
            single: double as f32,
            double,
            text,
            bytes,
        },
    );
    prop_oneof![1 => Just(Every::default()), 1 => Just(Every { a: 1, ..Every::default() }), 2 => full]
}

/// Generates a duration that is over at once, or not during the test.
fn time() -> impl Strategy<Value = Duration> + Clone {
    prop_oneof![Just(Duration::ZERO), Just(Duration::from_secs(3600)), Just(Duration::MAX)]
}

/// Generates a step.
fn step() -> impl Strategy<Value = Step> {
    let key = || 0..8_u8;
    let column = || {
        prop::sample::select(vec![
            "a", "b", "c", "d", "e", "f", "g", "h", "flag", "single", "double", "text", "bytes", "none",
        ])
    };
    let expected = prop::option::of(prop::option::of(row()));
    prop_oneof![
        4 => (key(), row()).prop_map(|(key, row)| Step::Set(key, row)),
        2 => prop::collection::vec((key(), row()), 0..4).prop_map(Step::SetMany),
        2 => key().prop_map(Step::Get),
        1 => prop::collection::vec(key(), 0..5).prop_map(Step::GetMany),
        2 => (key(), column()).prop_map(|(key, column)| Step::GetField(key, column)),
        1 => key().prop_map(Step::Exists),
        2 => key().prop_map(Step::Delete),
        6 => (key(), column(), number()).prop_map(|(key, column, by)| Step::Increment(key, column, by)),
        4 => (key(), column(), number()).prop_map(|(key, column, by)| Step::Decrement(key, column, by)),
        4 => (key(), expected, prop::option::of(row()))
            .prop_map(|(key, expected, new)| Step::Replace(key, expected, new)),
        1 => (key(), time()).prop_map(|(key, time)| Step::Expire(key, time)),
        1 => (proptest::collection::vec(key(), 0..4), time()).prop_map(|(keys, time)| Step::ExpireMany(keys, time)),
        1 => Just(Step::Len),
        1 => Just(Step::Walk),
        1 => Just(Step::Clear),
        4 => number().prop_map(Step::Add),
        2 => number().prop_map(Step::Put),
        2 => (prop::option::of(number()), number()).prop_map(|(expected, new)| Step::Swap(expected, new)),
        2 => number().prop_map(Step::Below),
        1 => time().prop_map(Step::Forget),
        1 => Just(Step::Look),
    ]
}

/// Formats a result, including the full text of an error.
fn text<T: Debug>(answer: Result<T>) -> String {
    answer.map_or_else(|error| format!("Err({error})"), |answer| format!("{answer:?}"))
}

/// Runs a step and returns its formatted result.
async fn answer(table: &Table<Every>, counter: &Counter, step: &Step) -> String {
    match step {
        Step::Set(key, row) => text(table.set(key, row).await),
        Step::SetMany(rows) => text(table.set_many(rows.iter().map(|(key, row)| (key, row))).await),
        Step::Get(key) => text(table.get(key).await),
        Step::GetMany(keys) => text(table.get_many(keys).await),
        Step::GetField(key, column) => match *column {
            "flag" => text(table.get_field::<bool>(key, column).await),
            "single" | "double" => text(table.get_field::<f64>(key, column).await),
            "text" => text(table.get_field::<String>(key, column).await),
            "bytes" => text(table.get_field::<Vec<u8>>(key, column).await),
            _ => text(table.get_field::<i128>(key, column).await),
        },
        Step::Exists(key) => text(table.exists(key).await),
        Step::Delete(key) => text(table.delete(key).await),
        Step::Increment(key, column, by) => text(table.increment(key, column, *by).await),
        Step::Decrement(key, column, by) => text(table.decrement(key, column, *by).await),
        Step::Replace(key, expected, new) => {
            let there = table.get(key).await.unwrap();
            let expected = expected.as_ref().unwrap_or(&there);
            text(table.compare_and_set(key, expected.as_ref(), new.as_ref()).await)
        }
        Step::Expire(key, after) => text(table.expire(key, *after).await),
        Step::ExpireMany(keys, after) => text(table.expire_many(keys, *after).await),
        Step::Len => text(table.len().await),
        Step::Walk => text(scan_all(table).await),
        Step::Clear => text(table.clear().await),
        Step::Add(by) => text(counter.add(*by).await),
        Step::Put(value) => text(counter.set(*value).await),
        Step::Swap(expected, new) => {
            let there = counter.get().await.unwrap();
            text(counter.compare_and_set(expected.unwrap_or(there), *new).await)
        }
        Step::Below(max) => text(counter.increment_bounded(*max).await),
        Step::Forget(after) => text(counter.expire(*after).await),
        Step::Look => text(counter.get().await),
    }
}

/// Returns all rows by key, because rows are unordered.
async fn scan_all(table: &Table<Every>) -> Result<BTreeMap<String, Every>> {
    let (mut seen, mut rows) = (BTreeMap::new(), table.iter());
    while let Some((key, row)) = rows.next().await? {
        assert!(seen.insert(key, row).is_none(), "a key appeared twice");
    }
    Ok(seen)
}

/// Returns a table and a counter of a hub, empty.
async fn empty(hub: &Hub) -> Result<(Table<Every>, Counter)> {
    let (table, counter) = (hub.table::<Every>("agree", CAPACITY)?, hub.counter("agree"));
    table.clear().await?;
    counter.reset().await?;
    Ok((table, counter))
}

pub(super) async fn results_equal_those_of_memory(world: &World) -> Result<()> {
    let memory = crate::state::hub();
    let seed = RngSeed::Random;
    let mut runner = TestRunner::new(Config { rng_seed: seed, ..Config::default() });
    for _ in 0..SEQUENCES {
        let steps = prop::collection::vec(step(), 1..100).new_tree(&mut runner).unwrap().current();
        let (here, there) = (empty(&world.hub).await?, empty(&memory).await?);
        for (n, step) in steps.iter().enumerate() {
            let (is, must) = (answer(&here.0, &here.1, step).await, answer(&there.0, &there.1, step).await);
            assert_eq!(is, must, "step {n}: {step:?}, after {:#?}", &steps[..n]);
        }
        let (is, must) = (scan_all(&here.0).await?, scan_all(&there.0).await?);
        assert_eq!(format!("{is:?}"), format!("{must:?}"), "after {steps:#?}");
    }
    Ok(())
}
