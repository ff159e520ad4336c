//! The streams of a hub.

use bytes::Bytes;

use crate::{Hub, ReliableStream, ReliableSubscription, Result, StreamId, StreamMessage};

/// Streams: messages that are delivered at least once.
impl Hub {
    /// Returns a stream, to publish with another bound, subscribe with other settings, or read its status.
    ///
    /// A stream needs no declaration. Its name has 1 to 250 bytes; the operations reject any other.
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

    /// Publishes a message on a stream and returns the message's id. Each group of the stream handles it at
    /// least once.
    ///
    /// Once this returns `Ok`, the message is kept until every group, and at least one, has handled it or
    /// moved it to the dead letters. It is kept where the hub keeps its state: in memory for as long as this
    /// process lives, on Redis for as long as Redis keeps its data. Messages that one task publishes, one
    /// after the other, keep that order in the stream.
    ///
    /// # Errors
    /// [`StreamError`](crate::StreamError), in [`Error::Stream`](crate::Error::Stream), for an empty name, a payload
    /// above 1 MiB and a full stream. [`Error::NameTooLong`](crate::Error::NameTooLong) for a name above 250
    /// bytes. The backend's error if it is unavailable or too slow. After a timeout the message may still be
    /// in the stream; publishing it again may then duplicate it.
    ///
    /// # Overload
    /// A stream keeps up to 100,000 messages, or the number set with [`ReliableStream::max_len`]. Beyond
    /// that, handled messages make room. While the oldest message is unhandled, publishing fails with
    /// [`StreamError::Full`](crate::StreamError::Full).
    ///
    /// # Cancellation
    /// If the future is dropped, the message may or may not have been published.
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
    /// Each group receives every message; the subscriptions of one group share them. A new group starts with
    /// the oldest message that is kept. A handler that returns `Ok` acknowledges its message. After an error
    /// or a panic, the message is delivered again, first after about 100 ms and then after twice as long each
    /// time. After 5 deliveries it is moved to the dead letters, the stream `NAME.dead`, with the reason. If
    /// a process dies, the messages of its subscriptions are delivered to other members of the group. A
    /// handler must therefore tolerate duplicates.
    ///
    /// One handler runs at a time and receives messages in the order of the stream;
    /// [`ReliableStream::subscribe_with`] changes all of this. The subscription lasts as long as you keep the
    /// [`ReliableSubscription`]. Its tasks run on the runtime in which this is called.
    ///
    /// # Errors
    /// [`Error::NameTooLong`](crate::Error::NameTooLong) for a stream above 250 bytes or a group above 255;
    /// [`Error::EmptyName`](crate::Error::EmptyName); and the backend's error if it is unavailable. If the
    /// backend becomes unavailable later, the subscription waits for it and then continues.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Overload
    /// A message is taken from the stream only when a handler is free, so nothing queues up in the process.
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
