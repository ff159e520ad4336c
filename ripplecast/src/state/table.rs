//! Tables: named, typed rows of bounded number and size.

use std::{
    borrow::Borrow, collections::VecDeque, fmt, fmt::Write as _, marker::PhantomData, str, sync::Arc,
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Declared, LEAST_EXPIRY, Observation, Store, TableBackend, TableObserver, Version,
    row::{Row, RowRef, decode, decode_field, encode},
    schema::Schema,
};
use crate::{Result, StoreError, limits};

/// Longest key, in bytes: an id, an address, a path. It is copied with each row, and is a name elsewhere.
const KEY: usize = limits::NAME;
/// Most rows of a page, however many are asked for.
const PAGE: usize = 1000;
/// Rows that an iterator fetches at once.
const BATCH: usize = 64;

/// Shared rows of type `T` under string keys; see [`Hub::table`](crate::Hub::table). Clones are handles of the same table.
///
/// A key is anything that prints as a string of at most 255 bytes: a `&str`, a number, a
/// [`ConnectionId`](crate::ConnectionId). Each operation is one atomic step: nobody sees half a row, an increment is never lost.
///
/// # Errors
/// Operations report a [`StoreError`] that names the table; one that failed has changed nothing. Each may report
/// [`StoreError::KeyTooLong`]; those that write, [`StoreError::ValueTooLong`] and [`StoreError::TableFull`]; those that
/// read, [`StoreError::Row`] when `T` refuses what is stored.
///
/// On Redis each may also fail with [`Error::Backend`](crate::Error::Backend), within its time limit: when Redis is known to
/// be away nothing was done; when the time was up or the connection was lost meanwhile, the change may have been made or not,
/// but never half of it. `set` and `delete` may simply be tried again; `increment` would then count twice.
///
/// # Overload
/// A full table refuses new rows, and goes on taking changes to those it has. Nothing is ever evicted.
///
/// # Cancellation
/// In memory an operation is done at its first poll. A future that is dropped before has done nothing. On Redis, one that
/// is dropped after its first poll may have been done or not.
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Player { name: String, points: u32 }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ripplecast::Result<()> {
/// # let hub = ripplecast::Hub::builder().build()?;
/// let players = hub.table::<Player>("players", 100)?;
/// players.set(7, &Player { name: "Ada".into(), points: 0 }).await?;
/// assert_eq!(players.increment(7, "points", 10).await?, 10);
/// assert_eq!(players.get(7).await?.map(|player| player.points), Some(10));
/// # Ok(())
/// # }
/// ```
pub struct Table<T> {
    /// Columns, sizes and capacity.
    schema: Arc<Schema>,
    /// The rows.
    rows: Arc<dyn TableBackend>,
    /// The row type, which the handle neither holds nor borrows.
    row: PhantomData<fn() -> T>,
}

impl<T> Table<T> {
    /// A handle.
    pub(super) fn new(Declared { schema, rows }: Declared) -> Self {
        Self { schema, rows, row: PhantomData }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        self.schema.table()
    }

    /// Most rows that it may hold.
    pub fn capacity(&self) -> usize {
        self.schema.capacity()
    }

    /// Removes a row; whether it was there.
    pub async fn delete(&self, key: impl fmt::Display) -> Result<bool> {
        self.rows.delete(self.key(key)?.as_str()).await
    }

    /// Whether there is a row of that key.
    pub async fn exists(&self, key: impl fmt::Display) -> Result<bool> {
        self.rows.exists(self.key(key)?.as_str()).await
    }

    /// One column of a row, as a type that it reads into: its own, or another integer that holds the value. None if there
    /// is no such row.
    ///
    /// # Errors
    /// Also [`StoreError::UnknownColumn`], and [`StoreError::Row`] for a type that the value doesn't read into.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Player { name: String, points: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// # let players = hub.table::<Player>("players", 100)?;
    /// players.set("ada", &Player { name: "Ada".into(), points: 3 }).await?;
    /// assert_eq!(players.get_field::<u32>("ada", "points").await?, Some(3));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_field<V: DeserializeOwned>(
        &self,
        key: impl fmt::Display,
        column: &str,
    ) -> Result<Option<V>> {
        let column = self.schema.column_index(column)?;
        let value = self.rows.get_field(self.key(key)?.as_str(), column).await?;
        Ok(value.map(|value| decode_field(&self.schema, column, &value)).transpose()?)
    }

    /// Adds `by`, which may be negative, to an integer column, and returns the new value.
    ///
    /// A row that isn't there is made, with zeros, empty strings and `false` in its other columns.
    ///
    /// # Errors
    /// Also [`StoreError::ColumnOverflow`] when the sum leaves the range of the column's type, [`StoreError::NotAnInteger`]
    /// and [`StoreError::UnknownColumn`].
    pub async fn increment(&self, key: impl fmt::Display, column: &str, by: i64) -> Result<i128> {
        self.add(key, column, by.into()).await
    }

    /// Subtracts `by` from an integer column, and returns the new value; else as [`increment`](Self::increment).
    ///
    /// # Errors
    /// As [`increment`](Self::increment).
    pub async fn decrement(&self, key: impl fmt::Display, column: &str, by: i64) -> Result<i128> {
        self.add(key, column, -i128::from(by)).await
    }

    /// Deletes a row after that time, at once if it is zero; whether it is there.
    ///
    /// To write a row that expires, use [`set_for`](Self::set_for), which is one step.
    /// [`set`](Self::set), [`set_many`](Self::set_many) and a [`compare_and_set`](Self::compare_and_set) that succeeds end
    /// an expiry, [`increment`](Self::increment) keeps it, and a second `expire` replaces the first. A time too long for
    /// the clock means never. Whoever uses the table after the row's time finds it gone, from all of its rows, its
    /// [`len`](Self::len) and its capacity. No timer runs: the next operation on the table notices what has expired, and
    /// only then do those who watch the table hear of it. Times are kept to the millisecond on Redis, and by its clock.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Session { user: String }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// # let sessions = hub.table::<Session>("sessions", 100)?;
    /// use std::time::Duration;
    ///
    /// sessions.set("s1", &Session { user: "Ada".into() }).await?;
    /// assert!(sessions.expire("s1", Duration::from_secs(3600)).await?); // an hour from now
    /// assert!(!sessions.expire("s2", Duration::from_secs(3600)).await?); // there is none
    /// assert!(sessions.expire("s1", Duration::ZERO).await?); // at once
    /// assert!(sessions.is_empty().await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn expire(&self, key: impl fmt::Display, after: Duration) -> Result<bool> {
        self.rows.expire(self.key(key)?.as_str(), after).await
    }

    /// How many rows there are, without those that expired. As cheap for a million as for one.
    pub async fn len(&self) -> Result<usize> {
        self.rows.len().await
    }

    /// Whether there are none.
    pub async fn is_empty(&self) -> Result<bool> {
        Ok(self.len().await? == 0)
    }

    /// Removes all rows in one step, and returns how many there were. On Redis everybody else waits meanwhile, some
    /// microseconds a row.
    pub async fn clear(&self) -> Result<usize> {
        self.rows.clear().await
    }

    /// Calls `observer` with the key, the row (none if it was deleted) and the change's version for each change, under
    /// the lock of the row: in order per key, the version higher each time (versions are the table's, so one key's have
    /// gaps). It must be quick, and must not use this table.
    pub(crate) fn observe(&self, observer: Arc<TableObserver>) -> Observation {
        self.rows.observe(observer)
    }

    /// Waits until what [`inspect`](Self::inspect) shows is known on this node: at once in memory, and wherever it was known
    /// before, even if its backend is away by now.
    pub(crate) async fn ready(&self) -> Result<()> {
        self.rows.ready().await
    }

    /// Calls `look` with each row and a version that is not below that of its last change, under the lock of the row: no
    /// change of it and no observer's call for it run meanwhile. Rows that come or go during the walk may be left out. A
    /// table that is not in memory must be observed and [`ready`](Self::ready).
    pub(crate) fn inspect(&self, mut look: impl FnMut(&str, RowRef<'_>, Version)) {
        self.rows.inspect(&mut look);
    }

    /// The same rows, for those who don't decode them.
    pub(crate) fn untyped(&self) -> Table<()> {
        Table { schema: Arc::clone(&self.schema), rows: Arc::clone(&self.rows), row: PhantomData }
    }

    /// Calls `look` with one row, none if it is not there, as [`inspect`](Self::inspect) does.
    pub(crate) fn inspect_row(&self, key: &str, mut look: impl FnMut(Option<RowRef<'_>>, Version)) {
        self.rows.inspect_row(key, &mut look);
    }

    /// Adds to an integer column.
    async fn add(&self, key: impl fmt::Display, column: &str, by: i128) -> Result<i128> {
        let index = self.schema.column_index(column)?;
        let column = &self.schema.columns()[index];
        if !column.kind.is_integer() {
            let table = self.name().to_owned();
            return Err(
                StoreError::NotAnInteger { table, column: column.name, kind: column.kind.name() }.into()
            );
        }
        self.rows.add(self.key(key)?.as_str(), index, by).await
    }

    /// The key as a string, without an allocation.
    fn key(&self, key: impl fmt::Display) -> Result<Key, StoreError> {
        let mut written = Key { bytes: [0; KEY], len: 0 };
        write!(written, "{key}").map_err(|_| StoreError::Row {
            table: self.name().to_owned(),
            reason: "the key's Display failed".to_owned(),
        })?;
        if written.len > KEY {
            return Err(StoreError::KeyTooLong {
                table: self.name().to_owned(),
                len: written.len,
                limit: KEY,
            });
        }
        Ok(written)
    }
}

impl<T: Serialize> Table<T> {
    /// Writes a whole row, new or in the place of an old one.
    pub async fn set(&self, key: impl fmt::Display, row: &T) -> Result<()> {
        let row = encode(&self.schema, row)?;
        self.rows.set(self.key(key)?.as_str(), row, None).await
    }

    /// Writes a whole row that is deleted after that time, in one step. For sessions and leases: between a `set` and an
    /// [`expire`](Self::expire) a handler may be dropped, or its process end, and the row would stay for ever.
    ///
    /// The time is at least a millisecond; one too long for the clock means never.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Session { user: String }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// # let sessions = hub.table::<Session>("sessions", 100)?;
    /// let hour = std::time::Duration::from_secs(3600);
    /// sessions.set_for("s1", &Session { user: "Ada".into() }, hour).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set_for(&self, key: impl fmt::Display, row: &T, expires: Duration) -> Result<()> {
        let row = encode(&self.schema, row)?;
        self.rows.set(self.key(key)?.as_str(), row, Some(expires.max(LEAST_EXPIRY))).await
    }

    /// Writes several rows in one step: all, or none if a key or a value is too long or they don't all fit. Of one key
    /// twice, the later wins.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Player { name: String, points: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let players = hub.table::<Player>("players", 1)?;
    /// let player = |name: &str| Player { name: name.into(), points: 0 };
    /// assert!(players.set_many([("a", player("Ada")), ("b", player("Bob"))]).await.is_err());
    /// assert_eq!(players.len().await?, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set_many<K: fmt::Display, R: Borrow<T>>(
        &self,
        rows: impl IntoIterator<Item = (K, R)>,
    ) -> Result<()> {
        let encoded =
            |(key, row): (K, R)| Ok((self.key(key)?.as_str().into(), encode(&self.schema, row.borrow())?));
        let rows = rows.into_iter().map(encoded).collect::<Result<_, StoreError>>()?;
        self.rows.set_many(rows).await
    }

    /// Writes `new` if the row is `expected`, in one step; whether it was. None stands for no row: it expects that there
    /// is none, or deletes.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Player { name: String, points: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// # let players = hub.table::<Player>("players", 100)?;
    /// let (old, new) = (Player { name: "Ada".into(), points: 1 }, Player { name: "Ada".into(), points: 2 });
    /// assert!(players.compare_and_set("ada", None, Some(&old)).await?); // only if nobody has taken the name
    /// assert!(players.compare_and_set("ada", Some(&old), Some(&new)).await?);
    /// assert!(!players.compare_and_set("ada", Some(&old), None).await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn compare_and_set(
        &self,
        key: impl fmt::Display,
        expected: Option<&T>,
        new: Option<&T>,
    ) -> Result<bool> {
        let encoded = |row: Option<&T>| row.map(|row| encode(&self.schema, row)).transpose();
        let (expected, new) = (encoded(expected)?, encoded(new)?);
        self.rows.compare_and_set(self.key(key)?.as_str(), expected, new).await
    }
}

impl<T: DeserializeOwned> Table<T> {
    /// A row; none if there is none of that key.
    pub async fn get(&self, key: impl fmt::Display) -> Result<Option<T>> {
        let row = self.rows.get(self.key(key)?.as_str()).await?;
        Ok(row.map(|row| decode(&self.schema, &row)).transpose()?)
    }

    /// The rows of several keys, in the order of the keys, all as they were at one moment.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Player { name: String, points: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// # let players = hub.table::<Player>("players", 100)?;
    /// players.set("ada", &Player { name: "Ada".into(), points: 3 }).await?;
    /// let found = players.get_many(["ada", "bob"]).await?;
    /// assert!(found[0].is_some() && found[1].is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_many<K: fmt::Display>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<T>>> {
        let key = |key: K| Ok(self.key(key)?.as_str().into());
        let keys = keys.into_iter().map(key).collect::<Result<Vec<_>, StoreError>>()?;
        let rows = self.rows.get_many(&keys).await?;
        let decoded = |row: Option<Row>| Ok(row.map(|row| decode(&self.schema, &row)).transpose()?);
        rows.into_iter().map(decoded).collect()
    }

    /// A walk over the rows, in no order, while others read and write.
    ///
    /// It sees each row that is there from its first step to its last exactly once, as it was at a moment of the walk; no
    /// key twice; and none that was made after it began. Between its steps it holds no lock, so it keeps nobody waiting,
    /// and may be kept as long as you like.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Player { name: String, points: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// # let players = hub.table::<Player>("players", 100)?;
    /// let mut rows = players.iter();
    /// while let Some((key, player)) = rows.next().await? {
    ///     println!("{key}: {} has {}", player.name, player.points);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn iter(&self) -> TableIter<T> {
        TableIter { table: self.clone(), batch: VecDeque::new(), cursor: None, ended: false }
    }

    /// One page of the walk that [`iter`](Self::iter) does: up to `limit` rows (at least 1, at most 1,000), and a cursor
    /// for the next page. Begin with `None`; the cursor prints as a string, so it may go out to a browser and come back.
    ///
    /// # Errors
    /// Also [`StoreError::UnknownCursor`].
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Player { name: String, points: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// # let players = hub.table::<Player>("players", 100)?;
    /// let mut page = players.scan(None, 20).await?;
    /// while let Some(cursor) = page.next {
    ///     page = players.scan(Some(cursor), 20).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn scan(&self, cursor: Option<Cursor>, limit: usize) -> Result<Page<T>> {
        let page = self.rows.scan(cursor.as_ref(), limit.clamp(1, PAGE)).await?;
        let decoded = |(key, row): (Box<str>, Row)| Ok((key.into(), decode(&self.schema, &row)?));
        let rows = page.rows.into_iter().map(decoded).collect::<Result<_, StoreError>>()?;
        Ok(Page { rows, next: page.next })
    }
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self { schema: Arc::clone(&self.schema), rows: Arc::clone(&self.rows), row: PhantomData }
    }
}

impl<T> fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// A key, written out.
struct Key {
    /// Its bytes, whole strings of UTF-8.
    bytes: [u8; KEY],
    /// How many were written, also of those that didn't fit.
    len: usize,
}

impl Key {
    /// The key, which is not too long.
    fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).expect("only whole strings are copied")
    }
}

impl fmt::Write for Key {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let end = self.len.saturating_add(part.len());
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(part.as_bytes());
        }
        self.len = end;
        Ok(())
    }
}

/// A walk over a table's rows; see [`Table::iter`]. Dropping it early is fine.
pub struct TableIter<T> {
    /// The table.
    table: Table<T>,
    /// Rows that were fetched and not yet given out.
    batch: VecDeque<(Box<str>, Row)>,
    /// Where the next batch begins; none before the first.
    cursor: Option<Cursor>,
    /// Whether the last batch was fetched.
    ended: bool,
}

impl<T: DeserializeOwned> TableIter<T> {
    /// The next row with its key; none at the end.
    ///
    /// # Errors
    /// [`StoreError::Row`] when `T` refuses the row; the walk may go on after it.
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

/// Some rows of a table, and where to go on; see [`Table::scan`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Page<T> {
    /// The rows with their keys.
    pub rows: Vec<(String, T)>,
    /// Where the next page begins; none after the last one.
    pub next: Option<Cursor>,
}

/// Where a page begins; see [`Table::scan`]. What it says is the table's own affair and no secret.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Cursor(Box<str>);

impl Cursor {
    /// One that the backend can read back.
    pub(super) fn new(place: String) -> Self {
        Self(place.into())
    }

    /// What the backend wrote.
    pub(super) fn as_str(&self) -> &str {
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

/// A table to be declared; see [`Hub::table_builder`](crate::Hub::table_builder).
#[must_use = "a table is declared by build()"]
pub struct TableBuilder<T> {
    /// Where it will live.
    store: Store,
    /// Its name.
    name: String,
    /// Its capacity.
    capacity: usize,
    /// The sizes that were set, by column.
    sizes: Vec<(String, usize)>,
    /// The row type.
    row: PhantomData<fn() -> T>,
}

impl<T> TableBuilder<T> {
    /// Sets the largest size of a string or bytes column, in bytes. The default is 255.
    pub fn column(mut self, name: impl Into<String>, max_size: usize) -> Self {
        self.sizes.push((name.into(), max_size));
        self
    }
}

impl<T: DeserializeOwned> TableBuilder<T> {
    /// A table without settings of its own.
    pub(crate) fn new(store: Store, name: String, capacity: usize) -> Self {
        Self { store, name, capacity, sizes: Vec::new(), row: PhantomData }
    }

    /// Declares the table, or finds it if it was declared the same way before.
    ///
    /// # Errors
    /// As [`Hub::table`](crate::Hub::table), and [`StoreError::UnknownColumn`] or [`StoreError::ColumnHasNoSize`] for a
    /// column that was named wrongly.
    pub fn build(self) -> Result<Table<T>> {
        let mut schema = Schema::of::<T>(&self.name, self.capacity)?;
        for (column, size) in &self.sizes {
            schema.set_size(column, *size)?;
        }
        Ok(Table::new(self.store.declare(schema)?))
    }
}

impl<T> fmt::Debug for TableBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}
