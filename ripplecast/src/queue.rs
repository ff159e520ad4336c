//! At least once: messages on named streams, kept until every group has handled them.
//!
//! [`Streams`] is what a hub holds. Behind it stands a [`StreamBackend`]; `queue/runner.rs` runs the subscriptions of each
//! backend alike.

mod backend;
mod id;
mod memory;
mod message;
mod options;
mod pause;
mod redis;
mod runner;
mod subscription;

pub use self::{
    id::StreamId,
    message::{DeadLetter, GroupStatus, ReliableCounts, StreamMessage, StreamStatus},
    options::ReliableOptions,
    subscription::ReliableSubscription,
};

use std::{fmt, future::Future, sync::Arc};

use bytes::Bytes;

use self::{
    backend::{Handler, StreamBackend},
    runner::{Control, Life, Runner},
};
use crate::{Error, Result, StreamError, limits};

/// Longest payload, in bytes: a message names what happened. What is larger belongs where it can be fetched from.
const PAYLOAD: usize = 1 << 20;
/// Messages of a stream at the most. Setting: `max_len`. A night of a quiet application without anybody who handles them.
const MAX_LEN: usize = 100_000;
/// Dead letters of a stream at the most; beyond that the oldest are dropped. More than anybody looks through.
const DEAD_LETTERS: usize = 10_000;
/// What the name of the stream of dead letters ends with.
const DEAD: &str = ".dead";

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
    pub(crate) fn redis(redis: crate::redis_client::Redis) -> Self {
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
