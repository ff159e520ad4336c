//! What did not come from other nodes, and who wants to hear of it.

use std::{fmt, sync::Arc};

use crate::{
    id::NodeId,
    log::{cut, limited},
    panics::guarded,
};

/// Messages of other nodes that were or may be missed, as reported to the hook of
/// [`HubBuilder::on_gap`](crate::HubBuilder::on_gap).
///
/// Members of the room on this node did not receive them. An application that needs every message should tell its
/// clients to reload.
///
/// A report is made
/// - when a subscription is lost, to a room or to what is pushed to all connections;
/// - when a new one is refused, or not confirmed within 1 s of the first member's [`join`](crate::Connection::join).
///   The round trip of each first member on a node is not reported: no node can detect whether anything was pushed
///   during it. [`join_confirmed`](crate::Connection::join_confirmed) waits for its end;
/// - when the numbers of a node's messages have a gap, or start again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GapReport {
    /// The room; `None` for what was pushed to all connections.
    pub room: Option<String>,
    /// Whose messages were missed, if that is known.
    pub node: Option<NodeId>,
    /// The number of messages. `None` without a node if the subscription is not active: it was lost, refused or is
    /// late. Whatever is published until it is active is missed. If the node received messages of another node before,
    /// a later report contains how many it missed, once that node publishes again. `None` with a node if that node has
    /// started its numbers again, so that its last numbers are unknown.
    pub missed: Option<u64>,
}

/// The hook that is called for each gap.
pub(crate) type GapHook = Arc<dyn Fn(GapReport) + Send + Sync>;

/// Where gaps are reported.
#[derive(Clone, Default)]
pub(crate) struct GapLog(pub(crate) Option<GapHook>);

impl GapLog {
    /// Reports one.
    pub(crate) fn tell(&self, report: GapReport) {
        if let Some(missed) = report.missed {
            limited!(WARN, room = report.room.as_deref().map(|room| tracing::field::display(cut(room))), node = ?report.node, missed, "messages of another node were missed");
        }
        if let Some(hook) = &self.0 {
            guarded(|| hook(report)); // it is the application's
        }
    }
}

impl fmt::Debug for GapLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GapLog").field(&self.0.is_some()).finish()
    }
}
