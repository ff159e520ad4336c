//! What did not come from other nodes, and who wants to hear of it.

use std::{fmt, sync::Arc};

use super::bridge::NodeId;
use crate::{
    log::{cut, limited},
    panics::guarded,
};

/// Messages of other nodes that were missed, as told to the hook of [`HubBuilder::on_gap`](crate::HubBuilder::on_gap).
///
/// Members of the room on this node have not got them: an application that can't do without tells them to load anew.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GapReport {
    /// The room; `None` for what was pushed to all connections.
    pub room: Option<String>,
    /// Whose messages were missed, if that is known.
    pub node: Option<NodeId>,
    /// How many. `None` when the subscription was lost: what is published from then on, until it stands again, is missed. A
    /// later report says how many messages of a node those were, once it publishes again, if it was heard before. `None` with
    /// a node when that node has begun to number anew, so that nobody knows what its last numbers were.
    pub missed: Option<u64>,
}

/// Who wants to hear of gaps.
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
