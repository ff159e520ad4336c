//! Tables: named, typed rows, limited in number and size.

mod builder;
mod scan;

pub use self::{
    builder::TableBuilder,
    scan::{Cursor, Page, TableIter},
};

use std::{borrow::Borrow, fmt, fmt::Write as _, marker::PhantomData, str, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Declared, LEAST_EXPIRY, Observation, TableBackend, TableObserver, Version,
    row::{Row, RowRef, decode, decode_field, encode},
    schema::Schema,
};
use crate::{Result, error::StateError, limits};

/// Longest key in bytes: fits an id, an address, a path. It is copied with each row and used as a name
/// elsewhere.
const KEY: usize = limits::NAME;
/// Maximum number of rows in a page, however many are requested.
const PAGE: usize = 1000;

/// Shared rows of type `T` under string keys; see [`Hub::table`](crate::Hub::table). Clones are handles of
/// the same table.
///
/// A key is anything whose `Display` is at most 255 bytes long: a `&str`, a number, a
/// [`ConnectionId`](crate::ConnectionId). Each operation is one atomic step: no reader sees half a row, and
/// no increment is lost.
///
/// # Errors
/// Operations report a [`StateError`] that names the table. A failed operation has changed nothing. Each may
/// report [`StateError::KeyTooLong`]. Writes may report [`StateError::ValueTooLong`] and
/// [`StateError::TableFull`]. Reads may report [`StateError::Row`] if the stored row does not deserialize
/// into `T`.
///
/// On Redis each may also fail with [`Error::Backend`](crate::Error::Backend), within its time limit. If
/// Redis was known to be unavailable, nothing was done. After a timeout or a lost connection, the change may
/// or may not have been made, but never half of it. You can simply repeat `set` and `delete`; `increment`
/// would then count twice.
///
/// # Overload
/// A full table rejects new rows and still accepts changes to existing ones. Nothing is ever evicted.
///
/// # Cancellation
/// In memory an operation completes at its first poll; a future that is dropped earlier has done nothing. On
/// Redis, an operation dropped after its first poll may or may not have been done.
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
    schema: Arc<Schema>,
    rows: Arc<dyn TableBackend>,
    /// The row type, which the handle neither holds nor borrows.
    row: PhantomData<fn() -> T>,
}

impl<T> Table<T> {
    /// Creates a handle.
    pub(super) fn new(Declared { schema, rows }: Declared) -> Self {
        Self { schema, rows, row: PhantomData }
    }

    /// Returns the table's name.
    pub fn name(&self) -> &str {
        self.schema.table()
    }

    /// Returns the maximum number of rows.
    pub fn capacity(&self) -> usize {
        self.schema.capacity()
    }

    /// Removes a row and returns whether it existed.
    pub async fn delete(&self, key: impl fmt::Display) -> Result<bool> {
        self.rows.delete(self.key(key)?.as_str()).await
    }

    /// Returns whether there is a row with that key.
    pub async fn exists(&self, key: impl fmt::Display) -> Result<bool> {
        self.rows.exists(self.key(key)?.as_str()).await
    }

    /// Returns one column of a row, decoded into its own type or another that fits, such as a wider integer.
    /// Returns `None` if there is no such row.
    ///
    /// # Errors
    /// Also [`StateError::UnknownColumn`], and [`StateError::Row`] if the value does not deserialize into
    /// `V`.
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

    /// Adds `by`, which may be negative, to an integer column and returns the new value.
    ///
    /// Creates the row if there is none, with zeros, empty strings and `false` in its other columns.
    ///
    /// # Errors
    /// Also [`StateError::ColumnOverflow`] when the sum is outside the range of the column's type,
    /// [`StateError::NotAnInteger`] and [`StateError::UnknownColumn`].
    pub async fn increment(&self, key: impl fmt::Display, column: &str, by: i64) -> Result<i128> {
        self.add(key, column, by.into()).await
    }

    /// Subtracts `by` from an integer column and returns the new value. Otherwise like
    /// [`increment`](Self::increment).
    ///
    /// # Errors
    /// Same as [`increment`](Self::increment).
    pub async fn decrement(&self, key: impl fmt::Display, column: &str, by: i64) -> Result<i128> {
        self.add(key, column, -i128::from(by)).await
    }

    /// Deletes a row after that time, or at once if the time is zero. Returns whether the row exists.
    ///
    /// To write a row that expires in one step, use [`set_for`](Self::set_for). [`set`](Self::set),
    /// [`set_many`](Self::set_many) and a successful [`compare_and_set`](Self::compare_and_set) clear an
    /// expiry. [`increment`](Self::increment) keeps it, and a second `expire` replaces it. A time too long
    /// for the clock means never. After its time a row no longer appears in any operation, in
    /// [`len`](Self::len) or against the capacity. No timer runs: the next operation on the table removes
    /// what has expired, and only then are observers notified. Redis keeps times to the millisecond, by its
    /// own clock.
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
    /// assert!(!sessions.expire("s2", Duration::from_secs(3600)).await?); // no such row
    /// assert!(sessions.expire("s1", Duration::ZERO).await?); // at once
    /// assert!(sessions.is_empty().await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn expire(&self, key: impl fmt::Display, after: Duration) -> Result<bool> {
        Ok(self.expire_many([key], after).await? > 0)
    }

    /// Deletes several rows after that time, or at once if the time is zero, in one step. Returns how many of
    /// the rows exist. Otherwise like [`expire`](Self::expire).
    ///
    /// Use it for rows that must end together, such as all that belongs to one session.
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
    /// sessions.set_many([("s1", Session { user: "Ada".into() }), ("s2", Session { user: "Ada".into() })]).await?;
    /// assert_eq!(sessions.expire_many(["s1", "s2", "s3"], Duration::from_secs(60)).await?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn expire_many<K: fmt::Display>(
        &self,
        keys: impl IntoIterator<Item = K>,
        after: Duration,
    ) -> Result<usize> {
        let keys = self.keys(keys)?;
        self.rows.expire(&keys, after).await
    }

    /// Returns the number of rows, not counting expired ones. The cost does not depend on the number.
    pub async fn len(&self) -> Result<usize> {
        self.rows.len().await
    }

    /// Returns whether the table is empty.
    pub async fn is_empty(&self) -> Result<bool> {
        Ok(self.len().await? == 0)
    }

    /// Removes all rows in one step and returns how many there were. On Redis this blocks all other commands
    /// for a few microseconds per row.
    pub async fn clear(&self) -> Result<usize> {
        self.rows.clear().await
    }

    /// Calls `observer` with the key, the row (`None` if it was deleted) and the change's version for each
    /// change, under the lock of the row. Calls for one key are in order, with increasing versions. Versions
    /// belong to the whole table, so those of one key have gaps. The observer must be quick and must not use
    /// this table.
    pub(crate) fn observe(&self, observer: Arc<TableObserver>) -> Observation {
        self.rows.observe(observer)
    }

    /// Waits until this node knows the rows that [`inspect`](Self::inspect) shows. Completes at once in
    /// memory, and also if they were known before, even if the backend is unavailable by now.
    pub(crate) async fn ready(&self) -> Result<()> {
        self.rows.ready().await
    }

    /// Calls `look` with each row and a version that is at least that of its last change. Holds the lock of
    /// the row, so neither a change of it nor an observer call for it runs meanwhile. Rows added or removed
    /// during the scan may be left out. A table that is not in memory must be observed and
    /// [`ready`](Self::ready).
    pub(crate) fn inspect(&self, mut look: impl FnMut(&str, RowRef<'_>, Version)) {
        self.rows.inspect(&mut look);
    }

    /// Returns a handle of the same rows for callers that do not decode them.
    pub(crate) fn untyped(&self) -> Table<()> {
        Table { schema: Arc::clone(&self.schema), rows: Arc::clone(&self.rows), row: PhantomData }
    }

    /// Calls `look` with one row, or `None` if it does not exist, as [`inspect`](Self::inspect) does.
    pub(crate) fn inspect_row(&self, key: &str, mut look: impl FnMut(Option<RowRef<'_>>, Version)) {
        self.rows.inspect_row(key, &mut look);
    }

    /// Returns whether this node knows the rows. In memory it always does.
    pub(crate) fn is_known(&self) -> bool {
        let mut is_known = false;
        self.rows.inspect_row("", &mut |_, _| is_known = true);
        is_known
    }

    /// Adds to an integer column.
    async fn add(&self, key: impl fmt::Display, column: &str, by: i128) -> Result<i128> {
        let index = self.schema.column_index(column)?;
        let column = &self.schema.columns()[index];
        if !column.kind.is_integer() {
            let table = self.name().to_owned();
            return Err(
                StateError::NotAnInteger { table, column: column.name, kind: column.kind.name() }.into()
            );
        }
        self.rows.add(self.key(key)?.as_str(), index, by).await
    }

    /// Formats several keys.
    fn keys<K: fmt::Display>(&self, keys: impl IntoIterator<Item = K>) -> Result<Vec<Box<str>>, StateError> {
        keys.into_iter().map(|key| Ok(self.key(key)?.as_str().into())).collect()
    }

    /// Formats the key as a string, without an allocation.
    fn key(&self, key: impl fmt::Display) -> Result<KeyText, StateError> {
        let mut written = KeyText { bytes: [0; KEY], len: 0 };
        write!(written, "{key}").map_err(|_| StateError::Row {
            table: self.name().to_owned(),
            reason: "the key's Display failed".to_owned(),
        })?;
        if written.len > KEY {
            return Err(StateError::KeyTooLong {
                table: self.name().to_owned(),
                len: written.len,
                limit: KEY,
            });
        }
        Ok(written)
    }
}

impl<T: Serialize> Table<T> {
    /// Writes a whole row, new or replacing an existing one.
    pub async fn set(&self, key: impl fmt::Display, row: &T) -> Result<()> {
        let row = encode(&self.schema, row)?;
        self.rows.set(self.key(key)?.as_str(), row, None).await
    }

    /// Writes a whole row that is deleted after that time, in one step. Use it for sessions and leases:
    /// between a `set` and an [`expire`](Self::expire) the handler may be dropped, or its process may end,
    /// and the row would remain forever.
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

    /// Writes several rows in one step. Writes none if a key or a value is too long or the rows do not all
    /// fit. If a key appears twice, the later row wins.
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
        let rows = rows.into_iter().map(encoded).collect::<Result<_, StateError>>()?;
        self.rows.set_many(rows).await
    }

    /// Writes `new` if the row is `expected`, in one step. Returns whether it was. `None` means no row: an
    /// expected `None` requires that the row does not exist, and a new `None` deletes it.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Player { name: String, points: u32 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// # let players = hub.table::<Player>("players", 100)?;
    /// let (old, new) = (Player { name: "Ada".into(), points: 1 }, Player { name: "Ada".into(), points: 2 });
    /// assert!(players.compare_and_set("ada", None, Some(&old)).await?); // only if the name is free
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
    /// Returns a row, or `None` if there is none with that key.
    pub async fn get(&self, key: impl fmt::Display) -> Result<Option<T>> {
        let row = self.rows.get(self.key(key)?.as_str()).await?;
        Ok(row.map(|row| decode(&self.schema, &row)).transpose()?)
    }

    /// Returns the rows of several keys, in the order of the keys, all as of one moment.
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
        let keys = self.keys(keys)?;
        let rows = self.rows.get_many(&keys).await?;
        let decoded = |row: Option<Row>| Ok(row.map(|row| decode(&self.schema, &row)).transpose()?);
        rows.into_iter().map(decoded).collect()
    }

    /// Returns an iterator over the rows, in no particular order, while others read and write.
    ///
    /// It returns each row that exists from the first step to the last exactly once, as of some moment in
    /// between. It returns no key twice, and no row that was created after it began. It holds no lock between
    /// its steps, so it blocks nobody, and you can keep it as long as you like.
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
        TableIter::new(self.clone())
    }

    /// Returns one page of the scan that [`iter`](Self::iter) performs: up to `limit` rows (at least 1, at
    /// most 1,000), and a cursor for the next page. Start with `None`. The cursor converts to and from a
    /// string, so you can send it to a browser and back.
    ///
    /// # Errors
    /// Also [`StateError::UnknownCursor`].
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
        let rows = page.rows.into_iter().map(decoded).collect::<Result<_, StateError>>()?;
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

/// A formatted key.
struct KeyText {
    /// Contains only whole UTF-8 strings.
    bytes: [u8; KEY],
    /// Bytes written, including those that did not fit.
    len: usize,
}

impl KeyText {
    /// Returns the key. It must not be too long.
    fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).expect("only whole strings are copied")
    }
}

impl fmt::Write for KeyText {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let end = self.len.saturating_add(part.len());
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(part.as_bytes());
        }
        self.len = end;
        Ok(())
    }
}
