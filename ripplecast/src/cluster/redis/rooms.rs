//! The rooms with members on this node, and whether their subscriptions are active.
//!
//! Pushes of other nodes before a room's subscription is active are missed, and their number is unknown. So
//! the members of such rooms are counted, and a subscription that is refused or late is reported.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::redis_client::Subscribed;

/// Time after which a missing first confirmation is reported as a gap. Far more than a round trip, so
/// ordinary joins are not reported.
const LATE: Duration = Duration::from_secs(1);

/// A room; `None` for broadcasts.
type RoomName = Option<Arc<str>>;

/// The rooms with members on this node.
#[derive(Default)]
pub(super) struct Rooms {
    local: HashMap<Arc<str>, LocalRoom>,
    /// The subscription to broadcasts.
    everyone: Option<Subscribed>,
    /// Members of rooms whose subscription is not active.
    unconfirmed: usize,
    /// Subscriptions never active and not reported yet, and when each was created.
    awaited: HashMap<RoomName, Instant>,
}

/// A room with members on this node.
struct LocalRoom {
    members: usize,
    /// Whether the subscription was active when last checked. If not, `unconfirmed` includes the room's
    /// members.
    is_active: bool,
    /// The subscription to the room's channel.
    subscribed: Subscribed,
}

impl Rooms {
    /// Keeps the subscription to broadcasts. Returns whether to wake [`report_late`](super::report_late).
    pub(super) fn subscribe_broadcasts(&mut self, everyone: Subscribed) -> bool {
        self.everyone = Some(everyone);
        self.await_first(None)
    }

    /// Sets the number of members of a room on this node; `subscribe` subscribes to a new room. Returns whether
    /// to wake [`report_late`](super::report_late).
    pub(super) fn change(
        &mut self,
        room: &Arc<str>,
        members: usize,
        subscribe: impl FnOnce() -> Subscribed,
    ) -> bool {
        let Some(local) = self.local.get_mut(room) else {
            if members == 0 {
                return false;
            }
            self.local.insert(room.clone(), LocalRoom { members, is_active: false, subscribed: subscribe() });
            self.unconfirmed += members;
            return self.await_first(Some(room.clone()));
        };
        if !local.is_active {
            self.unconfirmed = self.unconfirmed - local.members + members;
        }
        local.members = members;
        if members == 0 {
            self.local.remove(room);
            self.awaited.remove(&Some(room.clone()));
        }
        false
    }

    /// Checks again whether a subscription is active, after it was confirmed or lost. The event itself may
    /// belong to an earlier subscription to the same room.
    pub(super) fn update(&mut self, room: Option<&Arc<str>>) {
        let is_active = match room {
            None => self.everyone.as_ref().is_some_and(Subscribed::is_active),
            Some(room) => {
                let Some(local) = self.local.get_mut(room) else { return };
                let is_active = local.subscribed.is_active();
                match (std::mem::replace(&mut local.is_active, is_active), is_active) {
                    (false, true) => self.unconfirmed -= local.members,
                    (true, false) => self.unconfirmed += local.members,
                    _ => {}
                }
                is_active
            }
        };
        if is_active {
            self.awaited.remove(&room.cloned());
        }
    }

    /// Returns whether to report a refusal: not if the gap is already known.
    pub(super) fn note_refusal(&mut self, refused: Option<&Arc<str>>) -> bool {
        self.awaited.remove(&refused.cloned()).is_some()
    }

    /// Waits until the subscription to a room is active. Returns `None` if the room has no members here.
    pub(super) fn ready(
        &self,
        room: Option<&str>,
    ) -> Option<impl Future<Output = crate::Result<()>> + Send + use<>> {
        let subscribed = match room {
            None => self.everyone.as_ref(),
            Some(room) => self.local.get(room).map(|local| &local.subscribed),
        };
        subscribed.map(Subscribed::ready)
    }

    /// Returns the number of members of a room on this node.
    pub(super) fn members(&self, room: &str) -> usize {
        self.local.get(room).map_or(0, |local| local.members)
    }

    /// Returns the rooms with members on this node.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.local.keys()
    }

    /// Returns the number of members of rooms whose subscription is not active.
    pub(super) fn unconfirmed(&self) -> usize {
        self.unconfirmed
    }

    /// Records that a first confirmation is pending. Returns whether none was before.
    fn await_first(&mut self, room: RoomName) -> bool {
        let is_first = self.awaited.is_empty();
        self.awaited.insert(room, Instant::now());
        is_first
    }

    /// Removes and returns the rooms that are late by now, and whether none is pending any more.
    pub(super) fn take_late(&mut self) -> (Vec<RoomName>, bool) {
        let late =
            self.awaited.extract_if(|_, since| since.elapsed() >= LATE).map(|(room, _)| room).collect();
        if self.awaited.is_empty() {
            self.awaited = HashMap::new(); // free the memory, which may be large
        }
        (late, self.awaited.is_empty())
    }
}
