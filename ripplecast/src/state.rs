//! Shared state: counters and tables of typed rows.
//!
//! [`Hub::counter`](crate::Hub::counter) returns a [`Counter`], [`Hub::table`](crate::Hub::table) declares a [`Table`].

// `state/memory.rs` and `state/redis.rs` keep them. A backend that queries a server replies later; memory replies at once and
// allocates no future.

mod counter;
mod memory;
#[cfg(feature = "redis")]
mod redis;
mod row;
mod schema;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use self::row::{RowRef, TextRow};
pub use self::{
    counter::Counter,
    table::{Cursor, Page, Table, TableBuilder, TableIter},
};

use std::{
    any::Any,
    collections::HashMap,
    fmt,
    hash::{BuildHasher as _, RandomState},
    str::FromStr,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Serialize, Serializer, de::DeserializeOwned};

use self::{
    row::{Row, Value},
    schema::Schema,
};
use crate::{Result, error::StateError, limits, name::check_filled, reply::Reply};

/// Where shared state is kept. One per hub.
pub(crate) trait StateBackend: Send + Sync {
    /// Returns the counter with that name, whose length has been checked.
    fn counter(&self, name: &str) -> Arc<dyn CounterBackend>;
    /// Returns the rows of a table that is declared for the first time.
    fn table(&self, schema: &Arc<Schema>) -> Arc<dyn TableBackend>;
}

/// The shortest expiry that can be set together with a value. Redis keeps times to the millisecond.
const LEAST_EXPIRY: Duration = Duration::from_millis(1);

/// An atomic operation on a counter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CounterOp {
    Get,
    /// Adds; overflow is an error.
    Add(i64),
    /// Replaces the value and clears an expiry.
    Set(i64),
    /// `Set` if the value is the expected one, with an optional expiry.
    CompareAndSet {
        expected: i64,
        new: i64,
        expires: Option<Duration>,
    },
    /// Adds 1 while the value is below `max`. A nonzero value without an expiry then expires after `window`,
    /// if given.
    IncrementBelow {
        max: i64,
        window: Option<Duration>,
    },
    /// Returns the counter to 0 after that time.
    Expire(Duration),
}

/// The result of a [`CounterOp`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    /// The value after the operation.
    pub(crate) value: i64,
    /// Whether the operation's condition was met; true for operations without one.
    pub(crate) applied: bool,
    pub(crate) expires_in: Option<Duration>,
}

/// The id of a history of changes. It is random, so that a lost history is never taken for an earlier part of
/// another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Epoch(u64);

impl Epoch {
    /// Creates an epoch that was never used before.
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

/// Identifies the change that set a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Version {
    /// Changes so far, including this one.
    pub(crate) number: u64,
    /// The epoch of `number`, where a reader must learn it: with an inspected state, and with changes after
    /// the epoch was replaced. Always `None` in memory, where the only history ends with the process.
    pub(crate) epoch: Option<Epoch>,
}

impl Version {
    /// Creates a version of the memory backend.
    fn of_memory(number: u64) -> Self {
        Self { number, epoch: None }
    }
}

/// Called with the new value of a counter and the change that set it.
pub(crate) type CounterObserver = dyn Fn(i64, Version) + Send + Sync;

/// A single counter, behind a [`Counter`].
pub(crate) trait CounterBackend: Send + Sync {
    /// Runs one operation.
    fn apply(&self, op: CounterOp) -> Reply<'_, Counted>;
    /// See [`Counter::observe`].
    fn observe(&self, observer: Arc<CounterObserver>) -> Observation;
    /// See [`Counter::ready`].
    fn ready(&self) -> Reply<'_, ()>;
    /// See [`Counter::inspect`]. Calls `look` once, with `None` if this node does not know the value.
    fn inspect(&self, look: &mut dyn FnMut(Option<(i64, Version)>));
}

/// Called with the key of a changed row, the row (`None` if it was deleted), and the change's version.
pub(crate) type TableObserver = dyn Fn(&str, Option<RowRef<'_>>, Version) + Send + Sync;

/// Some rows of a table, not decoded, and where to continue.
pub(crate) struct RawPage {
    /// The rows with their keys.
    pub(crate) rows: Vec<(Box<str>, Row)>,
    /// Where the next page begins; `None` at the end.
    pub(crate) next: Option<Cursor>,
}

/// The rows of one table, behind a [`Table`]. Keys and values have been checked against the schema.
pub(crate) trait TableBackend: Send + Sync {
    /// Writes a whole row, which expires after `expires`, if given.
    fn set<'a>(&'a self, key: &'a str, row: Row, expires: Option<Duration>) -> Reply<'a, ()>;
    /// Reads a whole row.
    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Row>>;
    /// Reads one column.
    fn get_field<'a>(&'a self, key: &'a str, column: usize) -> Reply<'a, Option<Value>>;
    /// Removes a row and returns whether it existed.
    fn delete<'a>(&'a self, key: &'a str) -> Reply<'a, bool>;
    /// Returns whether the row exists.
    fn exists<'a>(&'a self, key: &'a str) -> Reply<'a, bool>;
    /// Adds to an integer column, in a new row of zeros if there is none. Returns the new value.
    fn add<'a>(&'a self, key: &'a str, column: usize, by: i128) -> Reply<'a, i128>;
    /// Deletes rows after that time, or at once if it is zero, in one step. Returns how many of them exist.
    fn expire<'a>(&'a self, keys: &'a [Box<str>], after: Duration) -> Reply<'a, usize>;
    /// Returns the number of rows.
    fn len(&self) -> Reply<'_, usize>;
    /// Returns up to `limit` rows, starting at the cursor.
    fn scan<'a>(&'a self, cursor: Option<&'a Cursor>, limit: usize) -> Reply<'a, RawPage>;
    /// Returns the rows of several keys as of one moment.
    fn get_many<'a>(&'a self, keys: &'a [Box<str>]) -> Reply<'a, Vec<Option<Row>>>;
    /// Writes several rows in one step, all or none.
    fn set_many(&self, rows: Vec<(Box<str>, Row)>) -> Reply<'_, ()>;
    /// Writes or deletes a row if it is the expected one, and returns whether it was.
    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Row>,
        new: Option<Row>,
    ) -> Reply<'a, bool>;
    /// Removes all rows in one step and returns their number.
    fn clear(&self) -> Reply<'_, usize>;
    /// See [`Table::observe`].
    fn observe(&self, observer: Arc<TableObserver>) -> Observation;
    /// See [`Table::ready`].
    fn ready(&self) -> Reply<'_, ()>;
    /// See [`Table::inspect`].
    fn inspect(&self, look: &mut dyn FnMut(&str, RowRef<'_>, Version));
    /// See [`Table::inspect_row`]. Calls `look` once, or not at all if this node does not know the rows.
    fn inspect_row(&self, key: &str, look: &mut dyn FnMut(Option<RowRef<'_>>, Version));
}

/// Keeps an observer registered until dropped. A call already in progress may still finish.
#[must_use = "dropping an Observation ends it"]
pub(crate) struct Observation {
    /// The only strong reference to the observer's entry. The lists hold weak ones, so that dropping it takes
    /// no lock.
    _entry: Arc<dyn Any + Send + Sync>,
}

impl Observation {
    /// Ties the lifetime of `kept` to that of the observation.
    fn and_keep(self, kept: Arc<impl Send + Sync + 'static>) -> Self {
        Self { _entry: Arc::new((self, kept)) }
    }
}

/// A registered observer.
struct Observer<F: ?Sized>(Arc<F>);

/// Observers of changes, in order of registration.
struct Observers<F: ?Sized> {
    /// Weak, so that dropping an [`Observation`] unregisters its observer.
    list: Vec<Weak<Observer<F>>>,
}

impl<F: ?Sized> Default for Observers<F> {
    fn default() -> Self {
        Self { list: Vec::new() }
    }
}

impl<F: ?Sized + Send + Sync + 'static> Observers<F> {
    /// Adds an observer and removes those that have ended.
    fn add(&mut self, observer: Arc<F>) -> Observation {
        self.list.retain(|entry| entry.strong_count() > 0);
        let entry = Arc::new(Observer(observer));
        self.list.push(Arc::downgrade(&entry));
        Observation { _entry: entry }
    }

    /// Calls `call` with each observer.
    fn each(&self, mut call: impl FnMut(&F)) {
        for entry in self.list.iter().filter_map(Weak::upgrade) {
            call(&entry.0);
        }
    }

    /// Returns whether nobody observes.
    fn is_empty(&self) -> bool {
        self.list.iter().all(|entry| entry.strong_count() == 0)
    }
}

/// A declared table, as found again by [`Store::declare`].
#[derive(Clone)]
struct Declared {
    /// Columns, sizes and capacity.
    schema: Arc<Schema>,
    rows: Arc<dyn TableBackend>,
}

/// The shared state of a hub. Clones are handles of the same state.
#[derive(Clone)]
pub(crate) struct Store {
    shared: Arc<StoreInner>,
}

/// The state shared by the clones of a [`Store`].
struct StoreInner {
    backend: Box<dyn StateBackend>,
    /// Declared tables. Never removed, since their number is fixed by the program's source.
    tables: Mutex<HashMap<Box<str>, Declared>>,
}

impl Store {
    /// Creates a store in this process's memory.
    pub(crate) fn memory() -> Self {
        Self::with(memory::MemoryState::new())
    }

    /// Creates a store on that backend.
    fn with(backend: impl StateBackend + 'static) -> Self {
        Self { shared: Arc::new(StoreInner { backend: Box::new(backend), tables: Mutex::default() }) }
    }

    /// Returns the counter with that name. The counter's operations reject an invalid name.
    pub(crate) fn counter(&self, name: &str) -> Counter {
        let cell =
            check_filled("counter", name, limits::NAME).is_ok().then(|| self.shared.backend.counter(name));
        Counter::new(name, cell)
    }

    /// Declares a table, or returns the table already declared with this schema.
    fn declare(&self, schema: Schema) -> Result<Declared, StateError> {
        let mut tables = self.shared.tables.lock();
        if let Some(declared) = tables.get(schema.table()) {
            if *declared.schema == schema {
                return Ok(declared.clone());
            }
            return Err(StateError::DeclaredDifferently {
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

    /// Returns the table with that name, if its columns are the fields of `T`.
    pub(crate) fn find<T: DeserializeOwned>(&self, name: &str) -> Result<Table<T>, StateError> {
        let declared = self.shared.tables.lock().get(name).cloned();
        let declared = declared.ok_or_else(|| StateError::TableNotDeclared { name: name.to_owned() })?;
        let asked = Schema::of::<T>(name, declared.schema.capacity())?;
        if !declared.schema.has_columns_of(&asked) {
            return Err(StateError::DeclaredDifferently {
                name: name.to_owned(),
                declared: declared.schema.to_string(),
                asked: asked.to_string(),
            });
        }
        Ok(Table::new(declared))
    }
}
