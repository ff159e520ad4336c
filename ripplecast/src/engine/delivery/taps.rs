//! Connections that somebody looks into. A member with a tap is sent its rooms' frames by the careful way, so that the others
//! cost nothing more.

use super::{Core, slots::Flags};
use crate::{
    codec::Event,
    engine::{outbox::Wire, tap::Ear},
    id::Local,
    limits::TAPS,
};

impl<W: Wire> Core<W> {
    /// From now on tells of the connection's frames. The oldest tap ends if there are too many.
    pub(crate) fn tap(&mut self, who: Local, ear: Ear) {
        if !self.is_open(who) {
            return; // the ear is dropped, and the tap has ended
        }
        self.forget_taps(|_, ear| ear.is_deaf());
        if self.taps.len() == TAPS {
            let oldest = self.taps.remove(0);
            self.still_tapped(oldest.0);
        }
        self.taps.push((who, ear));
        self.slots.get_mut(who.slot).set_tapped(true);
    }

    /// Whether somebody looks into the connection.
    #[inline]
    pub(crate) fn is_tapped(&self, slot: u32) -> bool {
        self.slots.get(slot).flags().has(Flags::TAPPED)
    }

    /// The peer has sent this.
    pub(crate) fn tell_received(&mut self, who: Local, event: &Event<'_>) {
        self.tell(who.slot, |ear| ear.received(event));
    }

    /// These whole frames go to the peer.
    #[cold]
    pub(super) fn tell_sent(&mut self, slot: u32, bytes: &[u8]) {
        let (dialect, waiting) = (self.dialect(slot), self.backlog(slot));
        self.tell(slot, |ear| ear.sent(dialect, bytes, waiting));
    }

    fn tell(&mut self, slot: u32, tell: impl Fn(&Ear)) {
        self.forget_taps(|who, ear| who.slot == slot && ear.is_deaf());
        self.taps.iter().filter(|(who, _)| who.slot == slot).for_each(|(_, ear)| tell(ear));
    }

    /// The connection is gone.
    pub(super) fn end_taps(&mut self, slot: u32) {
        if self.is_tapped(slot) {
            self.forget_taps(|who, _| who.slot == slot);
        }
    }

    /// Ends taps.
    fn forget_taps(&mut self, which: impl Fn(Local, &Ear) -> bool) {
        while let Some(index) = self.taps.iter().position(|(who, ear)| which(*who, ear)) {
            let (who, _) = self.taps.remove(index);
            self.still_tapped(who);
        }
    }

    /// Notes whether somebody still looks into the connection.
    fn still_tapped(&mut self, who: Local) {
        let tapped = self.taps.iter().any(|(tapped, _)| *tapped == who);
        self.slots.get_mut(who.slot).set_tapped(tapped);
    }
}
