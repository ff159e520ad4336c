//! A user and all of the user's connections.

use std::sync::Arc;

use super::connection::Connection;
use crate::{
    Close, CloseCode, Message, Result,
    engine::{Audience, Node},
    id::{ConnectionId, NodeId},
    outcome::Sent,
};

/// A user: an identity, such as a person or a device, with all of its connections.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
/// let hub = ripplecast::Hub::builder().build()?;
/// let reached = hub.user("user:7").push("your order has left").await?;
/// assert_eq!(reached, 0); // not connected at the moment
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct User {
    pub(super) id: Arc<str>,
    pub(super) node: Arc<Node>,
}

impl User {
    /// Returns the user's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Sends a message to every connection of the user, on any node. Returns how many connections accepted it;
    /// 0 when the user is not connected. For other nodes this is the number they last reported, if they are
    /// available.
    ///
    /// # Errors
    /// [`Error::Backend`](crate::Error::Backend) when a shared backend is unavailable; the message was then
    /// sent to the connections of this node only. None with the memory backend.
    pub async fn push(&self, message: impl Into<Message>) -> Result<usize> {
        let mut message = message.into();
        if self.node.setup().compresses(&message) {
            message = message.with_shared_deflated();
        }
        let connections = self.local_connections();
        let here = connections.filter(|connection| connection.push(message.clone()) == Sent::Queued).count();
        match self.node.setup().cluster() {
            Some(cluster) => Ok(here + cluster.push_to_user(&self.id, message).await?),
            None => Ok(here),
        }
    }

    /// Sends a value as JSON, in a text message, as [`push`](Self::push) does.
    ///
    /// # Errors
    /// Same as [`push`](Self::push). Also [`Error::Json`](crate::Error::Json) if the value can't be written as JSON;
    /// nothing was sent.
    pub async fn push_json<T: serde::Serialize + ?Sized>(&self, value: &T) -> Result<usize> {
        self.push(Message::json(value)?).await
    }

    /// Closes every connection of the user, on any node, as [`Connection::close`] does: messages pushed before
    /// are still sent, and the reason is cut to 123 bytes. Returns how many connections were open; 0
    /// when the user is not connected. For other nodes this is the number they last reported, if they are
    /// available.
    ///
    /// This does not keep the user out: browsers reconnect. Reject the next upgrade in `on_upgrade`. A
    /// connection that is identified while this runs may stay open.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// use ripplecast::CloseCode;
    ///
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let closed = hub.user("user:7").disconnect(CloseCode::application(4001)?, "signed out").await?;
    /// assert_eq!(closed, 0); // not connected at the moment
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Backend`](crate::Error::Backend) when a shared backend is unavailable; then only the
    /// connections of this node are closed. None with the memory backend.
    pub async fn disconnect(&self, code: CloseCode, reason: impl Into<String>) -> Result<usize> {
        let close = Close::cut(code, reason.into());
        let here = self.node.close_local_user(&self.id, &close);
        match self.node.setup().cluster() {
            Some(cluster) => Ok(here + cluster.close_user(&self.id, close).await?),
            None => Ok(here),
        }
    }

    /// Returns the ids of the user's connections on all nodes, in order.
    ///
    /// # Errors
    /// [`Error::Backend`](crate::Error::Backend) when a shared backend or another node does not answer; none
    /// with the memory backend.
    pub async fn connections(&self) -> Result<Vec<ConnectionId>> {
        self.node.all_connections(Audience::User(&self.id)).await
    }

    /// Returns the nodes that the user is connected to.
    ///
    /// # Errors
    /// Same as [`User::connections`].
    pub async fn nodes(&self) -> Result<Vec<NodeId>> {
        let mut nodes = match self.node.setup().cluster() {
            Some(cluster) => cluster.nodes(Audience::User(&self.id)).await?,
            None => Vec::new(),
        };
        if self.local_connections().next().is_some() {
            nodes.push(NodeId(self.node.id()));
        }
        nodes.sort_unstable();
        Ok(nodes)
    }

    /// Returns the user's connections on this node.
    fn local_connections(&self) -> impl Iterator<Item = Connection> {
        let connection = |local| Connection::new(self.node.shard_of(local).clone(), local);
        self.node.users().connections(&self.id).into_iter().map(connection)
    }
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("id", &self.id).finish_non_exhaustive()
    }
}
