//! Shared state: tables of typed rows, and counters.
//!
//! [`Store`] is what a hub holds. Behind it stands a [`Backend`]: `state/memory.rs` or `state/redis.rs`. A backend that has
//! to ask a server answers later ([`Reply::Later`]); memory answers at once and allocates no future.

mod counter;
mod memory;
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
use crate::{Result, StoreError, limits, reply::Reply};

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
