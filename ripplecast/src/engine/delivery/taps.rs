//! Taps: observers of single connections. A tapped member takes the careful path of a fan-out, so that the others pay
//! nothing for it.

use super::slots::{Flags, Slots};
use crate::{
    codec::Event,
    engine::{outbox::Wire, tap::TapSender},
    id::Local,
    limits::TAPS,
};

/// The taps of a shard.
pub(super) struct Taps {
    /// Oldest first; seldom any.
    taps: Vec<(Local, TapSender)>,
}

impl Taps {
    /// Creates an empty list.
    pub(super) fn new() -> Self {
        Self { taps: Vec::new() }
    }

    /// Reports the connection's frames to `sender` from now on. Ends the oldest tap if there are too many. If the
    /// connection is not open, the new tap ends at once.
    pub(super) fn add<W: Wire>(&mut self, slots: &mut Slots<W>, who: Local, sender: TapSender) {
        if !slots.is_open(who) {
            return;
        }
        self.remove_if(slots, |_, sender| sender.is_closed());
        if self.taps.len() == TAPS {
            let (oldest, _) = self.taps.remove(0);
            self.update_flag(slots, oldest);
        }
        self.taps.push((who, sender));
        slots.get_mut(who.slot).set_tapped(true);
    }

    /// Reports what the peer has sent.
    pub(super) fn received<W: Wire>(&mut self, slots: &mut Slots<W>, who: Local, event: &Event<'_>) {
        self.report(slots, who.slot, |sender| sender.received(event));
    }

    /// Reports whole frames that are sent to the peer.
    #[cold]
    pub(super) fn sent<W: Wire>(&mut self, slots: &mut Slots<W>, slot: u32, bytes: &[u8]) {
        let target = slots.get(slot);
        let (encoding, waiting) = (target.flags().encoding(), target.backlog());
        self.report(slots, slot, |sender| sender.sent(encoding, bytes, waiting));
    }

    /// Ends the taps of a connection.
    pub(super) fn end<W: Wire>(&mut self, slots: &mut Slots<W>, slot: u32) {
        if slots.get(slot).flags().has(Flags::TAPPED) {
            self.remove_if(slots, |who, _| who.slot == slot);
        }
    }

    fn report<W: Wire>(&mut self, slots: &mut Slots<W>, slot: u32, report: impl Fn(&TapSender)) {
        self.remove_if(slots, |who, sender| who.slot == slot && sender.is_closed());
        self.taps.iter().filter(|(who, _)| who.slot == slot).for_each(|(_, sender)| report(sender));
    }

    fn remove_if<W: Wire>(&mut self, slots: &mut Slots<W>, which: impl Fn(Local, &TapSender) -> bool) {
        while let Some(index) = self.taps.iter().position(|(who, sender)| which(*who, sender)) {
            let (who, _) = self.taps.remove(index);
            self.update_flag(slots, who);
        }
    }

    /// Clears the flag of a connection that lost its last tap.
    fn update_flag<W: Wire>(&self, slots: &mut Slots<W>, who: Local) {
        let tapped = self.taps.iter().any(|(tapped, _)| *tapped == who);
        slots.get_mut(who.slot).set_tapped(tapped);
    }

    /// Checks that exactly the tapped connections are flagged.
    #[cfg(test)]
    pub(super) fn assert_consistent<W>(&self, slots: &Slots<W>) {
        for (number, slot) in slots.iter() {
            let tapped = self.taps.iter().any(|(who, _)| *who == slots.id(number));
            assert_eq!(slot.flags().has(Flags::TAPPED), tapped);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{
        codec::Payload,
        engine::{
            batch::Encoding,
            outbox::{OutboxPolicy, Overflow},
            tap::Tap,
        },
    };

    struct Discard;

    impl Wire for Discard {
        fn write(&self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
    }

    fn open(slots: &mut Slots<Discard>) -> Local {
        let who = slots.reserve(usize::MAX).unwrap();
        let policy = OutboxPolicy { outbox: 400, overflow: Overflow::Disconnect, compress_above: usize::MAX };
        slots.open(who, Discard, Encoding::WebSocket, policy);
        who
    }

    #[tokio::test]
    async fn the_oldest_tap_ends_when_there_are_too_many() {
        let (mut slots, mut taps) = (Slots::new(0), Taps::new());
        let [first, other] = [(); 2].map(|()| open(&mut slots));
        let (mut oldest, sender) = Tap::new();
        taps.add(&mut slots, first, sender);
        let _newer: Vec<_> = (0..TAPS)
            .map(|_| {
                let (tap, sender) = Tap::new();
                taps.add(&mut slots, other, sender);
                taps.assert_consistent(&slots);
                tap
            })
            .collect();
        assert!(oldest.recv().await.is_none());
        assert!(!slots.get(first.slot).flags().has(Flags::TAPPED));
        taps.end(&mut slots, other.slot);
        taps.assert_consistent(&slots);
    }

    #[tokio::test]
    async fn a_tap_observes_its_own_connection_only_and_ends_with_it() {
        let (mut slots, mut taps) = (Slots::new(0), Taps::new());
        let [who, other] = [(); 2].map(|()| open(&mut slots));
        let (mut tap, sender) = Tap::new();
        taps.add(&mut slots, who, sender);
        for (sender, text) in [(other, &b"no"[..]), (who, b"yes")] {
            taps.received(&mut slots, sender, &Event::Text(Payload::Borrowed(text)));
        }
        assert_eq!(&tap.recv().await.unwrap().head[..], b"yes");
        taps.end(&mut slots, who.slot);
        assert!(tap.recv().await.is_none());
        slots.take_wire(who.slot);
        taps.add(&mut slots, who, Tap::new().1);
        taps.assert_consistent(&slots);
    }
}
