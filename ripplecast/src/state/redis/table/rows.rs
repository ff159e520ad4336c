//! The rows of a table that is observed on this node.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use super::{
    TableKeys,
    change::{self, TableChange},
};
use crate::{
    Result,
    log::{cut, limited},
    state::{
        Observers, TableObserver, Version,
        redis::{
            history::{Basis, HistoryModel, Moment},
            watch::{Watch, WatchSource},
        },
        row::{Row, RowRef},
        schema::Schema,
    },
};

/// Rows shown under one lock: short enough not to delay the connection that receives changes.
const ROWS_PER_LOCK: usize = 512;

pub(super) struct WatchedTable {
    pub(super) place: Arc<TableKeys>,
}

impl WatchSource for WatchedTable {
    type Model = ObservedRows;
    /// Never: a table's history is not forgotten, and reading all rows is expensive.
    const RENEW: Duration = Duration::MAX;

    async fn read(&self, Basis { at, .. }: Basis) -> Result<(Moment, Vec<(Box<str>, Row)>)> {
        self.place.snapshot(at).await
    }

    fn name(&self) -> &str {
        self.place.schema.table()
    }
}

impl Watch<WatchedTable> {
    /// Shows one row; see [`Table::inspect_row`](crate::Table::inspect_row).
    pub(super) fn inspect_row(&self, key: &str, look: &mut dyn FnMut(Option<RowRef<'_>>, Version)) {
        let mut known = self.known.lock();
        if let Some(version) = known.version_or_await() {
            let ObservedRows { schema, rows, .. } = &known.model;
            look(rows.get(key).map(|row| RowRef { schema, row }), version);
        }
    }

    /// Shows the rows; see [`Table::inspect`](crate::Table::inspect).
    pub(super) fn inspect(&self, look: &mut dyn FnMut(&str, RowRef<'_>, Version)) {
        let mut from = Bound::Unbounded;
        loop {
            let mut known = self.known.lock();
            let Some(version) = known.version_or_await() else { return };
            let Some(last) = known.model.show(from, version, look) else { return };
            from = Bound::Excluded(last);
        }
    }
}

/// The rows of a table, and their observers.
pub(super) struct ObservedRows {
    schema: Arc<Schema>,
    /// At most the capacity of the table.
    rows: BTreeMap<Box<str>, Row>,
    pub(super) observers: Observers<TableObserver>,
}

impl ObservedRows {
    /// Creates an empty set of rows.
    pub(super) fn new(schema: Arc<Schema>) -> Self {
        Self { schema, rows: BTreeMap::new(), observers: Observers::default() }
    }

    /// Shows some rows. Returns the key of the last one if there may be more.
    fn show(
        &self,
        from: Bound<Box<str>>,
        version: Version,
        look: &mut dyn FnMut(&str, RowRef<'_>, Version),
    ) -> Option<Box<str>> {
        for (shown, (key, row)) in (1..).zip(self.rows.range::<Box<str>, _>((from, Bound::Unbounded))) {
            look(key, RowRef { schema: &self.schema, row }, version);
            if shown == ROWS_PER_LOCK {
                return Some(key.clone());
            }
        }
        None
    }

    fn notify_observers(&self, key: &str, row: Option<&Row>, version: Version) {
        let row = row.map(|row| RowRef { schema: &self.schema, row });
        self.observers.each(|observer| observer(key, row, version));
    }

    /// Writes a row and notifies the observers.
    fn put(&mut self, key: &str, row: Row, version: Version) {
        self.notify_observers(key, Some(&row), version);
        match self.rows.get_mut(key) {
            Some(old) => *old = row,
            None => drop(self.rows.insert(key.into(), row)),
        }
    }
}

impl HistoryModel for ObservedRows {
    type Change<'a> = TableChange<'a>;
    type State = Vec<(Box<str>, Row)>;

    fn parse(payload: &[u8]) -> Option<TableChange<'_>> {
        TableChange::parse(payload)
    }

    fn agrees(&self, change: &TableChange<'_>) -> bool {
        match change {
            // A row that can't be parsed is not kept.
            TableChange::Set { key, fields } => {
                change::row(&self.schema, key, fields).ok().as_ref() == self.rows.get(*key)
            }
            TableChange::Deleted(key) => !self.rows.contains_key(*key),
            TableChange::Cleared => self.rows.is_empty(),
            TableChange::Epoch => true,
        }
    }

    fn apply(&mut self, change: TableChange<'_>, version: Version) {
        match change {
            TableChange::Set { key, fields } => match change::row(&self.schema, key, &fields) {
                Ok(row) => self.put(key, row, version),
                Err(error) => {
                    limited!(ERROR, error = %cut(error), "a change can't be read and is not published");
                }
            },
            TableChange::Deleted(key) => {
                self.rows.remove(key);
                self.notify_observers(key, None, version);
            }
            TableChange::Cleared => {
                for key in std::mem::take(&mut self.rows).into_keys() {
                    self.notify_observers(&key, None, version);
                }
            }
            TableChange::Epoch => {}
        }
    }

    fn replace(&mut self, rows: Vec<(Box<str>, Row)>, version: Version, notify: bool) {
        if !notify {
            self.rows = rows.into_iter().collect();
            return;
        }
        let there: HashSet<&str> = rows.iter().map(|(key, _)| &**key).collect();
        let gone: Vec<Box<str>> = self.rows.keys().filter(|key| !there.contains(&***key)).cloned().collect();
        for key in gone {
            self.rows.remove(&key);
            self.notify_observers(&key, None, version);
        }
        for (key, row) in rows {
            if self.rows.get(&key) != Some(&row) {
                self.put(&key, row, version);
            }
        }
    }

    fn digest(&self) -> String {
        String::new()
    }
}
