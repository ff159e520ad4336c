//! Tables and counters, one caller at a time. No test waits for time to pass; expiry by the clock is tested inside the
//! crate. Many callers, walks, and the comparison with a map are in `store/concurrent.rs`.

mod concurrent;

use std::{collections::HashMap, time::Duration};

use ripplecast::{Error, Hub, Result, StoreError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A row with a column of every type.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
struct Every {
    a: i8,
    b: i16,
    c: i32,
    d: i64,
    e: u8,
    f: u16,
    g: u32,
    h: u64,
    flag: bool,
    single: f32,
    double: f64,
    text: String,
    bytes: Vec<u8>,
}

/// A small row whose halves belong together.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
struct Pair {
    left: u64,
    name: String,
    right: u64,
}

impl Pair {
    fn new(n: u64) -> Self {
        Self { left: n, name: n.to_string(), right: n }
    }
}

/// A hub.
fn hub() -> Hub {
    Hub::builder().build().unwrap()
}

/// The store's error inside the crate's.
fn store_error<T>(result: Result<T>) -> StoreError {
    match result {
        Err(Error::Store(error)) => error,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("no error"),
    }
}

/// What declaring a table of `T` says.
fn declare_error<T: DeserializeOwned>() -> String {
    store_error(hub().table::<T>("users", 1)).to_string()
}

#[tokio::test]
async fn a_counter_counts() -> Result<()> {
    let hub = hub();
    let counter = hub.counter("a");
    assert_eq!(counter.get().await?, 0);
    assert_eq!(counter.increment().await?, 1);
    assert_eq!(counter.add(10).await?, 11);
    assert_eq!(counter.decrement().await?, 10);
    assert_eq!(counter.add(-20).await?, -10);
    assert_eq!(counter.set(5).await?, 5);
    assert_eq!(hub.counter("a").get().await?, 5, "the same name is the same counter");
    assert_eq!(hub.counter("b").get().await?, 0);
    assert_eq!(counter.compare_and_set(5, 6).await?, Ok(6));
    assert_eq!(counter.compare_and_set(5, 7).await?, Err(6));
    assert_eq!(counter.increment_bounded(7).await?, Some(7));
    assert_eq!(counter.increment_bounded(7).await?, None);
    assert_eq!(counter.get().await?, 7);
    assert_eq!(counter.expire(Duration::from_secs(3600)).await?, 7);
    assert_eq!(counter.expire(Duration::ZERO).await?, 0);
    assert_eq!(counter.set(3).await?, 3);
    assert_eq!(counter.reset().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_counters_overflow_is_an_error_that_changes_nothing() -> Result<()> {
    let counter = hub().counter("likes");
    counter.set(i64::MAX).await?;
    let error = store_error(counter.increment().await);
    assert_eq!(error, StoreError::CounterOverflow { name: "likes".into(), value: i64::MAX, by: 1 });
    assert!(error.to_string().contains("likes") && error.to_string().contains(&i64::MAX.to_string()));
    assert_eq!(counter.get().await?, i64::MAX);
    assert_eq!(counter.increment_bounded(i64::MAX).await?, None);
    counter.set(i64::MIN).await?;
    assert!(matches!(store_error(counter.decrement().await), StoreError::CounterOverflow { by: -1, .. }));
    assert!(matches!(store_error(counter.add(i64::MIN).await), StoreError::CounterOverflow { .. }));
    assert_eq!(counter.get().await?, i64::MIN);
    Ok(())
}

#[tokio::test]
async fn a_counters_wrong_name_is_reported_by_its_operations() {
    let (hub, long) = (hub(), "x".repeat(256));
    assert!(hub.counter(&long[1..]).increment().await.is_ok());
    let empty = hub.counter("");
    assert_eq!(store_error(empty.get().await), StoreError::EmptyName { what: "counter" });
    assert!(matches!(store_error(empty.expire(Duration::ZERO).await), StoreError::EmptyName { .. }));
    let error = store_error(hub.counter(&long).increment().await);
    assert_eq!(error, StoreError::NameTooLong { what: "counter", len: 256, limit: 255 });
}

#[tokio::test]
async fn rows_come_back_exactly() -> Result<()> {
    let table = hub().table::<Every>("every", 10)?;
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
    let error = store_error(table.get_field::<String>("key", "h").await).to_string();
    assert!(error.contains("every") && error.contains("`h` is a u64"), "{error}");
    let error = store_error(table.get_field::<u64>("key", "nothing").await).to_string();
    assert!(error.contains("nothing") && error.contains("text, bytes"), "{error}");
    Ok(())
}

#[tokio::test]
async fn rows_by_key() -> Result<()> {
    let table = hub().table::<Pair>("pairs", 10)?;
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
    let refused = StoreError::KeyTooLong { table: "pairs".into(), len: 256, limit: 255 };
    assert_eq!(store_error(table.get(&long).await), refused);
    assert_eq!(
        store_error(table.set(format_args!("{}{}", &long[..250], "123456"), &Pair::new(1)).await),
        refused
    );
    assert_eq!(table.clear().await?, 2);
    assert_eq!((table.len().await?, table.clear().await?), (0, 0));
    Ok(())
}

#[tokio::test]
async fn what_can_be_a_column() -> Result<()> {
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Id(u64);
    /// Refuses the zero that a table makes up when it is declared.
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
    let table = hub().table::<Picky>("picky", 2)?;
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
    assert_eq!(table.increment(2, "id", 1).await?, 1, "a row of zeros, which Picky refuses");
    assert!(matches!(store_error(table.get(2).await), StoreError::Row { .. }));
    Ok(())
}

#[tokio::test]
async fn what_can_not_be_a_column() {
    macro_rules! check {
        ($type:ty, $what:literal) => {{
            #[derive(Deserialize)]
            struct Row {
                #[expect(dead_code)]
                fine: u8,
                #[expect(dead_code)]
                wrong: $type,
            }
            let error = declare_error::<Row>();
            assert!(error.contains("`users`, column `wrong`") && error.contains($what), "{error}");
        }};
    }
    #[derive(Deserialize)]
    enum Choice {
        One,
    }
    check!(Option<u8>, "Option");
    check!(Pair, "a struct");
    check!(Choice, "an enum");
    check!(HashMap<String, u8>, "a map");
    check!(i128, "i128");
    check!(u128, "u128");
    check!(char, "char");
    check!(Vec<String>, "a sequence of String");
    check!(Vec<Vec<u8>>, "a sequence of bytes");
    check!([u8; 4], "array");
    check!((u8, u8), "tuple");
    check!((), "unit");
    check!(serde_json::Value, "any shape");

    #[derive(Deserialize)]
    struct Flat {
        #[serde(flatten)]
        #[expect(dead_code)]
        pair: Pair,
    }
    #[derive(Deserialize)]
    struct Empty {}
    assert!(declare_error::<Flat>().contains("flatten"));
    assert!(declare_error::<Empty>().contains("without fields"));
    assert!(declare_error::<u64>().contains("a number"));
    assert!(declare_error::<String>().contains("a string"));
    assert!(declare_error::<(u8, u8)>().contains("a tuple"));
    assert!(declare_error::<Choice>().contains("an enum"));
}

#[tokio::test]
async fn a_row_that_writes_otherwise_than_it_reads_is_refused() -> Result<()> {
    #[derive(Serialize, Deserialize, Default)]
    struct Left {
        #[serde(skip_serializing)]
        #[expect(dead_code)]
        out: u8,
    }
    #[derive(Serialize, Deserialize, Default)]
    struct Changed {
        #[serde(serialize_with = "as_text")]
        number: u8,
    }
    fn as_text<S: serde::Serializer>(number: &u8, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }
    let hub = hub();
    let error = store_error(hub.table::<Left>("left", 1)?.set(1, &Left::default()).await).to_string();
    assert!(error.contains("`left`") && error.contains("`out`"), "{error}");
    let error =
        store_error(hub.table::<Changed>("changed", 1)?.set(1, &Changed::default()).await).to_string();
    assert!(error.contains("`changed`") && error.contains("`number` is a u8"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_table_is_declared_once() -> Result<()> {
    #[derive(Serialize, Deserialize)]
    struct Other {
        left: u32,
        name: String,
        right: u64,
    }
    let hub = hub();
    let error = store_error(hub.find_table::<Pair>("pairs"));
    assert_eq!(error, StoreError::TableNotDeclared { name: "pairs".into() });
    assert!(error.to_string().contains("hub.table::<Row>(\"pairs\", capacity)"));

    let table = hub.table::<Pair>("pairs", 10)?;
    table.set(1, &Pair::new(1)).await?;
    assert_eq!(hub.table::<Pair>("pairs", 10)?.len().await?, 1);
    assert_eq!(hub.find_table::<Pair>("pairs")?.len().await?, 1);
    let error = store_error(hub.table::<Pair>("pairs", 11)).to_string();
    assert!(
        error.contains("`pairs`") && error.contains("capacity 10") && error.contains("capacity 11"),
        "{error}"
    );
    let error = store_error(hub.table::<Other>("pairs", 10)).to_string();
    assert!(error.contains("left: u64") && error.contains("left: u32"), "{error}");
    assert!(matches!(store_error(hub.find_table::<Other>("pairs")), StoreError::DeclaredDifferently { .. }));
    let sized = hub.table_builder::<Pair>("pairs", 10).column("name", 9).build();
    assert!(store_error(sized).to_string().contains("name: String of 9 bytes"));

    assert_eq!(store_error(hub.table::<Pair>("none", 0)), StoreError::NoCapacity { table: "none".into() });
    assert_eq!(store_error(hub.table::<Pair>("", 1)), StoreError::EmptyName { what: "table" });
    assert!(matches!(store_error(hub.table::<Pair>("x".repeat(256), 1)), StoreError::NameTooLong { .. }));
    let error = store_error(hub.table_builder::<Pair>("b", 1).column("bio", 9).build()).to_string();
    assert!(error.contains("`b` has no column `bio`") && error.contains("left, name, right"), "{error}");
    let error = store_error(hub.table_builder::<Pair>("b", 1).column("left", 9).build()).to_string();
    assert!(error.contains("`left`") && error.contains("u64"), "{error}");
    assert!(hub.find_table::<Pair>("b").is_err(), "a refused declaration declares nothing");
    Ok(())
}

#[tokio::test]
async fn sizes_are_enforced() -> Result<()> {
    let hub = hub();
    let table = hub.table_builder::<Every>("every", 10).column("bytes", 3).build()?;
    let row = |text: usize, bytes: usize| Every {
        text: "t".repeat(text),
        bytes: vec![1; bytes],
        ..Every::default()
    };
    table.set("key", &row(255, 3)).await?;
    let error = store_error(table.set("key", &row(256, 3)).await);
    assert_eq!(
        error,
        StoreError::ValueTooLong { table: "every".into(), column: "text", size: 256, limit: 255 }
    );
    for part in ["every", "text", "256", "255"] {
        assert!(error.to_string().contains(part));
    }
    let refused = StoreError::ValueTooLong { table: "every".into(), column: "bytes", size: 4, limit: 3 };
    assert_eq!(store_error(table.set("other", &row(0, 4)).await), refused);
    assert_eq!(store_error(table.set_many([("other", row(0, 0)), ("key", row(0, 4))]).await), refused);
    assert_eq!(store_error(table.compare_and_set("other", None, Some(&row(0, 4))).await), refused);
    assert_eq!(table.get("key").await?, Some(row(255, 3)));
    assert_eq!(table.len().await?, 1);
    Ok(())
}

#[tokio::test]
async fn increments_stay_in_the_columns_range() -> Result<()> {
    let table = hub().table::<Every>("every", 1)?;
    assert_eq!(table.increment("key", "e", 255).await?, 255, "a missing row is made");
    assert_eq!(table.get("key").await?, Some(Every { e: 255, ..Every::default() }));
    let error = store_error(table.increment("key", "e", 1).await);
    let refused = StoreError::ColumnOverflow {
        table: "every".into(),
        key: "key".into(),
        column: "e",
        kind: "u8",
        value: 255,
        by: 1,
    };
    assert_eq!(error, refused);
    assert!(matches!(store_error(table.decrement("key", "e", 256).await), StoreError::ColumnOverflow { .. }));
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
        let error = store_error(table.increment("key", column, 1).await).to_string();
        assert!(error.contains(column) && error.contains("every"), "{error}");
    }
    assert!(matches!(store_error(table.increment("key", "zzz", 1).await), StoreError::UnknownColumn { .. }));
    let full = StoreError::TableFull { table: "every".into(), capacity: 1, rows: 2 };
    assert_eq!(store_error(table.increment("another", "e", 1).await), full);
    assert!(!table.exists("another").await?);
    Ok(())
}

#[tokio::test]
async fn compare_and_set_of_rows() -> Result<()> {
    let table = hub().table::<Pair>("pairs", 1)?;
    let (one, two) = (Pair::new(1), Pair::new(2));
    assert!(!table.compare_and_set("key", Some(&one), Some(&two)).await?);
    assert!(table.compare_and_set("key", None, None).await?);
    assert!(table.compare_and_set("key", None, Some(&one)).await?);
    assert!(!table.compare_and_set("key", None, Some(&two)).await?);
    assert!(table.compare_and_set("key", Some(&one), Some(&two)).await?);
    assert!(
        store_error(table.compare_and_set("b", None, Some(&one)).await)
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
    let floats = hub().table::<Float>("floats", 1)?;
    let nan = Float { value: f64::NAN };
    floats.set("key", &nan).await?;
    assert!(floats.compare_and_set("key", Some(&nan), None).await?, "a NaN is itself");
    Ok(())
}

#[tokio::test]
async fn set_many_is_all_or_nothing() -> Result<()> {
    let table = hub().table::<Pair>("pairs", 40)?;
    let rows = |range: std::ops::Range<u64>| range.map(|n| (n, Pair::new(n)));
    table.set_many(rows(0..30)).await?;
    let full = StoreError::TableFull { table: "pairs".into(), capacity: 40, rows: 41 };
    assert_eq!(store_error(table.set_many(rows(20..41)).await), full);
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
    table.set_many([("new", Pair::new(1)), ("new", Pair::new(2))]).await?; // one row, one place
    assert_eq!(table.len().await?, 40);
    Ok(())
}
