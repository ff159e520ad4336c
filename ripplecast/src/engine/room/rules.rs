//! Options of rooms by name pattern, and the settings that all rooms of a hub share.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    Message,
    engine::{cluster::Cluster, drops::DropLog, outbox::Overflow},
    glob::Pattern,
    limits::ROOMS_PER_CONNECTION,
};

/// Options of rooms, for [`HubBuilder::rooms`](crate::HubBuilder::rooms). The endpoints' settings apply to everything
/// that is not set.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> ripplecast::Result<()> {
/// use ripplecast::{Message, Hub, Overflow, RoomOptions};
///
/// let hub = Hub::builder()
///     .rooms("cursors:*", RoomOptions::new().overflow(Overflow::LatestPerKey))
///     .build()?;
/// hub.room("cursors:page-7").push(Message::text("x=3,y=4").with_key("ada")).ignore();
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[must_use = "options have no effect until they are passed to HubBuilder::rooms"]
pub struct RoomOptions {
    overflow: Option<Overflow>,
}

impl RoomOptions {
    /// Creates options in which nothing is set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the policy when a message of the room does not fit the outbox of a member. The default is the policy of the
    /// member's endpoint.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = Some(overflow);
        self
    }
}

/// The settings that all rooms of a hub share.
pub(crate) struct Setup {
    rules: RoomRules,
    drops: DropLog,
    /// The lowest compression threshold of all endpoints, in bytes.
    compress_above: AtomicUsize,
    rooms_per_connection: usize,
    /// Unset while this node is alone.
    cluster: OnceLock<Arc<dyn Cluster>>,
}

impl Setup {
    /// Creates the setup of a hub in which no message is compressed until an endpoint
    /// [asks for it](Self::lower_compression_threshold).
    pub(crate) fn new(rules: RoomRules, drops: DropLog, rooms_per_connection: usize) -> Self {
        let compress_above = AtomicUsize::new(usize::MAX);
        Self { rules, drops, compress_above, rooms_per_connection, cluster: OnceLock::new() }
    }

    /// Returns the policy of a room, if one is set.
    pub(super) fn overflow(&self, name: &str) -> Option<Overflow> {
        self.rules.overflow(name)
    }

    /// Returns the log that refused pushes are reported to.
    pub(crate) fn drops(&self) -> &DropLog {
        &self.drops
    }

    /// Returns the most rooms that one connection may be in.
    pub(super) fn rooms_per_connection(&self) -> usize {
        self.rooms_per_connection
    }

    /// Lowers the threshold above which messages for many connections are compressed. A threshold that is already lower
    /// stays.
    pub(crate) fn lower_compression_threshold(&self, bytes: usize) {
        self.compress_above.fetch_min(bytes, Ordering::Relaxed);
    }

    /// Returns whether a message for many connections is compressed for those that have negotiated it.
    pub(crate) fn compresses(&self, message: &Message) -> bool {
        message.len() > self.compress_above.load(Ordering::Relaxed)
    }

    /// Returns the connection to the other nodes; `None` if this node is alone.
    pub(crate) fn cluster(&self) -> Option<&Arc<dyn Cluster>> {
        self.cluster.get()
    }

    /// Connects the hub to other nodes. Later calls have no effect.
    pub(crate) fn set_cluster(&self, cluster: Arc<dyn Cluster>) {
        let _ = self.cluster.set(cluster);
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::new(RoomRules::default(), DropLog::default(), ROOMS_PER_CONNECTION)
    }
}

/// Options of rooms by name pattern. The first pattern that matches applies.
#[derive(Clone, Default)]
pub(crate) struct RoomRules(Vec<(Arc<Pattern>, RoomOptions)>);

impl RoomRules {
    /// Adds a pattern after the existing ones.
    pub(crate) fn add(&mut self, pattern: &str, options: RoomOptions) {
        self.0.push((Arc::new(Pattern::parse(pattern)), options));
    }

    /// Returns the policy of a room, if one is set.
    pub(super) fn overflow(&self, name: &str) -> Option<Overflow> {
        self.0.iter().find(|(pattern, _)| pattern.matches(name)).and_then(|(_, options)| options.overflow)
    }
}

impl std::fmt::Debug for RoomRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(_, options)| options)).finish()
    }
}
