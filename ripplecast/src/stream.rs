//! At least once: messages on named streams, kept until every group has handled them.
//!
//! [`Streams`] is what a hub holds. Behind it stands a [`StreamBackend`]; `stream/runner.rs` runs the subscriptions of each
//! backend alike.

mod id;
mod memory;
mod options;
mod pause;
mod redis;
mod runner;

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{Error, Result, limits, store::Reply};
use runner::{Control, Life, Runner, is_own_handler};

pub use id::StreamId;
pub use options::ReliableOptions;

/// Longest payload, in bytes: a message names what happened. What is larger belongs where it can be fetched from.
const PAYLOAD: usize = 1 << 20;
/// Messages of a stream at the most. Setting: `max_len`. A night of a quiet application without anybody who handles them.
const MAX_LEN: usize = 100_000;
/// Dead letters of a stream at the most; beyond that the oldest are dropped. More than anybody looks through.
const DEAD_LETTERS: usize = 10_000;
/// What the name of the stream of dead letters ends with.
const DEAD: &str = ".dead";

/// A message of a stream, as a handler gets it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct StreamMessage {
    /// Its id; the same at each delivery.
    pub id: StreamId,
    /// The stream that it was published on.
    pub stream: Arc<str>,
    /// What was published.
    pub payload: Bytes,
    /// The how manieth delivery to this group this is, from 1. Above 1 the message may have been handled before, in part
    /// or in full.
    pub deliveries: u32,
    /// Where it comes from, and why it was given up, on a stream of dead letters.
    pub dead: Option<DeadLetter>,
}

/// Why a message became a dead letter.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Its id on the stream that it was published on.
    pub id: StreamId,
    /// The group that could not handle it.
    pub group: String,
    /// What the last delivery failed with; at most 1 KiB.
    pub reason: String,
    /// How often it was delivered.
    pub deliveries: u32,
}

/// How a stream is, and how far its groups are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct StreamStatus {
    /// Messages that are kept, handled ones too.
    pub length: u64,
    /// Messages that were ever published.
    pub published: u64,
    /// The newest message's id; zero if there never was one.
    pub last: StreamId,
    /// Dead letters that are kept.
    pub dead: u64,
    /// The groups, by name.
    pub groups: Vec<GroupStatus>,
}

/// How far a group is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// Its subscriptions, on all nodes; those that died may still be among them for a while.
    pub consumers: u64,
    /// Messages that were delivered and are not handled yet.
    pub pending: u64,
    /// Messages that were not delivered yet. None when the backend can't tell, because somebody deleted messages that the
    /// group had not read.
    pub lag: Option<u64>,
    /// The newest message that was delivered.
    pub delivered: StreamId,
}

/// What a subscription has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ReliableCounts {
    /// Messages whose handler returned `Ok`.
    pub handled: u64,
    /// Deliveries whose handler failed or panicked.
    pub failed: u64,
    /// Messages that were moved to the dead letters.
    pub dead: u64,
    /// Messages that were taken over from a subscription which ended or fell silent.
    pub claimed: u64,
    /// Messages that vanished from the stream while somebody held them, such as by hand with `XTRIM`.
    pub trimmed: u64,
}

/// What a stream, or a message for one, was refused for; found in [`Error::Stream`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The name of a stream or a group is empty.
    #[error("the name of a {what} can't be empty; give it one")]
    EmptyName {
        /// What should have had a name.
        what: &'static str,
    },
    /// A payload is larger than a stream takes.
    #[error(
        "a payload for stream `{stream}` has {len} bytes and may have {limit}; publish where it lies instead"
    )]
    PayloadTooLong {
        /// The stream.
        stream: String,
        /// The payload's length in bytes.
        len: usize,
        /// The longest allowed, in bytes.
        limit: usize,
    },
    /// The stream holds as many messages as it may, and the oldest is not handled by every group. Nothing was published.
    #[error("stream `{stream}` is full (limit {limit} {unit}): {}; nothing was published, try again later", held_up(.group))]
    Full {
        /// The stream.
        stream: String,
        /// Its limit.
        limit: usize,
        /// What the limit counts: `messages` or `bytes`.
        unit: &'static str,
        /// A group that has not handled the oldest message; none if the stream has no group.
        group: Option<String>,
    },
    /// Messages can't be published to a stream of dead letters, or the name is nothing but its ending.
    #[error(
        "`{stream}` is the name of a stream of dead letters, which are put there when they can't be handled; publish to another"
    )]
    DeadLetters {
        /// The name.
        stream: String,
    },
    /// That is no id of a message.
    #[error("`{text}` is no id of a message; they look like 1700000000000-0")]
    Id {
        /// What was given.
        text: String,
    },
}

/// Who holds a full stream up.
fn held_up(group: &Option<String>) -> String {
    match group {
        Some(group) => format!("group `{group}` has not handled its oldest message"),
        None => "it has no group that handles its messages".to_owned(),
    }
}

/// A handler with its future boxed, as the subscription's tasks call it.
type Handler = Box<dyn Fn(StreamMessage) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send + Sync>;

/// What keeps streams. One per hub. Names and payloads were checked.
trait StreamBackend: Send + Sync {
    /// Appends a message, unless the stream is full of what is not handled.
    fn publish<'a>(&'a self, stream: &'a str, payload: Bytes, max_len: usize) -> Reply<'a, StreamId>;
    /// See [`ReliableStream::status`].
    fn status<'a>(&'a self, stream: &'a str) -> Reply<'a, StreamStatus>;
    /// See [`ReliableStream::remove_group`].
    fn remove_group<'a>(&'a self, stream: &'a str, group: &'a str) -> Reply<'a, bool>;
    /// See [`ReliableStream::delete`].
    fn delete<'a>(&'a self, stream: &'a str) -> Reply<'a, bool>;
    /// Makes the group if need be, and a consumer in it.
    fn join<'a>(
        &'a self,
        stream: &'a Arc<str>,
        group: &'a Arc<str>,
        options: &'a ReliableOptions,
        control: &'a Arc<Control>,
    ) -> Reply<'a, Arc<dyn Consumer>>;
}

/// A subscription's part of a group. What it was given and has not settled is its own: nobody else gets that while it lives.
trait Consumer: Send + Sync {
    /// Waits for messages, up to `count`; perhaps for none, so that it is called again. Never called twice at once. Backends
    /// that are away are waited for.
    fn take(&self, count: usize) -> Pin<Box<dyn Future<Output = Vec<Delivery>> + Send + '_>>;
    /// How often [`renew`](Self::renew) has to be called for each message that is held; none for never.
    fn renew_every(&self) -> Option<Duration>;
    /// Says that a message is still held.
    fn renew<'a>(&'a self, message: &'a StreamMessage) -> Reply<'a, ()>;
    /// Another delivery of a message begins, if it is still this consumer's.
    fn again<'a>(&'a self, message: &'a StreamMessage) -> Reply<'a, Again>;
    /// The message is handled.
    fn acknowledge<'a>(&'a self, message: &'a StreamMessage) -> Reply<'a, ()>;
    /// Moves the message to the dead letters, in one step; false when somebody else has it or has handled it.
    fn bury<'a>(&'a self, message: &'a StreamMessage, reason: &'a str) -> Reply<'a, bool>;
    /// Gives the message up, so that another may have it at once. A delivery that no handler saw doesn't count.
    fn release<'a>(&'a self, message: &'a StreamMessage, seen: bool) -> Reply<'a, ()>;
    /// Lets [`take`](Self::take) return soon; nothing more will be taken.
    fn stop(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
    /// Leaves the group, and gives up whatever is still held.
    fn leave(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// A message that a consumer was given.
struct Delivery {
    /// The message.
    message: StreamMessage,
    /// Whether another had it before.
    claimed: bool,
    /// Why no handler can have it.
    fault: Option<String>,
}

/// Whose a message is that is to be delivered again.
enum Again {
    /// Still this consumer's; how often it was delivered, with the delivery that begins.
    Ours { deliveries: u32 },
    /// Another's, or already handled.
    Theirs,
    /// It is not on the stream any more, so that only this consumer has it.
    Gone,
}

/// The streams of a hub. Clones are handles of the same streams.
#[derive(Clone)]
pub(crate) struct Streams {
    /// What keeps them.
    backend: Arc<dyn StreamBackend>,
    /// What the subscriptions share.
    life: Arc<Life>,
}

impl Streams {
    /// Streams within this process.
    pub(crate) fn memory() -> Self {
        Self::with(memory::Memory::default())
    }

    /// Streams on that Redis.
    pub(crate) fn redis(redis: crate::redis::Redis) -> Self {
        Self::with(self::redis::Remote::new(redis))
    }

    /// Streams on that backend.
    fn with(backend: impl StreamBackend + 'static) -> Self {
        Self { backend: Arc::new(backend), life: Life::new() }
    }

    /// Ends all subscriptions, those that come later too. To be called when the hub shuts down.
    pub(crate) fn close(&self) {
        self.life.close();
    }

    /// Waits until all subscriptions have ended, at most for as long as handlers have at shutdown.
    pub(crate) async fn ended(&self) {
        self.life.ended().await;
    }

    /// The stream of that name.
    pub(crate) fn stream(&self, name: &str) -> ReliableStream {
        ReliableStream { streams: self.clone(), name: name.into(), max_len: MAX_LEN }
    }
}

/// Checks the name of a stream or a group.
fn check_name(what: &'static str, name: &str, limit: usize) -> Result<()> {
    match name.len() {
        0 => Err(StreamError::EmptyName { what }.into()),
        len if len > limit => Err(Error::NameTooLong { what, len, limit }),
        _ => Ok(()),
    }
}

/// A stream: messages that are kept until every group has handled them. See [`Hub::stream`](crate::Hub::stream). Cheap to
/// clone.
#[derive(Clone)]
pub struct ReliableStream {
    /// The streams that it is one of.
    streams: Streams,
    /// Its name; a wrong one is reported by the operations.
    name: Arc<str>,
    /// Messages at the most.
    max_len: usize,
}

impl ReliableStream {
    /// The stream's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The stream with another bound: messages that it keeps at the most; default 100,000. It holds for what is published
    /// through this handle, so give it wherever you publish.
    #[must_use]
    pub fn max_len(mut self, messages: usize) -> Self {
        self.max_len = messages;
        self
    }

    /// The stream of the dead letters of this one: `NAME.dead`.
    #[must_use]
    pub fn dead_letters(&self) -> Self {
        self.streams.stream(&format!("{}{DEAD}", self.name))
    }

    /// Publishes a message; see [`Hub::publish_reliable`](crate::Hub::publish_reliable).
    ///
    /// # Errors
    /// As there; also [`Error::Setting`] when [`max_len`](Self::max_len) is 0.
    pub async fn publish(&self, payload: impl Into<Bytes>) -> Result<StreamId> {
        self.check()?;
        let (payload, stream) = (payload.into(), self.name.to_string());
        if stream.ends_with(DEAD) {
            return Err(StreamError::DeadLetters { stream }.into());
        }
        if payload.len() > PAYLOAD {
            return Err(StreamError::PayloadTooLong { stream, len: payload.len(), limit: PAYLOAD }.into());
        }
        if self.max_len == 0 {
            return Err(Error::setting(
                "max_len",
                0,
                "a stream that keeps nothing takes nothing; give 1 or more",
            ));
        }
        self.streams.backend.publish(&self.name, payload, self.max_len).await
    }

    /// Handles the stream's messages; see [`Hub::subscribe_reliable`](crate::Hub::subscribe_reliable).
    ///
    /// # Errors
    /// As there.
    pub async fn subscribe<H, F>(&self, group: impl AsRef<str>, handler: H) -> Result<ReliableSubscription>
    where
        H: Fn(StreamMessage) -> F + Send + Sync + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.subscribe_with(group, ReliableOptions::default(), handler).await
    }

    /// As [`subscribe`](Self::subscribe), with other settings.
    ///
    /// # Errors
    /// Also [`Error::Setting`], for settings that can't be.
    ///
    /// ```
    /// use ripplecast::{Error, ReliableOptions};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let orders = hub.stream("orders");
    /// let (gone, mut dead) = tokio::sync::mpsc::unbounded_channel();
    /// let once = ReliableOptions::new().max_deliveries(1);
    /// let _bills = orders.subscribe_with("bills", once, async |_| Err(Error::other("no paper"))).await?;
    /// let _dead = orders
    ///     .dead_letters()
    ///     .subscribe("operator", move |message| {
    ///         let gone = gone.clone();
    ///         async move { gone.send(message.dead).map_err(Error::other) }
    ///     })
    ///     .await?;
    /// orders.publish("4711").await?;
    /// assert_eq!(dead.recv().await.flatten().map(|dead| dead.reason).as_deref(), Some("no paper"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe_with<H, F>(
        &self,
        group: impl AsRef<str>,
        options: ReliableOptions,
        handler: H,
    ) -> Result<ReliableSubscription>
    where
        H: Fn(StreamMessage) -> F + Send + Sync + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.check()?;
        check_name("group", group.as_ref(), limits::NAME)?;
        options.check()?;
        let handler: Handler = Box::new(move |message| Box::pin(handler(message)));
        let (stream, group, control) = (Arc::clone(&self.name), Arc::from(group.as_ref()), Control::new());
        let consumer = self.streams.backend.join(&stream, &group, &options, &control).await?;
        let runner = Runner { stream, group, handler, options, consumer, control: Arc::clone(&control) };
        Ok(ReliableSubscription { task: runner.start(&self.streams.life), control, detached: false })
    }

    /// How the stream is now, and how far its groups are. A stream that nobody has used is empty.
    ///
    /// # Errors
    /// For a wrong name, and when the backend is away.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// hub.publish_reliable("orders", "4711").await?;
    /// let orders = hub.stream("orders").status().await?;
    /// assert_eq!((orders.length, orders.groups.len()), (1, 0));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn status(&self) -> Result<StreamStatus> {
        self.check()?;
        self.streams.backend.status(&self.name).await
    }

    /// Forgets a group: its messages need no handling any more, and no longer hold up those who publish. Whether there was
    /// one. A subscription of it that still runs makes it anew, from the oldest message on that is kept.
    ///
    /// # Errors
    /// For wrong names, and when the backend is away.
    pub async fn remove_group(&self, group: impl AsRef<str>) -> Result<bool> {
        self.check()?;
        check_name("group", group.as_ref(), limits::NAME)?;
        self.streams.backend.remove_group(&self.name, group.as_ref()).await
    }

    /// Deletes the stream, with its messages and groups. Whether there was one. Its dead letters stay; they are a stream of
    /// their own.
    ///
    /// # Errors
    /// For a wrong name, and when the backend is away.
    pub async fn delete(&self) -> Result<bool> {
        self.check()?;
        self.streams.backend.delete(&self.name).await
    }

    /// Checks the name.
    fn check(&self) -> Result<()> {
        check_name("stream", &self.name, limits::NAME - DEAD.len())?;
        if self.name.trim_end_matches(DEAD).is_empty() {
            return Err(StreamError::DeadLetters { stream: self.name.to_string() }.into());
        }
        Ok(())
    }
}

impl fmt::Debug for ReliableStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReliableStream").field("name", &self.name).field("max_len", &self.max_len).finish()
    }
}

/// A subscription's handle; see [`Hub::subscribe_reliable`](crate::Hub::subscribe_reliable). Dropping it ends the
/// subscription, unless it is [detached](Self::detach).
///
/// A handler that is running then finishes, and what it says is kept. Messages that wait to be tried again go to another
/// subscription of the group, or wait for one.
#[must_use = "dropping a ReliableSubscription ends it; call detach() to keep it as long as the hub lives"]
pub struct ReliableSubscription {
    /// Takes messages and starts the handlers.
    task: tokio::task::JoinHandle<()>,
    /// What is shared with that task.
    control: Arc<Control>,
    /// Whether it is to go on without this handle.
    detached: bool,
}

impl ReliableSubscription {
    /// What has been counted since it began.
    pub fn counts(&self) -> ReliableCounts {
        self.control.counters.read()
    }

    /// Ends the subscription and waits for the handlers that are running, and until the backend knows what they said, or
    /// has been away for 5 s. Afterwards none runs.
    ///
    /// Called by one of its own handlers it doesn't wait. A handler that waits for a task that calls this waits for ever.
    ///
    /// # Cancellation
    /// The subscription ends, also if the future is dropped.
    pub async fn unsubscribe(mut self) {
        self.control.stop.send_replace(true);
        if !is_own_handler(&self.control) {
            // The task doesn't panic, so the only error is that the runtime is going down: it runs no more either way.
            let _ = (&mut self.task).await;
        }
    }

    /// Keeps the subscription for as long as the hub lives.
    ///
    /// A handler that owns a clone of the hub keeps that alive in turn, until it shuts down.
    pub fn detach(mut self) {
        self.detached = true;
    }
}

impl Drop for ReliableSubscription {
    fn drop(&mut self) {
        if !self.detached {
            self.control.stop.send_replace(true);
        }
    }
}

impl fmt::Debug for ReliableSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReliableSubscription").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

/// Streams: messages that are delivered at least once.
impl crate::Hub {
    /// A stream, to publish with another bound, subscribe with other settings, or see how it is.
    ///
    /// A stream needs no declaration; its name has 1 to 250 bytes. Another one is reported by the operations.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let orders = hub.stream("orders").max_len(1_000);
    /// let first = orders.publish("4711").await?;
    /// let second = orders.publish("4712").await?;
    /// assert!(first < second);
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream(&self, name: impl AsRef<str>) -> ReliableStream {
        self.streams().stream(name.as_ref())
    }

    /// Publishes a message on a stream, to be handled at least once by each of its groups; the message's id.
    ///
    /// Once this returns `Ok` the message is kept, until every group has handled it or moved it to the dead letters, and
    /// at least one group there must be. It is kept where the hub keeps its state: in memory for as long as this process
    /// lives, on Redis for as long as that keeps its data. Messages that one task publishes, one after the other, are on
    /// the stream in that order.
    ///
    /// # Errors
    /// [`StreamError`], in [`Error::Stream`], for an empty name, a payload above 1 MiB and a full stream;
    /// [`Error::NameTooLong`] for a name above 250 bytes. When the backend is away or too slow, its error; after a
    /// timeout the message may be on the stream all the same, and be there twice if it is published again.
    ///
    /// # Overload
    /// A stream keeps up to 100,000 messages, or what [`ReliableStream::max_len`] says. Beyond that, handled ones make
    /// space; while the oldest is not handled, publishing fails with [`StreamError::Full`].
    ///
    /// # Cancellation
    /// A future that is dropped may or may not have published the message.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let id = hub.publish_reliable("orders", "4711").await?;
    /// println!("order 4711 is message {id}");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish_reliable(
        &self,
        stream: impl AsRef<str>,
        payload: impl Into<Bytes>,
    ) -> Result<StreamId> {
        self.stream(stream).publish(payload).await
    }

    /// Calls `handler` with each message of a stream, at least once, as a member of a group.
    ///
    /// Each group gets every message; the subscriptions of one group share them. A group that is new begins with the oldest
    /// message that is kept. A handler that returns `Ok` acknowledges its message. After an error or a panic the message is
    /// tried again, first after some 100 ms, then after twice as long each time; after 5 deliveries it goes to the dead letters, the
    /// stream `NAME.dead`, with the reason. What a subscription held whose process ended goes to another of its
    /// group. So a handler must bear to see a message twice.
    ///
    /// One handler runs at a time, with one message after the other in the order of the stream;
    /// [`ReliableStream::subscribe_with`] changes all of this. The subscription lasts as long as the
    /// [`ReliableSubscription`] is kept. Its tasks run on the runtime in which this is called.
    ///
    /// # Errors
    /// [`Error::NameTooLong`] for a stream above 250 bytes or a group above 255; [`StreamError::EmptyName`]; and when the
    /// backend is away. When it goes away later, the subscription waits for it and goes on.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Overload
    /// No more is taken from the stream than handlers are free, so nothing queues up in the process.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # use ripplecast::Error;
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let (seen, mut log) = tokio::sync::mpsc::unbounded_channel();
    /// hub.publish_reliable("orders", "4711").await?;
    /// let subscription = hub
    ///     .subscribe_reliable("orders", "bills", move |message| {
    ///         let seen = seen.clone();
    ///         async move { seen.send(message.payload).map_err(Error::other) }
    ///     })
    ///     .await?;
    /// assert_eq!(log.recv().await.as_deref(), Some(&b"4711"[..]));
    /// subscription.unsubscribe().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe_reliable<H, F>(
        &self,
        stream: impl AsRef<str>,
        group: impl AsRef<str>,
        handler: H,
    ) -> Result<ReliableSubscription>
    where
        H: Fn(StreamMessage) -> F + Send + Sync + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.stream(stream).subscribe(group, handler).await
    }
}
