//! Sending to one connection: at once as far as the socket takes it, and the rest into its outbox.

use std::io;

use bytes::Bytes;

use super::{
    Core, Fault,
    shed::{Held, Step},
};
use crate::{
    Frame,
    engine::{
        batch::{Batch, Dialect, Joined, Tag},
        outbox::{Admission, Overflow, Piece, Wire},
        position::{Snapshot, Source},
    },
    id::Local,
    limits::READ_BUFFER,
    outcome::Dropped,
};

impl<W: Wire> Core<W> {
    /// Sends a frame to one connection, behind what its rooms have for it.
    pub(crate) fn push(&mut self, who: Local, frame: &Frame, of: Option<Snapshot>) {
        if !self.is_open(who) || self.is_mute(who.slot) {
            return;
        }
        let dialect = self.dialect(who.slot);
        let mut scratch = std::mem::take(&mut self.scratch);
        self.gather(who.slot, None, &mut scratch);
        scratch.push(dialect, frame, of, self.slots.profile(who.slot).compress_above);
        self.send_scratch(who.slot, scratch);
    }

    /// Sends encoded frames to one connection, behind what its rooms have for it.
    pub(crate) fn send_encoded(&mut self, slot: u32, frames: &mut Joined) {
        if frames.bytes.is_empty() {
            return;
        }
        if !self.slots.get(slot).is_open() || self.is_mute(slot) {
            frames.clear();
            return;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        self.gather(slot, None, &mut scratch);
        scratch.append(frames);
        self.send_scratch(slot, scratch);
    }

    /// Sends one connection all that its rooms have for it, so that something else may follow.
    pub(crate) fn catch_up(&mut self, slot: u32) {
        self.catch_up_visiting(slot, None);
    }

    /// The same, where the walk of room `visiting` has come to the connection.
    pub(super) fn catch_up_visiting(&mut self, slot: u32, visiting: Option<u32>) {
        if self.dirty.is_empty() || self.is_mute(slot) || self.has_had(slot, visiting) {
            return;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        self.gather(slot, visiting, &mut scratch);
        self.send_scratch(slot, scratch);
    }

    /// Queues control bytes, such as a close frame, even for a mute connection and beyond the limit of its outbox.
    pub(crate) fn append(&mut self, slot: u32, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.is_tapped(slot) {
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
                let rest = self.shedder.ledger().share(bytes[n..].to_vec());
                let piece = self.piece(rest, 1, Overflow::Disconnect);
                match self.slots.get_mut(slot).outbox_mut() {
                    Some(outbox) => outbox.append(piece),
                    None => self.slots.get_mut(slot).begin_outbox(piece),
                }
            }
            Err(_) => self.fault(slot, Fault::Lost),
        }
    }

    /// Drops what waits for a connection, save a frame that is half written. For a slow consumer's close frame.
    pub(crate) fn discard_backlog(&mut self, slot: u32, reason: Dropped) {
        if let Some(outbox) = self.slots.get_mut(slot).outbox_mut() {
            let dropped = outbox.discard();
            self.note_drop(slot, reason, dropped);
        }
    }

    /// Bytes that wait in the connection's outbox.
    pub(crate) fn backlog(&self, slot: u32) -> usize {
        self.slots.get(slot).backlog()
    }

    /// The socket takes more: writes what waits.
    pub(crate) fn flush(&mut self, slot: u32) {
        if self.slots.get_mut(slot).flush().is_err() {
            self.fault(slot, Fault::Lost);
        }
    }

    /// Sends what was put together in `scratch`, and keeps its memory.
    fn send_scratch(&mut self, slot: u32, mut scratch: Joined) {
        if !scratch.bytes.is_empty() {
            if self.is_tapped(slot) {
                self.taps.sent(&mut self.slots, slot, &scratch.bytes);
            }
            let written = match self.slots.get(slot).ready_wire() {
                Some(wire) => write_some(wire, &scratch.bytes),
                None => Ok(0),
            };
            match written {
                Ok(n) if n == scratch.bytes.len() => {}
                Ok(n) => {
                    // A small frame must not hold on to the buffer of large ones for as long as the peer does not read.
                    if scratch.bytes.capacity() > 2 * scratch.bytes.len() {
                        scratch.bytes.shrink_to_fit();
                    }
                    let bytes = self.shedder.ledger().share(std::mem::take(&mut scratch.bytes));
                    self.enqueue(slot, &bytes, n, scratch.ends.drain(..));
                }
                Err(_) => self.fault(slot, Fault::Lost),
            }
        }
        scratch.clear();
        self.scratch = scratch;
    }

    /// Writes a room's frames, and queues what the socket does not take.
    #[inline]
    pub(super) fn send(&mut self, slot: u32, batch: &Batch, dialect: Dialect, source: Source) {
        let bytes = batch.of(dialect);
        let written = match self.slots.get(slot).ready_wire() {
            Some(wire) => match write_some(wire, bytes) {
                Ok(n) if n == bytes.len() => return,
                other => other,
            },
            None => Ok(0),
        };
        match written {
            Ok(n) => self.enqueue(slot, bytes, n, batch.ends(dialect, source)),
            Err(_) => self.fault(slot, Fault::Lost),
        }
    }

    /// Puts into the outbox what the socket did not take of `bytes`, which are frames that end at `ends`. Frames that share
    /// a fate stay together, as long as they fit: one write, and one place in the queue.
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
        let profile = self.slots.profile(slot);
        let mut run: Option<Piece> = None;
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
            let overflow = tag.overflow.unwrap_or(profile.overflow);
            let key = tag.key.filter(|_| overflow == Overflow::LatestPerKey).map(Box::new);
            // What may wait for long by itself must not hold on to a much larger buffer.
            let own = |from: usize| {
                let part = bytes.slice(from..end);
                let small = part.len() < bytes.len() / 4;
                if small { self.shedder.ledger().share(part.to_vec()) } else { part }
            };
            if begin < written {
                let piece = Piece { key, ..self.piece(own(written), 1, overflow) };
                self.slots.get_mut(slot).begin_outbox(piece);
                continue;
            }
            let space = self.slots.get(slot).outbox().map_or(profile.outbox, |o| o.space(profile.outbox));
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
            let ready = run.replace(Piece { key, ..self.piece(part, 1, overflow) });
            run_start = begin;
            if let Some(ready) = ready
                && let Some(frames) = self.offer(slot, ready, profile.outbox)
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
            refused += self.offer(slot, ready, profile.outbox).unwrap_or(0);
        }
        if refused > 0 {
            self.note_drop(slot, Dropped::SlowConsumer, refused);
            self.fault(slot, Fault::SlowConsumer);
        }
        let cost = self.slots.get(slot).outbox().map_or(0, |outbox| outbox.cost());
        self.shedder.note_held(cost);
    }

    /// Offers a piece to an outbox. The number of its frames, if the connection is to be closed for them.
    fn offer(&mut self, slot: u32, piece: Piece, limit: usize) -> Option<u32> {
        let frames = piece.frames;
        match self.slots.get_mut(slot).outbox_or_new().offer(piece, limit) {
            Admission::Queued { dropped } => self.note_drop(slot, Dropped::OutboxFull, dropped),
            Admission::Replaced => self.note_drop(slot, Dropped::Replaced, 1),
            Admission::Dropped => self.note_drop(slot, Dropped::OutboxFull, frames),
            Admission::Full => return Some(frames),
        }
        None
    }

    /// A piece for an outbox.
    fn piece(&self, bytes: Bytes, frames: u32, overflow: Overflow) -> Piece {
        Piece { bytes, frames, overflow, key: None, _charge: self.shedder.ledger().charge_piece() }
    }

    /// Sheds if too much waits on the hub; to be called each turn. Returns what [`Core::shed`] returns.
    pub(crate) fn shed_if_over(&mut self) -> Option<usize> {
        if self.shedder.is_needed() { self.shed() } else { None }
    }

    /// Sheds the slowest connections of this shard until little enough waits, or until another shard has a slower one.
    /// Returns the number of that shard, which is to be woken.
    pub(crate) fn shed(&mut self) -> Option<usize> {
        let mut candidates = self.shedder.begin(&self.slots);
        loop {
            match self.shedder.next(&mut candidates) {
                Step::Drop(slot, Held::Outbox) => self.shed_outbox(slot),
                Step::Drop(slot, Held::Incoming) => {
                    self.shedder.set_incoming(slot, 0);
                    self.fault(slot, Fault::Unfinished);
                }
                Step::Stop { slower } => return slower,
            }
        }
    }

    /// Drops what waits for a connection as far as its policies allow. If anything is left, drops that too and closes the
    /// connection.
    fn shed_outbox(&mut self, slot: u32) {
        let target = self.slots.get_mut(slot);
        let Some(outbox) = target.outbox_mut() else { return };
        let (mut dropped, more) = outbox.discard_droppable();
        if more {
            dropped += outbox.discard();
        }
        let left = outbox.bytes();
        // A half-written frame can't be dropped alone. Where it is all there is, or where it is large and its connection is
        // closed anyway, the socket has to go.
        let fault = if dropped == 0 || (more && left > READ_BUFFER) {
            target.drop_outbox();
            dropped += 1;
            Some(Fault::Cut)
        } else {
            if left == 0 {
                target.drop_outbox();
            }
            more.then_some(Fault::Shed)
        };
        self.note_drop(slot, Dropped::Shed, dropped);
        if let Some(fault) = fault {
            self.fault(slot, fault);
        }
    }

    /// Counts frames that were dropped for a connection.
    pub(super) fn note_drop(&mut self, slot: u32, reason: Dropped, frames: u32) {
        if frames == 0 {
            return;
        }
        self.counts.drops.add(reason, u64::from(frames));
        if let Some(reports) = &mut self.drop_reports {
            reports.push((self.slots.id(slot), reason, frames));
        }
    }
}

/// Writes what the socket takes; none when it takes nothing now.
fn write_some(wire: &impl Wire, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match wire.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
