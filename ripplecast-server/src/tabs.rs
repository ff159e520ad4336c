//! How many tabs are open, told to all of them: a broadcast in a file of its own, for
//! any page that wants it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use ripplecast::{Connection, Frame, Hub, LiveCounter, Result, Room};
use tokio::sync::Notify;

/// Time after which is counted again although nobody has come or gone here: on another
/// node somebody may have.
const AGAIN: Duration = Duration::from_secs(2);
/// Time between two counts at the least, however many come and go.
const PAUSE: Duration = Duration::from_millis(100);

/// The number of members of a room, pushed as `{"tabs":N}` to whoever asks for it.
///
/// It is counted, and not added up: where a node is killed, nobody is left to subtract
/// its tabs.
pub(crate) struct Tabs {
    /// Who is counted.
    room: Room,
    /// What is shown; setting it is what pushes it.
    shown: LiveCounter,
    /// Says that somebody came or went.
    changed: Notify,
}

impl Tabs {
    /// Counts the members of `room` from now on.
    pub(crate) fn of(hub: &Hub, room: &Room) -> Result<Arc<Self>> {
        let listeners = hub.room(format!("{}:tabs", room.name()));
        let message = |tabs| Frame::text(format!(r#"{{"tabs":{tabs}}}"#));
        let shown = hub.counter("tabs").publish_with(&listeners, message)?;
        let (room, changed) = (room.clone(), Notify::new());
        let tabs = Arc::new(Self { room, shown, changed });
        tokio::spawn(keep_counting(Arc::downgrade(&tabs)));
        Ok(tabs)
    }

    /// Somebody came or went: counts soon.
    pub(crate) fn changed(&self) {
        self.changed.notify_one();
    }

    /// Tells a connection the number now, and whenever it changes.
    pub(crate) async fn tell(&self, conn: &Connection) -> Result<()> {
        self.shown.join(conn).await
    }

    /// Counts, on all nodes, and tells it where it differs from what was told.
    async fn count(&self) -> Result<()> {
        let tabs = i64::try_from(self.room.len().await?).unwrap_or(i64::MAX);
        if self.shown.get().await? != tabs {
            self.shown.set(tabs).await?;
        }
        Ok(())
    }
}

/// Counts whenever something changed, and now and then, for as long as anybody has use
/// for it.
async fn keep_counting(tabs: Weak<Tabs>) {
    while let Some(tabs) = tabs.upgrade() {
        if let Err(error) = tabs.count().await {
            tracing::debug!(%error, "the tabs are counted again in a moment");
        }
        let _ = tokio::time::timeout(AGAIN, tabs.changed.notified()).await;
        tokio::time::sleep(PAUSE).await;
    }
}
