//! Values as stored in Redis: integers in decimal, floats in the shortest decimal that reads back the same,
//! and bytes unchanged.

use std::fmt::Write as _;

use crate::{
    error::StateError,
    state::{
        row::{Row, Value},
        schema::{Column, ColumnType, Schema},
    },
};

/// Prefix for the bits of a NaN, which may carry a payload.
const NAN: &str = "NaN:";

/// Returns a value as text or bytes. The texts of two values of a column are equal if and only if the values
/// are.
pub(super) fn write(value: &Value) -> Vec<u8> {
    match value {
        Value::Int(number) => number.to_string().into(),
        Value::Uint(number) => number.to_string().into(),
        Value::Float(number) if number.is_nan() => format!("{NAN}{:016x}", number.to_bits()).into(),
        Value::Float(number) => format!("{number:?}").into(),
        Value::Text(text) => text.as_bytes().into(),
        Value::Bytes(bytes) => bytes.to_vec(),
    }
}

/// Parses a value of that column type; returns `None` if it is not one.
pub(super) fn read(kind: ColumnType, bytes: &[u8]) -> Option<Value> {
    if kind == ColumnType::Bytes {
        return Some(Value::Bytes(bytes.into()));
    }
    let text = std::str::from_utf8(bytes).ok()?;
    match kind {
        ColumnType::Text => Some(Value::Text(text.into())),
        ColumnType::F32 | ColumnType::F64 => float(text).map(Value::Float),
        ColumnType::Bool => text.parse().ok().filter(|bit| matches!(bit, 0 | 1)).map(Value::Int),
        _ => kind.integer(text.parse().ok()?),
    }
}

/// Parses a float.
fn float(text: &str) -> Option<f64> {
    match text.strip_prefix(NAN) {
        Some(bits) => u64::from_str_radix(bits, 16).ok().map(f64::from_bits),
        None => text.parse().ok(),
    }
}

/// Builds a row from the stored values, in the order of the columns. A missing value is zero or empty, so
/// that a column can be added while nodes without it still run.
pub(super) fn read_row<'a>(
    schema: &Schema,
    key: &str,
    values: impl IntoIterator<Item = Option<&'a [u8]>>,
) -> Result<Row, StateError> {
    let zeros = schema.zero_row();
    let value = |((column, zero), bytes): ((&Column, &Value), Option<&[u8]>)| match bytes {
        None => Ok(zero.clone()),
        Some(bytes) => read_value(schema, key, column, bytes),
    };
    schema.columns().iter().zip(zeros.iter()).zip(values).map(value).collect()
}

/// Parses the value of one column of a row.
pub(super) fn read_value(
    schema: &Schema,
    key: &str,
    column: &Column,
    bytes: &[u8],
) -> Result<Value, StateError> {
    read(column.kind, bytes).ok_or_else(|| unreadable(schema, key, column, bytes))
}

/// Returns the error for a value that does not match its column's type. Another version of the program or
/// somebody else wrote it.
fn unreadable(schema: &Schema, key: &str, column: &Column, bytes: &[u8]) -> StateError {
    let mut shown = String::new();
    for byte in bytes.iter().take(40) {
        let _ = write!(shown, "{}", byte.escape_ascii()); // writing to a string can't fail
    }
    StateError::Row {
        table: schema.table().to_owned(),
        reason: format!(
            "row `{key}` holds \"{shown}\" in column `{}`, which is not a valid {}; delete the row, or give the column another name \
             when you change its type",
            column.name,
            column.kind.name()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip() {
        let floats = [0.0, -0.0, 0.1, 1e300, 5e-324, f64::MAX, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
        for float in floats.into_iter().chain([-f64::NAN, f64::from_bits(0x7ff8_0000_0000_0001)]) {
            let value = Value::Float(float);
            assert_eq!(read(ColumnType::F64, &write(&value)), Some(value));
        }
        for (kind, value) in [
            (ColumnType::I64, Value::Int(i64::MIN)),
            (ColumnType::U64, Value::Uint(u64::MAX)),
            (ColumnType::U64, Value::Int(i64::MAX)),
            (ColumnType::Bool, Value::Int(1)),
            (ColumnType::Text, Value::Text("\0ü".into())),
            (ColumnType::Bytes, Value::Bytes([0, 255].into())),
        ] {
            assert_eq!(read(kind, &write(&value)), Some(value));
        }
    }

    #[test]
    fn a_value_of_another_type_is_rejected() {
        for (kind, text) in [
            (ColumnType::U8, "256"),
            (ColumnType::U8, "-1"),
            (ColumnType::I64, ""),
            (ColumnType::I64, "1.0"),
            (ColumnType::Bool, "2"),
            (ColumnType::Bool, "true"),
            (ColumnType::F64, "x"),
            (ColumnType::F64, "NaN:x"),
        ] {
            assert_eq!(read(kind, text.as_bytes()), None, "{kind:?} of {text}");
        }
        assert_eq!(read(ColumnType::Text, &[0xff]), None);
    }
}
