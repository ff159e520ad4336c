use std::time::Duration;

use ripplecast::{Result, Table, error::StateError};
use serde::{Deserialize, Serialize};

use super::{World, eventually, names};
use crate::state::{Every, Pair, state_error};

pub(super) async fn rows_round_trip_exactly(world: &World) -> Result<()> {
    let table = world.hub.table::<Every>("every", 10)?;
    let least = Every {
        a: i8::MIN,
        b: i16::MIN,
        c: i32::MIN,
        d: i64::MIN,
        single: f32::MIN_POSITIVE,
        double: f64::MIN,
        ..Every::default()
    };
    let most = Every {
        a: i8::MAX,
        b: i16::MAX,
        c: i32::MAX,
        d: i64::MAX,
        e: u8::MAX,
        f: u16::MAX,
        g: u32::MAX,
        h: u64::MAX,
        flag: true,
        single: f32::INFINITY,
        double: f64::MAX,
        text: "ä\0 \u{1F600}".into(),
        bytes: (0..=254).collect(),
    };
    for row in [&least, &most, &Every::default()] {
        table.set("key", row).await?;
        assert_eq!(table.get("key").await?.as_ref(), Some(row));
    }
    table.set("key", &most).await?;
    assert_eq!(table.get_field::<u64>("key", "h").await?, Some(u64::MAX));
    assert_eq!(table.get_field::<Option<i128>>("key", "d").await?, Some(Some(i64::MAX.into())));
    assert_eq!(table.get_field::<bool>("key", "flag").await?, Some(true));
    assert_eq!(table.get_field::<f32>("key", "single").await?, Some(f32::INFINITY));
    assert_eq!(table.get_field::<String>("key", "text").await?, Some(most.text));
    assert_eq!(table.get_field::<Vec<u8>>("key", "bytes").await?, Some(most.bytes));
    assert_eq!(table.get_field::<u64>("nobody", "h").await?, None);
    let error = state_error(table.get_field::<String>("key", "h").await).to_string();
    assert!(error.contains("every") && error.contains("`h` is a u64"), "{error}");
    let error = state_error(table.get_field::<u64>("key", "nothing").await).to_string();
    assert!(error.contains("nothing") && error.contains("text, bytes"), "{error}");
    Ok(())
}

pub(super) async fn rows_are_found_by_key(world: &World) -> Result<()> {
    let table = world.hub.table::<Pair>("pairs", 10)?;
    assert_eq!((table.name(), table.capacity()), ("pairs", 10));
    assert!(table.is_empty().await?);
    table.set(7, &Pair::new(7)).await?;
    table.set("7", &Pair::new(8)).await?; // the same key
    table.set(String::from("x"), &Pair::new(9)).await?;
    assert_eq!(table.len().await?, 2);
    assert_eq!(table.get(7_u64).await?, Some(Pair::new(8)));
    assert!(table.exists("x").await? && !table.exists("y").await?);
    assert!(table.delete("x").await? && !table.delete("x").await?);
    assert_eq!(table.get("x").await?, None);
    assert_eq!(table.get_many(["x", "7", "7"]).await?, [None, Some(Pair::new(8)), Some(Pair::new(8))]);
    let long = "k".repeat(256);
    table.set(&long[1..], &Pair::new(1)).await?;
    assert!(table.exists(&long[1..]).await?);
    let refused = StateError::KeyTooLong { table: "pairs".into(), len: 256, limit: 255 };
    assert_eq!(state_error(table.get(&long).await), refused);
    assert_eq!(
        state_error(table.set(format_args!("{}{}", &long[..250], "123456"), &Pair::new(1)).await),
        refused
    );
    assert_eq!(table.clear().await?, 2);
    assert_eq!((table.len().await?, table.clear().await?), (0, 0));
    Ok(())
}

pub(super) async fn supported_column_types_are_accepted(world: &World) -> Result<()> {
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Id(u64);
    /// Rejects the zero values that a table makes up when it is declared.
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct Picky {
        first_seen: std::num::NonZeroU32,
        id: Id,
        address: std::net::IpAddr,
        #[serde(skip)]
        cache: Option<String>,
        #[serde(default)]
        tags: std::collections::BTreeSet<u8>,
    }
    let table = world.hub.table::<Picky>("picky", 2)?;
    let row = || Picky {
        first_seen: 1.try_into().unwrap(),
        id: Id(2),
        address: "::1".parse().unwrap(),
        cache: None,
        tags: [3, 1].into(),
    };
    table.set(1, &row()).await?;
    assert_eq!(table.get(1).await?, Some(row()));
    assert_eq!(table.increment(1, "firstSeen", 1).await?, 2);
    assert_eq!(table.increment(2, "id", 1).await?, 1, "a row of zeros, which Picky rejects");
    assert!(matches!(state_error(table.get(2).await), StateError::Row { .. }));
    Ok(())
}

pub(super) async fn sizes_are_enforced(world: &World) -> Result<()> {
    let hub = &world.hub;
    let table = hub.table_builder::<Every>("every", 10).column("bytes", 3).build()?;
    let row = |text: usize, bytes: usize| Every {
        text: "t".repeat(text),
        bytes: vec![1; bytes],
        ..Every::default()
    };
    table.set("key", &row(255, 3)).await?;
    let error = state_error(table.set("key", &row(256, 3)).await);
    assert_eq!(
        error,
        StateError::ValueTooLong { table: "every".into(), column: "text", size: 256, limit: 255 }
    );
    for part in ["every", "text", "256", "255"] {
        assert!(error.to_string().contains(part));
    }
    let refused = StateError::ValueTooLong { table: "every".into(), column: "bytes", size: 4, limit: 3 };
    assert_eq!(state_error(table.set("other", &row(0, 4)).await), refused);
    assert_eq!(state_error(table.set_many([("other", row(0, 0)), ("key", row(0, 4))]).await), refused);
    assert_eq!(state_error(table.compare_and_set("other", None, Some(&row(0, 4))).await), refused);
    assert_eq!(table.get("key").await?, Some(row(255, 3)));
    assert_eq!(table.len().await?, 1);
    Ok(())
}

pub(super) async fn increments_stay_in_the_columns_range(world: &World) -> Result<()> {
    let table = world.hub.table::<Every>("every", 1)?;
    assert_eq!(table.increment("key", "e", 255).await?, 255, "a missing row is created");
    assert_eq!(table.get("key").await?, Some(Every { e: 255, ..Every::default() }));
    let error = state_error(table.increment("key", "e", 1).await);
    let refused = StateError::ColumnOverflow {
        table: "every".into(),
        key: "key".into(),
        column: "e",
        kind: "u8",
        value: 255,
        by: 1,
    };
    assert_eq!(error, refused);
    assert!(matches!(state_error(table.decrement("key", "e", 256).await), StateError::ColumnOverflow { .. }));
    assert_eq!(table.decrement("key", "e", 255).await?, 0);
    assert_eq!(table.decrement("key", "a", 128).await?, -128);
    assert!(table.decrement("key", "a", 1).await.is_err());

    assert_eq!(table.increment("key", "h", i64::MAX).await?, i64::MAX.into());
    assert_eq!(table.decrement("key", "h", i64::MIN + 1).await?, i128::from(u64::MAX) - 1);
    assert_eq!(table.increment("key", "h", 1).await?, u64::MAX.into());
    assert!(table.increment("key", "h", 1).await.is_err());
    assert_eq!(table.get_field::<u64>("key", "h").await?, Some(u64::MAX));
    assert!(table.decrement("key", "d", i64::MIN).await.is_err());
    assert_eq!(table.increment("key", "d", i64::MIN).await?, i64::MIN.into());
    assert_eq!(table.decrement("key", "d", i64::MIN).await?, 0);

    for column in ["flag", "single", "double", "text", "bytes"] {
        let error = state_error(table.increment("key", column, 1).await).to_string();
        assert!(error.contains(column) && error.contains("every"), "{error}");
    }
    assert!(matches!(state_error(table.increment("key", "zzz", 1).await), StateError::UnknownColumn { .. }));
    let full = StateError::TableFull { table: "every".into(), capacity: 1, rows: 2 };
    assert_eq!(state_error(table.increment("another", "e", 1).await), full);
    assert!(!table.exists("another").await?);
    Ok(())
}

pub(super) async fn rows_are_compared_and_set(world: &World) -> Result<()> {
    let table = world.hub.table::<Pair>("pairs", 1)?;
    let (one, two) = (Pair::new(1), Pair::new(2));
    assert!(!table.compare_and_set("key", Some(&one), Some(&two)).await?);
    assert!(table.compare_and_set("key", None, None).await?);
    assert!(table.compare_and_set("key", None, Some(&one)).await?);
    assert!(!table.compare_and_set("key", None, Some(&two)).await?);
    assert!(table.compare_and_set("key", Some(&one), Some(&two)).await?);
    assert!(
        state_error(table.compare_and_set("b", None, Some(&one)).await)
            .to_string()
            .contains("at most 1 rows")
    );
    assert!(!table.compare_and_set("key", Some(&one), None).await?);
    assert!(table.compare_and_set("key", Some(&two), None).await?);
    assert!(table.is_empty().await?);

    #[derive(Serialize, Deserialize)]
    struct Float {
        value: f64,
    }
    let floats = world.hub.table::<Float>("floats", 1)?;
    let nan = Float { value: f64::NAN };
    floats.set("key", &nan).await?;
    assert!(floats.compare_and_set("key", Some(&nan), None).await?, "a NaN equals itself");
    Ok(())
}

pub(super) async fn set_many_is_all_or_nothing(world: &World) -> Result<()> {
    let table = world.hub.table::<Pair>("pairs", 40)?;
    let rows = |range: std::ops::Range<u64>| range.map(|n| (n, Pair::new(n)));
    table.set_many(rows(0..30)).await?;
    let full = StateError::TableFull { table: "pairs".into(), capacity: 40, rows: 41 };
    assert_eq!(state_error(table.set_many(rows(20..41)).await), full);
    assert_eq!(table.len().await?, 30);
    table.set_many(rows(20..40)).await?;
    table.set_many([(5, Pair::new(50)), (5, Pair::new(51))]).await?;
    assert_eq!(table.get(5).await?, Some(Pair::new(51)));
    let (a, b) = (Pair::new(60), Pair::new(61));
    table.set_many([("0", &a), ("1", &b)]).await?;
    assert_eq!(table.get_many([0, 1]).await?, [Some(a), Some(b)]);
    let long = "k".repeat(256);
    assert!(table.set_many([("0", Pair::new(0)), (&long, Pair::new(0))]).await.is_err());
    assert_eq!(table.get(0).await?, Some(Pair::new(60)));
    table.delete(39).await?;
    table.set_many([("new", Pair::new(1)), ("new", Pair::new(2))]).await?; // one row, one slot
    assert_eq!(table.len().await?, 40);
    Ok(())
}

pub(super) async fn columns_add_over_all_64_bits(world: &World) -> Result<()> {
    let table = world.hub.table::<Every>("every", 2)?;
    for bit in 0..63 {
        let power = 1_i64 << bit;
        let wide = i128::from(power);
        table.set("key", &Every { d: -power, h: power as u64, ..Every::default() }).await?;
        assert_eq!(table.increment("key", "h", power).await?, 2 * wide);
        assert_eq!(table.decrement("key", "h", power).await?, wide);
        assert_eq!(table.decrement("key", "h", 1).await?, wide - 1);
        assert_eq!(table.increment("key", "h", i64::MAX).await?, wide - 1 + i128::from(i64::MAX));
        assert_eq!(table.decrement("key", "d", 1).await?, -wide - 1);
        assert_eq!(table.increment("key", "d", power).await?, -1);
        assert_eq!(table.increment("key", "d", 1).await?, 0);
        assert_eq!(table.increment("key", "d", i64::MIN).await?, i64::MIN.into());
        assert_eq!(table.increment("key", "d", i64::MAX).await?, -1);
        let row = Every { d: -1, h: (power - 1) as u64 + i64::MAX as u64, ..Every::default() };
        assert_eq!(table.get("key").await?, Some(row));
    }
    Ok(())
}

pub(super) async fn each_columns_overflow_names_its_value(world: &World) -> Result<()> {
    let table = world.hub.table::<Every>("every", 1)?;
    let ends: [(&'static str, &'static str, i128, i128); 8] = [
        ("a", "i8", i8::MIN.into(), i8::MAX.into()),
        ("b", "i16", i16::MIN.into(), i16::MAX.into()),
        ("c", "i32", i32::MIN.into(), i32::MAX.into()),
        ("d", "i64", i64::MIN.into(), i64::MAX.into()),
        ("e", "u8", 0, u8::MAX.into()),
        ("f", "u16", 0, u16::MAX.into()),
        ("g", "u32", 0, u32::MAX.into()),
        ("h", "u64", 0, u64::MAX.into()),
    ];
    let least = Every { a: i8::MIN, b: i16::MIN, c: i32::MIN, d: i64::MIN, ..Every::default() };
    let most = Every {
        a: i8::MAX,
        b: i16::MAX,
        c: i32::MAX,
        d: i64::MAX,
        e: u8::MAX,
        f: u16::MAX,
        g: u32::MAX,
        h: u64::MAX,
        ..Every::default()
    };
    for (column, kind, min, max) in ends {
        let refused = |value, by| StateError::ColumnOverflow {
            table: "every".into(),
            key: "key".into(),
            column,
            kind,
            value,
            by,
        };
        table.set("key", &most).await?;
        assert_eq!(state_error(table.increment("key", column, 1).await), refused(max, 1));
        let by = -i128::from(i64::MIN);
        assert_eq!(state_error(table.decrement("key", column, i64::MIN).await), refused(max, by));
        assert_eq!(table.get("key").await?.as_ref(), Some(&most), "a rejected increment changes nothing");
        assert_eq!(table.decrement("key", column, 1).await?, max - 1);
        table.set("key", &least).await?;
        assert_eq!(state_error(table.decrement("key", column, 1).await), refused(min, -1));
        assert_eq!(table.get("key").await?.as_ref(), Some(&least));
        assert_eq!(table.increment("key", column, 1).await?, min + 1);
    }
    Ok(())
}

pub(super) async fn compare_and_set_compares_every_column(world: &World) -> Result<()> {
    let table = world.hub.table::<Every>("every", 1)?;
    let row = Every { single: f32::NAN, double: -0.0, text: "x".into(), bytes: vec![0], ..Every::default() };
    let with = |change: fn(&mut Every)| {
        let mut other = row.clone();
        change(&mut other);
        other
    };
    let others = [
        with(|row| row.a = -1),
        with(|row| row.b = 1),
        with(|row| row.c = 1),
        with(|row| row.d = i64::MIN),
        with(|row| row.e = 1),
        with(|row| row.f = 1),
        with(|row| row.g = 1),
        with(|row| row.h = u64::MAX),
        with(|row| row.flag = true),
        with(|row| row.single = 0.0),
        with(|row| row.single = -f32::NAN),
        with(|row| row.single = f32::from_bits(0x7fc0_0001)),
        with(|row| row.double = 0.0),
        with(|row| row.double = f64::MIN_POSITIVE),
        with(|row| row.text = "x\0".into()),
        with(|row| row.text.clear()),
        with(|row| row.bytes = vec![0, 0]),
        with(|row| row.bytes.clear()),
    ];
    for other in &others {
        table.set("key", &row).await?;
        assert!(!table.compare_and_set("key", Some(other), Some(other)).await?, "{other:?}");
        assert!(!table.compare_and_set("key", Some(other), None).await?, "{other:?}");
        assert!(table.compare_and_set("key", Some(&row), Some(other)).await?, "{other:?}");
        assert!(table.compare_and_set("key", Some(other), Some(other)).await?, "{other:?} equals itself");
        let read = table.get("key").await?.expect("the row exists");
        assert_eq!(
            (read.single.to_bits(), read.double.to_bits()),
            (other.single.to_bits(), other.double.to_bits())
        );
    }
    Ok(())
}

pub(super) async fn floats_round_trip_bit_for_bit(world: &World) -> Result<()> {
    let table = world.hub.table::<Every>("every", 1)?;
    let doubles = [
        0.1,
        -1.0 / 3.0,
        f64::MAX,
        f64::MIN_POSITIVE,
        5e-324,
        f64::EPSILON,
        1e22,
        123_456_789.123_456_79,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        -f64::NAN,
        f64::from_bits(0x7ff8_dead_beef_0001),
        -0.0,
    ];
    for double in doubles {
        let single = double as f32;
        table.set("key", &Every { single, double, ..Every::default() }).await?;
        let row = table.get("key").await?.expect("the row exists");
        assert_eq!(
            (row.single.to_bits(), row.double.to_bits()),
            (single.to_bits(), double.to_bits()),
            "{double}"
        );
    }
    Ok(())
}

pub(super) async fn values_may_be_any_bytes(world: &World) -> Result<()> {
    let table = world.hub.table_builder::<Every>("every", 1).column("bytes", 100_000).build()?;
    for bytes in
        [vec![], vec![0], vec![0; 1000], (0..=255).collect(), b"a\r\n$3\r\n".to_vec(), vec![255; 100_000]]
    {
        let row = Every { text: "\0\r\n{}\u{7f}".into(), bytes, ..Every::default() };
        table.set("key", &row).await?;
        assert_eq!(table.get("key").await?.as_ref(), Some(&row));
        assert_eq!(table.get_many(["key"]).await?, [Some(row.clone())]);
        assert_eq!(table.scan(None, 10).await?.rows, [("key".to_owned(), row.clone())]);
        assert!(table.compare_and_set("key", Some(&row), None).await?);
    }
    Ok(())
}

pub(super) async fn every_name_is_a_separate_table_and_every_key_a_separate_row(world: &World) -> Result<()> {
    let names = names();
    for (n, name) in (0..).zip(names.iter().filter(|name| !name.is_empty())) {
        let table = world.hub.table::<Pair>(name.clone(), 100)?;
        for (m, key) in (0..).zip(&names) {
            table.set(key, &Pair::new(n * 1000 + m)).await?;
        }
    }
    for (n, name) in (0..).zip(names.iter().filter(|name| !name.is_empty())) {
        let table = world.other.table::<Pair>(name.clone(), 100)?;
        assert_eq!(table.len().await?, names.len(), "{name:?}");
        let rows: Vec<_> = (0..).zip(&names).map(|(m, _)| Some(Pair::new(n * 1000 + m))).collect();
        assert_eq!(table.get_many(&names).await?, rows, "{name:?}");
        let mut scanned: Vec<_> =
            table.scan(None, 1000).await?.rows.into_iter().map(|(key, _)| key).collect();
        scanned.sort();
        let mut sorted = names.clone();
        sorted.sort();
        assert_eq!(scanned, sorted, "{name:?}");
    }
    let first = names.iter().find(|name| !name.is_empty()).expect("the list is not empty");
    assert_eq!(world.hub.table::<Pair>(first.clone(), 100)?.clear().await?, names.len());
    for name in names.iter().filter(|name| !name.is_empty() && *name != first) {
        assert_eq!(
            world.hub.table::<Pair>(name.clone(), 100)?.len().await?,
            names.len(),
            "{name:?} is a different table"
        );
    }
    Ok(())
}

/// Waits until a row is removed that expires after those under test.
async fn expired(table: &Table<Pair>, marker: &str) -> Result<()> {
    eventually(async || Ok(!table.exists(marker).await?)).await
}

pub(super) async fn rows_expire(world: &World) -> Result<()> {
    let keys = ["gone", "added", "set", "many", "swapped", "refused", "replaced", "never", "stays"];
    let table = world.hub.table::<Pair>("pairs", keys.len() + 1)?;
    let other = world.other.table::<Pair>("pairs", keys.len() + 1)?;
    let (soon, later, hour) =
        (Duration::from_millis(200), Duration::from_millis(250), Duration::from_secs(3600));
    let row = Pair::new(5);
    table.set_many(keys.map(|key| (key, &row))).await?;
    assert!(!table.expire("nobody", soon).await?);
    for key in &keys[..8] {
        assert!(table.expire(key, soon).await?);
    }
    // On a machine that was too slow the row is new. Try again.
    while table.increment("added", "left", 1).await? != 6 {
        table.set("added", &row).await?;
        table.expire("added", soon).await?;
    }
    table.set("set", &row).await?;
    table.set_many([("many", &row)]).await?;
    while !table.compare_and_set("swapped", table.get("swapped").await?.as_ref(), Some(&row)).await? {}
    assert!(!table.compare_and_set("refused", Some(&Pair::new(6)), None).await?);
    table.set("replaced", &row).await?;
    assert!(table.expire("replaced", hour).await?);
    table.set("never", &row).await?;
    table.expire("never", hour).await?;
    assert!(table.expire("never", Duration::MAX).await?);
    table.set("marker", &row).await?;
    table.expire("marker", later).await?;
    expired(&other, "marker").await?;
    let left = ["set", "many", "swapped", "replaced", "never", "stays"];
    assert_eq!(other.len().await?, left.len());
    assert!(table.get_many(left).await?.iter().all(Option::is_some));
    assert!(table.get_many(["gone", "added", "refused"]).await?.iter().all(Option::is_none));
    // Their space is free, and new rows with their keys start without an expiry.
    table.set_many(["gone", "added", "refused"].map(|key| (key, &row))).await?;
    assert_eq!(table.increment("new", "left", 1).await?, 1);
    let full = StateError::TableFull { table: "pairs".into(), capacity: 10, rows: 11 };
    assert_eq!(state_error(table.set("one too many", &row).await), full);
    assert!(table.delete("new").await?);
    table.set("marker", &row).await?;
    table.expire("marker", later).await?;
    expired(&table, "marker").await?;
    assert_eq!(table.len().await?, 9, "a new row does not inherit an expiry");
    assert!(table.expire("gone", Duration::ZERO).await? && !table.expire("gone", Duration::ZERO).await?);
    assert_eq!((table.len().await?, table.clear().await?), (8, 8));
    Ok(())
}

pub(super) async fn a_row_is_written_with_its_expiry(world: &World) -> Result<()> {
    let table = world.hub.table::<Pair>("pairs", 2)?;
    let other = world.other.table::<Pair>("pairs", 2)?;
    let (row, hour) = (Pair::new(5), Duration::from_secs(3600));
    table.set_for("soon", &row, Duration::from_millis(50)).await?;
    table.set_for("later", &row, hour).await?;
    let full = StateError::TableFull { table: "pairs".into(), capacity: 2, rows: 3 };
    assert_eq!(state_error(table.set_for("one too many", &row, hour).await), full);
    expired(&other, "soon").await?;
    assert_eq!(other.get("later").await?.as_ref(), Some(&row));
    // It replaces an earlier expiry, and `set` clears it.
    for key in ["later", "stays"] {
        table.set_for(key, &row, Duration::from_millis(50)).await?;
    }
    table.set("stays", &row).await?;
    expired(&other, "later").await?;
    table.set_for("at once", &row, Duration::ZERO).await?;
    expired(&other, "at once").await?;
    table.set_for("never", &row, Duration::MAX).await?;
    assert_eq!(
        (other.exists("stays").await?, other.exists("never").await?, other.len().await?),
        (true, true, 2)
    );
    Ok(())
}

pub(super) async fn many_rows_expire_at_once(world: &World) -> Result<()> {
    let table = world.hub.table::<Pair>("pairs", 2000)?;
    table.set_many((0..1000).map(|n| (n, Pair::new(n)))).await?;
    assert_eq!(table.expire_many(0..700, Duration::from_millis(1)).await?, 700);
    eventually(async || Ok(!table.exists(699).await?)).await?;
    assert_eq!((table.len().await?, table.scan(None, 1000).await?.rows.len()), (300, 300));
    assert_eq!(table.expire_many(600..800, Duration::MAX).await?, 100, "only those that exist");
    assert_eq!(table.expire_many(0..1, Duration::ZERO).await?, 0);
    assert_eq!(table.expire_many([999, 999, 998], Duration::ZERO).await?, 2, "at once, and each once");
    let long = "x".repeat(256);
    assert!(table.expire_many(["997", &long], Duration::ZERO).await.is_err());
    assert_eq!(table.len().await?, 298, "a failed operation has changed nothing");
    assert_eq!(table.clear().await?, 298);
    Ok(())
}

pub(super) async fn two_hubs_see_one_table(world: &World) -> Result<()> {
    let [here, there] = [&world.hub, &world.other].map(|hub| hub.table::<Pair>("pairs", 3).unwrap());
    here.set("a", &Pair::new(1)).await?;
    assert_eq!(there.get("a").await?, Some(Pair::new(1)));
    assert_eq!(there.increment("a", "left", 1).await?, 2);
    assert_eq!(here.get_field::<u64>("a", "left").await?, Some(2));
    there.set_many([("b", Pair::new(1)), ("c", Pair::new(1))]).await?;
    let full = StateError::TableFull { table: "pairs".into(), capacity: 3, rows: 4 };
    assert_eq!(state_error(here.set("d", &Pair::new(1)).await), full);
    assert_eq!((there.clear().await?, here.len().await?), (3, 0));
    Ok(())
}

pub(super) async fn an_empty_batch_is_valid(world: &World) -> Result<()> {
    let table = world.hub.table::<Pair>("pairs", 1)?;
    assert_eq!(table.get_many::<&str>([]).await?, []);
    table.set_many::<&str, Pair>([]).await?;
    assert!(table.is_empty().await? && table.scan(None, 5).await?.next.is_none());
    Ok(())
}
