//! The way into a shard from every other thread: commands in order, and which connections are alive.
//!
//! Three promises rest on this one lock. *Order*: commands are applied in the order in which they were posted.
//! *Liveness*: whether a connection is open is decided under the lock that posts to it, so nothing is queued for one
//! that is gone. *Wake-ups*: the shard registers its waker under the lock after seeing the mailbox empty, so a command
//! posted at that moment either is seen or wakes it (`engine.md` of the design calls this the second look).

use std::task::{Context, Poll, Waker};

use crate::{
    Error, Result,
    limits::{MAILBOX_BYTES, MAILBOX_COMMANDS},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{command::Command, connection::Local, details::Details};

/// What wakes a shard that sleeps outside tokio.
pub(crate) trait Alarm: Send + Sync {
    /// Ends the sleep; called without any lock held.
    fn ring(&self);
}

/// A shard's queue of commands; see the module.
pub(crate) struct Mailbox<W> {
    /// Everything that has to change together.
    state: Mutex<State<W>>,
    /// Commands that were posted and not yet taken up by the shard. Lets a handler see, without the lock, whether its
    /// own push may go straight to the socket or must queue behind what came before it.
    waiting: AtomicUsize,
}

/// What the lock guards.
pub(crate) struct State<W> {
    /// Commands in the order in which they came.
    commands: Vec<Command<W>>,
    /// Payload bytes of `commands`.
    bytes: usize,
    /// By slot: the generation of the open connection, or 0.
    live: Vec<u32>,
    /// What few connections have: user state, a client id, somebody who waits for the close.
    pub(crate) details: Details,
    /// How to wake the shard when it sleeps.
    sleeper: Option<Sleeper>,
    /// Whether the shard has ended; nothing is taken any more.
    ended: bool,
}

/// A shard that sleeps.
enum Sleeper {
    /// As a task.
    Task(Waker),
    /// As a thread, in its poller.
    Thread(std::sync::Arc<dyn Alarm>),
}

/// Wakes the shard when dropped; keep it until the locks are released.
#[must_use = "the shard is woken when this is dropped, which must be after the locks"]
pub(crate) struct Wake(Option<Sleeper>);

impl Wake {
    /// Whether the shard sleeps at all.
    pub(crate) fn is_needed(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        match self.0.take() {
            Some(Sleeper::Task(waker)) => waker.wake(),
            Some(Sleeper::Thread(alarm)) => alarm.ring(),
            None => {}
        }
    }
}

/// A locked mailbox.
pub(crate) struct Locked<'a, W> {
    /// The guard.
    pub(crate) state: MutexGuard<'a, State<W>>,
    /// The mailbox that it belongs to.
    mailbox: &'a Mailbox<W>,
}

impl<W> Mailbox<W> {
    /// An empty mailbox.
    pub(crate) fn new() -> Self {
        let state = State {
            commands: Vec::new(),
            bytes: 0,
            live: Vec::new(),
            details: Details::default(),
            sleeper: None,
            ended: false,
        };
        Self { state: Mutex::new(state), waiting: AtomicUsize::new(0) }
    }

    /// Locks it. Lock order: a room's state first, then mailboxes by the number of their shard.
    pub(crate) fn lock(&self) -> Locked<'_, W> {
        Locked { state: self.state.lock(), mailbox: self }
    }

    /// Posts a command that is always taken: control, bounded by the number of connections.
    pub(crate) fn post(&self, command: Command<W>) {
        let mut locked = self.lock();
        let wake = locked.post(command);
        drop(locked);
        drop(wake);
    }

    /// Whether every posted command has been taken up.
    pub(crate) fn is_quiet(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0
    }

    /// Whether the connection is open.
    pub(crate) fn is_live(&self, local: Local) -> bool {
        self.state.lock().is_live(local)
    }

    /// The shard takes all waiting commands, in order; they count as waiting until [`Mailbox::taken_up`].
    pub(crate) fn drain_into(&self, todo: &mut std::collections::VecDeque<Command<W>>) {
        if self.is_quiet() {
            return;
        }
        let mut state = self.state.lock();
        state.bytes = 0;
        todo.extend(state.commands.drain(..));
        if state.commands.capacity() > MAILBOX_COMMANDS / 16 {
            state.commands = Vec::new();
        }
    }

    /// One drained command is about to be applied.
    pub(crate) fn taken_up(&self) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    /// Ready when there is a command; else the task is woken by the next.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.second_look() {
            return Poll::Ready(());
        }
        state.sleeper = Some(Sleeper::Task(cx.waker().clone()));
        Poll::Pending
    }

    /// Whether a thread may sleep in its poller; if so, the next command rings the alarm.
    pub(crate) fn try_sleep(&self, alarm: &std::sync::Arc<dyn Alarm>) -> bool {
        let mut state = self.state.lock();
        if state.second_look() {
            return false;
        }
        state.sleeper = Some(Sleeper::Thread(alarm.clone()));
        true
    }

    /// The shard is awake: no one need wake it.
    pub(crate) fn awake(&self) {
        self.state.lock().sleeper = None;
    }

    /// The shard has ended: refuses everything from now on, and drops what waits.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        state.live.clear();
        let commands = std::mem::take(&mut state.commands);
        state.bytes = 0;
        drop(state);
        self.waiting.fetch_sub(commands.len(), Ordering::AcqRel);
    }
}

impl<W> State<W> {
    /// Whether the connection is open.
    pub(crate) fn is_live(&self, local: Local) -> bool {
        self.live.get(local.slot as usize).is_some_and(|&generation| generation == local.generation)
    }

    /// The shard opens a connection.
    pub(crate) fn open(&mut self, local: Local) {
        let slot = local.slot as usize;
        if self.live.len() <= slot {
            self.live.resize(slot + 1, 0);
        }
        self.live[slot] = local.generation;
    }

    /// From now on the connection is closed for everybody. Whether it was open until now.
    pub(crate) fn close(&mut self, local: Local) -> bool {
        let was_live = self.is_live(local);
        if was_live {
            self.live[local.slot as usize] = 0;
            self.details.closed(local);
        }
        was_live
    }

    /// Open connections from slot `from` on, at most `limit` slots looked at.
    pub(crate) fn live_from(&self, from: u32, limit: u32) -> impl Iterator<Item = (u32, u32)> {
        let start = (from as usize).min(self.live.len());
        let end = (start + limit as usize).min(self.live.len());
        let slots = self.live[start..end].iter().enumerate();
        slots.filter(|(_, generation)| **generation != 0).map(move |(i, g)| ((start + i) as u32, *g))
    }

    /// Number of slots that were ever used.
    pub(crate) fn slots(&self) -> u32 {
        self.live.len() as u32
    }

    /// The look at the mailbox after the shard has found nothing more to do, under the lock that also takes the waker.
    fn second_look(&self) -> bool {
        if cfg!(ripplecast_no_second_look) {
            return false; // the model `loom::wakeups` must fail then: it proves that the look is needed
        }
        !self.commands.is_empty()
    }
}

impl<W> Locked<'_, W> {
    /// Whether a command that carries `bytes` fits.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when it doesn't; [`Error::Closed`] when the shard has ended.
    pub(crate) fn check(&self, bytes: usize) -> Result<()> {
        let state = &*self.state;
        if state.ended {
            return Err(Error::Closed);
        }
        // A single message larger than the bound still passes through an empty mailbox.
        if state.commands.len() >= MAILBOX_COMMANDS
            || (state.bytes > 0 && state.bytes + bytes > MAILBOX_BYTES)
        {
            return Err(Error::Overloaded {
                what: "the mailbox of a shard, in bytes,",
                limit: MAILBOX_BYTES,
            });
        }
        Ok(())
    }

    /// Appends a command, whatever the bounds.
    pub(crate) fn post(&mut self, command: Command<W>) -> Wake {
        if self.state.ended {
            return Wake(None);
        }
        self.state.bytes += command.bytes();
        self.state.commands.push(command);
        self.mailbox.waiting.fetch_add(1, Ordering::AcqRel);
        Wake(self.state.sleeper.take())
    }
}
