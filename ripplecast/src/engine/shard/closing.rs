//! Closes connections, for any reason: calls `on_close` exactly once, when no other callback waits.

use std::time::Duration;

use super::{Peer, Phase, Shard, calls::Call};
use crate::{
    Close, CloseCode,
    codec::{self, Decoder},
    engine::{command::Command, node::ShardCounter},
    id::Local,
    panics::guarded,
};

impl Shard {
    /// Sends a close frame behind all pushed frames, and waits for the peer's in the given phase.
    pub(super) fn begin_close(&mut self, who: Local, close: Close, phase: Phase) {
        let slot = who.slot as usize;
        if !self.delivery.is_open(who) {
            return;
        }
        if self.peers[slot].phase == Phase::Ending {
            self.peers[slot].phase = Phase::Open;
        }
        // An earlier close stands, whatever the peer sends.
        let ending = self.peers[slot].pending.as_mut().and_then(|pending| pending.ending.take());
        let (close, phase) = ending.unwrap_or((close, phase));
        if self.peers[slot].phase != Phase::Open {
            // The answer to our own close frame, or a second close: the first one stands.
            if phase == Phase::Finishing {
                self.peers[slot].phase = Phase::Finishing;
                if self.delivery.backlog(who.slot) == 0 {
                    self.finish_as_begun(who);
                }
            }
            return;
        }
        self.delivery.catch_up(who.slot);
        self.mark_closed(who);
        let encoding = self.delivery.encoding(who.slot);
        if encoding.is_stream() {
            self.delivery.append(who.slot, encoding.last_chunk());
        } else {
            let mut frame = std::mem::take(&mut self.control);
            let code = close.code.on_the_wire();
            codec::encode_close(&mut frame.bytes, code, &close.reason);
            self.delivery.append(who.slot, &frame.bytes);
            frame.clear();
            self.control = frame;
        }
        self.delivery.mute(who.slot);
        let now = self.now;
        self.pending(slot).closing = Some((close, now));
        self.peers[slot].phase = if encoding.is_stream() { Phase::Finishing } else { phase };
        if self.delivery.backlog(who.slot) == 0 {
            match self.peers[slot].phase {
                Phase::Finishing => self.finish_as_begun(who),
                Phase::Draining => self.shut_down_writing(who.slot),
                _ => {}
            }
        }
    }

    /// Like [`Self::begin_close`], but behind frames that still wait in the mailbox, such as those its callback has
    /// just pushed.
    pub(super) fn close_in_order(&mut self, who: Local, close: Close, phase: Phase) {
        let slot = who.slot as usize;
        if self.ending(slot) == Some(Phase::Closing) {
            // The pending close stands, but the peer will send no other close frame after this one.
            if let Some((_, ending)) = &mut self.pending(slot).ending {
                *ending = phase;
            }
            return;
        }
        if self.handle.mailbox().is_quiet() || self.peers[slot].phase != Phase::Open {
            self.begin_close(who, close, phase);
            return;
        }
        self.pending(slot).ending = Some((close, phase));
        self.peers[slot].phase = Phase::Ending;
        self.handle.mailbox().post(Command::End { who });
    }

    /// Returns the phase of the close that waits for earlier frames.
    pub(super) fn ending(&self, slot: usize) -> Option<Phase> {
        let pending = self.peers[slot].pending.as_ref()?;
        pending.ending.as_ref().map(|&(_, phase)| phase)
    }

    /// Begins the close, now that all frames before it have been sent.
    pub(super) fn end_in_order(&mut self, who: Local) {
        let slot = who.slot as usize;
        if !self.delivery.is_open(who) || self.peers[slot].phase != Phase::Ending {
            return;
        }
        if let Some((close, phase)) = self.pending(slot).ending.take() {
            self.peers[slot].phase = Phase::Open;
            self.begin_close(who, close, phase);
        }
    }

    /// Marks the connection as closed and removes it from all rooms and from its user.
    pub(super) fn mark_closed(&mut self, who: Local) {
        let mut mailbox = self.handle.mailbox().lock();
        mailbox.close(who);
        let user = mailbox.user(who);
        let mut joining = Vec::new();
        if self.handle.mailbox().has_joins() {
            // Joins that were posted but not applied yet: the rooms already count it.
            joining
                .extend(self.todo.iter().chain(mailbox.commands()).filter_map(|command| command.joins(who)));
        }
        drop(mailbox);
        for room in joining {
            room.forget(who);
        }
        if let Some(user) = user {
            self.node.users().remove(&user, who);
        }
        self.delivery.leave_all(who);
    }

    /// Returns whether the connection is closing, so that it must not join any room.
    pub(super) fn is_leaving(&self, who: Local) -> bool {
        self.delivery.is_open(who)
            && (self.delivery.is_mute(who.slot) || self.peers[who.slot as usize].hung_up)
    }

    /// Drops the socket. `on_close` gets the close that was begun.
    pub(super) fn finish_as_begun(&mut self, who: Local) {
        self.finish(who, Close::new(CloseCode::ABNORMAL, ""));
    }

    /// Drops the socket, and calls `on_close` as soon as no other callback waits. A close that was begun stands.
    pub(super) fn finish(&mut self, who: Local, close: Close) {
        if !self.delivery.is_open(who) {
            return;
        }
        self.mark_closed(who);
        drop(self.delivery.detach(who));
        let slot = who.slot as usize;
        let now = self.now;
        let pending = self.pending(slot);
        let close = pending.ending.take().map_or(close, |(first, _)| first);
        pending.closing.get_or_insert((close, now));
        self.peers[slot].decoder = Decoder::default();
        if !self.is_waiting(slot) {
            self.call_on_close(who);
        }
    }

    pub(super) fn call_on_close(&mut self, who: Local) {
        let peer = &mut self.peers[who.slot as usize];
        peer.phase = Phase::Closed;
        let closing = peer.pending.as_mut().and_then(|pending| pending.closing.take());
        let close = closing.map_or_else(|| Close::new(CloseCode::ABNORMAL, ""), |(close, _)| close);
        self.handle.count(ShardCounter::Closed, 1);
        self.call(who, Call::Close(close));
    }

    /// Frees the slot for the next connection, after `on_close` has returned.
    pub(super) fn release(&mut self, who: Local) {
        let extras = self.handle.mailbox().lock().take_extras(who);
        guarded(move || drop(extras)); // stored values are the application's
        self.peers[who.slot as usize] = Peer::default();
        self.delivery.release(who);
        self.occupied -= 1;
    }

    pub(super) fn begin_shutdown(&mut self) {
        self.stopping = Some(self.now);
        let is_hurried = self.node.is_hurried();
        let check = Duration::from_millis(if is_hurried { 10 } else { 100 });
        self.sweep_interval = self.sweep_interval.min(check);
        for slot in 0..self.peers.len() {
            if let Some(who) = self.delivery.current(slot as u32) {
                self.begin_close(
                    who,
                    Close::new(CloseCode::GOING_AWAY, "the server is shutting down"),
                    Phase::Closing,
                );
                if is_hurried {
                    self.finish_as_begun(who); // without the peer's answer
                }
            }
        }
    }
}
