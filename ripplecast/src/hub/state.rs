//! Shared state of a hub: counters and tables.

use serde::de::DeserializeOwned;

use crate::{Counter, Hub, Result, Table, state::TableBuilder};

/// Shared state: counters and tables.
impl Hub {
    /// Returns the counter with that name, which starts at 0. The same name always refers to the same
    /// counter.
    ///
    /// A name has 1 to 255 bytes; the counter's operations reject any other.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let visits = hub.counter("visits");
    /// assert_eq!(visits.increment().await?, 1);
    /// assert_eq!(hub.counter("visits").get().await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn counter(&self, name: impl AsRef<str>) -> Counter {
        self.store().counter(name.as_ref())
    }

    /// Declares a table of at most `capacity` rows, with the fields of `T` as columns. Returns the existing
    /// table if it was declared identically before.
    ///
    /// `T` is a struct with named fields that derives serde's `Serialize` and `Deserialize`. A field is an
    /// integer of at most 64 bits, a `bool`, a float, a `String` or bytes (`Vec<u8>`). Strings and bytes may
    /// have up to 255 bytes, unless
    /// [`table_builder`](Self::table_builder) sets another size.
    ///
    /// # Errors
    /// [`StateError`](crate::error::StateError), when the name is empty or longer than 255 bytes, the capacity is 0, `T` has
    /// fields of another type, or the table is already declared differently.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Client { connected_at: u64 }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let clients = hub.table::<Client>("clients", 4096)?;
    /// clients.set("ada", &Client { connected_at: 1 }).await?;
    /// assert_eq!(clients.len().await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn table<T: DeserializeOwned>(&self, name: impl Into<String>, capacity: usize) -> Result<Table<T>> {
        self.table_builder(name, capacity).build()
    }

    /// Returns a builder for a table whose string or bytes columns hold more (or fewer) than 255 bytes.
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct User { name: String, bio: String }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let users = hub.table_builder::<User>("users", 1024).column("bio", 4096).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn table_builder<T: DeserializeOwned>(
        &self,
        name: impl Into<String>,
        capacity: usize,
    ) -> TableBuilder<T> {
        TableBuilder::new(self.store().clone(), name.into(), capacity)
    }

    /// Returns a table that has already been declared.
    ///
    /// # Errors
    /// [`StateError::TableNotDeclared`](crate::error::StateError::TableNotDeclared) if there is none.
    /// [`StateError::DeclaredDifferently`](crate::error::StateError::DeclaredDifferently) if its columns are not the fields of `T`.
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Client { connected_at: u64 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// assert!(hub.find_table::<Client>("clients").is_err());
    /// hub.table::<Client>("clients", 4096)?;
    /// assert!(hub.find_table::<Client>("clients").is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn find_table<T: DeserializeOwned>(&self, name: impl AsRef<str>) -> Result<Table<T>> {
        Ok(self.store().find(name.as_ref())?)
    }
}
