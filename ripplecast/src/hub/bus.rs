//! The bus of a hub.

use crate::{Bus, Hub};

impl Hub {
    /// Returns the bus: messages on named topics, delivered at most once.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let log = hub.bus().subscribe("orders.*", async |message| println!("{}", message.topic)).await?;
    /// assert_eq!(hub.bus().publish("orders.new", "4711").await?, 1);
    /// # drop(log);
    /// # Ok(())
    /// # }
    /// ```
    pub fn bus(&self) -> &Bus {
        &self.inner.bus
    }
}
