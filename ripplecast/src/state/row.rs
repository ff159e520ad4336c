//! Rows as stored by a table: one value per column. Converts between structs and rows.

use std::{fmt, sync::Arc};

use serde::{
    Deserializer, Serialize, Serializer, de,
    de::{DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor, value::SeqDeserializer},
    forward_to_deserialize_any, ser,
    ser::{Impossible, SerializeMap},
};

use super::schema::{Column, ColumnType, Schema};
use crate::error::StateError;

/// A row's values, in the order of the columns. Shared, so that a reader clones a reference under the lock
/// and decodes afterwards.
pub(crate) type Row = Arc<[Value]>;

/// A stored value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// An integer of any column type that fits an `i64`, or a bool as 0 or 1.
    Int(i64),
    /// A value above `i64::MAX` of a `u64` column.
    Uint(u64),
    Float(f64),
    Text(Box<str>),
    Bytes(Box<[u8]>),
}

/// Compares floats by their bits, so that a row with a NaN equals itself.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Uint(a), Self::Uint(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            _ => false,
        }
    }
}

impl Value {
    /// Returns the number of an integer column's value.
    pub(super) fn as_integer(&self) -> Option<i128> {
        match self {
            Self::Int(number) => Some((*number).into()),
            Self::Uint(number) => Some((*number).into()),
            Self::Float(_) | Self::Text(_) | Self::Bytes(_) => None,
        }
    }
}

/// Why a row can't be encoded or decoded; [`Schema::error`] adds the table.
#[derive(Debug)]
pub(crate) enum RowError {
    /// A value is larger than its column.
    TooLong { column: &'static str, size: usize, limit: usize },
    /// Any other reason.
    Other(String),
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { column, size, limit } => write!(f, "column `{column}`: {size} bytes of {limit}"),
            Self::Other(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for RowError {}

impl ser::Error for RowError {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self::Other(reason.to_string())
    }
}

impl de::Error for RowError {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self::Other(reason.to_string())
    }
}

/// Encodes a struct as a row of the schema.
pub(super) fn encode<T: Serialize + ?Sized>(schema: &Schema, row: &T) -> Result<Row, StateError> {
    row.serialize(RowEncoder(schema)).map_err(|error| schema.error(error))
}

/// Decodes a row into a struct.
pub(super) fn decode<T: DeserializeOwned>(schema: &Schema, row: &[Value]) -> Result<T, StateError> {
    T::deserialize(RowDecoder { schema, row }).map_err(|error| schema.error(error))
}

/// Decodes one value into the type that the caller asks for.
pub(super) fn decode_field<V: DeserializeOwned>(
    schema: &Schema,
    column: usize,
    value: &Value,
) -> Result<V, StateError> {
    let Column { name, kind, .. } = schema.columns()[column];
    let wrong =
        |error| schema.error(RowError::Other(format!("column `{name}` is a {}: {error}", kind.name())));
    V::deserialize(ValueDecoder { kind, value }).map_err(wrong)
}

/// Rejects what a row or a column can't be.
macro_rules! refuse {
    ($($method:ident($($arg:ty),*) -> $ok:ty;)*) => {$(
        fn $method(self, $(_: $arg),*) -> Result<$ok, RowError> {
            Err(self.unexpected())
        }
    )*};
}

/// Rejects the shapes that neither a row nor a column can have.
macro_rules! refuse_shapes {
    () => {
        refuse! {
            serialize_char(char) -> Self::Ok;
            serialize_none() -> Self::Ok;
            serialize_unit() -> Self::Ok;
            serialize_unit_struct(&'static str) -> Self::Ok;
            serialize_unit_variant(&'static str, u32, &'static str) -> Self::Ok;
            serialize_tuple(usize) -> Self::SerializeTuple;
            serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct;
            serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant;
            serialize_map(Option<usize>) -> Self::SerializeMap;
            serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant;
        }

        fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<Self::Ok, RowError> {
            Err(self.unexpected())
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result<Self::Ok, RowError> {
            Err(self.unexpected())
        }

        fn serialize_newtype_struct<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            inner: &T,
        ) -> Result<Self::Ok, RowError> {
            inner.serialize(self)
        }
    };
}

/// Encodes a struct as a [`Row`].
struct RowEncoder<'a>(&'a Schema);

impl RowEncoder<'_> {
    /// Returns the error for a type whose `Serialize` and `Deserialize` disagree.
    fn unexpected(&self) -> RowError {
        RowError::Other("the row does not serialize as the struct that it deserializes from".to_owned())
    }
}

impl<'a> Serializer for RowEncoder<'a> {
    type Ok = Row;
    type Error = RowError;
    type SerializeSeq = Impossible<Row, RowError>;
    type SerializeTuple = Impossible<Row, RowError>;
    type SerializeTupleStruct = Impossible<Row, RowError>;
    type SerializeTupleVariant = Impossible<Row, RowError>;
    type SerializeMap = Impossible<Row, RowError>;
    type SerializeStruct = FieldsEncoder<'a>;
    type SerializeStructVariant = Impossible<Row, RowError>;

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<FieldsEncoder<'a>, RowError> {
        Ok(FieldsEncoder { schema: self.0, next: 0, values: vec![None; self.0.columns().len()] })
    }

    refuse_shapes!();
    refuse! {
        serialize_bool(bool) -> Row;
        serialize_i8(i8) -> Row;
        serialize_i16(i16) -> Row;
        serialize_i32(i32) -> Row;
        serialize_i64(i64) -> Row;
        serialize_u8(u8) -> Row;
        serialize_u16(u16) -> Row;
        serialize_u32(u32) -> Row;
        serialize_u64(u64) -> Row;
        serialize_f32(f32) -> Row;
        serialize_f64(f64) -> Row;
        serialize_str(&str) -> Row;
        serialize_bytes(&[u8]) -> Row;
        serialize_seq(Option<usize>) -> Self::SerializeSeq;
    }
}

/// Collects a struct's fields.
struct FieldsEncoder<'a> {
    schema: &'a Schema,
    /// The most likely next column: fields are serialized in declaration order.
    next: usize,
    values: Vec<Option<Value>>,
}

impl ser::SerializeStruct for FieldsEncoder<'_> {
    type Ok = Row;
    type Error = RowError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), RowError> {
        let columns = self.schema.columns();
        let index = match columns.get(self.next) {
            Some(column) if column.name == name => self.next,
            _ => columns.iter().position(|column| column.name == name).ok_or_else(|| {
                RowError::Other(format!("the row serializes a field `{name}` that it does not deserialize"))
            })?,
        };
        self.values[index] = Some(value.serialize(ValueEncoder(&columns[index]))?);
        self.next = index + 1;
        Ok(())
    }

    fn end(self) -> Result<Row, RowError> {
        let columns = self.schema.columns().iter();
        let value = |(value, column): (Option<Value>, &Column)| {
            value.ok_or_else(|| {
                RowError::Other(format!(
                    "the row omits `{}`; a row must have all its columns (serde's alias, skip_serializing and \
                     skip_serializing_if don't work here)",
                    column.name
                ))
            })
        };
        self.values.into_iter().zip(columns).map(value).collect()
    }
}

/// Encodes a field as a [`Value`] of its column.
struct ValueEncoder<'a>(&'a Column);

impl ValueEncoder<'_> {
    /// Returns the error for a field whose `Serialize` and `Deserialize` disagree.
    fn unexpected(&self) -> RowError {
        let Column { name, kind, .. } = self.0;
        RowError::Other(format!(
            "column `{name}` is a {}, but the field serializes as another type",
            kind.name()
        ))
    }

    /// Encodes an integer.
    fn integer(&self, number: i128) -> Result<Value, RowError> {
        self.0.kind.integer(number).ok_or_else(|| self.unexpected())
    }

    /// Checks the size of a string or bytes value.
    fn check_size(&self, size: usize) -> Result<(), RowError> {
        let &Column { name, size: limit, .. } = self.0;
        if size > limit { Err(RowError::TooLong { column: name, size, limit }) } else { Ok(()) }
    }
}

/// Integer methods of the value's serializer.
macro_rules! encode_integers {
    ($($method:ident($type:ty);)*) => {$(
        fn $method(self, number: $type) -> Result<Value, RowError> {
            self.integer(number.into())
        }
    )*};
}

impl<'a> Serializer for ValueEncoder<'a> {
    type Ok = Value;
    type Error = RowError;
    type SerializeSeq = BytesEncoder<'a>;
    type SerializeTuple = Impossible<Value, RowError>;
    type SerializeTupleStruct = Impossible<Value, RowError>;
    type SerializeTupleVariant = Impossible<Value, RowError>;
    type SerializeMap = Impossible<Value, RowError>;
    type SerializeStruct = Impossible<Value, RowError>;
    type SerializeStructVariant = Impossible<Value, RowError>;

    encode_integers! {
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
    }

    fn serialize_bool(self, value: bool) -> Result<Value, RowError> {
        if self.0.kind == ColumnType::Bool { Ok(Value::Int(value.into())) } else { Err(self.unexpected()) }
    }

    fn serialize_f32(self, value: f32) -> Result<Value, RowError> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<Value, RowError> {
        match self.0.kind {
            ColumnType::F32 | ColumnType::F64 => Ok(Value::Float(value)),
            _ => Err(self.unexpected()),
        }
    }

    fn serialize_str(self, value: &str) -> Result<Value, RowError> {
        if self.0.kind != ColumnType::Text {
            return Err(self.unexpected());
        }
        self.check_size(value.len())?;
        Ok(Value::Text(value.into()))
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<Value, RowError> {
        if self.0.kind != ColumnType::Bytes {
            return Err(self.unexpected());
        }
        self.check_size(value.len())?;
        Ok(Value::Bytes(value.into()))
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<BytesEncoder<'a>, RowError> {
        if self.0.kind != ColumnType::Bytes {
            return Err(self.unexpected());
        }
        self.check_size(len.unwrap_or(0))?;
        Ok(BytesEncoder { column: self, bytes: Vec::with_capacity(len.unwrap_or(0)) })
    }

    refuse_shapes!();
    refuse! {
        serialize_struct(&'static str, usize) -> Self::SerializeStruct;
    }
}

/// Collects a sequence of `u8`.
struct BytesEncoder<'a> {
    column: ValueEncoder<'a>,
    /// At most one byte more than the column's size.
    bytes: Vec<u8>,
}

impl ser::SerializeSeq for BytesEncoder<'_> {
    type Ok = Value;
    type Error = RowError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), RowError> {
        let item = Column { name: self.column.0.name, kind: ColumnType::U8, size: 0, is_private: false };
        let byte =
            value.serialize(ValueEncoder(&item))?.as_integer().and_then(|byte| u8::try_from(byte).ok());
        self.bytes.push(byte.ok_or_else(|| self.column.unexpected())?);
        self.column.check_size(self.bytes.len())
    }

    fn end(self) -> Result<Value, RowError> {
        Ok(Value::Bytes(self.bytes.into()))
    }
}

/// Decodes a struct from a [`Row`].
struct RowDecoder<'a> {
    schema: &'a Schema,
    row: &'a [Value],
}

impl<'de> Deserializer<'de> for RowDecoder<'_> {
    type Error = RowError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_map(FieldsDecoder { fields: self.schema.columns().iter().zip(self.row), current: None })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, RowError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Decodes a row's fields in order.
struct FieldsDecoder<'a, I> {
    /// The remaining fields.
    fields: I,
    /// The field whose key has been read.
    current: Option<(&'a Column, &'a Value)>,
}

impl<'de, 'a, I: Iterator<Item = (&'a Column, &'a Value)>> de::MapAccess<'de> for FieldsDecoder<'a, I> {
    type Error = RowError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, RowError> {
        self.current = self.fields.next();
        self.current.map(|(column, _)| seed.deserialize(column.name.into_deserializer())).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, RowError> {
        let (column, value) =
            self.current.take().ok_or_else(|| de::Error::custom("a value must be read after its key"))?;
        seed.deserialize(ValueDecoder { kind: column.kind, value })
            .map_err(|error| RowError::Other(format!("column `{}`: {error}", column.name)))
    }
}

/// Decodes one value.
struct ValueDecoder<'a> {
    kind: ColumnType,
    value: &'a Value,
}

impl<'de> Deserializer<'de> for ValueDecoder<'_> {
    type Error = RowError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        match self.value {
            Value::Int(number) if self.kind == ColumnType::Bool => visitor.visit_bool(*number != 0),
            Value::Int(number) => visitor.visit_i64(*number),
            Value::Uint(number) => visitor.visit_u64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Text(text) => visitor.visit_str(text),
            Value::Bytes(bytes) => visitor.visit_bytes(bytes),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        match self.value {
            Value::Bytes(bytes) => visitor.visit_seq(SeqDeserializer::new(bytes.iter().copied())),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RowError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, RowError> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// A row with its column names, for observers of a table. Serializes as a map, so as a JSON object, without its
/// private columns.
#[derive(Clone, Copy)]
pub(crate) struct RowRef<'a> {
    pub(super) schema: &'a Schema,
    pub(super) row: &'a [Value],
}

impl Serialize for RowRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.write(serializer, false)
    }
}

/// A row that serializes its 64-bit integers as decimal text, because a browser's `JSON.parse` rounds such
/// numbers.
#[derive(Clone, Copy)]
pub(crate) struct TextRow<'a>(pub(crate) RowRef<'a>);

impl Serialize for TextRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.write(serializer, true)
    }
}

impl RowRef<'_> {
    /// Decodes the row with zeros and empty values in its private columns.
    pub(crate) fn decode_public<T: DeserializeOwned>(self) -> Result<T, StateError> {
        let columns = self.schema.columns();
        if !columns.iter().any(|column| column.is_private) {
            return decode(self.schema, self.row);
        }
        let public = |(column, value): (&Column, &Value)| {
            if column.is_private { column.kind.zero() } else { value.clone() }
        };
        let row: Vec<Value> = columns.iter().zip(self.row).map(public).collect();
        decode(self.schema, &row)
    }

    /// Serializes the row, with its 64-bit integers as text or as numbers.
    fn write<S: Serializer>(&self, serializer: S, as_text: bool) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let columns = self.schema.columns().iter().zip(self.row);
        for (column, value) in columns.filter(|(column, _)| !column.is_private) {
            map.serialize_key(column.name)?;
            match value {
                Value::Int(number) if column.kind == ColumnType::Bool => map.serialize_value(&(*number != 0)),
                Value::Int(number) if as_text && column.kind == ColumnType::I64 => {
                    map.serialize_value(&number.to_string())
                }
                Value::Uint(number) if as_text && column.kind == ColumnType::U64 => {
                    map.serialize_value(&number.to_string())
                }
                Value::Int(number) => map.serialize_value(number),
                Value::Uint(number) => map.serialize_value(number),
                Value::Float(number) if column.kind == ColumnType::F32 => {
                    map.serialize_value(&(*number as f32))
                }
                Value::Float(number) => map.serialize_value(number),
                Value::Text(text) => map.serialize_value(text),
                Value::Bytes(bytes) => map.serialize_value(bytes),
            }?;
        }
        map.end()
    }
}
