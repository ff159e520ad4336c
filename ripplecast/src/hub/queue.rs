//! The queues of a hub.

use crate::{Hub, queue::Queue};

/// Queues: messages that are delivered at least once.
impl Hub {
    /// Returns a queue, to publish with another bound, subscribe with other settings, or read its status.
    ///
    /// A queue needs no declaration. Its name has 1 to 250 bytes; the operations reject any other.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let orders = hub.queue("orders").max_len(1_000);
    /// let first = orders.publish("4711").await?;
    /// let second = orders.publish("4712").await?;
    /// assert!(first < second);
    /// # Ok(())
    /// # }
    /// ```
    pub fn queue(&self, name: impl AsRef<str>) -> Queue {
        self.inner.queues.queue(name.as_ref())
    }
}
