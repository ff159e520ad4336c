//! Polls the sockets of a shard: `mio`, edge-triggered.

use std::{
    io,
    net::TcpStream,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use mio::{Interest, Token, unix::SourceFd};

use super::mailbox::Alarm;
use crate::{id::Local, limits::EVENTS_PER_TURN};

/// The token of the alarm; no connection has it, as their generations begin at 1 and their slots have 24 bits.
const ALARM: Token = Token(usize::MAX);

#[cfg(not(target_pointer_width = "64"))]
compile_error!("ripplecast needs a 64-bit target: a poller's token holds a slot and a generation");

/// A readiness event of a socket.
#[derive(Clone, Copy)]
pub(crate) struct Readiness {
    pub(crate) slot: u32,
    /// The connection's generation at the time of its registration.
    pub(crate) generation: u32,
    /// There are bytes to read, or the peer has closed its side.
    pub(crate) readable: bool,
    /// There is space to write.
    pub(crate) writable: bool,
    /// The peer has closed its side, or the socket has failed.
    pub(crate) hung_up: bool,
}

/// A shard's poller.
pub(crate) struct Poller {
    poll: mio::Poll,
    events: mio::Events,
    /// Wakes a thread that sleeps in the poller.
    alarm: Arc<dyn Alarm>,
}

impl Alarm for mio::Waker {
    fn ring(&self) {
        if let Err(error) = self.wake() {
            tracing::error!(%error, "a shard can't be woken");
        }
    }
}

impl Poller {
    /// Creates a poller without sockets.
    pub(crate) fn new() -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        let alarm = Arc::new(mio::Waker::new(poll.registry(), ALARM)?);
        Ok(Self { poll, events: mio::Events::with_capacity(EVENTS_PER_TURN), alarm })
    }

    /// Returns a descriptor that becomes readable when there are events, for another poller to watch.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.poll.registry().as_fd().try_clone_to_owned()
    }

    /// Returns the alarm that ends the sleep of a thread in [`Poller::poll`].
    pub(crate) fn alarm(&self) -> &Arc<dyn Alarm> {
        &self.alarm
    }

    /// Watches a socket until it is closed.
    pub(crate) fn watch(&self, socket: &TcpStream, who: Local) -> io::Result<()> {
        let token = Token((u64::from(who.generation) << 32 | u64::from(who.slot)) as usize);
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), token, interest)
    }

    /// Appends pending events to `events`, waiting for at most `timeout`. Returns whether these were all.
    pub(crate) fn poll(&mut self, timeout: Duration, events: &mut Vec<Readiness>) -> bool {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return false,
            Err(error) => panic!("the poller of a shard failed: {error}"),
        }
        let mut seen = 0;
        for event in &self.events {
            seen += 1;
            if event.token() == ALARM {
                continue;
            }
            let token = event.token().0 as u64;
            let hung_up = event.is_read_closed() || event.is_write_closed() || event.is_error();
            events.push(Readiness {
                slot: token as u32,
                generation: (token >> 32) as u32,
                readable: event.is_readable() || hung_up,
                writable: event.is_writable(),
                hung_up,
            });
        }
        seen < EVENTS_PER_TURN
    }
}
