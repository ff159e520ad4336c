//! Counters and tables that publish their changes to a room. A change and its push are atomic, and so are a
//! join and its snapshot.

use std::{
    collections::BTreeSet,
    fmt,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::Serialize;

use parking_lot::Mutex;

use crate::{
    Connection, Counter, Message, Result, Room, Table,
    limits::ROWS_BEHIND,
    log::{cut, limited},
    name::check_name,
    outcome::{Dropped, Sent},
    state::{Epoch, Observation, RowRef, TextRow, Version},
};

/// A [`Counter`] whose every change is pushed to a [`Room`], in the order of the changes.
///
/// Changes through any handle of the counter are published. A member of the room never sees the value go
/// backwards: a change and its push are atomic under the counter's lock, and so are [joining](Self::join) and
/// reading the value.
///
/// **Lost writes.** If Redis loses changes that tabs have seen, as in some failovers, tabs receive the older
/// value that is now current. On Redis, the value sent on a join is `{"value":N,"epoch":"E"}`, and later
/// values are `{"value":N}`. After a loss they carry the new epoch, so that a page can detect it. The messages
/// of [`publish_with`](Counter::publish_with) are your own and carry no epoch.
///
/// Publishing continues while this handle or a clone exists, and while a connection that [joined](Self::join)
/// through it is open. [Publishing](Counter::publish_to) a counter to the same room again shares the existing
/// publisher; it does not push twice.
///
/// **Overload.** When the node can't deliver fast enough, values in between may be skipped; the newest is
/// published as soon as there is space. Each message has the [key](Message::with_key) `counter NAME` unless
/// `render` sets another: under [`Overflow::LatestPerKey`](crate::Overflow::LatestPerKey), a slow tab
/// receives the newest value without a backlog.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
/// use ripplecast::{Connection, Hub, LiveCounter, ws};
///
/// let hub = Hub::builder().build()?;
/// let counter = hub.counter("demo").publish_to(&hub.room("demo"))?; // pushes {"value":N}
/// let endpoint = ws::handlers()
///     .with_state(counter.clone())
///     .on_open(|counter: LiveCounter, conn: Connection| async move { counter.join(&conn).await });
/// assert_eq!(counter.increment().await?, 1);
/// # let _ = endpoint; Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "publishing ends when the last handle is dropped and no connection has joined through it"]
pub struct LiveCounter {
    counter: Counter,
    room: Room,
    /// Publishing lasts while this is held.
    published: Arc<PublishedCounter>,
}

impl Counter {
    /// Publishes every change to a room, as `{"value":N}`.
    ///
    /// On Redis, the value sent on a join is `{"value":N,"epoch":"E"}`. Later values carry no epoch unless it
    /// has changed; see [`LiveCounter`].
    ///
    /// # Errors
    /// When the name of the counter or of the room is empty or too long.
    pub fn publish_to(&self, room: &Room) -> Result<LiveCounter> {
        self.publish_values(room, "counter", |value, epoch| Message::text(value_and_epoch(value, epoch)))
    }

    /// Publishes every change to a room, as `{"value":"N"}`, with the value as text.
    ///
    /// A browser's `JSON.parse` rounds integers above 2^53, so that 9007199254740993 becomes
    /// 9007199254740992. Use this for a counter that may get that large, with `BigInt(message.value)` in the
    /// page. Publish a counter to a room in only one form.
    ///
    /// # Errors
    /// Same as [`publish_to`](Self::publish_to).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let bytes = hub.counter("bytes").publish_text_to(&hub.room("bytes"))?; // pushes {"value":"N"}
    /// bytes.add(1 << 60).await?;
    /// # Ok(()) }
    /// ```
    pub fn publish_text_to(&self, room: &Room) -> Result<LiveCounter> {
        let render = |value: i64, epoch| Message::text(value_and_epoch(format_args!("\"{value}\""), epoch));
        self.publish_values(room, "text counter", render)
    }

    /// Publishes the output of `render` to a room, once for each `kind`.
    fn publish_values(
        &self,
        room: &Room,
        kind: &str,
        render: impl Fn(i64, Option<Epoch>) -> Message + Send + Sync + 'static,
    ) -> Result<LiveCounter> {
        check_name("room", room.name())?;
        let publisher = format!("{kind} {}", self.name());
        let published = room.core().publisher(&publisher, || self.published(room, render))?;
        Ok(LiveCounter { counter: self.clone(), room: room.clone(), published })
    }

    /// Publishes every change to a room as the message that `render` returns for the value. `render` runs under
    /// the counter's lock: it must be quick and must not use this counter. Each call creates a new publisher.
    ///
    /// # Errors
    /// Same as [`publish_to`](Self::publish_to).
    pub fn publish_with(
        &self,
        room: &Room,
        render: impl Fn(i64) -> Message + Send + Sync + 'static,
    ) -> Result<LiveCounter> {
        check_name("room", room.name())?;
        let published = self.published(room, move |value, _epoch| render(value))?;
        Ok(LiveCounter { counter: self.clone(), room: room.clone(), published })
    }

    /// Starts publishing.
    fn published(
        &self,
        room: &Room,
        render: impl Fn(i64, Option<Epoch>) -> Message + Send + Sync + 'static,
    ) -> Result<Arc<PublishedCounter>> {
        let render = Arc::new(render);
        let publisher = Arc::new(CounterPublisher {
            room: room.clone(),
            render,
            key: format!("counter {}", self.name()).into(),
            behind: AtomicBool::new(false),
        });
        let (publish, counter) = (publisher.clone(), self.clone());
        let observation =
            self.observe(Arc::new(move |value, version| publish.publish(value, version, &counter)))?;
        Ok(Arc::new(PublishedCounter { publisher, _observation: observation }))
    }
}

/// Treats an unavailable backend as success: a member that joins receives the state once the backend is back.
fn unless_unavailable(ready: Result<()>) -> Result<()> {
    match ready {
        Err(error) if error.is_unavailable() => Ok(()),
        ready => ready,
    }
}

/// Encodes a value for publishing.
fn value_and_epoch(value: impl fmt::Display, epoch: Option<Epoch>) -> String {
    match epoch {
        None => format!("{{\"value\":{value}}}"),
        Some(epoch) => format!("{{\"value\":{value},\"epoch\":\"{epoch}\"}}"),
    }
}

/// A counter being published. Publishing lasts while this is held.
struct PublishedCounter {
    publisher: Arc<CounterPublisher>,
    /// Receives the changes.
    _observation: Observation,
}

/// Interval between attempts to publish what was skipped during overload.
const RETRY: Duration = Duration::from_millis(20);

/// Pushes the values of a counter to its room.
struct CounterPublisher {
    room: Room,
    render: Arc<dyn Fn(i64, Option<Epoch>) -> Message + Send + Sync>,
    /// The key of its messages, so that a newer value can replace a waiting one.
    key: Arc<str>,
    /// Whether a push was rejected, so that a task retries with the newest value.
    behind: AtomicBool,
}

impl CounterPublisher {
    /// Returns the message of a value.
    fn message(&self, value: i64, version: Version) -> Message {
        let message = (self.render)(value, version.epoch);
        if message.key().is_some() { message } else { message.with_key(self.key.clone()) }
    }

    /// Pushes a value; called under the counter's lock. During overload, values are skipped, and the newest
    /// is published as soon as there is space. What tabs show may lag, but does not stay wrong.
    fn publish(self: &Arc<Self>, value: i64, version: Version, counter: &Counter) {
        if self.room.core().push_here(&self.message(value, version)) != Sent::Dropped(Dropped::Overloaded) {
            return;
        }
        if self.behind.swap(true, Ordering::Relaxed) {
            return;
        }
        limited!(
            WARN,
            room = %cut(self.room.name()),
            "the node is overloaded; skipping some changes of a counter"
        );
        let (publisher, counter) = (self.clone(), counter.clone());
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            self.behind.store(false, Ordering::Relaxed); // the next change retries
            return;
        };
        runtime.spawn(async move {
            let overloaded = Sent::Dropped(Dropped::Overloaded);
            loop {
                tokio::time::sleep(RETRY).await;
                let pushed = counter.inspect(|known| {
                    let push = |(value, version)| {
                        publisher.room.core().push_here(&publisher.message(value, version))
                    };
                    let is_refused = known.map(push) == Some(overloaded);
                    if !is_refused {
                        publisher.behind.store(false, Ordering::Relaxed);
                    }
                    is_refused
                });
                if !matches!(pushed, Ok(true)) {
                    return;
                }
            }
        });
    }
}

impl LiveCounter {
    /// Joins the room and sends the current value to the connection. It misses no later change and sees no
    /// earlier value afterwards.
    ///
    /// While Redis is unavailable, the connection receives the last value known to this node. If this node
    /// knows none, the connection receives the value once Redis is back.
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed) when the connection is closed;
    /// [`Error::Overloaded`](crate::Error::Overloaded) when the value can't be queued;
    /// [`Error::Backend`](crate::Error::Backend) when Redis denies access to the counter.
    pub async fn join(&self, conn: &Connection) -> Result<()> {
        conn.keep(self.published.clone());
        unless_unavailable(self.counter.ready().await)?;
        let publisher = &self.published.publisher;
        self.counter.inspect(|known| match known {
            Some((value, version)) => conn.join_with(self.room.name(), publisher.message(value, version)),
            None => conn.join(self.room.name()),
        })?
    }

    /// Returns the room that it publishes to.
    pub fn room(&self) -> &Room {
        &self.room
    }
}

impl Deref for LiveCounter {
    type Target = Counter;

    fn deref(&self) -> &Counter {
        &self.counter
    }
}

impl fmt::Debug for LiveCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveCounter")
            .field("counter", &self.counter)
            .field("room", &self.room)
            .finish_non_exhaustive()
    }
}

/// A [`Table`] whose every change is pushed to a [`Room`], as `{"key":K,"row":{…},"version":N}`, with a `row`
/// of `null` for a deletion. A member never sees a row go backwards, and each change of a row has a higher
/// `version`.
///
/// On Redis, the rows sent on a join, and all changes after Redis has lost some, also carry an `"epoch":"E"`.
/// Versions are comparable only within one epoch; a new epoch means that changes the tab has seen may be
/// lost. See [`LiveCounter`].
///
/// As with a [`LiveCounter`], changes through any handle are published. Publishing ends when the last clone
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
    room: Room,
    /// Whether 64-bit integers are published as text.
    as_text: bool,
    /// Publishing lasts while this is held.
    observation: Arc<Observation>,
}

/// The JSON of a change.
#[derive(Serialize)]
struct RowChange<'a, R> {
    key: &'a str,
    row: Option<R>,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<Epoch>,
}

/// Returns the message of a change. While it waits, a newer change of the same row can replace it.
fn row_message(
    table: &str,
    key: &str,
    row: Option<RowRef<'_>>,
    version: Version,
    as_text: bool,
) -> Result<Message> {
    let Version { number: version, epoch } = version;
    let message = if as_text {
        Message::json(&RowChange { key, row: row.map(TextRow), version, epoch })?
    } else {
        Message::json(&RowChange { key, row, version, epoch })?
    };
    Ok(message.with_key(format!("row {table} {key}")))
}

/// Pushes a table's rows to its room.
struct RowPublisher {
    table: Table<()>,
    room: Room,
    /// Whether 64-bit integers are published as text.
    as_text: bool,
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
    /// Pushes a row; called under its lock. Returns whether the node was too overloaded to accept it.
    fn push(&self, key: &str, row: Option<RowRef<'_>>, version: Version) -> bool {
        match row_message(self.table.name(), key, row, version, self.as_text) {
            Ok(message) => self.room.core().push_here(&message) == Sent::Dropped(Dropped::Overloaded),
            Err(error) => {
                limited!(ERROR, room = %cut(self.room.name()), key = %cut(key), error = %cut(error), "can't publish a change");
                false
            }
        }
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
    pub fn publish_to(&self, room: &Room) -> LiveTable<T> {
        self.publish(room, false)
    }

    /// Publishes every change to a room, with the columns of 64-bit integers (`i64`, `u64`) as text.
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
    /// // Pushes {"key":"a","row":{"id":"18446744073709551615","items":1},"version":1}.
    /// let orders = hub.table::<Order>("orders", 100)?.publish_text_to(&hub.room("orders"));
    /// orders.set("a", &Order { id: u64::MAX, items: 1 }).await?;
    /// # Ok(()) }
    /// ```
    pub fn publish_text_to(&self, room: &Room) -> LiveTable<T> {
        self.publish(room, true)
    }

    fn publish(&self, room: &Room, as_text: bool) -> LiveTable<T> {
        let (table, room) = (self.untyped(), room.clone());
        let publisher =
            Arc::new(RowPublisher { table, room: room.clone(), as_text, behind: Mutex::default() });
        let observation = self.observe(Arc::new(move |key, row, version| {
            if publisher.push(key, row, version) {
                publisher.note_refused(key);
            }
        }));
        LiveTable { table: self.clone(), room, as_text, observation: Arc::new(observation) }
    }
}

impl<T> LiveTable<T> {
    /// Joins the room and sends every row to the connection. It misses no later change and sees no older row
    /// after a newer one. All rows enter its outbox at once, so use this for tables that fit in the outbox.
    ///
    /// While Redis is unavailable, the connection receives the rows known to this node. If this node knows
    /// none yet, the connection receives the rows once Redis is back.
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed) when the connection is closed;
    /// [`Error::Overloaded`](crate::Error::Overloaded) when the rows can't be queued;
    /// [`Error::Backend`](crate::Error::Backend) when Redis denies access to the table.
    pub async fn join(&self, conn: &Connection) -> Result<()> {
        unless_unavailable(self.table.ready().await)?;
        conn.join(self.room.name())?;
        let (mut outcome, mut is_first) = (Ok(()), true);
        self.table.inspect(|key, row, version| {
            if outcome.is_ok() {
                let message = row_message(self.table.name(), key, Some(row), version, self.as_text);
                outcome =
                    message.and_then(|message| self.room.core().push_state(conn.local(), message, is_first));
                is_first = false;
            }
        });
        if outcome.is_err() {
            conn.leave(self.room.name());
        }
        outcome
    }

    /// Returns the room that it publishes to.
    pub fn room(&self) -> &Room {
        &self.room
    }
}

impl<T> Clone for LiveTable<T> {
    fn clone(&self) -> Self {
        Self {
            table: self.table.clone(),
            room: self.room.clone(),
            as_text: self.as_text,
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
            .field("room", &self.room)
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
        let table = hub.table::<TestRow>("rows", 1).unwrap().untyped();
        let publisher =
            Arc::new(RowPublisher { table, room: hub.room("r"), as_text: false, behind: Mutex::default() });
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
