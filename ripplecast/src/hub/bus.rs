//! The bus of a hub.

use bytes::Bytes;

use crate::{BusMessage, Hub, Result, Subscription};

/// The bus: messages on named channels, at most once.
impl Hub {
    /// Publishes a message on a channel, and returns how many subscriptions received it.
    ///
    /// With the memory backend these are the subscriptions of this hub whose queues accepted the message. With Redis they
    /// are the subscriptions at Redis: one for the channel and one for each matching pattern that a node is subscribed to,
    /// however many handlers share it, and those of other programs.
    ///
    /// Messages that one task publishes on a channel, one after the other, reach each subscription in that order. A
    /// channel needs no declaration; its name has 1 to 255 bytes. With Redis the payload goes out as it is, on the channel
    /// `PREFIX:bus:{CHANNEL}`, so other programs may listen and publish too.
    ///
    /// # Errors
    /// [`Error::NameTooLong`](crate::Error::NameTooLong) for a channel's name above 255 bytes;
    /// [`BusError`](crate::BusError), in [`Error::Bus`](crate::Error::Bus), for an empty name and a payload above 16
    /// MiB; [`Error::Backend`](crate::Error::Backend) when Redis is unavailable: then no subscriber received it, or,
    /// after a time-out, perhaps all.
    ///
    /// # Overload
    /// Publishing never waits for a handler. A subscription whose queue is full doesn't get the message. The memory backend
    /// doesn't count it; Redis can't tell, and counts its node.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// assert_eq!(hub.publish("orders", "4711").await?, 0); // nobody listens
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish(&self, channel: impl AsRef<str>, payload: impl Into<Bytes>) -> Result<usize> {
        self.bus().publish(channel.as_ref(), payload.into()).await
    }

    /// Calls `handler` with each message on a channel, or on all channels that a pattern names.
    ///
    /// In a pattern `*` stands for any characters, none too, `?` for one, and `\` takes the meaning from the character
    /// after it; a name without `*` and `?` is that channel alone. The subscription is in effect when this returns, and
    /// lasts as long as the [`Subscription`] is kept. Two subscriptions get each message twice, once each.
    ///
    /// With Redis it gets what is published on all nodes. When Redis goes away and comes back, the subscription is made
    /// again by itself; what was published meanwhile is missed. For what may not be missed there are streams.
    ///
    /// A subscription has a task, on the runtime in which this is called, that runs the handler for one message of a
    /// channel after the other. Of the channels of a pattern, up to 16 are handled at once, so a slow one does not hold
    /// up the others. A handler that panics is logged, and goes on with the next message.
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
    /// Up to 1,024 messages and 16 MiB wait for a handler. What comes when they are full is thrown away, for this
    /// subscription only, counted in [`Subscription::dropped`], and logged once until the queue is half empty again.
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
