//! The rooms that have members on this node, and whether their subscriptions are active.
//!
//! Pushes of other nodes before a room's subscription is active are missed, and their number is unknown. So the members
//! of such rooms are counted, and a subscription that is refused or late is reported.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::Inner;
use crate::{
    log::{cut, limited},
    redis_client::Subscribed,
};

/// A first confirmation that takes longer is reported as a gap. Far more than a round trip, so that ordinary joins are not.
const LATE: Duration = Duration::from_secs(1);
/// Time between two looks for late confirmations, while any is awaited.
const LOOK: Duration = Duration::from_millis(250);

/// A room; `None` for what is pushed to all connections.
type Name = Option<Arc<str>>;

/// See the module.
#[derive(Default)]
pub(super) struct Rooms {
    here: HashMap<Arc<str>, RoomHere>,
    /// Brings what is pushed to all connections.
    everyone: Option<Subscribed>,
    /// Members of the rooms whose subscription is not active.
    unconfirmed: usize,
    /// Subscriptions that have never stood and are not reported yet, and when each was made.
    awaited: HashMap<Name, Instant>,
}

/// A room that has members here.
struct RoomHere {
    members: usize,
    /// Whether the subscription stood at the last look; its members are in `unconfirmed` otherwise.
    stands: bool,
    /// Brings what others push.
    subscribed: Subscribed,
}

impl Rooms {
    /// Keeps the subscription to what is pushed to all connections. Whether to wake [`run`].
    pub(super) fn listen_to_everyone(&mut self, everyone: Subscribed) -> bool {
        self.everyone = Some(everyone);
        self.await_first(None)
    }

    /// Sets how many members a room has here; `listen` subscribes to a new one. Whether to wake [`run`].
    pub(super) fn change(
        &mut self,
        room: &Arc<str>,
        members: usize,
        listen: impl FnOnce() -> Subscribed,
    ) -> bool {
        let Some(here) = self.here.get_mut(room) else {
            if members == 0 {
                return false;
            }
            self.here.insert(room.clone(), RoomHere { members, stands: false, subscribed: listen() });
            self.unconfirmed += members;
            return self.await_first(Some(room.clone()));
        };
        if !here.stands {
            self.unconfirmed = self.unconfirmed - here.members + members;
        }
        here.members = members;
        if members == 0 {
            self.here.remove(room);
            self.awaited.remove(&Some(room.clone()));
        }
        false
    }

    /// Checks again whether a subscription is active, after it was confirmed or lost. The event itself may belong to an
    /// earlier subscription to the same room.
    pub(super) fn settle(&mut self, room: Option<&Arc<str>>) {
        let stands = match room {
            None => self.everyone.as_ref().is_some_and(Subscribed::stands),
            Some(room) => {
                let Some(here) = self.here.get_mut(room) else { return };
                let stands = here.subscribed.stands();
                match (std::mem::replace(&mut here.stands, stands), stands) {
                    (false, true) => self.unconfirmed -= here.members,
                    (true, false) => self.unconfirmed += here.members,
                    _ => {}
                }
                stands
            }
        };
        if stands {
            self.awaited.remove(&room.cloned());
        }
    }

    /// Whether a refusal is to be reported: not when the gap is known already.
    pub(super) fn is_news(&mut self, refused: Option<&Arc<str>>) -> bool {
        self.awaited.remove(&refused.cloned()).is_some()
    }

    /// Waits until the subscription to a room is active; `None` if the room has no members here.
    pub(super) fn ready(
        &self,
        room: Option<&str>,
    ) -> Option<impl Future<Output = crate::Result<()>> + Send + use<>> {
        let subscribed = match room {
            None => self.everyone.as_ref(),
            Some(room) => self.here.get(room).map(|here| &here.subscribed),
        };
        subscribed.map(Subscribed::ready)
    }

    /// How many members a room has here.
    pub(super) fn members(&self, room: &str) -> usize {
        self.here.get(room).map_or(0, |here| here.members)
    }

    /// The rooms that have members here.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.here.keys()
    }

    /// Members of the rooms whose subscription is not active.
    pub(super) fn unconfirmed(&self) -> usize {
        self.unconfirmed
    }

    /// Notes that a first confirmation is awaited. Whether none was before.
    fn await_first(&mut self, room: Name) -> bool {
        let is_first = self.awaited.is_empty();
        self.awaited.insert(room, Instant::now());
        is_first
    }

    /// Takes out those that are late by now. Whether none is awaited any more.
    fn take_late(&mut self) -> (Vec<Name>, bool) {
        let late =
            self.awaited.extract_if(|_, since| since.elapsed() >= LATE).map(|(room, _)| room).collect();
        if self.awaited.is_empty() {
            self.awaited = HashMap::new(); // it may have been large
        }
        (late, self.awaited.is_empty())
    }
}

/// Reports subscriptions whose first confirmation is late, until it is aborted.
pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        inner.awaiting.notified().await;
        loop {
            sleep(LOOK).await;
            let (late, is_done) = inner.rooms.lock().take_late();
            if let Some(example) = late.first() {
                let example = cut(example.as_deref().unwrap_or("(all connections)"));
                limited!(
                    WARN,
                    %example,
                    count = late.len(),
                    "Redis has not confirmed subscriptions to rooms within 1 s; what other nodes push until it does is missed"
                );
            }
            for room in &late {
                inner.gap(room.as_ref());
            }
            if is_done {
                break;
            }
        }
    }
}
