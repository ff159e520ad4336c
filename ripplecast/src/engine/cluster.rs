//! The interface to the other nodes. `crate::cluster` implements it; without an implementation, a node is alone.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::Serialize;

use crate::{Close, Message, NodeId, Result, id::ConnectionId};

/// A set of connections that may be spread over several nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Audience<'a> {
    /// The members of a room.
    Room(&'a str),
    /// The connections of a user.
    User(&'a str),
}

/// The start of a page of connections: after this node's connection with this packed id. `(0, 0)` is the beginning.
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
    /// All nodes: everything that any node sends from now on arrives. Always the case with the memory backend.
    AllNodes,
    /// Only this node, because Redis is unavailable, refused, or took longer than 2 s. The other nodes follow
    /// automatically once Redis allows it. Until then, this connection misses what they send.
    ThisNode,
}

impl Reach {
    /// Returns whether all nodes reach the connection.
    pub fn is_all_nodes(self) -> bool {
        self == Self::AllNodes
    }
}

/// The connection to the other nodes.
pub(crate) trait Cluster: Send + Sync {
    /// Queues a message for the members of a room on the other nodes, or for all their connections if `room` is `None`.
    /// Called under the room's lock, so messages are in the room's order. Must not block.
    fn push(&self, room: Option<&Arc<str>>, message: &Message);
    /// Called under the room's lock when its number of members on this node has changed.
    fn room_changed(&self, room: &Arc<str>, members: usize);
    /// Called under the lock of the user's stripe when the number of the user's connections on this node has changed.
    fn user_changed(&self, user: &Arc<str>, connections: usize);
    /// Waits until this node is registered and receives broadcasts.
    fn ready(&self) -> BoxFuture<'_, Result<()>>;
    /// Waits, for a bounded time, until messages from the other nodes to that audience reach this node. Returns the nodes
    /// from which they do.
    fn reach<'a>(&'a self, audience: Audience<'a>) -> BoxFuture<'a, Reach>;
    /// Returns the number of connections of that audience on the other nodes.
    fn len<'a>(&'a self, audience: Audience<'a>) -> BoxFuture<'a, Result<usize>>;
    /// Returns the other nodes that have connections of that audience.
    fn nodes<'a>(&'a self, audience: Audience<'a>) -> BoxFuture<'a, Result<Vec<NodeId>>>;
    /// Returns up to `limit` connections of that audience on the other nodes, ordered by id. Fewer are returned only at
    /// the end.
    fn connections<'a>(
        &'a self,
        audience: Audience<'a>,
        from: PageStart,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<ConnectionId>>>;
    /// Sends a message to the connections of a user on the other nodes. Returns their approximate number.
    fn push_to_user<'a>(&'a self, user: &'a str, message: Message) -> BoxFuture<'a, Result<usize>>;
    /// Closes the connections of a user on the other nodes. Returns their approximate number.
    fn close_user<'a>(&'a self, user: &'a str, close: Close) -> BoxFuture<'a, Result<usize>>;
    /// Returns all nodes that are up, including this one.
    fn all_nodes(&self) -> BoxFuture<'_, Result<Vec<NodeId>>>;
    /// Returns what was sent and received so far.
    fn stats(&self) -> RemoteStats;
    /// Unregisters this node, so that the others need not wait until its lease expires.
    fn leave(&self) -> BoxFuture<'_, Result<()>>;
}

/// Counts of messages to and from other nodes, in [`Stats`](crate::stats::Stats). All zero with the memory backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RemoteStats {
    /// Whether the backend is unavailable, so that this node continues on its own. On a Cluster, whether any master is
    /// unavailable.
    pub degraded: bool,
    /// Messages sent to other nodes.
    pub sent: u64,
    /// Messages dropped because the backend was unavailable or too many waited for it.
    pub unsent: u64,
    /// Messages received from other nodes.
    pub received: u64,
    /// Messages from other nodes known to be lost, by gaps in their numbers.
    pub missed: u64,
    /// Gaps of unknown size, counted per room: a subscription was lost, rejected, or not confirmed within 1 s, or a node
    /// restarted its numbers.
    pub gaps: u64,
    /// Members of rooms that pushes from other nodes do not reach now, because the subscription was lost or is not
    /// confirmed yet. The first member of a room on this node is counted here for a round trip.
    pub unconfirmed: usize,
    /// Messages rejected because they were malformed, had a wrong signature, or were for a node that had lost its lease.
    pub refused: u64,
    /// Bytes that wait to be sent to other nodes.
    pub queued_bytes: usize,
}
