//! Sends to one connection: writes what the socket takes, and queues the rest in its outbox.

use std::{io, sync::Arc};

use bytes::Bytes;

use super::{
    shed::{HeldIn, ShedStep, Shedder},
    slots::{Flags, Slots},
    taps::Taps,
};
use crate::{
    codec::Event,
    engine::{
        batch::{Encoding, Joined, RoomBatch, Tag},
        budget::MemoryBudget,
        drops::Drops,
        outbox::{Admission, Outbox, OutboxPiece, Overflow, Wire},
        position::RoomSource,
        tap::TapSender,
    },
    id::Local,
    limits::READ_BUFFER,
    outcome::Dropped,
};

/// Why the shard has to close a connection, found while doing something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DeliveryFault {
    /// The socket failed.
    Lost,
    /// Its outbox is full.
    SlowConsumer,
    /// The hub's memory budget is exceeded, and no other connection has more waiting.
    Shed,
    /// Like `Shed`, except that a frame was half written, so nothing more can be sent.
    Cut,
    /// The hub's memory budget is exceeded, and no connection has a longer unfinished incoming message.
    Unfinished,
}

/// Counts of what was delivered and dropped.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct DeliveryCounts {
    /// Frames that were dropped for connections.
    pub(crate) drops: Drops,
    /// Encoded frames of rooms: one for each message and transport, however many members.
    pub(crate) encoded_frames: u64,
}

/// Writes to connections, and queues what their sockets do not take.
pub(super) struct Sender<W> {
    slots: Slots<W>,
    taps: Taps,
    shedder: Shedder,
    /// Frames for one connection are joined here.
    scratch: Joined,
    /// Connections to be closed.
    faults: Vec<(Local, DeliveryFault)>,
    counts: DeliveryCounts,
    /// Drops that the shard has not reported yet; `None` if they are only counted.
    drop_reports: Option<Vec<(Local, Dropped, u32)>>,
}

impl<W: Wire> Sender<W> {
    /// Creates a sender without connections. Reports each drop if `report_drops`; otherwise drops are only counted.
    pub(super) fn new(shard: u8, budget: Arc<MemoryBudget>, report_drops: bool) -> Self {
        Self {
            slots: Slots::new(shard),
            taps: Taps::new(),
            shedder: Shedder::new(shard, budget),
            scratch: Joined::default(),
            faults: Vec::new(),
            counts: DeliveryCounts::default(),
            drop_reports: report_drops.then(Vec::new),
        }
    }

    /// Returns the connections.
    #[inline]
    pub(super) fn slots(&self) -> &Slots<W> {
        &self.slots
    }

    /// Returns the connections, for updates.
    #[inline]
    pub(super) fn slots_mut(&mut self) -> &mut Slots<W> {
        &mut self.slots
    }

    /// Returns the hub's memory budget.
    pub(super) fn budget(&self) -> &Arc<MemoryBudget> {
        self.shedder.budget()
    }

    /// Takes a connection's socket, drops the frames that wait for it, and ends its taps.
    pub(super) fn detach(&mut self, slot: u32) -> Option<W> {
        self.taps.end(&mut self.slots, slot);
        self.shedder.set_incoming(slot, 0);
        self.slots.take_wire(slot)
    }

    /// Reports the connection's frames to a tap from now on.
    pub(super) fn tap(&mut self, who: Local, sender: TapSender) {
        self.taps.add(&mut self.slots, who, sender);
    }

    /// Reports a received frame to the connection's taps.
    pub(super) fn report_received(&mut self, who: Local, event: &Event<'_>) {
        self.taps.received(&mut self.slots, who, event);
    }

    /// Sets the bytes that an incoming message of the connection holds.
    pub(super) fn set_incoming(&mut self, slot: u32, bytes: usize) {
        self.shedder.set_incoming(slot, bytes);
    }

    /// Returns the next connection to be closed.
    pub(super) fn next_fault(&mut self) -> Option<(Local, DeliveryFault)> {
        self.faults.pop()
    }

    /// Counts a room's frame that was encoded for one transport.
    pub(super) fn note_encoded(&mut self) {
        self.counts.encoded_frames += 1;
    }

    /// Returns what was counted since the last call.
    pub(super) fn take_counts(&mut self) -> DeliveryCounts {
        std::mem::take(&mut self.counts)
    }

    /// Returns the drops since the last call, if they are reported: for whom, why, and how many frames.
    pub(super) fn take_drop_reports(&mut self) -> impl Iterator<Item = (Local, Dropped, u32)> {
        self.drop_reports.iter_mut().flat_map(|reports| reports.drain(..))
    }

    /// Returns the connections to be closed, the next one last.
    #[cfg(test)]
    pub(super) fn faults(&self) -> &[(Local, DeliveryFault)] {
        &self.faults
    }

    /// Checks that the parts agree with each other.
    #[cfg(test)]
    pub(super) fn assert_consistent(&self) {
        self.slots.assert_consistent();
        self.taps.assert_consistent(&self.slots);
    }

    /// Queues control bytes, such as a close frame, even for a mute connection and beyond the limit of its outbox.
    pub(super) fn append(&mut self, slot: u32, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.slots.get(slot).flags().has(Flags::TAPPED) {
            self.taps.sent(&mut self.slots, slot, bytes);
        }
        let target = self.slots.get(slot);
        let written = match target.ready_wire() {
            Some(wire) => write_some(wire, bytes),
            None if target.is_open() => Ok(0),
            None => return,
        };
        match written {
            Ok(n) if n == bytes.len() => {}
            Ok(n) => {
                let rest = self.shedder.budget().share(bytes[n..].to_vec());
                let piece = self.piece(rest, 1, Overflow::Disconnect);
                match self.slots.get_mut(slot).outbox_mut() {
                    Some(outbox) => outbox.append(piece),
                    None => self.slots.get_mut(slot).begin_outbox(piece),
                }
            }
            Err(_) => self.fault(slot, DeliveryFault::Lost),
        }
    }

    /// Drops the frames in the outbox, except a half-written one. For a slow consumer's close frame.
    pub(super) fn discard_backlog(&mut self, slot: u32, reason: Dropped) {
        if let Some(outbox) = self.slots.get_mut(slot).outbox_mut() {
            let dropped = outbox.discard();
            self.note_drop(slot, reason, dropped);
        }
    }

    /// Writes the frames in the outbox, now that the socket takes more.
    pub(super) fn flush(&mut self, slot: u32) {
        if self.slots.get_mut(slot).flush().is_err() {
            self.fault(slot, DeliveryFault::Lost);
        }
    }

    /// Returns an empty buffer for frames that are to leave in one write. Give it back with [`Sender::send_joined`].
    pub(super) fn take_scratch(&mut self) -> Joined {
        std::mem::take(&mut self.scratch)
    }

    /// Sends joined frames to one connection in one write, and keeps the buffer for the next.
    pub(super) fn send_joined(&mut self, slot: u32, mut scratch: Joined) {
        if !scratch.bytes.is_empty() {
            if self.slots.get(slot).flags().has(Flags::TAPPED) {
                self.taps.sent(&mut self.slots, slot, &scratch.bytes);
            }
            let written = match self.slots.get(slot).ready_wire() {
                Some(wire) => write_some(wire, &scratch.bytes),
                None => Ok(0),
            };
            match written {
                Ok(n) if n == scratch.bytes.len() => {}
                Ok(n) => {
                    // A small frame must not keep the buffer of large ones alive for as long as the peer does not read.
                    if scratch.bytes.capacity() > 2 * scratch.bytes.len() {
                        scratch.bytes.shrink_to_fit();
                    }
                    let bytes = self.shedder.budget().share(std::mem::take(&mut scratch.bytes));
                    self.enqueue(slot, &bytes, n, scratch.ends.drain(..));
                }
                Err(_) => self.fault(slot, DeliveryFault::Lost),
            }
        }
        scratch.clear();
        self.scratch = scratch;
    }

    /// Writes a room's frames, and queues those that the socket does not take.
    #[inline]
    pub(super) fn send(&mut self, slot: u32, batch: &RoomBatch, encoding: Encoding, source: RoomSource) {
        let bytes = batch.of(encoding);
        let written = match self.slots.get(slot).ready_wire() {
            Some(wire) => match write_some(wire, bytes) {
                Ok(n) if n == bytes.len() => return,
                other => other,
            },
            None => Ok(0),
        };
        match written {
            Ok(n) => self.enqueue(slot, bytes, n, batch.ends(encoding, source)),
            Err(_) => self.fault(slot, DeliveryFault::Lost),
        }
    }

    /// Queues the part of `bytes` that the socket did not take. The frames in it end at `ends`. Frames under the same
    /// policy stay together as long as they fit: one write, and one place in the queue.
    #[cold]
    fn enqueue(
        &mut self,
        slot: u32,
        bytes: &Bytes,
        written: usize,
        ends: impl Iterator<Item = (usize, Tag)>,
    ) {
        if !self.slots.get(slot).is_open() {
            return;
        }
        let policy = self.slots.policy(slot);
        let mut run: Option<OutboxPiece> = None;
        let (mut start, mut run_start, mut refused) = (0, 0, 0);
        for (end, tag) in ends {
            let begin = std::mem::replace(&mut start, end);
            if end <= written {
                continue;
            }
            if refused > 0 {
                refused += 1;
                continue;
            }
            let overflow = tag.overflow.unwrap_or(policy.overflow);
            let key = tag.key.filter(|_| overflow == Overflow::LatestPerKey).map(Box::new);
            // A small frame that may wait for long must not keep a much larger buffer alive.
            let own = |from: usize| {
                let part = bytes.slice(from..end);
                let small = part.len() < bytes.len() / 4;
                if small { self.shedder.budget().share(part.to_vec()) } else { part }
            };
            if begin < written {
                let piece = OutboxPiece { key, ..self.piece(own(written), 1, overflow) };
                self.slots.get_mut(slot).begin_outbox(piece);
                continue;
            }
            let space = self.slots.get(slot).outbox().map_or(policy.outbox, |o| o.space(policy.outbox));
            if let Some(joined) = &mut run
                && key.is_none()
                && tag.barrier.is_none()
                && joined.key.is_none()
                && joined.overflow == overflow
                && end - run_start <= space
            {
                joined.bytes = bytes.slice(run_start..end);
                joined.frames += 1;
                continue;
            }
            let part = if key.is_some() { own(begin) } else { bytes.slice(begin..end) };
            let ready = run.replace(OutboxPiece { key, ..self.piece(part, 1, overflow) });
            run_start = begin;
            if let Some(ready) = ready
                && let Some(frames) = self.offer(slot, ready, policy.outbox)
            {
                refused += frames + 1;
                run = None;
            }
            if let Some(scope) = tag.barrier
                && let Some(outbox) = self.slots.get_mut(slot).outbox_mut()
            {
                outbox.forget_keys(scope);
            }
        }
        if let Some(ready) = run {
            refused += self.offer(slot, ready, policy.outbox).unwrap_or(0);
        }
        if refused > 0 {
            self.note_drop(slot, Dropped::SlowConsumer, refused);
            self.fault(slot, DeliveryFault::SlowConsumer);
        }
        let cost = self.slots.get(slot).outbox().map_or(0, Outbox::cost);
        self.shedder.note_held(cost);
    }

    /// Offers a piece to an outbox. Returns the number of its frames if the connection is to be closed because of them.
    fn offer(&mut self, slot: u32, piece: OutboxPiece, limit: usize) -> Option<u32> {
        let frames = piece.frames;
        match self.slots.get_mut(slot).outbox_or_new().offer(piece, limit) {
            Admission::Queued { dropped } => self.note_drop(slot, Dropped::OutboxFull, dropped),
            Admission::Replaced => self.note_drop(slot, Dropped::Replaced, 1),
            Admission::Dropped => self.note_drop(slot, Dropped::OutboxFull, frames),
            Admission::Full => return Some(frames),
        }
        None
    }

    /// Creates a piece for an outbox.
    fn piece(&self, bytes: Bytes, frames: u32, overflow: Overflow) -> OutboxPiece {
        OutboxPiece { bytes, frames, overflow, key: None, _charge: self.shedder.budget().charge_piece() }
    }

    /// Sheds if too much waits on the hub; to be called each turn. Returns what [`Sender::shed`] returns.
    pub(super) fn shed_if_over(&mut self) -> Option<usize> {
        if self.shedder.is_needed() { self.shed() } else { None }
    }

    /// Sheds the slowest connections of this shard until little enough waits, or until another shard has a slower one.
    /// Returns the number of that shard, which is to be woken.
    pub(super) fn shed(&mut self) -> Option<usize> {
        let mut candidates = self.shedder.begin(&self.slots);
        loop {
            match self.shedder.next(&mut candidates) {
                ShedStep::Drop(slot, HeldIn::Outbox) => self.shed_outbox(slot),
                ShedStep::Drop(slot, HeldIn::Incoming) => {
                    self.shedder.set_incoming(slot, 0);
                    self.fault(slot, DeliveryFault::Unfinished);
                }
                ShedStep::Stop { slower } => return slower,
            }
        }
    }

    /// Drops the waiting frames of a connection as far as their policies allow. If any are left, drops them too and
    /// closes the connection.
    fn shed_outbox(&mut self, slot: u32) {
        let target = self.slots.get_mut(slot);
        let Some(outbox) = target.outbox_mut() else { return };
        let (mut dropped, more) = outbox.discard_droppable();
        if more {
            dropped += outbox.discard();
        }
        let left = outbox.bytes();
        // A half-written frame can't be dropped alone. Where it is all there is, or where it is large and its
        // connection is closed anyway, the socket has to go.
        let fault = if dropped == 0 || (more && left > READ_BUFFER) {
            target.drop_outbox();
            dropped += 1;
            Some(DeliveryFault::Cut)
        } else {
            if left == 0 {
                target.drop_outbox();
            }
            more.then_some(DeliveryFault::Shed)
        };
        self.note_drop(slot, Dropped::Shed, dropped);
        if let Some(fault) = fault {
            self.fault(slot, fault);
        }
    }

    /// Notes that the connection is to be closed, and mutes it.
    #[cold]
    fn fault(&mut self, slot: u32, fault: DeliveryFault) {
        let target = self.slots.get_mut(slot);
        if fault == DeliveryFault::Lost {
            target.drop_outbox();
        }
        target.mute();
        self.faults.push((self.slots.id(slot), fault));
    }

    /// Counts frames that were dropped for a connection.
    fn note_drop(&mut self, slot: u32, reason: Dropped, frames: u32) {
        if frames == 0 {
            return;
        }
        self.counts.drops.add(reason, u64::from(frames));
        if let Some(reports) = &mut self.drop_reports {
            reports.push((self.slots.id(slot), reason, frames));
        }
    }
}

/// Writes what the socket takes. Returns 0 when it takes nothing now.
fn write_some(wire: &impl Wire, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match wire.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::outbox::OutboxPolicy, outcome::Dropped};

    /// A socket that takes `space` bytes of each write.
    struct LimitedSocket {
        space: usize,
    }

    impl Wire for LimitedSocket {
        fn write(&self, bytes: &[u8]) -> io::Result<usize> {
            match bytes.len().min(self.space) {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                taken => Ok(taken),
            }
        }
    }

    fn open(sender: &mut Sender<LimitedSocket>, space: usize, overflow: Overflow) -> Local {
        let who = sender.slots_mut().reserve(usize::MAX).unwrap();
        let policy = OutboxPolicy { outbox: 400, overflow, compress_above: usize::MAX };
        sender.slots_mut().open(who, LimitedSocket { space }, Encoding::WebSocket, policy);
        who
    }

    fn joined(len: usize) -> Joined {
        let mut joined = Joined { bytes: vec![0; len], ends: Vec::new() };
        joined.end(Tag::default());
        joined
    }

    fn sender(report_drops: bool) -> Sender<LimitedSocket> {
        Sender::new(0, Arc::new(MemoryBudget::new(1 << 20, 1)), report_drops)
    }

    #[test]
    fn the_memory_of_a_large_frame_is_not_kept() {
        let mut sender = sender(false);
        let who = open(&mut sender, usize::MAX, Overflow::Disconnect);
        sender.send_joined(who.slot, joined(READ_BUFFER + 1));
        assert!(sender.take_scratch().bytes.capacity() <= READ_BUFFER);
    }

    #[test]
    fn drops_are_counted_and_reported_once() {
        let mut sender = sender(true);
        let who = open(&mut sender, 0, Overflow::DropOldest);
        for _ in 0..3 {
            sender.send_joined(who.slot, joined(300));
        }
        assert_eq!(sender.take_drop_reports().collect::<Vec<_>>(), [(who, Dropped::OutboxFull, 1); 2]);
        assert_eq!(sender.take_counts().drops.outbox_full, 2);
        assert_eq!((sender.take_drop_reports().count(), sender.take_counts().drops.total()), (0, 0));
        sender.assert_consistent();
    }

    #[test]
    fn a_slow_consumer_is_muted_and_noted_as_a_fault() {
        let mut sender = sender(false);
        let who = open(&mut sender, 0, Overflow::Disconnect);
        sender.send_joined(who.slot, joined(300));
        assert_eq!((sender.next_fault(), sender.slots().get(who.slot).is_mute()), (None, false));
        sender.send_joined(who.slot, joined(300));
        assert_eq!(sender.next_fault(), Some((who, DeliveryFault::SlowConsumer)));
        assert!(sender.slots().get(who.slot).is_mute());
        sender.discard_backlog(who.slot, Dropped::SlowConsumer);
        assert_eq!(sender.take_counts().drops.slow_consumer, 2);
    }

    #[test]
    fn control_bytes_wait_behind_frames_whatever_the_limit() {
        let mut sender = sender(false);
        let who = open(&mut sender, 1, Overflow::Disconnect);
        sender.send_joined(who.slot, joined(399));
        sender.append(who.slot, &[0; 50]);
        assert_eq!(sender.slots().get(who.slot).backlog(), 448);
        assert_eq!(sender.next_fault(), None);
    }
}
