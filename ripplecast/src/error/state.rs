//! Errors of shared state.

/// Why an operation on a [`Table`](crate::Table) or a [`Counter`](crate::Counter) was refused. A refused operation has
/// changed nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A table or a counter was asked for with an empty name.
    #[error("the name of a {what} can't be empty; give it one")]
    EmptyName {
        /// What the name was for: `"table"` or `"counter"`.
        what: &'static str,
    },
    /// The name of a table or a counter is too long.
    #[error("the name of a {what} has {len} bytes and may have {limit}; choose a shorter one")]
    NameTooLong {
        /// What the name was for: `"table"` or `"counter"`.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The longest allowed, in bytes.
        limit: usize,
    },
    /// A row's key is too long.
    #[error(
        "table `{table}`: a key has {len} bytes and may have {limit}; choose a shorter one, such as a hash of it"
    )]
    KeyTooLong {
        /// The table.
        table: String,
        /// The key's length in bytes.
        len: usize,
        /// The longest allowed, in bytes.
        limit: usize,
    },
    /// A counter would leave the range of an `i64`.
    #[error("counter `{name}` is {value}; adding {by} to it leaves the range of an i64; reset it")]
    CounterOverflow {
        /// The counter.
        name: String,
        /// Its value, which stays.
        value: i64,
        /// What should have been added.
        by: i64,
    },
    /// A table was declared for no rows at all.
    #[error("table `{table}`: a capacity of 0 holds no rows; declare how many it may hold")]
    NoCapacity {
        /// The table.
        table: String,
    },
    /// A table was declared with a row type that is no plain struct.
    #[error("table `{table}`: a row must be a struct with named fields, not {found}")]
    UnsupportedRow {
        /// The table.
        table: String,
        /// What the row type is instead.
        found: String,
    },
    /// A table was declared with a field whose type can't be a column.
    #[error(
        "table `{table}`, column `{column}`: {found} can't be a column; use an integer of at most 64 bits, bool, f32, \
         f64, String or Vec<u8>, or mark the field #[serde(skip)]"
    )]
    UnsupportedColumn {
        /// The table.
        table: String,
        /// The field.
        column: String,
        /// What its type is.
        found: String,
    },
    /// A size was set for a column that has none.
    #[error(
        "table `{table}`, column `{column}`: only String and bytes columns have a size, this one is {kind}"
    )]
    ColumnHasNoSize {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The column's type.
        kind: &'static str,
    },
    /// A column was named that the table doesn't have.
    #[error("table `{table}` has no column `{column}`; it has {columns}")]
    UnknownColumn {
        /// The table.
        table: String,
        /// The column that was named.
        column: String,
        /// The columns that there are.
        columns: String,
    },
    /// A table of that name was never declared.
    #[error(
        "table `{name}` was never declared; declare it first with hub.table::<Row>(\"{name}\", capacity)"
    )]
    TableNotDeclared {
        /// The name that was asked for.
        name: String,
    },
    /// A table of that name is declared with other columns, sizes or capacity.
    #[error("table `{name}` is declared as {declared}; it can't be used as {asked}; make both the same")]
    DeclaredDifferently {
        /// The table.
        name: String,
        /// The declaration that stands.
        declared: String,
        /// The one that was refused.
        asked: String,
    },
    /// The table holds as many rows as it may.
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
        "table `{table}`, column `{column}`: a value has {size} bytes and may have {limit}; shorten it, or declare the \
         table with hub.table_builder(…).column(\"{column}\", {size})"
    )]
    ValueTooLong {
        /// The table.
        table: String,
        /// The column.
        column: &'static str,
        /// The value's size in bytes.
        size: usize,
        /// The largest allowed, in bytes.
        limit: usize,
    },
    /// An increment would leave the range of the column's type.
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
        /// The value, which stays.
        value: i128,
        /// What should have been added.
        by: i128,
    },
    /// An increment or decrement of a column that holds no integers.
    #[error("table `{table}`: column `{column}` is a {kind}; only integer columns can be incremented")]
    NotAnInteger {
        /// The table.
        table: String,
        /// The column.
        column: &'static str,
        /// The column's type.
        kind: &'static str,
    },
    /// A row, key or field can't be turned into what the table stores, or back.
    #[error("table `{table}`: {reason}")]
    Row {
        /// The table.
        table: String,
        /// The error of serde, or of the table.
        reason: String,
    },
    /// A cursor that this table didn't hand out.
    #[error("table `{table}`: `{cursor}` is no cursor of this table; start again with None")]
    UnknownCursor {
        /// The table.
        table: String,
        /// The cursor.
        cursor: String,
    },
}
