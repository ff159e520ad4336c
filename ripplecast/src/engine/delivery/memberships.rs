//! The rooms that one connection is in: two inline, which is enough for most connections, and the others in a table.

use hashbrown::HashTable;

/// A connection's membership in a room of this shard.
#[derive(Clone, Copy)]
pub(super) struct RoomMembership {
    /// The room's place in `ShardRooms`; `NONE` when unused.
    room: u32,
    /// The connection's index among the room's members.
    index: u32,
    /// Stamps up to this one don't concern the member: it was sent those frames, or joined after them.
    seen: u64,
}

/// No room.
const NONE: u32 = u32::MAX;

impl RoomMembership {
    const UNUSED: Self = Self { room: NONE, index: 0, seen: 0 };

    /// Creates the membership of a room's member `index`, which is to be sent frames with stamps above `seen`.
    pub(super) fn new(room: u32, index: u32, seen: u64) -> Self {
        Self { room, index, seen }
    }

    /// Returns the place of the room on this shard.
    pub(super) fn room(&self) -> u32 {
        self.room
    }

    /// Returns the connection's index among the room's members.
    pub(super) fn index(&self) -> usize {
        self.index as usize
    }

    /// Returns the last stamp that doesn't concern the member any more.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// Notes that the member has everything with a stamp up to `stamp`.
    pub(super) fn note_seen(&mut self, stamp: u64) {
        self.seen = self.seen.max(stamp);
    }

    /// Notes that the member has moved to another index.
    pub(super) fn move_to(&mut self, index: usize) {
        self.index = index as u32;
    }
}

/// A connection's memberships.
pub(super) struct Memberships {
    /// The first two: the room of all connections, and one more.
    inline: [RoomMembership; 2],
    /// Any others.
    more: Option<Box<More>>,
}

impl Memberships {
    /// Creates an empty set, which owns no memory.
    pub(super) fn new() -> Self {
        Self { inline: [RoomMembership::UNUSED; 2], more: None }
    }

    /// Returns all memberships.
    pub(super) fn iter(&self) -> impl Iterator<Item = &RoomMembership> {
        let more = self.more.iter().flat_map(|more| &more.0);
        self.inline.iter().filter(|m| m.room != NONE).chain(more).inspect(|_| work::step())
    }

    /// Returns all memberships, for updates.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut RoomMembership> {
        let more = self.more.iter_mut().flat_map(|more| &mut more.0);
        self.inline.iter_mut().filter(|m| m.room != NONE).chain(more).inspect(|_| work::step())
    }

    /// Returns the number of rooms.
    pub(super) fn len(&self) -> usize {
        let inline = self.inline.iter().filter(|m| m.room != NONE).count();
        inline + self.more.as_ref().map_or(0, |more| more.0.len())
    }

    /// Returns the membership in the room at `place`, in constant time.
    pub(super) fn get(&self, place: u32) -> Option<&RoomMembership> {
        work::step();
        let inline = self.inline.iter().find(|m| m.room == place);
        inline.or_else(|| self.more.as_ref()?.find(place))
    }

    /// Returns the membership in the room at `place` for updates, in constant time.
    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut RoomMembership> {
        work::step();
        match self.inline.iter_mut().find(|m| m.room == place) {
            Some(inline) => Some(inline),
            None => self.more.as_mut()?.find_mut(place),
        }
    }

    /// Adds a membership in a room that the connection isn't in yet.
    pub(super) fn add(&mut self, membership: RoomMembership) {
        match self.inline.iter_mut().find(|m| m.room == NONE) {
            Some(unused) => *unused = membership,
            None => self.more.get_or_insert_default().add(membership),
        }
    }

    /// Removes the membership in the room at `place`.
    pub(super) fn remove(&mut self, place: u32) -> Option<RoomMembership> {
        if let Some(inline) = self.inline.iter_mut().find(|m| m.room == place) {
            return Some(std::mem::replace(inline, RoomMembership::UNUSED));
        }
        let more = self.more.as_mut()?;
        let removed = more.remove(place)?;
        if more.0.is_empty() {
            self.more = None;
        }
        Some(removed)
    }

    /// Removes all memberships.
    pub(super) fn take(&mut self) -> impl Iterator<Item = RoomMembership> + use<> {
        let inline = std::mem::replace(&mut self.inline, [RoomMembership::UNUSED; 2]);
        let more = self.more.take().map(|more| more.0);
        inline.into_iter().filter(|m| m.room != NONE).chain(more.into_iter().flatten())
    }

    /// Whether the table of further rooms is allocated.
    #[cfg(test)]
    pub(super) fn has_table(&self) -> bool {
        self.more.is_some()
    }

    /// Checks that no memory is owned without need.
    #[cfg(test)]
    pub(super) fn assert_consistent(&self) {
        assert_eq!(self.iter().count(), self.len());
        assert!(self.more.as_ref().is_none_or(|more| !more.0.is_empty()), "an empty table was not freed");
    }
}

/// Memberships by the place of their room.
#[derive(Default)]
struct More(HashTable<RoomMembership>);

impl More {
    /// The capacity from which memory is given back.
    const LARGE: usize = 64;

    /// Spreads places, which are small and dense, over all bits.
    fn hash(place: u32) -> u64 {
        let spread = u64::from(place).wrapping_mul(0x9E37_79B9_7F4A_7C15); // 2^64 times the golden ratio's fraction
        spread ^ (spread >> 32)
    }

    fn add(&mut self, membership: RoomMembership) {
        self.0.insert_unique(Self::hash(membership.room), membership, |m| Self::hash(m.room));
    }

    fn find(&self, place: u32) -> Option<&RoomMembership> {
        self.0.find(Self::hash(place), |m| m.room == place)
    }

    fn find_mut(&mut self, place: u32) -> Option<&mut RoomMembership> {
        self.0.find_mut(Self::hash(place), |m| m.room == place)
    }

    fn remove(&mut self, place: u32) -> Option<RoomMembership> {
        let (membership, _) = self.0.find_entry(Self::hash(place), |m| m.room == place).ok()?.remove();
        if self.0.capacity() > Self::LARGE && self.0.len() < self.0.capacity() / 8 {
            self.0.shrink_to(self.0.len() * 2, |m| Self::hash(m.room));
        }
        Some(membership)
    }
}

/// Counts the memberships that an operation touched, for tests that limit the work of an operation.
pub(super) mod work {
    #[cfg(test)]
    std::thread_local! {
        static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    }

    #[inline]
    pub(super) fn step() {
        #[cfg(test)]
        STEPS.set(STEPS.get() + 1);
    }

    /// Returns the steps since the last call.
    #[cfg(test)]
    pub(in super::super) fn take() -> u64 {
        STEPS.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(memberships: &Memberships) -> Vec<u32> {
        let mut rooms: Vec<_> = memberships.iter().map(RoomMembership::room).collect();
        rooms.sort_unstable();
        rooms
    }

    #[test]
    fn two_memberships_are_inline_and_an_empty_table_is_freed() {
        let mut memberships = Memberships::new();
        for room in 0..2 {
            memberships.add(RoomMembership::new(room, 0, 0));
        }
        assert!(!memberships.has_table());
        memberships.add(RoomMembership::new(2, 7, 9));
        assert!(memberships.has_table());
        assert_eq!(memberships.get(2).map(|m| (m.index(), m.seen())), Some((7, 9)));
        assert!(memberships.remove(2).is_some() && !memberships.has_table());
        assert!(memberships.remove(2).is_none());
        assert_eq!(rooms(&memberships), [0, 1]);
    }

    #[test]
    fn a_free_inline_place_is_reused_and_taking_all_leaves_none() {
        let mut memberships = Memberships::new();
        for room in 0..5 {
            memberships.add(RoomMembership::new(room, 0, 0));
        }
        memberships.remove(0);
        memberships.add(RoomMembership::new(9, 0, 0));
        assert_eq!((memberships.len(), rooms(&memberships)), (5, vec![1, 2, 3, 4, 9]));
        assert_eq!(memberships.take().count(), 5);
        assert_eq!((memberships.len(), memberships.has_table()), (0, false));
    }

    #[test]
    fn a_stamp_that_was_seen_stays_seen() {
        let mut memberships = Memberships::new();
        memberships.add(RoomMembership::new(3, 1, 5));
        let membership = memberships.get_mut(3).unwrap();
        membership.note_seen(4);
        membership.move_to(0);
        assert_eq!((membership.seen(), membership.index()), (5, 0));
    }
}
