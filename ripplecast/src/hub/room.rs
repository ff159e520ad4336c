//! Rooms: a named set of connections, and one order for everything that is pushed to it.

use std::sync::Arc;

use crate::{
    Frame, Result,
    engine::{Group, RoomCore, Shards, Socket},
    id::ConnectionId,
    outcome::Sent,
};

/// A named set of connections; what is pushed to it reaches each of them once.
///
/// The handle is cheap to clone and to make. A room exists while it has members or handles; it need not be made or
/// removed.
///
/// **Order.** All members see a room's messages in one order, whichever task, shard or core they were pushed from. A
/// push to one member after a push to its room does not overtake it. (Save a slow member under
/// [`Overflow::LatestPerKey`](crate::Overflow::LatestPerKey): there a newer frame comes in the place of the older one
/// with its key.)
///
/// **Overload.** When a shard of the node is so far behind that its mailbox is full, a push is refused on all shards:
/// [`Sent::Dropped`]. What happens to a member that does not read says the [`Overflow`](crate::Overflow) policy of
/// the room, if it has [one](RoomOptions::overflow), or of the member's endpoint. It slows nobody.
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
    /// What the handles share.
    pub(crate) core: Arc<RoomCore<Socket>>,
    /// The connections of the node, and the way to others.
    pub(super) shards: Arc<Shards>,
}

impl Room {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Pushes a frame to every member. Never waits; the frame is encoded once per shard, however many members there are.
    ///
    /// Members on other nodes get it through Redis, if their node is subscribed to the room by then: see
    /// [`Connection::join`](crate::Connection::join).
    pub fn push(&self, frame: impl Into<Frame>) -> Sent {
        self.core.push(&frame.into())
    }

    /// Number of members, on all nodes. A connection's own `join` is visible to its next call on the same node, and to others
    /// some milliseconds later.
    ///
    /// # Errors
    /// None with the memory backend; [`Error::Backend`] when a shared one is away.
    pub async fn len(&self) -> Result<usize> {
        self.shards.count(Group::Room(&self.core.name)).await
    }

    /// Number of members on this node alone; what is shared is not asked.
    pub fn len_here(&self) -> usize {
        self.core.len()
    }

    /// Returns the members on this node alone, ordered by id. Asks no other node, and costs as much as there are members here.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
    /// # let hub = ripplecast::Hub::builder().build()?;
    /// let here = hub.room("lobby").members_here();
    /// assert!(here.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn members_here(&self) -> Vec<ConnectionId> {
        let id = |local| ConnectionId::new(self.shards.node, local);
        let mut members: Vec<_> = self.core.members().into_iter().map(id).collect();
        members.sort_unstable();
        members
    }

    /// Whether the room has no members.
    ///
    /// # Errors
    /// As [`Room::len`].
    pub async fn is_empty(&self) -> Result<bool> {
        Ok(self.len().await? == 0)
    }

    /// The members, on all nodes, in the order of their ids, as they are at this moment. One that
    /// [`close`](crate::Connection::close) was called on is among them until its shard has taken note.
    ///
    /// # Errors
    /// As [`Room::len`], and when another node does not answer.
    pub async fn members(&self) -> Result<Vec<ConnectionId>> {
        self.shards.all_connections(Group::Room(&self.core.name)).await
    }

    /// A page of the members: up to `limit` behind that one, in the order of their ids. Fewer than `limit` only at the end;
    /// begin with `None`, and go on with the last of the page. Whoever is a member from the first page to the last is seen
    /// once.
    ///
    /// # Errors
    /// As [`Room::members`].
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
        self.shards.connections_after(Group::Room(&self.core.name), after, limit).await
    }
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("name", &self.core.name).field("len", &self.core.len()).finish()
    }
}
