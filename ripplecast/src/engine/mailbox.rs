//! A shard's mailbox: the queue of commands from other threads, and the set of open connections.
//!
//! Three promises rest on this one lock. *Order*: commands are applied in the order in which they were posted.
//! *Liveness*: whether a connection is open is decided under the lock that posts to it, so nothing is queued for one
//! that has closed. *Wake-ups*: the shard checks the mailbox again under the lock that stores its waker (the second look),
//! so a command posted at that moment is either seen or wakes it.

use std::{
    any::{Any, TypeId},
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::sync::oneshot;

use super::extras::Extras;
use crate::{
    Error, Result,
    id::Local,
    limits::{MAILBOX_BYTES, MAILBOX_COMMANDS, MAILBOX_CROWDED},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

/// A command that can be posted to a mailbox.
pub(crate) trait Posted {
    /// Returns the payload bytes that it keeps in memory.
    fn bytes(&self) -> usize;
    /// Returns whether it makes a connection join a room.
    fn is_join(&self) -> bool;
}

/// Wakes a shard that sleeps outside tokio.
pub(crate) trait Alarm: Send + Sync {
    /// Ends the sleep; called without any lock held.
    fn ring(&self);
}

#[cfg(ripplecast_loom)]
std::thread_local! {
    /// Disables the second look, for a model that must then fail. loom runs all threads of a model on one.
    pub(crate) static NO_SECOND_LOOK: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// The queue of a shard's commands. See the module.
pub(crate) struct Mailbox<C> {
    state: Mutex<MailboxState<C>>,
    /// Commands that were posted and not yet taken up by the shard. Tells a handler, without the lock, whether its
    /// push may go straight to the socket or must queue behind earlier commands.
    waiting: AtomicUsize,
    /// How many of them are joins. A connection that closes while this is above 0 has to search them for its own.
    joins: AtomicUsize,
}

/// The state behind the lock.
struct MailboxState<C> {
    /// Oldest first.
    commands: Vec<C>,
    /// Payload bytes of `commands`.
    bytes: usize,
    /// By slot: the generation of the open connection, or 0.
    live: Vec<u32>,
    /// By slot: how many rooms the open connection is in, not counting the room of all connections.
    rooms: Vec<u32>,
    extras: Extras,
    /// Wakes the shard; `None` while it is awake.
    sleeper: Option<Sleeper>,
    /// Whether the shard has ended. No command is accepted from then on.
    ended: bool,
}

/// How a shard sleeps.
enum Sleeper {
    /// As a task.
    Task(Waker),
    /// As a thread, in its poller.
    Thread(Arc<dyn Alarm>),
}

/// Wakes the shard when dropped; keep it until the locks are released.
#[must_use = "the shard is woken when this is dropped, which must be after the locks"]
pub(crate) struct Wake(Option<Sleeper>);

impl Wake {
    /// Returns whether the shard sleeps.
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
pub(crate) struct Locked<'a, C> {
    state: MutexGuard<'a, MailboxState<C>>,
    mailbox: &'a Mailbox<C>,
}

impl<C: Posted> Mailbox<C> {
    /// Creates an empty mailbox.
    pub(crate) fn new() -> Self {
        let state = MailboxState {
            commands: Vec::new(),
            bytes: 0,
            live: Vec::new(),
            rooms: Vec::new(),
            extras: Extras::default(),
            sleeper: None,
            ended: false,
        };
        Self { state: Mutex::new(state), waiting: AtomicUsize::new(0), joins: AtomicUsize::new(0) }
    }

    /// Locks it. Lock order: a room's state first, then mailboxes by the number of their shard.
    pub(crate) fn lock(&self) -> Locked<'_, C> {
        Locked { state: self.state.lock(), mailbox: self }
    }

    /// Posts a control command, whatever the limits: a connection has at most a few of them.
    pub(crate) fn post(&self, command: C) {
        drop(self.try_post(command));
    }

    /// Posts a control command, whatever the limits. Returns the command if the shard has ended.
    pub(crate) fn try_post(&self, command: C) -> Result<(), C> {
        let mut locked = self.lock();
        if locked.state.ended {
            return Err(command); // not dropped under the lock: its destructor may run application code
        }
        let wake = locked.post(command);
        drop(locked);
        drop(wake);
        Ok(())
    }

    /// Returns whether every posted command has been taken up.
    pub(crate) fn is_quiet(&self) -> bool {
        self.waiting() == 0
    }

    /// Returns the number of commands that have not been taken up.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Returns whether so many commands wait that the shard should not read from peers, which adds more.
    pub(crate) fn is_crowded(&self) -> bool {
        self.waiting() >= MAILBOX_CROWDED
    }

    /// Returns whether the connection is open.
    pub(crate) fn is_live(&self, local: Local) -> bool {
        self.state.lock().is_live(local)
    }

    /// Moves all waiting commands to `todo`, in order. They count as waiting until [`Mailbox::taken_up`]. Takes nothing
    /// until `todo` is empty, because `todo` itself is unbounded.
    pub(crate) fn drain_into(&self, todo: &mut VecDeque<C>) {
        if !todo.is_empty() || self.is_quiet() {
            return;
        }
        let mut state = self.state.lock();
        state.bytes = 0;
        todo.extend(state.commands.drain(..));
        if state.commands.capacity() > MAILBOX_COMMANDS / 16 {
            state.commands = Vec::new();
        }
    }

    /// Notes that one drained command is about to be applied.
    pub(crate) fn taken_up(&self) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    /// Notes that the command about to be applied is a join.
    pub(crate) fn join_taken_up(&self) {
        self.joins.fetch_sub(1, Ordering::AcqRel);
    }

    /// Returns whether a posted join has not been taken up yet.
    pub(crate) fn has_joins(&self) -> bool {
        self.joins.load(Ordering::Acquire) > 0
    }

    /// Returns `Ready` if a command waits. Otherwise the next command wakes the task.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.second_look() {
            return Poll::Ready(());
        }
        state.sleeper = Some(Sleeper::Task(cx.waker().clone()));
        Poll::Pending
    }

    /// Returns whether a thread may sleep in its poller. If so, the next command rings the alarm.
    pub(crate) fn try_sleep(&self, alarm: &Arc<dyn Alarm>) -> bool {
        let mut state = self.state.lock();
        if state.second_look() {
            return false;
        }
        state.sleeper = Some(Sleeper::Thread(alarm.clone()));
        true
    }

    /// Notes that the shard is awake and need not be woken.
    pub(crate) fn awake(&self) {
        self.state.lock().sleeper = None;
    }

    /// Rejects every command from now on, because the shard has ended. Returns the commands that wait.
    pub(crate) fn end(&self) -> Vec<C> {
        let mut state = self.state.lock();
        state.ended = true;
        state.live.clear();
        let commands = std::mem::take(&mut state.commands);
        state.bytes = 0;
        drop(state);
        self.waiting.fetch_sub(commands.len(), Ordering::AcqRel);
        commands
    }
}

impl<C> MailboxState<C> {
    fn is_live(&self, local: Local) -> bool {
        self.live.get(local.slot as usize).is_some_and(|&generation| generation == local.generation)
    }

    /// Checks the mailbox again after the shard has found nothing more to do, under the lock that also stores the
    /// waker.
    fn second_look(&self) -> bool {
        #[cfg(ripplecast_loom)]
        if NO_SECOND_LOOK.get() {
            return false;
        }
        !self.commands.is_empty()
    }
}

impl<C> Locked<'_, C> {
    /// Returns whether the connection is open.
    pub(crate) fn is_live(&self, who: Local) -> bool {
        self.state.is_live(who)
    }

    /// Returns the commands that wait, in order.
    pub(crate) fn commands(&self) -> impl Iterator<Item = &C> {
        self.state.commands.iter()
    }

    /// Marks a connection as open.
    pub(crate) fn open(&mut self, local: Local) {
        let slot = local.slot as usize;
        if self.state.live.len() <= slot {
            self.state.live.resize(slot + 1, 0);
            self.state.rooms.resize(slot + 1, 0);
        }
        self.state.live[slot] = local.generation;
        self.state.rooms[slot] = 0;
    }

    /// Returns the number of rooms that an open connection is in. Joins and leaves update it.
    pub(crate) fn rooms(&mut self, local: Local) -> Option<&mut u32> {
        if self.state.is_live(local) { self.state.rooms.get_mut(local.slot as usize) } else { None }
    }

    /// Marks a connection as closed. Returns whether it was open.
    pub(crate) fn close(&mut self, local: Local) -> bool {
        let was_live = self.is_live(local);
        if was_live {
            self.state.live[local.slot as usize] = 0;
            self.state.extras.closed(local);
        }
        was_live
    }

    /// Returns the open connections in the `limit` slots from slot `from` on, as slot and generation.
    pub(crate) fn live_from(&self, from: u32, limit: u32) -> impl Iterator<Item = (u32, u32)> {
        let start = (from as usize).min(self.state.live.len());
        let end = (start + limit as usize).min(self.state.live.len());
        let slots = self.state.live[start..end].iter().enumerate();
        slots.filter(|(_, generation)| **generation != 0).map(move |(i, g)| ((start + i) as u32, *g))
    }

    /// Returns the number of slots that were ever used.
    pub(crate) fn slots(&self) -> u32 {
        self.state.live.len() as u32
    }

    /// Stores an application value with the connection. Returns the earlier one of that type.
    pub(crate) fn set_user_state(
        &mut self,
        who: Local,
        value: Arc<dyn Any + Send + Sync>,
    ) -> Option<Arc<dyn Any + Send + Sync>> {
        self.state.extras.set_state(who, value)
    }

    /// Returns the value of that type that is stored with the connection.
    pub(crate) fn user_state(&self, who: Local, id: TypeId) -> Option<Arc<dyn Any + Send + Sync>> {
        self.state.extras.state(who, id)
    }

    /// Returns the user that the connection was identified as.
    pub(crate) fn user(&self, who: Local) -> Option<Arc<str>> {
        self.state.extras.user(who)
    }

    /// Sets the connection's user. Returns the earlier one.
    pub(crate) fn set_user(&mut self, who: Local, user: Arc<str>) -> Option<Arc<str>> {
        self.state.extras.set_user(who, user)
    }

    /// Keeps something alive for as long as the connection, once.
    pub(crate) fn keep(&mut self, who: Local, thing: Arc<dyn Any + Send + Sync>) {
        self.state.extras.keep(who, thing);
    }

    /// Returns a receiver that ends when the connection closes.
    pub(crate) fn wait_closed(&mut self, who: Local) -> oneshot::Receiver<()> {
        self.state.extras.wait(who)
    }

    /// Removes everything that is stored with the connection. Drop the result outside the lock: its destructor is
    /// application code.
    pub(crate) fn take_extras(&mut self, who: Local) -> Option<impl Sized + use<C>> {
        self.state.extras.remove(who)
    }
}

impl<C: Posted> Locked<'_, C> {
    /// Checks that a command that carries `bytes` fits.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when it doesn't; [`Error::Closed`] when the shard has ended.
    pub(crate) fn check(&self, bytes: usize) -> Result<()> {
        let state = &*self.state;
        if state.ended {
            return Err(Error::Closed);
        }
        if state.commands.len() >= MAILBOX_COMMANDS {
            return Err(Error::Overloaded {
                what: "the mailbox of a shard, in commands,",
                limit: MAILBOX_COMMANDS,
            });
        }
        // A single message larger than the bound still passes through an empty mailbox.
        if state.bytes > 0 && state.bytes + bytes > MAILBOX_BYTES {
            return Err(Error::Overloaded {
                what: "the mailbox of a shard, in bytes,",
                limit: MAILBOX_BYTES,
            });
        }
        Ok(())
    }

    /// Checks that a join fits: control commands have space of their own beyond that of frames.
    ///
    /// # Errors
    /// Same as [`Locked::check`].
    pub(crate) fn check_control(&self) -> Result<()> {
        if self.state.ended {
            return Err(Error::Closed);
        }
        if self.state.commands.len() >= 2 * MAILBOX_COMMANDS {
            return Err(Error::Overloaded {
                what: "the mailbox of a shard, in commands,",
                limit: 2 * MAILBOX_COMMANDS,
            });
        }
        Ok(())
    }

    /// Appends a command, whatever the limits.
    pub(crate) fn post(&mut self, command: C) -> Wake {
        if self.state.ended {
            return Wake(None);
        }
        self.state.bytes += command.bytes();
        let is_join = command.is_join();
        self.state.commands.push(command);
        self.mailbox.waiting.fetch_add(1, Ordering::AcqRel);
        if is_join {
            self.mailbox.joins.fetch_add(1, Ordering::AcqRel);
        }
        Wake(self.state.sleeper.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command of that many bytes; control commands have none.
    struct TestCommand(usize);

    impl Posted for TestCommand {
        fn bytes(&self) -> usize {
            self.0
        }

        fn is_join(&self) -> bool {
            false
        }
    }

    const WHO: Local = Local { shard: 0, slot: 3, generation: 7 };

    fn is_full(mailbox: &Mailbox<TestCommand>, bytes: usize) -> bool {
        match mailbox.lock().check(bytes) {
            Ok(()) => false,
            Err(Error::Overloaded { .. }) => true,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn bytes_are_bounded() {
        let mailbox = Mailbox::new();
        mailbox.post(TestCommand(MAILBOX_BYTES - 10));
        assert!(!is_full(&mailbox, 10));
        assert!(is_full(&mailbox, 11));
        let mut todo = VecDeque::new();
        mailbox.drain_into(&mut todo);
        assert!(!is_full(&mailbox, 11));
    }

    #[test]
    fn one_message_larger_than_the_bound_passes_through_an_empty_mailbox() {
        let mailbox = Mailbox::new();
        assert!(!is_full(&mailbox, MAILBOX_BYTES + 1));
        mailbox.post(TestCommand(MAILBOX_BYTES + 1));
        assert!(is_full(&mailbox, 1));
    }

    #[test]
    fn commands_are_bounded_except_control() {
        let mailbox = Mailbox::new();
        for _ in 0..MAILBOX_COMMANDS {
            assert!(!is_full(&mailbox, 0));
            mailbox.post(TestCommand(0));
        }
        assert!(is_full(&mailbox, 0));
        mailbox.post(TestCommand(0));
        let mut todo = VecDeque::new();
        mailbox.drain_into(&mut todo);
        assert_eq!(todo.len(), MAILBOX_COMMANDS + 1);
        assert!(mailbox.lock().state.commands.capacity() == 0, "the memory of a full mailbox was not freed");
    }

    #[test]
    fn nothing_is_taken_until_earlier_commands_are_applied() {
        let mailbox = Mailbox::new();
        let mut todo = VecDeque::new();
        mailbox.post(TestCommand(1));
        mailbox.post(TestCommand(2));
        mailbox.drain_into(&mut todo);
        mailbox.post(TestCommand(3));
        mailbox.drain_into(&mut todo);
        assert_eq!(todo.len(), 2);
        todo.clear();
        mailbox.drain_into(&mut todo);
        assert_eq!(todo.len(), 1);
    }

    #[test]
    fn it_is_quiet_when_everything_was_taken_up() {
        let mailbox = Mailbox::new();
        let mut todo = VecDeque::new();
        mailbox.post(TestCommand(1));
        mailbox.post(TestCommand(1));
        assert!(!mailbox.is_quiet());
        mailbox.drain_into(&mut todo);
        mailbox.taken_up();
        assert!(!mailbox.is_quiet());
        mailbox.taken_up();
        assert!(mailbox.is_quiet());
    }

    #[test]
    fn a_mailbox_that_has_ended_rejects_commands() {
        let mailbox = Mailbox::new();
        mailbox.lock().open(WHO);
        mailbox.post(TestCommand(1));
        mailbox.end();
        assert!(!mailbox.is_live(WHO));
        mailbox.post(TestCommand(1));
        assert!(mailbox.is_quiet());
        assert!(matches!(mailbox.lock().check(1), Err(Error::Closed)));
    }

    #[test]
    fn a_connection_is_live_until_its_close_and_distinct_from_its_successor() {
        let mailbox = Mailbox::<TestCommand>::new();
        assert!(!mailbox.is_live(WHO));
        let mut locked = mailbox.lock();
        locked.open(WHO);
        let next = Local { generation: WHO.generation + 1, ..WHO };
        assert!(locked.is_live(WHO) && !locked.is_live(next));
        assert!(locked.close(WHO));
        assert!(!locked.close(WHO), "the second close has no effect");
        locked.open(next);
        assert!(!locked.close(WHO), "a late close does not affect the successor");
        assert!(locked.is_live(next) && !locked.is_live(WHO));
    }

    #[test]
    fn live_connections_are_listed_page_by_page() {
        let mailbox = Mailbox::<TestCommand>::new();
        let mut locked = mailbox.lock();
        for slot in [0, 2, 5] {
            locked.open(Local { shard: 0, slot, generation: slot + 1 });
        }
        let page = |from| locked.live_from(from, 3).collect::<Vec<_>>();
        assert_eq!(page(0), [(0, 1), (2, 3)]);
        assert_eq!(page(3), [(5, 6)]);
        assert_eq!(page(6), []);
        assert_eq!(locked.slots(), 6);
    }

    #[test]
    fn a_command_wakes_a_sleeping_shard_once() {
        struct CountingAlarm(AtomicUsize);
        impl Alarm for CountingAlarm {
            fn ring(&self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let mailbox = Mailbox::new();
        let bell = Arc::new(CountingAlarm(AtomicUsize::new(0)));
        let alarm: Arc<dyn Alarm> = bell.clone();
        assert!(mailbox.try_sleep(&alarm));
        mailbox.post(TestCommand(1));
        mailbox.post(TestCommand(1));
        assert_eq!(bell.0.load(Ordering::Relaxed), 1);
        assert!(!mailbox.try_sleep(&alarm));
        mailbox.drain_into(&mut VecDeque::new());
        assert!(mailbox.try_sleep(&alarm));
        mailbox.awake();
        mailbox.post(TestCommand(1));
        assert_eq!(bell.0.load(Ordering::Relaxed), 1);
    }
}
