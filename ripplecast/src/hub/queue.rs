//! The streams of a hub.

use bytes::Bytes;

use crate::{Hub, ReliableStream, ReliableSubscription, Result, StreamId, StreamMessage};

/// Streams: messages that are delivered at least once.
impl Hub {
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
    /// [`StreamError`](crate::StreamError), in [`Error::Stream`](crate::Error::Stream), for an empty name, a payload
    /// above 1 MiB and a full stream; [`Error::NameTooLong`](crate::Error::NameTooLong) for a name above 250 bytes. If
    /// the backend is unavailable or too slow, its error; after a timeout the message may still be on the stream, and
    /// be there twice if it is published again.
    ///
    /// # Overload
    /// A stream keeps up to 100,000 messages, or what [`ReliableStream::max_len`] says. Beyond that, handled ones make
    /// space; while the oldest is not handled, publishing fails with [`StreamError::Full`](crate::StreamError::Full).
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
    /// Each group gets every message; the subscriptions of one group share them. A group that is new begins with the
    /// oldest message that is kept. A handler that returns `Ok` acknowledges its message. After an error or a panic the
    /// message is tried again, first after some 100 ms, then after twice as long each time; after 5 deliveries it goes
    /// to the dead letters, the stream `NAME.dead`, with the reason. What a subscription held whose process ended goes
    /// to another of its group. So a handler must bear to see a message twice.
    ///
    /// One handler runs at a time, with one message after the other in the order of the stream;
    /// [`ReliableStream::subscribe_with`] changes all of this. The subscription lasts as long as the
    /// [`ReliableSubscription`] is kept. Its tasks run on the runtime in which this is called.
    ///
    /// # Errors
    /// [`Error::NameTooLong`](crate::Error::NameTooLong) for a stream above 250 bytes or a group above 255;
    /// [`StreamError::EmptyName`](crate::StreamError::EmptyName); and when the backend is away. When it goes away
    /// later, the subscription waits for it and goes on.
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
