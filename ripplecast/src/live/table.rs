//! Tables that publish their changes.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    ops::Deref,
    sync::Arc,
};

use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};

use super::{RETRY, unless_unavailable};
use crate::{
    Connection, Error, Message, Result, Room, Table,
    limits::ROWS_BEHIND,
    log::{cut, limited},
    outcome::{Dropped, Sent},
    state::{Epoch, Observation, RowRef, TextRow, Version},
};

/// A [`Table`] whose every change is pushed to a [`Room`], as
/// `{"table":T,"key":K,"row":{…},"version":N}`, with a `row` of `null` for a deletion. A member never sees a row
/// go backwards, and each change of a row has a higher `version`. Several tables can share a room.
///
/// **What is sent.** [`publish_to`](Table::publish_to) sends every column that is not
/// [private](crate::state::TableBuilder::private) to every member of the room;
/// [`publish_with`](Table::publish_with) sends what you choose. The key is always sent.
///
/// On Redis, the rows sent on a join, and all changes after Redis has lost some, also carry an `"epoch":"E"`.
/// Versions are comparable only within one epoch; a new epoch means that changes the tab has seen may be
/// lost. See [`LiveCounter`](crate::LiveCounter).
///
/// As with a [`LiveCounter`](crate::LiveCounter), changes through any handle are published. Publishing ends when the last clone
/// of this handle is dropped. Publish a table to a room only once.
///
/// **Overload.** When the node can't deliver fast enough, changes in between may be skipped, which is logged;
/// the current version of each row is published as soon as there is space. Up to 65,536 skipped rows are
/// remembered; others stay outdated for members until they change again. Each message has the
/// [key](Message::with_key) `row TABLE KEY`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
/// use ripplecast::{Connection, Hub, LiveTable, ws};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Player { name: String, points: u32 }
///
/// let hub = Hub::builder().build()?;
/// let players = hub.table::<Player>("players", 1024)?.publish_to(&hub.room("game"));
/// let endpoint = ws::handlers()
///     .with_state(players.clone())
///     .on_open(|players: LiveTable<Player>, conn: Connection| async move { players.join(&conn).await });
/// players.set("ada", &Player { name: "Ada".into(), points: 3 }).await?;
/// # let _ = endpoint; Ok(()) }
/// ```
#[must_use = "publishing ends when this handle is dropped"]
pub struct LiveTable<T> {
    table: Table<T>,
    publisher: Arc<RowPublisher>,
    /// Publishing lasts while this is held.
    observation: Arc<Observation>,
}

/// The JSON of a change.
#[derive(Serialize)]
struct RowChange<'a, R> {
    table: &'a str,
    key: &'a str,
    row: Option<R>,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<Epoch>,
}

impl<'a> RowChange<'a, RowRef<'a>> {
    /// Replaces the row by what is sent of it.
    fn with<R>(self, render: impl FnOnce(RowRef<'a>) -> R) -> RowChange<'a, R> {
        let Self { table, key, row, version, epoch } = self;
        RowChange { table, key, row: row.map(render), version, epoch }
    }
}

/// The JSON that marks where a snapshot begins or ends.
#[derive(Serialize)]
struct SnapshotMark<'a> {
    table: &'a str,
    snapshot: &'static str,
}

/// Returns the message of a row, or `None` for a row that clients don't see.
type Render = dyn Fn(RowChange<'_, RowRef<'_>>) -> Result<Option<Message>> + Send + Sync;

/// Pushes a table's rows to its room.
struct RowPublisher {
    table: Table<()>,
    room: Room,
    render: Box<Render>,
    /// The keys of rows that were sent, if `render` hides some. Only these are sent as deleted, so that hidden keys stay
    /// hidden. At most as many as the table has had rows since the last change of each.
    shown: Option<Mutex<HashSet<Box<str>>>>,
    /// Rows with a rejected change.
    behind: Mutex<Behind>,
}

/// See [`RowPublisher::behind`].
#[derive(Default)]
struct Behind {
    keys: BTreeSet<Box<str>>,
    /// Whether there were more rows than can be remembered.
    forgot: bool,
    /// Whether a task is retrying.
    retrying: bool,
}

impl RowPublisher {
    /// Returns the change of a row.
    fn change<'a, R>(&'a self, key: &'a str, row: Option<R>, version: Version) -> RowChange<'a, R> {
        let Version { number: version, epoch } = version;
        RowChange { table: self.table.name(), key, row, version, epoch }
    }

    /// Returns the message of an existing row, or `None` if clients don't see it. A row that can't be rendered is hidden,
    /// so that clients neither keep an older version of it nor fail to join. While the message waits, a newer change of
    /// the same row can replace it.
    fn row(&self, key: &str, row: RowRef<'_>, version: Version) -> Option<Message> {
        let message = (self.render)(self.change(key, Some(row), version)).unwrap_or_else(|error| {
            self.log_unpublished(key, &error);
            None
        })?;
        if let Some(shown) = &self.shown {
            shown.lock().insert(key.into());
        }
        Some(self.keyed(key, message))
    }

    fn log_unpublished(&self, key: &str, error: &Error) {
        limited!(ERROR, room = %cut(self.room.name()), key = %cut(key), error = %cut(error), "can't publish a row");
    }

    /// Returns the message of a deletion, or `None` if clients have not seen the row.
    fn deletion(&self, key: &str, version: Version) -> Result<Option<Message>> {
        if self.shown.as_ref().is_some_and(|shown| !shown.lock().contains(key)) {
            return Ok(None);
        }
        let message = Message::json(&self.change::<()>(key, None, version))?;
        Ok(Some(self.keyed(key, message)))
    }

    fn keyed(&self, key: &str, message: Message) -> Message {
        message.with_key(format!("row {} {key}", self.table.name()))
    }

    /// Returns the message at one end of a snapshot.
    fn mark(&self, snapshot: &'static str) -> Result<Message> {
        Message::json(&SnapshotMark { table: self.table.name(), snapshot })
    }

    /// Pushes a row; called under its lock. Returns whether the node was too overloaded to accept it.
    fn push(&self, key: &str, row: Option<RowRef<'_>>, version: Version) -> bool {
        if let Some(message) = row.and_then(|row| self.row(key, row, version)) {
            return self.is_refused(&message);
        }
        let deletion = self.deletion(key, version).unwrap_or_else(|error| {
            self.log_unpublished(key, &error);
            None
        });
        let Some(deletion) = deletion else { return false };
        let is_refused = self.is_refused(&deletion);
        if let (false, Some(shown)) = (is_refused, &self.shown) {
            shown.lock().remove(key);
        }
        is_refused
    }

    /// Pushes a message. Returns whether the node was too overloaded to accept it.
    fn is_refused(&self, message: &Message) -> bool {
        self.room.core().push_here(message) == Sent::Dropped(Dropped::Overloaded)
    }

    /// Sends the rows to a connection that has joined, between the two marks. Without the marks if this node does not
    /// know the rows yet.
    fn send_snapshot(&self, conn: &Connection) -> Result<()> {
        let mut is_first = true;
        let mut send = |message| {
            self.room.core().push_state(conn.local(), message, std::mem::replace(&mut is_first, false))
        };
        let is_known = self.table.is_known();
        if is_known {
            send(self.mark("begin")?)?;
        }
        let mut outcome = Ok(());
        self.table.inspect(|key, row, version| {
            if outcome.is_ok() {
                outcome = self.row(key, row, version).map_or(Ok(()), &mut send);
            }
        });
        outcome?;
        if is_known { send(self.mark("end")?) } else { Ok(()) }
    }

    /// Records a row with a rejected change. Its current version is published as soon as there is space.
    #[cold]
    fn note_refused(self: &Arc<Self>, key: &str) {
        let mut behind = self.behind.lock();
        if behind.keys.len() < ROWS_BEHIND {
            behind.keys.insert(key.into());
        } else if !behind.keys.contains(key) && !std::mem::replace(&mut behind.forgot, true) {
            limited!(
                ERROR,
                room = %cut(self.room.name()),
                limit = ROWS_BEHIND,
                "the node was overloaded for too long: changes of some rows are skipped until the rows change again or clients \
                 join again"
            );
        }
        if behind.retrying {
            return;
        }
        limited!(
            WARN,
            room = %cut(self.room.name()),
            "the node is overloaded; skipping some changes of a table"
        );
        // Without a runtime, the next change retries.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        behind.retrying = true;
        let publisher = self.clone();
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(RETRY).await;
                if publisher.catch_up() {
                    return;
                }
            }
        });
    }

    /// Publishes the remembered rows until the node is overloaded again. Returns whether none are left.
    fn catch_up(&self) -> bool {
        loop {
            let mut behind = self.behind.lock();
            let Some(key) = behind.keys.pop_first() else {
                (behind.retrying, behind.forgot) = (false, false);
                return true;
            };
            drop(behind);
            let mut refused = false;
            self.table.inspect_row(&key, |row, version| refused = self.push(&key, row, version));
            if refused {
                self.behind.lock().keys.insert(key);
                return false;
            }
        }
    }
}

impl<T> Table<T> {
    /// Publishes every change to a room.
    ///
    /// **Every column of every row is sent to every member of the room**, except columns marked as
    /// [private](crate::state::TableBuilder::private), and so is the key. If a row or its key holds something that a
    /// client must not know, such as a session's id, an address or another user's data, mark its column as private
    /// or choose what is sent with [`publish_with`](Self::publish_with).
    pub fn publish_to(&self, room: &Room) -> LiveTable<T> {
        self.publish(room, false, Box::new(|change| Message::json(&change).map(Some)))
    }

    /// Publishes every change to a room, with the columns of 64-bit integers (`i64`, `u64`) as text. Sends every
    /// column that is not private, as [`publish_to`](Self::publish_to) does.
    ///
    /// A browser's `JSON.parse` rounds integers above 2^53. Use this for ids and other numbers that may get
    /// that large.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Order { id: u64, items: u32 }
    ///
    /// // Pushes {"table":"orders","key":"a","row":{"id":"18446744073709551615","items":1},"version":1}.
    /// let orders = hub.table::<Order>("orders", 100)?.publish_text_to(&hub.room("orders"));
    /// orders.set("a", &Order { id: u64::MAX, items: 1 }).await?;
    /// # Ok(()) }
    /// ```
    pub fn publish_text_to(&self, room: &Room) -> LiveTable<T> {
        self.publish(room, false, Box::new(|change| Message::json(&change.with(TextRow)).map(Some)))
    }

    fn publish(&self, room: &Room, hides: bool, render: Box<Render>) -> LiveTable<T> {
        let publisher = Arc::new(RowPublisher {
            table: self.untyped(),
            room: room.clone(),
            render,
            shown: hides.then(Mutex::default),
            behind: Mutex::default(),
        });
        let publish = publisher.clone();
        let observation = self.observe(Arc::new(move |key, row, version| {
            if publish.push(key, row, version) {
                publish.note_refused(key);
            }
        }));
        LiveTable { table: self.clone(), publisher, observation: Arc::new(observation) }
    }
}

impl<T: DeserializeOwned + 'static> Table<T> {
    /// Publishes what `render` returns for each row, as the `row` of the message. A row for which it returns `None` is
    /// hidden: clients never learn of it, and those that have seen an earlier version are sent a deletion. A
    /// deletion carries the key alone.
    ///
    /// The key is sent as well, so it must not be a secret: use an id that clients may know.
    /// `render` sees [private](crate::state::TableBuilder::private) columns as zero or empty, so it can't send them. A row
    /// that does not deserialize into `T`, or whose result can't be written as JSON, is logged and hidden.
    ///
    /// `render` runs under the lock of the row: it must be quick and must not use this table. If it depends on anything
    /// but the row, a row that does not change is not sent again.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// use serde::{Deserialize, Serialize};
    /// use serde_json::json;
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Player { name: String, session: String, is_away: bool }
    ///
    /// // Pushes {"table":"players","key":"7","row":{"name":"Ada"},"version":1}.
    /// let players = hub.table::<Player>("players", 100)?.publish_with(&hub.room("game"), |_key, player| {
    ///     (!player.is_away).then(|| json!({ "name": player.name }))
    /// });
    /// players.set(7, &Player { name: "Ada".into(), session: "s3cret".into(), is_away: false }).await?;
    /// # Ok(()) }
    /// ```
    pub fn publish_with<R: Serialize>(
        &self,
        room: &Room,
        render: impl Fn(&str, T) -> Option<R> + Send + Sync + 'static,
    ) -> LiveTable<T> {
        let render = move |change: RowChange<'_, RowRef<'_>>| {
            let Some(row) = change.row else { return Ok(None) };
            let Some(seen) = render(change.key, row.decode_public()?) else { return Ok(None) };
            Message::json(&change.with(|_| seen)).map(Some)
        };
        self.publish(room, true, Box::new(render))
    }
}

impl<T> LiveTable<T> {
    /// Joins the room and sends every row to the connection, between `{"table":T,"snapshot":"begin"}` and
    /// `{"table":T,"snapshot":"end"}`. It misses no later change and sees no older row after a newer one. All
    /// rows enter its outbox at once, so use this for tables that fit in the outbox.
    ///
    /// At the end of a snapshot, a page that has been connected before removes the rows of the table that it has not
    /// received since the beginning: they were deleted while it was away. Changes may arrive between the two
    /// marks.
    ///
    /// While Redis is unavailable, the connection receives the rows known to this node. If this node knows
    /// none yet, the connection receives the rows once Redis is back, as changes without the two marks.
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed) when the connection is closed;
    /// [`Error::Overloaded`](crate::Error::Overloaded) when the rows can't be queued;
    /// [`Error::Backend`](crate::Error::Backend) when Redis denies access to the table.
    pub async fn join(&self, conn: &Connection) -> Result<()> {
        unless_unavailable(self.table.ready().await)?;
        conn.join(self.room().name())?;
        let outcome = self.publisher.send_snapshot(conn);
        if outcome.is_err() {
            conn.leave(self.room().name());
        }
        outcome
    }

    /// Returns the room that it publishes to.
    pub fn room(&self) -> &Room {
        &self.publisher.room
    }
}

impl<T> Clone for LiveTable<T> {
    fn clone(&self) -> Self {
        Self {
            table: self.table.clone(),
            publisher: self.publisher.clone(),
            observation: self.observation.clone(),
        }
    }
}

impl<T> Deref for LiveTable<T> {
    type Target = Table<T>;

    fn deref(&self) -> &Table<T> {
        &self.table
    }
}

impl<T> fmt::Debug for LiveTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveTable")
            .field("table", &self.table)
            .field("room", self.room())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hub;

    #[tokio::test]
    async fn the_number_of_remembered_rows_is_limited() {
        let hub = Hub::builder().build().unwrap();
        let publisher = hub.table::<TestRow>("rows", 1).unwrap().publish_to(&hub.room("r")).publisher;
        for row in 0..=ROWS_BEHIND {
            assert!(!publisher.behind.lock().forgot, "row {row}");
            publisher.note_refused(&row.to_string());
        }
        assert_eq!(publisher.behind.lock().keys.len(), ROWS_BEHIND);
        assert!(publisher.behind.lock().forgot, "one row exceeds the limit, which is logged");
        publisher.note_refused("7");
        assert!(publisher.catch_up(), "there is space again");
        let behind = publisher.behind.lock();
        assert!(behind.keys.is_empty() && !behind.forgot);
    }

    #[derive(serde::Serialize, serde::Deserialize)]
    struct TestRow {
        n: u32,
    }
}
