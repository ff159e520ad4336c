//! The number of open tabs, pushed to all of them: your own broadcast, in one file, for
//! any page.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use ripplecast::{Connection, Hub, LiveCounter, Message, Result, Room};
use tokio::sync::Notify;

/// The interval between recounts when no tab opens or closes here: one may have on
/// another node.
const AGAIN: Duration = Duration::from_secs(2);
/// The shortest time between two counts, however many tabs open and close.
const PAUSE: Duration = Duration::from_millis(100);

/// The number of members of a room, pushed as `{"tabs":N}` to all who subscribe.
///
/// It counts the members instead of keeping a running total: if a node is killed,
/// nothing is left to subtract its tabs.
pub(crate) struct Tabs {
    /// The room whose members are counted.
    room: Room,
    /// The published count; setting it pushes it.
    shown: LiveCounter,
    /// Signals that a tab has opened or closed.
    changed: Notify,
}

impl Tabs {
    /// Starts to count the members of `room`.
    pub(crate) fn of(hub: &Hub, room: &Room) -> Result<Arc<Self>> {
        let listeners = hub.room(format!("{}:tabs", room.name()));
        let message = |tabs| Message::text(format!(r#"{{"tabs":{tabs}}}"#));
        let shown = hub.counter("tabs").publish_with(&listeners, message)?;
        let (room, changed) = (room.clone(), Notify::new());
        let tabs = Arc::new(Self { room, shown, changed });
        tokio::spawn(keep_counting(Arc::downgrade(&tabs)));
        Ok(tabs)
    }

    /// Requests a recount after a tab has opened or closed.
    pub(crate) fn changed(&self) {
        self.changed.notify_one();
    }

    /// Sends a connection the number now, and whenever it changes.
    pub(crate) async fn join(&self, conn: &Connection) -> Result<()> {
        self.shown.join(conn).await
    }

    /// Counts the members on all nodes, and publishes the number if it changed.
    async fn count(&self) -> Result<()> {
        let tabs = i64::try_from(self.room.len().await?).unwrap_or(i64::MAX);
        if self.shown.get().await? != tabs {
            self.shown.set(tabs).await?;
        }
        Ok(())
    }
}

/// Recounts after each change and at intervals, until `Tabs` is dropped.
async fn keep_counting(tabs: Weak<Tabs>) {
    while let Some(tabs) = tabs.upgrade() {
        if let Err(error) = tabs.count().await {
            tracing::debug!(%error, "failed to count the tabs; trying again soon");
        }
        let _ = tokio::time::timeout(AGAIN, tabs.changed.notified()).await;
        tokio::time::sleep(PAUSE).await;
    }
}
