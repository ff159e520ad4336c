//! Scans of a table: pages, cursors, and an iterator over them.

use std::{collections::VecDeque, fmt, str};

use serde::de::DeserializeOwned;

use super::Table;
use crate::{
    Result,
    state::row::{Row, decode},
};

/// Rows that an iterator fetches at once.
const BATCH: usize = 64;

/// An iterator over a table's rows; see [`Table::iter`]. You may drop it at any time.
pub struct TableIter<T> {
    table: Table<T>,
    /// Rows fetched but not yet returned.
    batch: VecDeque<(Box<str>, Row)>,
    /// Where the next batch begins; `None` before the first.
    cursor: Option<Cursor>,
    /// Whether the last batch was fetched.
    ended: bool,
}

impl<T> TableIter<T> {
    /// Creates an iterator before the first row.
    pub(super) fn new(table: Table<T>) -> Self {
        Self { table, batch: VecDeque::new(), cursor: None, ended: false }
    }
}

impl<T: DeserializeOwned> TableIter<T> {
    /// Returns the next row with its key, or `None` at the end.
    ///
    /// # Errors
    /// [`StateError::Row`](crate::error::StateError::Row) if the row does not deserialize into `T`. You can continue after it.
    ///
    /// # Cancellation
    /// Dropping the future loses no row.
    pub async fn next(&mut self) -> Result<Option<(String, T)>> {
        while self.batch.is_empty() && !self.ended {
            let page = self.table.rows.scan(self.cursor.as_ref(), BATCH).await?;
            self.batch.extend(page.rows);
            self.ended = page.next.is_none();
            self.cursor = page.next;
        }
        let Some((key, row)) = self.batch.pop_front() else { return Ok(None) };
        Ok(Some((key.into(), decode(&self.table.schema, &row)?)))
    }
}

impl<T> fmt::Debug for TableIter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableIter").field("table", &self.table.name()).finish_non_exhaustive()
    }
}

/// Some rows of a table, and where to continue; see [`Table::scan`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Page<T> {
    /// The rows with their keys.
    pub rows: Vec<(String, T)>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<Cursor>,
}

/// Where a page begins; see [`Table::scan`]. Its content is opaque, but not secret.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Cursor(Box<str>);

impl Cursor {
    /// Creates a cursor that the backend can parse.
    pub(in crate::state) fn new(place: String) -> Self {
        Self(place.into())
    }

    /// Returns the text that the backend wrote.
    pub(in crate::state) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl str::FromStr for Cursor {
    type Err = std::convert::Infallible;

    fn from_str(cursor: &str) -> Result<Self, Self::Err> {
        Ok(Self(cursor.into()))
    }
}
