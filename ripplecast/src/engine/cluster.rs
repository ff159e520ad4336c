//! What a hub asks of the other nodes, and tells them. The implementation stands in `cluster.rs`; without one, a node is alone.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use serde::Serialize;

use crate::{Message, NodeId, Result, id::ConnectionId};

/// What there may be several connections of on several nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Audience<'a> {
    /// The members of a room.
    Room(&'a str),
    /// The connections of a user.
    User(&'a str),
}

/// Where a page of connections begins: behind this connection of this node; from 0.
pub(crate) type PageStart = (u64, u64);

/// The nodes from which a connection is reachable, once it has [joined a room](crate::Connection::join_confirmed) or
/// was [identified](crate::Connection::identify).
///
/// ```
/// # async fn example(conn: ripplecast::Connection) -> ripplecast::Result<()> {
/// use ripplecast::Reach;
///
/// match conn.join_confirmed("auction:7").await? {
///     Reach::AllNodes => conn.push("you are live").ignore(),
///     _ => conn.push("bids of other servers may be missing").ignore(), // Redis is unavailable
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Reach {
    /// All nodes: whatever any node sends from now on arrives. Always the case with the memory backend.
    AllNodes,
    /// Only this node, because Redis is unavailable, refused, or took longer than 2 s. The other nodes follow
    /// automatically once Redis allows it. Until then, this connection misses what they send.
    ThisNode,
}

impl Reach {
    /// Whether all nodes reach the connection.
    pub fn is_all_nodes(self) -> bool {
        self == Self::AllNodes
    }
}

/// The way to the other nodes.
pub(crate) trait Cluster: Send + Sync {
    /// A frame was pushed to a room of this node, or to all its connections if there is no room. Called under the room's
    /// lock, so in its order; never waits.
    fn push(&self, room: Option<&Arc<str>>, frame: &Message);
    /// A room has so many members on this node now. Called under the room's lock.
    fn room_changed(&self, room: &Arc<str>, members: usize);
    /// A user has so many connections on this node now. Called under the lock of the users.
    fn user_changed(&self, user: &Arc<str>, connections: usize);
    /// Waits until this node receives broadcasts, and is registered.
    fn ready(&self) -> BoxFuture<'_, Result<()>>;
    /// Waits, for a bounded time, until messages of other nodes to that audience reach this node. Returns which nodes
    /// reach it then.
    fn reach<'a>(&'a self, audience: Audience<'a>) -> BoxFuture<'a, Reach>;
    /// How many connections of that kind the other nodes have.
    fn len<'a>(&'a self, audience: Audience<'a>) -> BoxFuture<'a, Result<usize>>;
    /// The other nodes that have connections of that kind.
    fn nodes<'a>(&'a self, audience: Audience<'a>) -> BoxFuture<'a, Result<Vec<NodeId>>>;
    /// Up to so many connections of that kind on other nodes, from a place on, in order; fewer only at the end.
    fn connections<'a>(
        &'a self,
        audience: Audience<'a>,
        from: PageStart,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ConnectionId>>>;
    /// Sends a frame to the connections of a user on other nodes; about how many those are.
    fn push_to_user<'a>(&'a self, user: &'a str, frame: Message) -> BoxFuture<'a, Result<usize>>;
    /// All nodes that are there now, this one among them.
    fn all_nodes(&self) -> BoxFuture<'_, Result<Vec<NodeId>>>;
    /// What happened on the way.
    fn stats(&self) -> RemoteStats;
    /// Says goodbye to the others, so that they need not wait for this node's end.
    fn leave(&self) -> BoxFuture<'_, Result<()>>;
}

/// What went to other nodes, and what came from them; found in [`Stats`](crate::stats::Stats). All zero with the memory backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RemoteStats {
    /// Whether the backend is unavailable, so that this node continues on its own. On a Cluster, whether any master is
    /// unavailable.
    pub degraded: bool,
    /// Messages sent to other nodes.
    pub sent: u64,
    /// Messages that went to no other node, since the backend was away or too many waited for it.
    pub unsent: u64,
    /// Messages received from other nodes.
    pub received: u64,
    /// Messages of other nodes that this node knows to have missed: their numbers have gaps.
    pub missed: u64,
    /// Gaps of unknown size, counted per room: a subscription was lost, refused, or not confirmed within 1 s, or a node
    /// started its numbers again.
    pub gaps: u64,
    /// Joins that the backend has not confirmed, or whose subscription was lost: the current members of rooms that
    /// pushes of other nodes do not reach. The first member of a room on this node is counted here for a round trip.
    pub unconfirmed: usize,
    /// Messages that were thrown away, because they made no sense, were signed wrongly, or came for a node that had lost
    /// its lease.
    pub refused: u64,
    /// Bytes that wait to be sent to other nodes.
    pub queued_bytes: usize,
}
