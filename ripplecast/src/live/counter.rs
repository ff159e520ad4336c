//! Counters that publish their changes.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{RETRY, unless_unavailable};
use crate::{
    Connection, Counter, Message, Result, Room,
    log::{cut, limited},
    name::check_name,
    outcome::{Dropped, Sent},
    state::{Epoch, Observation, Version},
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
