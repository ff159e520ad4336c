//! The declaration of a table.

use std::{fmt, marker::PhantomData};

use serde::de::DeserializeOwned;

use super::Table;
use crate::{
    Result, limits,
    name::check_filled,
    state::{Store, schema::Schema},
};

/// A table to be declared; see [`Hub::table_builder`](crate::Hub::table_builder).
#[must_use = "a table is declared by build()"]
pub struct TableBuilder<T> {
    store: Store,
    name: String,
    capacity: usize,
    /// By column.
    sizes: Vec<(String, usize)>,
    /// Columns that are never sent to clients.
    private: Vec<String>,
    row: PhantomData<fn() -> T>,
}

impl<T> TableBuilder<T> {
    /// Sets the maximum size of a string or bytes column, in bytes. The default is 255.
    pub fn column(mut self, name: impl Into<String>, max_size: usize) -> Self {
        self.sizes.push((name.into(), max_size));
        self
    }

    /// Marks a column as private: no [`LiveTable`](crate::LiveTable) ever sends it to a client. Use it for what
    /// must stay on the server, such as a session's id or an address. The function given to
    /// [`publish_with`](Table::publish_with) sees it as zero or empty.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Player { name: String, session: String }
    ///
    /// let players = hub.table_builder::<Player>("players", 100).private("session").build()?;
    /// let live = players.publish_to(&hub.room("game")); // pushes {"table":"players","key":K,"row":{"name":"Ada"},…}
    /// # let _ = live; Ok(()) }
    /// ```
    pub fn private(mut self, name: impl Into<String>) -> Self {
        self.private.push(name.into());
        self
    }
}

impl<T: DeserializeOwned> TableBuilder<T> {
    /// Creates a builder with default settings.
    pub(crate) fn new(store: Store, name: String, capacity: usize) -> Self {
        Self { store, name, capacity, sizes: Vec::new(), private: Vec::new(), row: PhantomData }
    }

    /// Declares the table. Returns the existing table if it was declared identically before.
    ///
    /// # Errors
    /// Same as [`Hub::table`](crate::Hub::table). Also [`StateError::UnknownColumn`](crate::error::StateError::UnknownColumn) or
    /// [`StateError::ColumnHasNoSize`](crate::error::StateError::ColumnHasNoSize) for an invalid call of [`column`](Self::column) or
    /// [`private`](Self::private).
    pub fn build(self) -> Result<Table<T>> {
        check_filled("table", &self.name, limits::NAME)?;
        let mut schema = Schema::of::<T>(&self.name, self.capacity)?;
        for (column, size) in &self.sizes {
            schema.set_size(column, *size)?;
        }
        for column in &self.private {
            schema.set_private(column)?;
        }
        Ok(Table::new(self.store.declare(schema)?))
    }
}

impl<T> fmt::Debug for TableBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}
