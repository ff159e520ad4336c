//! What is set for rooms, by patterns of their names, and what else all rooms of a hub share.

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

/// Settings of rooms, for [`HubBuilder::rooms`](crate::HubBuilder::rooms). What is not set is as the endpoints say.
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
#[must_use = "settings do nothing until they are given to HubBuilder::rooms"]
pub struct RoomOptions {
    /// What happens when a frame does not fit an outbox.
    overflow: Option<Overflow>,
}

impl RoomOptions {
    /// Nothing is set.
    pub fn new() -> Self {
        Self::default()
    }

    /// What happens when a frame of the room does not fit the outbox of a member; default what the member's endpoint says.
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = Some(overflow);
        self
    }
}

/// What all rooms of a hub share.
pub(crate) struct Setup {
    rules: RoomRules,
    drops: DropLog,
    /// The lowest compression threshold of all endpoints, in bytes.
    compress_above: AtomicUsize,
    rooms_per_connection: usize,
    /// The connection to other nodes; none when this node is alone.
    cluster: OnceLock<Arc<dyn Cluster>>,
}

impl Setup {
    /// Creates the setup of a hub in which no message is compressed until an endpoint
    /// [asks for it](Self::lower_compression_threshold).
    pub(crate) fn new(rules: RoomRules, drops: DropLog, rooms_per_connection: usize) -> Self {
        let compress_above = AtomicUsize::new(usize::MAX);
        Self { rules, drops, compress_above, rooms_per_connection, cluster: OnceLock::new() }
    }

    /// Returns the policy that is set for a room of that name.
    pub(super) fn overflow(&self, name: &str) -> Option<Overflow> {
        self.rules.overflow(name)
    }

    /// Returns the log that refused pushes are reported to.
    pub(crate) fn drops(&self) -> &DropLog {
        &self.drops
    }

    /// Returns how many rooms one connection may be in.
    pub(super) fn rooms_per_connection(&self) -> usize {
        self.rooms_per_connection
    }

    /// Compresses messages for many connections from now on if they are longer than `bytes`. A lower threshold stays.
    pub(crate) fn lower_compression_threshold(&self, bytes: usize) {
        self.compress_above.fetch_min(bytes, Ordering::Relaxed);
    }

    /// Whether a frame for many connections is compressed for those that have negotiated it.
    pub(crate) fn compresses(&self, frame: &Message) -> bool {
        frame.len() > self.compress_above.load(Ordering::Relaxed)
    }

    /// The way to other nodes; none when this node is alone.
    pub(crate) fn cluster(&self) -> Option<&Arc<dyn Cluster>> {
        self.cluster.get()
    }

    /// From now on there are other nodes; once.
    pub(crate) fn set_cluster(&self, cluster: Arc<dyn Cluster>) {
        let _ = self.cluster.set(cluster); // a second one would be a second node of the same name
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::new(RoomRules::default(), DropLog::default(), ROOMS_PER_CONNECTION)
    }
}

/// Settings of rooms by patterns of their names; the first that matches holds.
#[derive(Clone, Default)]
pub(crate) struct RoomRules(Vec<(Arc<Pattern>, RoomOptions)>);

impl RoomRules {
    /// Adds settings behind those that are there.
    pub(crate) fn add(&mut self, pattern: &str, options: RoomOptions) {
        self.0.push((Arc::new(Pattern::parse(pattern)), options));
    }

    /// The policy of a room.
    pub(super) fn overflow(&self, name: &str) -> Option<Overflow> {
        self.0.iter().find(|(pattern, _)| pattern.matches(name)).and_then(|(_, options)| options.overflow)
    }
}

impl std::fmt::Debug for RoomRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(_, options)| options)).finish()
    }
}
