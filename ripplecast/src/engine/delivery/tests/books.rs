//! The core's own books.

use super::*;

/// The core's books agree with each other.
pub(super) fn check_books<W: Wire>(core: &Core<W>) {
    let mut waiting = 0;
    let mut free_rooms = core.free_rooms.clone();
    let mut dirty: Vec<_> = core.dirty.iter().copied().collect();
    for list in [&mut free_rooms, &mut dirty] {
        list.sort_unstable();
        let len = list.len();
        list.dedup();
        assert_eq!(list.len(), len, "a room is listed twice");
    }
    for (place, room) in core.rooms.iter().enumerate() {
        let place = place as u32;
        waiting += room.pending.bytes() + room.walk.as_ref().map_or(0, |walk| walk.batch.bytes());
        assert_eq!(room.queued, dirty.contains(&place));
        assert_eq!(room.shared.is_none(), free_rooms.contains(&place));
        let Some(shared) = &room.shared else {
            assert!(
                room.members.is_empty() && !room.queued && room.pending.is_empty() && room.walk.is_none()
            );
            continue;
        };
        assert!(!room.members.is_empty() || room.queued, "a room is kept for nothing");
        assert!(room.queued || (room.pending.is_empty() && room.walk.is_none()));
        assert_eq!(shared.place(usize::from(core.shard())), Some(place));
        for dialect in Dialect::ALL {
            let speakers = room.members.iter().filter(|&&slot| core.dialect(slot) == dialect).count();
            assert_eq!(room.speakers[dialect as usize] as usize, speakers);
        }
        if let Some(walk) = &room.walk {
            assert!(walk.next <= walk.end && walk.end <= room.members.len());
        }
        for (index, &slot) in room.members.iter().enumerate() {
            let mut of_room = core.slots.get(slot).memberships().iter().filter(|m| m.room() == place);
            assert_eq!(of_room.next().map(|m| m.index()), Some(index));
            assert!(of_room.next().is_none());
        }
    }
    assert_eq!(core.waiting, waiting);
    core.slots.assert_consistent();
    core.taps.assert_consistent(&core.slots);
    for (number, slot) in core.slots.iter() {
        for membership in slot.memberships().iter() {
            let room = &core.rooms[membership.room() as usize];
            assert_eq!(room.members.get(membership.index()), Some(&number));
            assert!(membership.seen() <= core.stamp);
            if !slot.flags().has(Flags::AHEAD | Flags::MUTE) {
                check_fast_path(core, number, membership);
            }
        }
    }
}

/// Who is not ahead is to get every frame that waits for it, since a walk gives it all without a look at the stamps.
pub(super) fn check_fast_path<W: Wire>(core: &Core<W>, slot: u32, membership: &Membership) {
    let room = &core.rooms[membership.room() as usize];
    let walk = room.walk.as_ref();
    let to_visit = walk.filter(|walk| (walk.next..walk.end).contains(&membership.index()));
    for batch in [Some(&room.pending), to_visit.map(|walk| &walk.batch)].into_iter().flatten() {
        let mut parts = Vec::new();
        batch.since(membership.seen(), core.dialect(slot), room.source(), &mut parts);
        assert_eq!(parts.len(), batch.ends(core.dialect(slot), room.source()).count());
    }
}
