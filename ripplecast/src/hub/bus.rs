//! The bus of a hub.

use bytes::Bytes;

use crate::{BusMessage, Hub, Result, Subscription};

/// The bus: messages on named channels, at most once.
impl Hub {
    /// Publishes a message on a channel and returns the number of subscriptions that received it.
    ///
    /// The memory backend counts the subscriptions of this hub whose queues accepted the message. Redis
    /// counts its own subscriptions instead: per node, one for the channel and one for each matching pattern,
    /// however many handlers share it, plus those of other programs.
    ///
    /// Messages that one task publishes on a channel, one after the other, reach each subscription in that
    /// order. A channel needs no declaration; its name has 1 to 255 bytes. With Redis the payload is sent
    /// unchanged on the channel `PREFIX:bus:{CHANNEL}`, so other programs may subscribe and publish too.
    ///
    /// # Errors
    /// [`Error::NameTooLong`](crate::Error::NameTooLong) if the channel's name exceeds 255 bytes.
    /// [`BusError`](crate::BusError), in [`Error::Bus`](crate::Error::Bus), if the name is empty or the payload exceeds 16 MiB.
    /// [`Error::Backend`](crate::Error::Backend) if Redis is unavailable: no subscriber received the message. After a
    /// time-out, some or all subscribers may have received it.
    ///
    /// # Overload
    /// Publishing never waits for a handler. A subscription whose queue is full does not receive the message.
    /// The memory backend does not count such a subscription; Redis does, because it cannot see the queues.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// assert_eq!(hub.publish("orders", "4711").await?, 0); // no subscribers
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish(&self, channel: impl AsRef<str>, payload: impl Into<Bytes>) -> Result<usize> {
        self.bus().publish(channel.as_ref(), payload.into()).await
    }

    /// Calls `handler` with each message on a channel, or on every channel that matches a pattern.
    ///
    /// In a pattern, `*` matches any number of characters including none, `?` matches one, and `\` makes the
    /// next character literal. A name without `*` and `?` is a single channel. The subscription is in effect
    /// when this returns and lasts as long as you keep the [`Subscription`]. Each subscription receives its
    /// own copy of a message.
    ///
    /// With Redis, a subscription receives what any node publishes. After Redis was unavailable, the
    /// subscription is restored automatically; messages published meanwhile are missed. Use streams for
    /// messages that must not be missed.
    ///
    /// A subscription's task, on the runtime in which this is called, runs the handler for one message of a
    /// channel at a time. For a pattern, up to 16 channels are handled at once, so that a slow one does not
    /// hold up the others. If the handler panics, the panic is logged and the task continues with the next
    /// message.
    ///
    /// # Errors
    /// [`Error::NameTooLong`](crate::Error::NameTooLong) above 255 bytes; [`BusError`](crate::BusError), in
    /// [`Error::Bus`](crate::Error::Bus), for an empty name, and for a pattern on a Redis Cluster;
    /// [`Error::Backend`](crate::Error::Backend) if Redis is unavailable.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Overload
    /// Up to 1,024 messages and 16 MiB wait for a handler. Further messages are dropped for this subscription
    /// only and counted in [`Subscription::dropped`]. The drop is logged once until the queue is half empty
    /// again.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let (seen, mut log) = tokio::sync::mpsc::unbounded_channel();
    /// let subscription = hub
    ///     .subscribe("orders.*", move |message| {
    ///         let seen = seen.clone();
    ///         async move { drop(seen.send(message.payload)) }
    ///     })
    ///     .await?;
    /// assert_eq!(hub.publish("orders.new", "4711").await?, 1);
    /// assert_eq!(log.recv().await.as_deref(), Some(&b"4711"[..]));
    /// subscription.unsubscribe().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe<H, F>(&self, pattern: impl AsRef<str>, handler: H) -> Result<Subscription>
    where
        H: Fn(BusMessage) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        self.bus().subscribe(pattern.as_ref(), handler).await
    }
}
