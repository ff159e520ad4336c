//! Time: one coarse sweep over the connections, and no timer for any of them.

use std::time::Duration;

use crate::{
    Close, CloseCode,
    limits::{CLOSE_TIMEOUT, HANDLER_GRACE, MISSED_PINGS, SHUTDOWN_CLOSE_TIMEOUT, SWEEP_PER_TURN},
    ws::codec::{self, Opcode},
};

use super::{
    super::{
        batch::{Dialect, Tag},
        connection::Local,
    },
    Phase, Shard,
};

/// A part of `time` that is each slot's own, spread evenly over all slots: multiples of the golden ratio modulo 1.
pub(super) fn share(slot: usize, time: Duration) -> Duration {
    const GOLDEN: u32 = 0x9E37_79B9; // 2^32 times the golden ratio's fraction
    time.mul_f64(f64::from((slot as u32).wrapping_mul(GOLDEN)) / f64::from(u32::MAX))
}

impl Shard {
    /// Looks after silent peers, unfinished messages and unanswered close frames: some slots a turn, all of them a tick.
    pub(super) fn sweep(&mut self) {
        if self.sweep_at == usize::MAX {
            if self.now.since(self.swept) < self.sweep_interval {
                return;
            }
            self.swept = self.now;
            self.sweep_at = 0;
        }
        let end = (self.sweep_at + SWEEP_PER_TURN).min(self.peers.len());
        for slot in self.sweep_at..end {
            self.look_after(slot);
        }
        self.sweep_at = if end == self.peers.len() { usize::MAX } else { end };
        self.close_faulty();
    }

    pub(super) fn look_after(&mut self, slot: usize) {
        let peer = &self.peers[slot];
        let waiting = peer.held.as_ref().and_then(|held| held.waiting.as_ref());
        if let (Some(waiting), Some(since)) = (waiting, self.stopping) {
            // `on_close` itself has a little longer than the callback before it.
            let grace = if peer.phase == Phase::Closed { HANDLER_GRACE * 3 / 2 } else { HANDLER_GRACE };
            if self.now.since(since) >= grace {
                waiting.abort();
            }
        }
        let Some(who) = self.core.current(slot as u32) else { return };
        if let Some((_, since)) = peer.held.as_ref().and_then(|held| held.closing.as_ref()) {
            let limit = if self.stopping.is_some() { SHUTDOWN_CLOSE_TIMEOUT } else { CLOSE_TIMEOUT };
            if self.now.since(*since) >= limit {
                self.finish_as_begun(who);
            }
            return;
        }
        if waiting.is_some() {
            return; // the timers stand still
        }
        let Some(endpoint) = &self.endpoints[peer.endpoint] else { return };
        let route = endpoint.route.clone();
        let unfinished = peer.held.as_ref().and_then(|held| held.unfinished);
        if unfinished.is_some_and(|begun| self.now.since(begun) >= route.message_timeout) {
            let close = Close::new(CloseCode::POLICY, "a message was left unfinished for too long");
            self.begin_close(who, close, Phase::Draining);
            return;
        }
        if let Some(interval) = route.ping_interval {
            self.ping_if_silent(who, interval);
        }
    }

    /// Pings a peer that has been silent for the interval, less an eighth of it for some: connections that came at once, or
    /// whose peers all answered the same broadcast, are not all pinged at once. The first ping of a connection comes in
    /// the second half of the interval.
    pub(super) fn ping_if_silent(&mut self, who: Local, interval: Duration) {
        let interval = interval - share(who.slot as usize, interval / 8);
        let peer = &mut self.peers[who.slot as usize];
        let silent = self.now.since(peer.heard);
        if silent < interval * (u32::from(peer.missed_pings) + 1) {
            return;
        }
        if self.core.dialect(who.slot) == Dialect::Sse {
            // A comment; the peer has no way to answer, and TCP tells when it is gone.
            peer.heard = self.now;
            self.control.bytes.extend_from_slice(b":\n\n");
            self.send_control(who);
        } else if peer.missed_pings >= MISSED_PINGS {
            self.finish(who, Close::new(CloseCode::ABNORMAL, "the peer answered no ping"));
        } else {
            peer.missed_pings += 1;
            codec::encode_frame(&mut self.control.bytes, Opcode::Ping, b"");
            self.send_control(who);
        }
    }

    /// Sends what was put together in `control`.
    pub(super) fn send_control(&mut self, who: Local) {
        self.control.end(Tag::default());
        self.core.send_encoded(who.slot, &mut self.control);
        self.control.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever slots there are, those that were opened one after the other are far apart.
    #[test]
    fn shares_are_spread_evenly() {
        const SECOND: Duration = Duration::from_secs(1);
        for first in [0, 12_345, (1 << 24) - 1000] {
            let mut tenths = [0; 10];
            for slot in first..first + 1000 {
                let share = share(slot, SECOND);
                assert!(share <= SECOND);
                tenths[(share.as_millis() / 100).min(9) as usize] += 1;
            }
            assert!(tenths.iter().all(|count| (98..=102).contains(count)), "{tenths:?}");
        }
    }
}
