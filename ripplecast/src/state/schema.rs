//! A table's columns, discovered from the row type's `Deserialize`.
//!
//! A derived `Deserialize` passes its deserializer the names of the fields, and requests a type for each
//! field. [`Schema::of`] drives it with a deserializer that only records these calls: once for the names,
//! then once per field. If a field's type rejects the made-up value (a zero, an empty string), this ends only
//! the run for that field.

use std::fmt;

use serde::{
    Deserializer, de,
    de::{DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor},
};

use super::row::{Row, RowError, Value};
use crate::error::StateError;

/// Default maximum of a string or bytes value, in bytes: fits a name, an address, a title.
const COLUMN_SIZE: usize = 255;

/// The type of a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ColumnType {
    /// `bool`, stored as 0 or 1.
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    /// Stored as `f64`, which represents every `f32`.
    F32,
    F64,
    Text,
    Bytes,
}

impl ColumnType {
    /// Returns the type's name in Rust.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Text => "String",
            Self::Bytes => "bytes",
        }
    }

    /// Returns the minimum and maximum of an integer type.
    pub(super) fn range(self) -> Option<(i128, i128)> {
        match self {
            Self::I8 => Some((i8::MIN.into(), i8::MAX.into())),
            Self::I16 => Some((i16::MIN.into(), i16::MAX.into())),
            Self::I32 => Some((i32::MIN.into(), i32::MAX.into())),
            Self::I64 => Some((i64::MIN.into(), i64::MAX.into())),
            Self::U8 => Some((0, u8::MAX.into())),
            Self::U16 => Some((0, u16::MAX.into())),
            Self::U32 => Some((0, u32::MAX.into())),
            Self::U64 => Some((0, u64::MAX.into())),
            Self::Bool | Self::F32 | Self::F64 | Self::Text | Self::Bytes => None,
        }
    }

    /// Returns the number as a value; `None` if it is out of range or this is not an integer type.
    pub(super) fn integer(self, number: i128) -> Option<Value> {
        let (min, max) = self.range()?;
        if number < min || number > max {
            return None;
        }
        i64::try_from(number).map(Value::Int).or_else(|_| u64::try_from(number).map(Value::Uint)).ok()
    }

    /// Returns whether this is an integer type.
    pub(super) fn is_integer(self) -> bool {
        self.range().is_some()
    }

    /// Returns the value of this column in a row created by an increment.
    pub(super) fn zero(self) -> Value {
        match self {
            Self::F32 | Self::F64 => Value::Float(0.0),
            Self::Text => Value::Text(Box::default()),
            Self::Bytes => Value::Bytes(Box::default()),
            _ => Value::Int(0),
        }
    }
}

/// A column of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: ColumnType,
    /// Maximum size of a string or bytes value, in bytes; unused for numbers.
    pub(super) size: usize,
    /// Whether it is never sent to clients.
    pub(super) is_private: bool,
}

/// The declaration of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Schema {
    table: Box<str>,
    /// In the order of the struct's fields.
    columns: Box<[Column]>,
    capacity: usize,
}

impl Schema {
    /// Creates a declaration with the fields of `T` as columns.
    pub(crate) fn of<T: DeserializeOwned>(table: &str, capacity: usize) -> Result<Self, StateError> {
        if capacity == 0 {
            return Err(StateError::NoCapacity { table: table.to_owned() });
        }
        let names = field_names::<T>()
            .map_err(|found| StateError::UnsupportedRow { table: table.to_owned(), found })?;
        let column = |(index, &name): (usize, &&'static str)| {
            let kind = column_type::<T>(index).map_err(|found| StateError::UnsupportedColumn {
                table: table.to_owned(),
                column: name.to_owned(),
                found,
            })?;
            Ok(Column { name, kind, size: COLUMN_SIZE, is_private: false })
        };
        let columns = names.iter().enumerate().map(column).collect::<Result<_, StateError>>()?;
        Ok(Self { table: table.into(), columns, capacity })
    }

    /// Sets the size of a string or bytes column.
    pub(super) fn set_size(&mut self, column: &str, size: usize) -> Result<(), StateError> {
        let index = self.column_index(column)?;
        let found = &mut self.columns[index];
        if !matches!(found.kind, ColumnType::Text | ColumnType::Bytes) {
            return Err(StateError::ColumnHasNoSize {
                table: self.table.to_string(),
                column: column.to_owned(),
                kind: found.kind.name(),
            });
        }
        found.size = size;
        Ok(())
    }

    /// Marks a column as private.
    pub(super) fn set_private(&mut self, column: &str) -> Result<(), StateError> {
        let index = self.column_index(column)?;
        self.columns[index].is_private = true;
        Ok(())
    }

    /// Returns the table's name.
    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    pub(super) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Returns the maximum number of rows.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns the index of a column.
    pub(super) fn column_index(&self, column: &str) -> Result<usize, StateError> {
        self.columns.iter().position(|found| found.name == column).ok_or_else(|| StateError::UnknownColumn {
            table: self.table.to_string(),
            column: column.to_owned(),
            columns: self.columns.iter().map(|found| found.name).collect::<Vec<_>>().join(", "),
        })
    }

    /// Returns whether names and types of the columns are equal; sizes and capacity may differ.
    pub(super) fn has_columns_of(&self, other: &Self) -> bool {
        let columns = |schema: &Self| schema.columns.iter().map(|c| (c.name, c.kind)).collect::<Vec<_>>();
        columns(self) == columns(other)
    }

    /// Returns a row of zeros and empty values.
    pub(super) fn zero_row(&self) -> Row {
        self.columns.iter().map(|column| column.kind.zero()).collect()
    }

    /// Converts the error of a row that can't be encoded or decoded.
    pub(super) fn error(&self, error: RowError) -> StateError {
        let table = self.table.to_string();
        match error {
            RowError::TooLong { column, size, limit } => {
                StateError::ValueTooLong { table, column, size, limit }
            }
            RowError::Other(reason) => StateError::Row { table, reason },
        }
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{ ")?;
        for (index, Column { name, kind, size, is_private }) in self.columns.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name}: {}", kind.name())?;
            if matches!(kind, ColumnType::Text | ColumnType::Bytes) {
                write!(f, " of {size} bytes")?;
            }
            if *is_private {
                f.write_str(", private")?;
            }
        }
        write!(f, " }} with capacity {}", self.capacity)
    }
}

/// What one run of a row type's `Deserialize` revealed.
#[derive(Default)]
struct TypeProbe {
    /// Index of the field whose type is sought.
    field: usize,
    /// The names of the fields, once the type has turned out to be a struct.
    names: Option<&'static [&'static str]>,
    /// The field's column type, or a description of what can't be a column.
    column: Option<Result<ColumnType, String>>,
}

/// Returns the field names of `T`, or a description of a `T` that is not a struct with fields.
fn field_names<T: DeserializeOwned>() -> Result<&'static [&'static str], String> {
    let mut probe = TypeProbe { field: usize::MAX, ..TypeProbe::default() };
    let refused = T::deserialize(RowProbe(&mut probe)).err();
    match (probe.names, refused) {
        (Some([]), _) => Err("one without fields".to_owned()),
        (Some(names), _) => Ok(names),
        (None, Some(RowError::Other(found))) => Err(found),
        (None, _) => Err("a type that reads nothing".to_owned()),
    }
}

/// Returns the type of a field of `T`, or a description of a type that can't be a column.
fn column_type<T: DeserializeOwned>(field: usize) -> Result<ColumnType, String> {
    let mut probe = TypeProbe { field, ..TypeProbe::default() };
    // The run always ends early with a meaningless error. The result was recorded before.
    let _ = T::deserialize(RowProbe(&mut probe));
    probe.column.unwrap_or_else(|| Err("a field that its struct does not read".to_owned()))
}

/// Ends a run.
fn stop() -> RowError {
    RowError::Other("the run is over".to_owned())
}

/// Records what a row type requests.
struct RowProbe<'a>(&'a mut TypeProbe);

/// Deserializer methods for what a row can't be.
macro_rules! refuse_row {
    ($($method:ident($($arg:ident: $type:ty),*) $what:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($arg: $type,)* _: V) -> Result<V::Value, RowError> {
            Err(RowError::Other($what.to_owned()))
        }
    )*};
}

impl<'de> Deserializer<'de> for RowProbe<'_> {
    type Error = RowError;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, RowError> {
        self.0.names = Some(fields);
        let name = fields.get(self.0.field).ok_or_else(stop)?;
        visitor.visit_map(OneField { name: Some(name), probe: self.0 })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, RowError> {
        visitor.visit_newtype_struct(self)
    }

    refuse_row! {
        deserialize_any() "a type of any shape";
        deserialize_map() "a map (or a struct with #[serde(flatten)])";
        deserialize_seq() "a sequence";
        deserialize_option() "an Option";
        deserialize_unit() "the unit type";
        deserialize_unit_struct(_name: &'static str) "a struct without fields";
        deserialize_tuple(_len: usize) "a tuple";
        deserialize_tuple_struct(_name: &'static str, _len: usize) "a tuple struct";
        deserialize_enum(_name: &'static str, _variants: &'static [&'static str]) "an enum";
        deserialize_str() "a string";
        deserialize_string() "a string";
        deserialize_bytes() "bytes";
        deserialize_byte_buf() "bytes";
        deserialize_bool() "a bool";
        deserialize_char() "a char";
        deserialize_i8() "a number";
        deserialize_i16() "a number";
        deserialize_i32() "a number";
        deserialize_i64() "a number";
        deserialize_i128() "a number";
        deserialize_u8() "a number";
        deserialize_u16() "a number";
        deserialize_u32() "a number";
        deserialize_u64() "a number";
        deserialize_u128() "a number";
        deserialize_f32() "a number";
        deserialize_f64() "a number";
        deserialize_identifier() "an identifier";
        deserialize_ignored_any() "a type that reads nothing";
    }
}

/// A map for the struct with only the requested field.
struct OneField<'a> {
    /// Taken when the key is read.
    name: Option<&'static str>,
    /// Where to record the field's type.
    probe: &'a mut TypeProbe,
}

impl<'de> de::MapAccess<'de> for OneField<'_> {
    type Error = RowError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, RowError> {
        let name = self.name.take().ok_or_else(stop)?;
        seed.deserialize(name.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, RowError> {
        seed.deserialize(ColumnProbe(&mut self.probe.column))
    }
}

/// Records the type that a field requests, and returns a zero or empty value.
struct ColumnProbe<'a>(&'a mut Option<Result<ColumnType, String>>);

/// Deserializer methods for column types.
macro_rules! record {
    ($($method:ident $kind:ident $visit:ident($zero:expr);)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
            *self.0 = Some(Ok(ColumnType::$kind));
            visitor.$visit($zero)
        }
    )*};
}

/// Deserializer methods for what a column can't be.
macro_rules! refuse_column {
    ($($method:ident($($arg:ident: $type:ty),*) $what:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($arg: $type,)* _: V) -> Result<V::Value, RowError> {
            *self.0 = Some(Err($what.to_owned()));
            Err(stop())
        }
    )*};
}

impl<'de> Deserializer<'de> for ColumnProbe<'_> {
    type Error = RowError;

    record! {
        deserialize_bool Bool visit_bool(false);
        deserialize_i8 I8 visit_i8(0);
        deserialize_i16 I16 visit_i16(0);
        deserialize_i32 I32 visit_i32(0);
        deserialize_i64 I64 visit_i64(0);
        deserialize_u8 U8 visit_u8(0);
        deserialize_u16 U16 visit_u16(0);
        deserialize_u32 U32 visit_u32(0);
        deserialize_u64 U64 visit_u64(0);
        deserialize_f32 F32 visit_f32(0.0);
        deserialize_f64 F64 visit_f64(0.0);
        deserialize_str Text visit_str("");
        deserialize_string Text visit_str("");
        deserialize_bytes Bytes visit_bytes(&[]);
        deserialize_byte_buf Bytes visit_bytes(&[]);
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, RowError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        let mut item = None;
        let ended = visitor.visit_seq(OneItem { done: false, item: &mut item });
        *self.0 = Some(match item {
            Some(Ok(ColumnType::U8)) => Ok(ColumnType::Bytes),
            Some(Ok(other)) => Err(format!("a sequence of {}", other.name())),
            Some(Err(other)) => Err(format!("a sequence that contains {other}")),
            None => Err("a sequence".to_owned()),
        });
        ended
    }

    refuse_column! {
        deserialize_any() "a value of any shape";
        deserialize_option() "an Option (choose a value of the type that means none)";
        deserialize_map() "a map";
        deserialize_struct(_name: &'static str, _fields: &'static [&'static str]) "a struct";
        deserialize_enum(_name: &'static str, _variants: &'static [&'static str]) "an enum";
        deserialize_tuple(_len: usize) "a tuple or an array";
        deserialize_tuple_struct(_name: &'static str, _len: usize) "a tuple struct";
        deserialize_unit() "the unit type";
        deserialize_unit_struct(_name: &'static str) "a struct without fields";
        deserialize_char() "a char";
        deserialize_i128() "an i128";
        deserialize_u128() "a u128";
        deserialize_identifier() "an identifier";
        deserialize_ignored_any() "a field that is not read";
    }
}

/// A sequence of one item.
struct OneItem<'a> {
    /// Whether the item was read.
    done: bool,
    /// Where to record the item's type.
    item: &'a mut Option<Result<ColumnType, String>>,
}

impl<'de> de::SeqAccess<'de> for OneItem<'_> {
    type Error = RowError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, RowError> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(None);
        }
        seed.deserialize(ColumnProbe(self.item)).map(Some)
    }
}
