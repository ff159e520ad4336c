//! Errors of shared state.

/// Why an operation on a [`Table`](crate::Table) or a [`Counter`](crate::Counter) was rejected. A rejected
/// operation changes nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A row's key is too long.
    #[error(
        "table `{table}`: a key has {len} bytes; at most {limit} are allowed; use a shorter one, such as its hash"
    )]
    KeyTooLong {
        /// The table.
        table: String,
        /// The key's length in bytes.
        len: usize,
        /// The maximum, in bytes.
        limit: usize,
    },
    /// The sum is outside the range of an `i64`.
    #[error("counter `{name}` is {value}; adding {by} to it leaves the range of an i64; reset it")]
    CounterOverflow {
        /// The counter.
        name: String,
        /// Its unchanged value.
        value: i64,
        /// The addend.
        by: i64,
    },
    /// A table was declared with a capacity of 0.
    #[error("table `{table}`: a capacity of 0 holds no rows; declare the number of rows it may hold")]
    NoCapacity {
        /// The table.
        table: String,
    },
    /// The row type of a table is not a plain struct.
    #[error("table `{table}`: a row must be a struct with named fields, not {found}")]
    UnsupportedRow {
        /// The table.
        table: String,
        /// The actual row type.
        found: String,
    },
    /// The type of a field can't be a column.
    #[error(
        "table `{table}`, column `{column}`: {found} can't be a column; expected an integer of at most 64 bits, bool, f32, \
         f64, String or Vec<u8>; or mark the field #[serde(skip)]"
    )]
    UnsupportedColumn {
        /// The table.
        table: String,
        /// The field.
        column: String,
        /// The field's type.
        found: String,
    },
    /// A size was set for a column without one.
    #[error(
        "table `{table}`, column `{column}`: only String and bytes columns have a size; this one is {kind}"
    )]
    ColumnHasNoSize {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The column's type.
        kind: &'static str,
    },
    /// The table has no such column.
    #[error("table `{table}` has no column `{column}`; it has {columns}")]
    UnknownColumn {
        /// The table.
        table: String,
        /// The requested column.
        column: String,
        /// The existing columns.
        columns: String,
    },
    /// The table was not declared.
    #[error("table `{name}` is not declared; declare it first with hub.table::<Row>(\"{name}\", capacity)")]
    TableNotDeclared {
        /// The requested name.
        name: String,
    },
    /// A table of that name is already declared with other columns, sizes or capacity.
    #[error(
        "table `{name}` is declared as {declared}; it can't be used as {asked}; make both declarations the same"
    )]
    DeclaredDifferently {
        /// The table.
        name: String,
        /// The existing declaration.
        declared: String,
        /// The rejected declaration.
        asked: String,
    },
    /// The table is at its capacity.
    #[error(
        "table `{table}` holds at most {capacity} rows and would hold {rows}; delete rows or declare a larger capacity"
    )]
    TableFull {
        /// The table.
        table: String,
        /// Its capacity, in rows.
        capacity: usize,
        /// The rows it would have held.
        rows: usize,
    },
    /// A string or bytes value is larger than its column.
    #[error(
        "table `{table}`, column `{column}`: a value has {size} bytes; at most {limit} are allowed; shorten it, or declare the \
         table with hub.table_builder(…).column(\"{column}\", {size})"
    )]
    ValueTooLong {
        /// The table.
        table: String,
        /// The column.
        column: &'static str,
        /// The value's size in bytes.
        size: usize,
        /// The maximum, in bytes.
        limit: usize,
    },
    /// The sum is outside the range of the column's type.
    #[error(
        "table `{table}`, row `{key}`: adding {by} to {value} leaves the range of column `{column}`, a {kind}"
    )]
    ColumnOverflow {
        /// The table.
        table: String,
        /// The row's key.
        key: String,
        /// The column.
        column: &'static str,
        /// The column's type.
        kind: &'static str,
        /// The unchanged value.
        value: i128,
        /// The addend.
        by: i128,
    },
    /// An increment or decrement of a column that does not hold integers.
    #[error("table `{table}`: column `{column}` is a {kind}; only integer columns can be incremented")]
    NotAnInteger {
        /// The table.
        table: String,
        /// The column.
        column: &'static str,
        /// The column's type.
        kind: &'static str,
    },
    /// A row, key or field can't be converted to or from the stored form.
    #[error("table `{table}`: {reason}")]
    Row {
        /// The table.
        table: String,
        /// The error of serde or of the table.
        reason: String,
    },
    /// The cursor does not come from this table.
    #[error("table `{table}`: `{cursor}` is not a cursor of this table; start again with None")]
    UnknownCursor {
        /// The table.
        table: String,
        /// The cursor.
        cursor: String,
    },
}
