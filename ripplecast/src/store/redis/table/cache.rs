//! The rows of a table that somebody on this node observes.
//!
//! Published changes and whole readings of the table both have numbers. What is kept of each row has the number up to which it
//! is known, so that a reading and the changes that come meanwhile can be taken in any order. While a reading is under way,
//! deleted rows are remembered, for it may still have them.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
    sync::Arc,
};

use parking_lot::Mutex;

use super::{
    Place, Snapshot,
    change::{self, Change, What},
};
use crate::{
    Result,
    log::{cut, limited},
    store::{
        Observation, Observers, TableObserver,
        redis::watch::Source,
        row::{Row, RowRef},
        schema::Schema,
    },
};

/// Rows that are shown under one lock: short enough that the connection on which changes come is not kept waiting.
const ROWS_PER_LOCK: usize = 512;

/// A table that somebody observes.
pub(super) struct WatchedTable {
    /// Where it is.
    place: Arc<Place>,
    /// What is known of it. Observers are called under this lock: that is their order.
    known: Mutex<Known>,
}

/// See [`WatchedTable::known`].
struct Known {
    /// The columns.
    schema: Arc<Schema>,
    /// Whether the table was ever read.
    is_known: bool,
    /// The rows. At most as many as the table may hold, and those that were deleted during a reading.
    rows: BTreeMap<Box<str>, Entry>,
    /// The highest number of a change or a reading.
    number: u64,
    /// The number of the last change that deleted all rows.
    cleared: u64,
    /// Whether a reading is under way.
    reading: bool,
    /// Who hears of changes.
    observers: Observers<TableObserver>,
}

/// What is known of a row.
struct Entry {
    /// The values; none if it was deleted.
    row: Option<Row>,
    /// The number up to which that is so.
    number: u64,
}

impl WatchedTable {
    /// Nothing known yet.
    pub(super) fn new(place: Arc<Place>) -> Self {
        let known = Known::new(Arc::clone(&place.schema));
        Self { place, known: Mutex::new(known) }
    }

    /// Adds an observer.
    pub(super) fn observe(&self, observer: Arc<TableObserver>) -> Observation {
        self.known.lock().observers.add(observer)
    }

    /// Shows one row; see [`Table::inspect_row`](crate::Table::inspect_row).
    pub(super) fn inspect_row(&self, key: &str, look: &mut dyn FnMut(Option<RowRef<'_>>, u64)) {
        let known = self.known.lock();
        if known.is_known {
            let row = known.rows.get(key).and_then(|entry| entry.row.as_ref());
            look(row.map(|row| RowRef { schema: &known.schema, row }), known.number);
        }
    }

    /// Shows the rows; see [`Table::inspect`](crate::Table::inspect).
    pub(super) fn inspect(&self, look: &mut dyn FnMut(&str, RowRef<'_>, u64)) {
        let mut from = Bound::Unbounded;
        while let Some(last) = self.known.lock().show(from, look) {
            from = Bound::Excluded(last);
        }
    }
}

impl Known {
    /// Nothing.
    fn new(schema: Arc<Schema>) -> Self {
        Self {
            schema,
            is_known: false,
            rows: BTreeMap::new(),
            number: 0,
            cleared: 0,
            reading: false,
            observers: Observers::default(),
        }
    }

    /// Shows some rows; the key of the last one if there may be more.
    fn show(&self, from: Bound<Box<str>>, look: &mut dyn FnMut(&str, RowRef<'_>, u64)) -> Option<Box<str>> {
        let mut shown = 0;
        for (key, entry) in self.rows.range::<Box<str>, _>((from, Bound::Unbounded)) {
            if let Some(row) = &entry.row {
                look(key, RowRef { schema: &self.schema, row }, self.number);
            }
            shown += 1;
            if shown == ROWS_PER_LOCK {
                return Some(key.clone());
            }
        }
        None
    }

    /// Tells the observers.
    fn tell(&self, key: &str, row: Option<&Row>, number: u64) {
        let row = row.map(|row| RowRef { schema: &self.schema, row });
        self.observers.each(|observer| observer(key, row, number));
    }

    /// Writes what is known of a row, or forgets it.
    fn put(&mut self, key: &str, row: Option<Row>, number: u64) {
        if row.is_none() && !self.reading {
            self.rows.remove(key);
        } else if let Some(entry) = self.rows.get_mut(key) {
            *entry = Entry { row, number };
        } else {
            self.rows.insert(key.into(), Entry { row, number });
        }
    }

    /// Takes a published change. Changes come in order; one that is not newer was in a reading already.
    fn change(&mut self, Change { number, what }: Change<'_>) {
        if number <= self.number {
            return;
        }
        self.number = number;
        match what {
            What::Set { key, fields } => match change::row(&self.schema, key, &fields) {
                Ok(row) => {
                    self.tell(key, Some(&row), number);
                    self.put(key, Some(row), number);
                }
                Err(error) => limited!(ERROR, error = %cut(error), "a change is not published"),
            },
            What::Deleted(key) => {
                self.tell(key, None, number);
                self.put(key, None, number);
            }
            What::Cleared => {
                self.cleared = number;
                for (key, entry) in std::mem::take(&mut self.rows) {
                    if entry.row.is_some() {
                        self.tell(&key, None, number);
                    }
                }
            }
        }
    }

    /// Takes a reading, and tells the observers what they have not heard of.
    fn take(&mut self, Snapshot { number, rows }: Snapshot) {
        let is_first = !std::mem::replace(&mut self.is_known, true);
        if number < self.cleared {
            return; // what is known came after it, all of it
        }
        let mut there = HashSet::with_capacity(rows.len());
        for (key, row) in rows {
            let known = self.rows.get(&*key);
            let is_newer = known.is_none_or(|known| known.number < number);
            if is_newer {
                if !is_first && known.and_then(|known| known.row.as_ref()) != Some(&row) {
                    self.tell(&key, Some(&row), number);
                }
                self.put(&key, Some(row), number);
            }
            there.insert(key);
        }
        let is_gone = |key: &str, entry: &Entry| entry.number < number && !there.contains(key);
        let gone = self.rows.iter().filter(|(key, entry)| is_gone(key, entry));
        let gone: Vec<Box<str>> = gone.map(|(key, _)| key.clone()).collect();
        for key in gone {
            if self.rows.remove(&key).is_some_and(|entry| entry.row.is_some()) {
                self.tell(&key, None, number);
            }
        }
        self.number = self.number.max(number);
    }

    /// Ends a reading: deleted rows need not be remembered any more.
    fn end(&mut self) {
        self.reading = false;
        self.rows.retain(|_, entry| entry.row.is_some());
    }
}

impl Source for WatchedTable {
    type State = Snapshot;

    fn begin(&self) {
        self.known.lock().reading = true;
    }

    async fn read(&self) -> Result<Snapshot> {
        self.place.snapshot().await
    }

    fn take(&self, snapshot: Snapshot) {
        self.known.lock().take(snapshot);
    }

    fn end(&self) {
        self.known.lock().end();
    }

    fn hear(&self, payload: &[u8]) {
        match Change::parse(payload) {
            Some(change) => self.known.lock().change(change),
            None => {
                let table = self.place.schema.table();
                limited!(WARN, table, "a message on a table's channel is not of this library");
            }
        }
    }

    fn is_known(&self) -> bool {
        self.known.lock().is_known
    }
}
