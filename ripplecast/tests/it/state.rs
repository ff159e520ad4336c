//! Tables and counters. Declarations are tested here; behaviour in a suite that runs on every backend
//! (`state/conformance.rs`); a table in memory against a map in `state/model.rs`. Expiry by the clock is
//! tested inside the crate.

mod conformance;
mod model;

use std::collections::HashMap;

use ripplecast::{Error, Hub, Result, error::StateError};
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

/// A small row whose two numbers must match.
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

fn hub() -> Hub {
    Hub::builder().build().unwrap()
}

/// Extracts the store's error from the crate's.
fn state_error<T>(result: Result<T>) -> StateError {
    match result {
        Err(Error::State(error)) => error,
        Err(other) => panic!("unexpected error: {other}"),
        Ok(_) => panic!("expected an error"),
    }
}

/// Returns the error of declaring a table of `T`.
fn declare_error<T: DeserializeOwned>() -> String {
    state_error(hub().table::<T>("users", 1)).to_string()
}

#[tokio::test]
async fn unsupported_column_types_are_rejected() {
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
async fn a_row_whose_serialize_and_deserialize_differ_is_rejected() -> Result<()> {
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
    let error = state_error(hub.table::<Left>("left", 1)?.set(1, &Left::default()).await).to_string();
    assert!(error.contains("`left`") && error.contains("`out`"), "{error}");
    let error =
        state_error(hub.table::<Changed>("changed", 1)?.set(1, &Changed::default()).await).to_string();
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
    let error = state_error(hub.find_table::<Pair>("pairs"));
    assert_eq!(error, StateError::TableNotDeclared { name: "pairs".into() });
    assert!(error.to_string().contains("hub.table::<Row>(\"pairs\", capacity)"));

    let table = hub.table::<Pair>("pairs", 10)?;
    table.set(1, &Pair::new(1)).await?;
    assert_eq!(hub.table::<Pair>("pairs", 10)?.len().await?, 1);
    assert_eq!(hub.find_table::<Pair>("pairs")?.len().await?, 1);
    let error = state_error(hub.table::<Pair>("pairs", 11)).to_string();
    assert!(
        error.contains("`pairs`") && error.contains("capacity 10") && error.contains("capacity 11"),
        "{error}"
    );
    let error = state_error(hub.table::<Other>("pairs", 10)).to_string();
    assert!(error.contains("left: u64") && error.contains("left: u32"), "{error}");
    assert!(matches!(state_error(hub.find_table::<Other>("pairs")), StateError::DeclaredDifferently { .. }));
    let sized = hub.table_builder::<Pair>("pairs", 10).column("name", 9).build();
    assert!(state_error(sized).to_string().contains("name: String of 9 bytes"));

    assert_eq!(state_error(hub.table::<Pair>("none", 0)), StateError::NoCapacity { table: "none".into() });
    assert!(matches!(hub.table::<Pair>("", 1), Err(Error::EmptyName { what: "table" })));
    assert!(matches!(hub.table::<Pair>("x".repeat(256), 1), Err(Error::NameTooLong { .. })));
    let error = state_error(hub.table_builder::<Pair>("b", 1).column("bio", 9).build()).to_string();
    assert!(error.contains("`b` has no column `bio`") && error.contains("left, name, right"), "{error}");
    let error = state_error(hub.table_builder::<Pair>("b", 1).column("left", 9).build()).to_string();
    assert!(error.contains("`left`") && error.contains("u64"), "{error}");
    assert!(hub.find_table::<Pair>("b").is_err(), "a rejected declaration declares nothing");
    Ok(())
}
