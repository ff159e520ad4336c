//! Rooms: a named set of connections, and one order for everything that is pushed to it.

use std::sync::Arc;

use super::connection::Connection;
use crate::{
    Message, Result,
    engine::{Audience, ConnectionSocket, Node, RoomCore},
    id::ConnectionId,
    outcome::Sent,
};

/// A named set of connections. A message pushed to it reaches each of them once.
///
/// The handle is cheap to clone and to create. A room exists while it has members or handles; you don't need
/// to create or remove it.
///
/// **Order.** All members receive a room's messages in the same order, whichever task, shard or core they
/// were pushed from. A push to one member after a push to its room does not overtake it, with one exception:
/// under [`Overflow::LatestPerKey`](crate::Overflow::LatestPerKey), a slow member receives a newer message in
/// place of the older one with the same key.
///
/// **Overload.** When the mailbox of any shard is full, a push is rejected on all shards and returns
/// [`Sent::Dropped`]. The room's [`Overflow`](crate::Overflow) policy decides what happens to a member that
/// stops reading; without [one](crate::RoomOptions::overflow), that of the member's endpoint applies. Such a member
/// slows down no other.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
/// use ripplecast::Hub;
///
/// let hub = Hub::builder().build()?;
/// let room = hub.room("lobby");
/// assert!(room.push("anybody here?").is_queued());
/// assert_eq!(room.len().await?, 0);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Room {
    pub(super) core: Arc<RoomCore<ConnectionSocket>>,
    pub(super) node: Arc<Node>,
}

impl Room {
    /// Returns the room's name.
    pub fn name(&self) -> &str {
        self.core.name()
    }

    /// Returns the state that the handles of the room share.
    pub(crate) fn core(&self) -> &Arc<RoomCore<ConnectionSocket>> {
        &self.core
    }

    /// Pushes a message to every member. Never waits. The message is encoded once per shard, regardless of the
    /// number of members.
    ///
    /// Members on other nodes receive it through Redis, if their node has subscribed to the room by then; see
    /// [`Connection::join`](crate::Connection::join).
    pub fn push(&self, message: impl Into<Message>) -> Sent {
        self.core.push(&message.into())
    }

    /// Pushes a value as JSON, in a text message, as [`push`](Self::push) does.
    ///
    /// # Errors
    /// [`Error::Json`](crate::Error::Json) if the value can't be written as JSON; nothing was sent.
    pub fn push_json<T: serde::Serialize + ?Sized>(&self, value: &T) -> Result<Sent> {
        Ok(self.push(Message::json(value)?))
    }

    /// Pushes a message to every member except `conn`, such as the one that sent it. Members on other nodes
    /// receive it too. Otherwise the same as [`push`](Self::push), in the same order.
    ///
    /// If `conn` is not a member, or belongs to another hub, every member receives the message.
    ///
    /// ```
    /// use ripplecast::{Connection, Hub, Message, ws};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// let hub = Hub::builder().build()?;
    /// let cursors = ws::handlers()
    ///     .with_state(hub.room("board"))
    ///     .on_open(async |_, conn: Connection| conn.join("board"))
    ///     .on_message(async |room, conn: Connection, message: Message| room.push_except(&conn, message));
    /// # let _ = ws::endpoint(cursors); let _ = hub; Ok(()) }
    /// ```
    pub fn push_except(&self, conn: &Connection, message: impl Into<Message>) -> Sent {
        self.core.push_except(conn.id().on(self.node.id()), &message.into())
    }

    /// Returns the number of members on all nodes. A `join` is visible to the next call on the same node, and
    /// to other nodes some milliseconds later.
    ///
    /// # Errors
    /// [`Error::Backend`](crate::Error::Backend) when a shared backend is unavailable; none with the memory backend.
    pub async fn len(&self) -> Result<usize> {
        self.node.count(Audience::Room(self.core.name())).await
    }

    /// Returns the number of members on this node, without asking the backend.
    pub fn len_here(&self) -> usize {
        self.core.len()
    }

    /// Returns the members on this node, ordered by id, without asking other nodes. The cost is proportional
    /// to their number.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let here = hub.room("lobby").members_here();
    /// assert!(here.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn members_here(&self) -> Vec<ConnectionId> {
        let id = |local| ConnectionId::new(self.node.id(), local);
        let mut members: Vec<_> = self.core.members().into_iter().map(id).collect();
        members.sort_unstable();
        members
    }

    /// Returns whether the room has no members on any node.
    ///
    /// # Errors
    /// Same as [`Room::len`].
    pub async fn is_empty(&self) -> Result<bool> {
        Ok(self.len().await? == 0)
    }

    /// Returns the current members on all nodes, ordered by id. A connection that is being
    /// [closed](crate::Connection::close) is included until its shard has processed the close.
    ///
    /// # Errors
    /// Same as [`Room::len`]; also when another node does not answer.
    pub async fn members(&self) -> Result<Vec<ConnectionId>> {
        self.node.all_connections(Audience::Room(self.core.name())).await
    }

    /// Returns up to `limit` members ordered by id, with ids greater than `after`. Start with `None` and
    /// continue with the last id of each page. A page has fewer than `limit` members only at the end. A
    /// connection that remains a member throughout is returned exactly once.
    ///
    /// # Errors
    /// Same as [`Room::members`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let room = hub.room("lobby");
    /// let mut page = room.members_after(None, 100).await?;
    /// while let Some(&last) = page.last() {
    ///     page = room.members_after(Some(last), 100).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn members_after(
        &self,
        after: Option<ConnectionId>,
        limit: usize,
    ) -> Result<Vec<ConnectionId>> {
        self.node.connections_after(Audience::Room(self.core.name()), after, limit).await
    }
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("name", &self.core.name()).field("len", &self.core.len()).finish()
    }
}
