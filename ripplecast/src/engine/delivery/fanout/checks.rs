//! Checks that the rooms agree with each other and with the connections.

use super::*;

impl<W: Wire> ShardRooms<W> {
    /// Returns how many places are free.
    pub(in super::super) fn free_rooms(&self) -> usize {
        self.free_rooms.len()
    }

    /// Checks that the rooms agree with each other and with the connections.
    pub(in super::super) fn assert_consistent(&self, slots: &Slots<W>) {
        let mut waiting = 0;
        let mut free_rooms = self.free_rooms.clone();
        let mut dirty: Vec<_> = self.dirty.iter().copied().collect();
        for list in [&mut free_rooms, &mut dirty] {
            list.sort_unstable();
            let len = list.len();
            list.dedup();
            assert_eq!(list.len(), len, "a room is listed twice");
        }
        for (place, room) in self.rooms.iter().enumerate() {
            let place = place as u32;
            waiting +=
                room.pending.bytes() + room.fan_out.as_ref().map_or(0, |fan_out| fan_out.batch.bytes());
            assert_eq!(room.queued, dirty.contains(&place));
            assert_eq!(room.shared.is_none(), free_rooms.contains(&place));
            let Some(shared) = &room.shared else {
                assert!(
                    room.members.is_empty()
                        && !room.queued
                        && room.pending.is_empty()
                        && room.fan_out.is_none()
                );
                continue;
            };
            assert!(!room.members.is_empty() || room.queued, "an unused room was not freed");
            assert!(room.queued || (room.pending.is_empty() && room.fan_out.is_none()));
            assert_eq!(shared.place(usize::from(slots.shard())), Some(place));
            for encoding in Encoding::ALL {
                let members_by_encoding = room
                    .members
                    .iter()
                    .filter(|&&slot| slots.get(slot).flags().encoding() == encoding)
                    .count();
                assert_eq!(room.members_by_encoding[encoding as usize] as usize, members_by_encoding);
            }
            if let Some(fan_out) = &room.fan_out {
                assert!(fan_out.next <= fan_out.end && fan_out.end <= room.members.len());
            }
            for (index, &slot) in room.members.iter().enumerate() {
                let mut of_room = slots.get(slot).memberships().iter().filter(|m| m.room() == place);
                assert_eq!(of_room.next().map(super::super::memberships::RoomMembership::index), Some(index));
                assert!(of_room.next().is_none());
            }
        }
        assert_eq!(self.waiting, waiting);
        for (number, slot) in slots.iter() {
            for membership in slot.memberships().iter() {
                let room = &self.rooms[membership.room() as usize];
                assert_eq!(room.members.get(membership.index()), Some(&number));
                assert!(membership.seen() <= self.stamp);
                if !slot.flags().has(Flags::AHEAD | Flags::MUTE) {
                    self.check_fast_path(slot.flags().encoding(), membership);
                }
            }
        }
    }

    /// Checks that a member that is not ahead needs every waiting frame: a fan-out sends it all of them without comparing
    /// stamps.
    fn check_fast_path(&self, encoding: Encoding, membership: &RoomMembership) {
        let room = &self.rooms[membership.room() as usize];
        let fan_out = room.fan_out.as_ref();
        let to_come = fan_out.filter(|fan_out| (fan_out.next..fan_out.end).contains(&membership.index()));
        for batch in [Some(&room.pending), to_come.map(|fan_out| &fan_out.batch)].into_iter().flatten() {
            let mut parts = Vec::new();
            batch.since(membership.seen(), encoding, room.source(), &mut parts);
            assert_eq!(parts.len(), batch.ends(encoding, room.source()).count());
        }
    }
}
