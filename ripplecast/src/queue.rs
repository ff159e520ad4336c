//! Queues: messages on named streams, kept until every group has handled them at least once.
//!
//! A hub holds [`Streams`], which uses a [`StreamBackend`]. `queue/runner.rs` runs subscriptions in the same
//! way for every backend.

mod backend;
mod id;
mod memory;
mod message;
mod options;
mod pause;
#[cfg(feature = "redis")]
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
use crate::{Error, Result, StreamError, limits, name::check_filled};

/// Longest payload, in bytes. A message names what happened; larger data belongs in a store, with a reference
/// here.
const PAYLOAD: usize = 1 << 20;
/// Maximum messages of a stream. Setting: `max_len`. A night of a quiet application without any handler
/// running.
const MAX_LEN: usize = 100_000;
/// Maximum dead letters of a stream; the oldest are dropped beyond it. More than anyone reads.
const DEAD_LETTERS: usize = 10_000;
/// Suffix of the name of a stream of dead letters.
const DEAD: &str = ".dead";

/// The streams of a hub. Clones are handles of the same streams.
#[derive(Clone)]
pub(crate) struct Streams {
    backend: Arc<dyn StreamBackend>,
    /// State shared by the subscriptions.
    life: Arc<Life>,
}

impl Streams {
    /// Creates streams within this process.
    pub(crate) fn memory() -> Self {
        Self::with(memory::Memory::default())
    }

    /// Creates streams on that backend.
    fn with(backend: impl StreamBackend + 'static) -> Self {
        Self { backend: Arc::new(backend), life: Life::new() }
    }

    /// Ends all current and future subscriptions. Called when the hub shuts down.
    pub(crate) fn close(&self) {
        self.life.close();
    }

    /// Waits until all subscriptions have ended, or until the time that handlers have at shutdown is over.
    pub(crate) async fn ended(&self) {
        self.life.ended().await;
    }

    /// Returns the stream with that name.
    pub(crate) fn stream(&self, name: &str) -> ReliableStream {
        ReliableStream { streams: self.clone(), name: name.into(), max_len: MAX_LEN }
    }
}

/// A stream: messages that are kept until every group has handled them. See
/// [`Hub::stream`](crate::Hub::stream). Cheap to clone.
#[derive(Clone)]
pub struct ReliableStream {
    streams: Streams,
    /// Not checked yet; the operations reject an invalid name.
    name: Arc<str>,
    max_len: usize,
}

impl ReliableStream {
    /// Returns the stream's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets the maximum number of messages that the stream keeps; default 100,000. It applies to messages
    /// published through this handle, so set it wherever you publish.
    #[must_use]
    pub fn max_len(mut self, messages: usize) -> Self {
        self.max_len = messages;
        self
    }

    /// Returns the stream of this stream's dead letters: `NAME.dead`.
    #[must_use]
    pub fn dead_letters(&self) -> Self {
        self.streams.stream(&format!("{}{DEAD}", self.name))
    }

    /// Publishes a message; see [`Hub::publish_reliable`](crate::Hub::publish_reliable).
    ///
    /// # Errors
    /// As [`Hub::publish_reliable`](crate::Hub::publish_reliable). Also [`Error::Setting`] if
    /// [`max_len`](Self::max_len) is 0.
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
            return Err(Error::setting("max_len", 0, "expected 1 or more"));
        }
        self.streams.backend.publish(&self.name, payload, self.max_len).await
    }

    /// Handles the stream's messages; see [`Hub::subscribe_reliable`](crate::Hub::subscribe_reliable).
    ///
    /// # Errors
    /// As [`Hub::subscribe_reliable`](crate::Hub::subscribe_reliable).
    pub async fn subscribe<H, F>(&self, group: impl AsRef<str>, handler: H) -> Result<ReliableSubscription>
    where
        H: Fn(StreamMessage) -> F + Send + Sync + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.subscribe_with(group, ReliableOptions::default(), handler).await
    }

    /// Handles the stream's messages with other settings; otherwise like [`subscribe`](Self::subscribe).
    ///
    /// # Errors
    /// Also [`Error::Setting`] if the settings are not valid.
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
        check_filled("group", group.as_ref(), limits::NAME)?;
        options.check()?;
        let handler: Handler = Box::new(move |message| Box::pin(handler(message)));
        let (stream, group, control) = (Arc::clone(&self.name), Arc::from(group.as_ref()), Control::new());
        let consumer = self.streams.backend.join(&stream, &group, &options, &control).await?;
        let runner = Runner { stream, group, handler, options, consumer, control: Arc::clone(&control) };
        Ok(ReliableSubscription { task: runner.start(&self.streams.life), control, detached: false })
    }

    /// Returns the state of the stream and the progress of its groups. A stream that was never used is empty.
    ///
    /// # Errors
    /// If the name is not valid or the backend is unavailable.
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

    /// Removes a group and returns whether it existed. Its messages no longer need handling and no longer
    /// hold up publishers. A subscription of the group that still runs creates it again, starting with the
    /// oldest message kept.
    ///
    /// # Errors
    /// If a name is not valid or the backend is unavailable.
    pub async fn remove_group(&self, group: impl AsRef<str>) -> Result<bool> {
        self.check()?;
        check_filled("group", group.as_ref(), limits::NAME)?;
        self.streams.backend.remove_group(&self.name, group.as_ref()).await
    }

    /// Deletes the stream with its messages and groups, and returns whether it existed. Its dead letters
    /// remain, because they are a separate stream.
    ///
    /// # Errors
    /// If the name is not valid or the backend is unavailable.
    pub async fn delete(&self) -> Result<bool> {
        self.check()?;
        self.streams.backend.delete(&self.name).await
    }

    fn check(&self) -> Result<()> {
        check_filled("stream", &self.name, limits::NAME - DEAD.len())?;
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
