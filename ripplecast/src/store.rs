//! Shared state: tables of typed rows, and counters.
//!
//! [`Store`] is what a hub holds. Behind it stands a [`Backend`]: `store/memory.rs` or `store/redis.rs`. A backend that has
//! to ask a server answers later ([`Reply::Later`]); memory answers at once and allocates no future.

mod counter;
mod memory;
mod redis;
mod row;
mod schema;
mod table;
#[cfg(test)]
mod tests;

use std::{
    any::Any,
    collections::HashMap,
    fmt,
    future::Future,
    hash::{BuildHasher as _, RandomState},
    pin::Pin,
    str::FromStr,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Serialize, Serializer, de::DeserializeOwned};

pub use counter::Counter;
pub use table::{Cursor, Page, Table, TableBuilder, TableIter};

pub(crate) use row::{RowRef, TextRow};

use crate::{Result, limits};
use row::{Row, Value};
use schema::Schema;

/// Why an operation on a [`Table`] or a [`Counter`] was refused. A refused operation has changed nothing.
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
        /// What serde said, or what the table said to serde.
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

/// A backend's answer: there already, or on its way.
pub(crate) enum Reply<'a, T> {
    /// The answer; taken by the first poll.
    Now(Option<Result<T>>),
    /// An answer to wait for.
    Later(Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>),
}

impl<T> Reply<'_, T> {
    /// An answer that is there already.
    pub(crate) fn now<E: Into<crate::Error>>(answer: Result<T, E>) -> Self {
        Self::Now(Some(answer.map_err(Into::into)))
    }
}

impl<'a, T> From<Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>> for Reply<'a, T> {
    fn from(answer: Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>) -> Self {
        Self::Later(answer)
    }
}

impl<T: Unpin> Future for Reply<'_, T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Now(answer) => {
                Poll::Ready(answer.take().expect("a reply is not polled after it was ready"))
            }
            Self::Later(answer) => answer.as_mut().poll(cx),
        }
    }
}

/// Where shared state lives. One per hub.
pub(crate) trait Backend: Send + Sync {
    /// The counter of that name, whose length was checked.
    fn counter(&self, name: &str) -> Arc<dyn CounterBackend>;
    /// The rows of a table that is declared for the first time.
    fn table(&self, schema: &Arc<Schema>) -> Arc<dyn TableBackend>;
}

/// The shortest expiry that is set together with a value: Redis keeps times to the millisecond.
const LEAST_EXPIRY: Duration = Duration::from_millis(1);

/// What can be done to a counter in one atomic step.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CounterOp {
    /// Only look.
    Get,
    /// Add; overflow is an error.
    Add(i64),
    /// Replace the value, and forget an expiry.
    Set(i64),
    /// `Set` when the value is the expected one, with an expiry of its own if that is given.
    CompareAndSet { expected: i64, new: i64, expires: Option<Duration> },
    /// Add 1 while the value is below `max`. A value other than 0 that does not expire then expires after the window, if one is
    /// given.
    IncrementBelow { max: i64, window: Option<Duration> },
    /// Back to 0 after that time.
    Expire(Duration),
}

/// What became of a [`CounterOp`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    /// The value after the step.
    pub(crate) value: i64,
    /// Whether a condition that the step had was met; true for steps without one.
    pub(crate) applied: bool,
    /// Time until it expires; none if it does not.
    pub(crate) expires_in: Option<Duration>,
}

/// The id of a history of changes: random, so that one which was lost is not taken for an older part of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Epoch(u64);

impl Epoch {
    /// One that was never used before.
    fn random() -> Self {
        Self(RandomState::new().hash_one(()))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Epoch {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = if is_hex { u64::from_str_radix(text, 16).ok() } else { None };
        number.map(Self).ok_or(())
    }
}

impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which change made a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Version {
    /// How many changes there were until then, with this one.
    pub(crate) number: u64,
    /// The epoch in which they are counted, where a reader is to be told it: with a state that is inspected, and with changes
    /// after the epoch was replaced. In memory there is one history, which ends with the process, and none is named.
    pub(crate) epoch: Option<Epoch>,
}

impl Version {
    /// In memory.
    fn of_memory(number: u64) -> Self {
        Self { number, epoch: None }
    }
}

/// What a counter tells its observers: the value, and the change that made it.
pub(crate) type CounterObserver = dyn Fn(i64, Version) + Send + Sync;

/// One counter, behind a [`Counter`].
pub(crate) trait CounterBackend: Send + Sync {
    /// Does one step.
    fn apply(&self, op: CounterOp) -> Reply<'_, Counted>;
    /// See [`Counter::observe`].
    fn observe(&self, observer: Arc<CounterObserver>) -> Observation;
    /// See [`Counter::ready`].
    fn ready(&self) -> Reply<'_, ()>;
    /// See [`Counter::inspect`]. Calls `look` once, with nothing when the value is not known here.
    fn inspect(&self, look: &mut dyn FnMut(Option<(i64, Version)>));
}

/// What a table tells its observers: the key, the row (none when it was deleted), and the change's version.
pub(crate) type TableObserver = dyn Fn(&str, Option<RowRef<'_>>, Version) + Send + Sync;

/// Some rows of a table, undecoded, and where to go on.
pub(crate) struct RawPage {
    /// The rows with their keys.
    pub(crate) rows: Vec<(Box<str>, Row)>,
    /// Where the next page begins; none at the end.
    pub(crate) next: Option<Cursor>,
}

/// The rows of one table, behind a [`Table`]. Keys and values were checked against the schema.
pub(crate) trait TableBackend: Send + Sync {
    /// Writes a whole row, which expires after that time, if one is given.
    fn set<'a>(&'a self, key: &'a str, row: Row, expires: Option<Duration>) -> Reply<'a, ()>;
    /// Reads a whole row.
    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Row>>;
    /// Reads one column.
    fn get_field<'a>(&'a self, key: &'a str, column: usize) -> Reply<'a, Option<Value>>;
    /// Removes a row; says whether it was there.
    fn delete<'a>(&'a self, key: &'a str) -> Reply<'a, bool>;
    /// Whether the row is there.
    fn exists<'a>(&'a self, key: &'a str) -> Reply<'a, bool>;
    /// Adds to an integer column, of a new row of zeros if there is none; the new value.
    fn add<'a>(&'a self, key: &'a str, column: usize, by: i128) -> Reply<'a, i128>;
    /// Deletes a row after that time, at once if it is zero; whether it is there.
    fn expire<'a>(&'a self, key: &'a str, after: Duration) -> Reply<'a, bool>;
    /// How many rows there are.
    fn len(&self) -> Reply<'_, usize>;
    /// Up to `limit` rows from the cursor on.
    fn scan<'a>(&'a self, cursor: Option<&'a Cursor>, limit: usize) -> Reply<'a, RawPage>;
    /// Rows of several keys, as they were at one moment.
    fn get_many<'a>(&'a self, keys: &'a [Box<str>]) -> Reply<'a, Vec<Option<Row>>>;
    /// Writes several rows in one step, all or none.
    fn set_many(&self, rows: Vec<(Box<str>, Row)>) -> Reply<'_, ()>;
    /// Writes or deletes a row when it is the expected one; says whether it was.
    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Row>,
        new: Option<Row>,
    ) -> Reply<'a, bool>;
    /// Removes all rows in one step; how many there were.
    fn clear(&self) -> Reply<'_, usize>;
    /// See [`Table::observe`].
    fn observe(&self, observer: Arc<TableObserver>) -> Observation;
    /// See [`Table::ready`].
    fn ready(&self) -> Reply<'_, ()>;
    /// See [`Table::inspect`].
    fn inspect(&self, look: &mut dyn FnMut(&str, RowRef<'_>, Version));
    /// See [`Table::inspect_row`]. Calls `look` once, or not at all when the rows are not known here.
    fn inspect_row(&self, key: &str, look: &mut dyn FnMut(Option<RowRef<'_>>, Version));
}

/// Keeps an observer registered; dropping it ends that. A call that runs meanwhile may still finish.
#[must_use = "dropping an Observation ends it"]
pub(crate) struct Observation {
    /// The only strong reference to the observer's entry; the lists hold weak ones, so that a drop takes no lock.
    _entry: Arc<dyn Any + Send + Sync>,
}

impl Observation {
    /// Keeps something else as well, for as long as the observer.
    fn and_keep(self, kept: Arc<impl Send + Sync + 'static>) -> Self {
        Self { _entry: Arc::new((self, kept)) }
    }
}

/// One registered observer.
struct Observer<F: ?Sized>(Arc<F>);

/// Those who want to hear of changes, in the order in which they came.
struct Observers<F: ?Sized> {
    /// Weak, so that an [`Observation`] ends by being dropped.
    list: Vec<Weak<Observer<F>>>,
}

impl<F: ?Sized> Default for Observers<F> {
    fn default() -> Self {
        Self { list: Vec::new() }
    }
}

impl<F: ?Sized + Send + Sync + 'static> Observers<F> {
    /// Adds one, and drops those that ended.
    fn add(&mut self, observer: Arc<F>) -> Observation {
        self.list.retain(|entry| entry.strong_count() > 0);
        let entry = Arc::new(Observer(observer));
        self.list.push(Arc::downgrade(&entry));
        Observation { _entry: entry }
    }

    /// Calls each of them.
    fn each(&self, mut call: impl FnMut(&F)) {
        for entry in self.list.iter().filter_map(Weak::upgrade) {
            call(&entry.0);
        }
    }

    /// Whether nobody listens.
    fn is_empty(&self) -> bool {
        self.list.iter().all(|entry| entry.strong_count() == 0)
    }
}

/// A declared table: what [`Store::declare`] finds again by name.
#[derive(Clone)]
struct Declared {
    /// Columns, sizes and capacity.
    schema: Arc<Schema>,
    /// The rows.
    rows: Arc<dyn TableBackend>,
}

/// The shared state of a hub. Clones are handles of the same state.
#[derive(Clone)]
pub(crate) struct Store {
    /// What all clones share.
    shared: Arc<Shared>,
}

/// See [`Store`].
struct Shared {
    /// Where the state lives.
    backend: Box<dyn Backend>,
    /// The declared tables. As many as the program's source declares, so they are never forgotten.
    tables: Mutex<HashMap<Box<str>, Declared>>,
}

impl Store {
    /// A store in this process's memory.
    pub(crate) fn memory() -> Self {
        Self::with(memory::Memory::new())
    }

    /// A store on that backend.
    fn with(backend: impl Backend + 'static) -> Self {
        Self { shared: Arc::new(Shared { backend: Box::new(backend), tables: Mutex::default() }) }
    }

    /// The counter of that name; a wrong name is reported by its operations.
    pub(crate) fn counter(&self, name: &str) -> Counter {
        let cell = check_name("counter", name).is_ok().then(|| self.shared.backend.counter(name));
        Counter::new(name, cell)
    }

    /// The table of that schema, declared now or before.
    fn declare(&self, schema: Schema) -> Result<Declared, StoreError> {
        let mut tables = self.shared.tables.lock();
        if let Some(declared) = tables.get(schema.table()) {
            if *declared.schema == schema {
                return Ok(declared.clone());
            }
            return Err(StoreError::DeclaredDifferently {
                name: schema.table().to_owned(),
                declared: declared.schema.to_string(),
                asked: schema.to_string(),
            });
        }
        let schema = Arc::new(schema);
        let declared = Declared { rows: self.shared.backend.table(&schema), schema: Arc::clone(&schema) };
        tables.insert(schema.table().into(), declared.clone());
        Ok(declared)
    }

    /// The table of that name, if its columns are those of `T`.
    pub(crate) fn find<T: DeserializeOwned>(&self, name: &str) -> Result<Table<T>, StoreError> {
        let declared = self.shared.tables.lock().get(name).cloned();
        let declared = declared.ok_or_else(|| StoreError::TableNotDeclared { name: name.to_owned() })?;
        let asked = Schema::of::<T>(name, declared.schema.capacity())?;
        if !declared.schema.has_columns_of(&asked) {
            return Err(StoreError::DeclaredDifferently {
                name: name.to_owned(),
                declared: declared.schema.to_string(),
                asked: asked.to_string(),
            });
        }
        Ok(Table::new(declared))
    }
}

/// Checks the name of a table or a counter.
fn check_name(what: &'static str, name: &str) -> Result<(), StoreError> {
    match name.len() {
        0 => Err(StoreError::EmptyName { what }),
        len if len > limits::NAME => Err(StoreError::NameTooLong { what, len, limit: limits::NAME }),
        _ => Ok(()),
    }
}

/// Shared state: counters and tables.
impl crate::Hub {
    /// The counter of that name, which starts at 0. The same name is the same counter, wherever it is asked for.
    ///
    /// A name has 1 to 255 bytes; another one is reported by the counter's operations.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let visits = hub.counter("visits");
    /// assert_eq!(visits.increment().await?, 1);
    /// assert_eq!(hub.counter("visits").get().await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn counter(&self, name: impl AsRef<str>) -> Counter {
        self.store().counter(name.as_ref())
    }

    /// Declares a table of at most `capacity` rows, whose columns are the fields of `T`, or finds it if it was declared
    /// the same way before.
    ///
    /// `T` is a struct with named fields that derives serde's `Serialize` and `Deserialize`. A field is an integer of at
    /// most 64 bits, a `bool`, a float, a `String` or bytes (`Vec<u8>`); strings and bytes may have 255 bytes, or what
    /// [`table_builder`](Self::table_builder) says.
    ///
    /// # Errors
    /// [`StoreError`], when the name is empty or longer than 255 bytes, the capacity is 0, `T` has other fields, or the
    /// table is declared differently already.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Client { connected_at: u64 }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let clients = hub.table::<Client>("clients", 4096)?;
    /// clients.set("ada", &Client { connected_at: 1 }).await?;
    /// assert_eq!(clients.len().await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn table<T: DeserializeOwned>(&self, name: impl Into<String>, capacity: usize) -> Result<Table<T>> {
        self.table_builder(name, capacity).build()
    }

    /// Declares a table whose string or bytes columns may be larger (or smaller) than 255 bytes.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct User { name: String, bio: String }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let users = hub.table_builder::<User>("users", 1024).column("bio", 4096).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn table_builder<T: DeserializeOwned>(
        &self,
        name: impl Into<String>,
        capacity: usize,
    ) -> TableBuilder<T> {
        TableBuilder::new(self.store().clone(), name.into(), capacity)
    }

    /// Finds a table that was declared before.
    ///
    /// # Errors
    /// [`StoreError::TableNotDeclared`] when none was, [`StoreError::DeclaredDifferently`] when its columns are not the
    /// fields of `T`.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Client { connected_at: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// assert!(hub.find_table::<Client>("clients").is_err());
    /// hub.table::<Client>("clients", 4096)?;
    /// assert!(hub.find_table::<Client>("clients").is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn find_table<T: DeserializeOwned>(&self, name: impl AsRef<str>) -> Result<Table<T>> {
        Ok(self.store().find(name.as_ref())?)
    }
}
