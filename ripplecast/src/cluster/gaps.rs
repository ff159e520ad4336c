//! Missed messages of other nodes, and the hook that they are reported to.

use std::{fmt, sync::Arc};

use crate::{
    id::NodeId,
    log::{cut, limited},
    panics::guarded,
};

/// Messages of other nodes that were or may have been missed, as reported to the hook of
/// [`HubBuilder::on_gap`](crate::HubBuilder::on_gap).
///
/// Members of the room on this node did not receive them. An application that needs every message should make
/// its pages reload.
///
/// A gap is reported
/// - when a subscription is lost, to a room or to broadcasts;
/// - when a new one is refused, or not confirmed within 1 s of the first member's
///   [`join`](crate::Connection::join). The round trip of each first member on a node is not reported: no
///   node can detect whether anything was pushed during it.
///   [`join_confirmed`](crate::Connection::join_confirmed) waits for its end;
/// - when the sequence numbers of a node's messages have a gap or start again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GapReport {
    /// The room; `None` for broadcasts to all connections.
    pub room: Option<String>,
    /// The node whose messages were missed, if known.
    pub node: Option<NodeId>,
    /// The number of messages.
    ///
    /// `None` without a node means that the subscription is not active, because it was lost, refused or is
    /// late. All messages published until it is active are missed. If this node received messages of another
    /// node before, a later report counts those it missed, once that node publishes again.
    ///
    /// `None` with a node means that the node restarted its sequence numbers, so its last ones are unknown.
    pub missed: Option<u64>,
}

/// The hook called for each gap.
pub(crate) type GapHook = Arc<dyn Fn(GapReport) + Send + Sync>;

/// Reports gaps.
#[derive(Clone, Default)]
pub(crate) struct GapLog(pub(crate) Option<GapHook>);

impl GapLog {
    /// Logs a gap and calls the hook.
    pub(crate) fn report(&self, report: GapReport) {
        if let Some(missed) = report.missed {
            limited!(WARN, room = report.room.as_deref().map(|room| tracing::field::display(cut(room))), node = ?report.node, missed, "messages of another node were missed");
        }
        if let Some(hook) = &self.0 {
            guarded(|| hook(report)); // application code
        }
    }
}

impl fmt::Debug for GapLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GapLog").field(&self.0.is_some()).finish()
    }
}
