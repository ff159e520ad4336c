//! A shard: reads the sockets of its connections, and calls their callbacks.
//!
//! It runs in turns, called by [`crate::engine::event_loop`]. A turn handles a limited number of events, commands,
//! reads and sends, and then yields to the other tasks of the runtime.

mod calls;
mod closing;
mod input;
mod sweep;

use std::{
    collections::VecDeque,
    io::{self, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{runtime, task::AbortHandle};

use self::calls::Call;
use super::{
    batch::Joined,
    command::Command,
    delivery::{Delivery, DeliveryFault},
    drops::DropReport,
    mailbox::Mailbox,
    new_connection::NewConnection,
    node::{Node, ShardCounter, ShardHandle},
    outbox::Wire,
    poller::{Poller, Readiness},
    route::{Route, ShardCallbacks},
};
use crate::{
    Close, CloseCode,
    codec::{Decoder, deflate::take_compressed},
    id::{ConnectionId, Local},
    limits::{COMMANDS_PER_TURN, EVENTS_PER_TURN, PENDING_BYTES, READ_BUFFER, SLOTS, TICK},
    log::limited,
    outcome::Dropped,
};

impl Wire for TcpStream {
    #[inline]
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        (&mut &*self).write(bytes)
    }
}

/// The work that a turn left over.
pub(crate) struct Turn {
    /// Whether there is more to do at once.
    pub(crate) more: bool,
    /// Whether the poller had no more events.
    pub(crate) drained: bool,
}

/// The state of a connection that a fan-out does not need; the rest is in its slot of `Delivery`.
#[derive(Default)]
struct Peer {
    /// Its endpoint, as an index into `Shard::endpoints`.
    endpoint: usize,
    /// When the peer last showed a sign of life, its timers restarted, or it was last pinged.
    since: Tick,
    /// Whether it has been pinged and has shown no sign of life since.
    pinged: bool,
    phase: Phase,
    /// Whether the peer closed its side while a callback waited; its earlier input is still to be read.
    hung_up: bool,
    /// Whether the peer has closed its side; no further event will report that.
    ended: bool,
    /// Whether the socket may have more to read.
    unread_socket: bool,
    /// Whether it is in `Shard::again`.
    again: bool,
    /// The length of the line break that the client of an event stream has sent behind its request; at most 2.
    stray: u8,
    /// Holds the beginning of an unfinished message; empty between messages.
    decoder: Decoder,
    /// State that few connections have.
    pending: Option<Box<PendingWork>>,
    /// Keeps it counted among the node's connections.
    permit: Option<crate::engine::admission::Permit>,
}

// Every idle connection has one.
const _: () = assert!(size_of::<Peer>() <= 64);

/// The state of a connection that waits for something.
#[derive(Default)]
struct PendingWork {
    /// Input received behind a message whose callback waits.
    unread: Vec<u8>,
    /// The callback that waits.
    waiting: Option<AbortHandle>,
    /// The close code and reason, and when the close began.
    closing: Option<(Close, Tick)>,
    /// The close that begins as soon as frames pushed before it have been sent.
    ending: Option<(Close, Phase)>,
    /// When the unfinished message began.
    unfinished: Option<Tick>,
}

/// How far a connection has closed.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Open,
    /// It is about to close, behind commands that wait. Messages are discarded.
    Ending,
    /// A close frame was sent, and the peer's answer is awaited. Messages are discarded.
    Closing,
    /// Like `Closing`, except that the peer has broken the protocol or sent its close frame: all input is discarded
    /// until it closes.
    Draining,
    /// The peer has closed: the socket is closed as soon as everything has been written.
    Finishing,
    /// `on_close` runs or waits.
    Closed,
}

/// Milliseconds of the shard's clock; they wrap after 49 days, so only differences count.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Tick(u32);

impl Tick {
    /// Returns the tick that much earlier.
    fn before(self, time: Duration) -> Self {
        Self(self.0.wrapping_sub(time.as_millis() as u32))
    }

    /// Returns the time since `earlier`.
    fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::from(self.0.wrapping_sub(earlier.0)))
    }
}

/// An endpoint, as this shard uses it.
struct LocalEndpoint {
    /// Shared by all shards.
    route: Arc<Route>,
    /// The callbacks of this shard.
    callbacks: Box<dyn ShardCallbacks>,
}

/// A shard: a set of connections, and the event loop's state for them.
pub(crate) struct Shard {
    /// The part that other threads use.
    handle: Arc<ShardHandle>,
    node: Arc<Node>,
    delivery: Delivery<TcpStream>,
    /// By slot: the rest of each connection.
    peers: Vec<Peer>,
    /// By the route's number: the endpoints that have had connections here.
    endpoints: Vec<Option<LocalEndpoint>>,
    /// Readiness of the sockets.
    poller: Poller,
    /// Events of this turn.
    events: Vec<Readiness>,
    /// Commands taken from the mailbox and not yet applied.
    todo: VecDeque<Command<TcpStream>>,
    /// Connections whose sockets may hold more input, and how many commands must be processed before each is read
    /// again.
    again: VecDeque<(Local, u64)>,
    /// The number of commands taken up so far.
    taken_up: u64,
    /// The number of commands that must be taken up before peers are read again; see [`Shard::may_read`].
    reads_from: u64,
    /// The read buffer of all connections.
    buffer: Vec<u8>,
    /// Control frames are joined here.
    control: Joined,
    /// Runs callbacks that wait.
    runtime: runtime::Handle,
    /// When the clock was started.
    started: Instant,
    /// The time of this turn.
    now: Tick,
    /// How often the sweep is due.
    sweep_interval: Duration,
    /// When it was last begun.
    swept: Tick,
    /// The slot at which it continues; `usize::MAX` when it is done.
    sweep_at: usize,
    /// Connections that were opened and not yet released.
    occupied: usize,
    /// Since when the shard is shutting down.
    stopping: Option<Tick>,
}

/// Rejects all further commands, even if the shard was dropped with its runtime. In that case `on_close` is not called.
impl Drop for Shard {
    fn drop(&mut self) {
        for command in self.todo.drain(..).chain(self.handle.mailbox().end()) {
            if let Command::Open(connection) = command {
                connection.refuse();
            }
        }
        self.node.note_shard_ended();
    }
}

impl Shard {
    /// Creates a shard without connections.
    pub(crate) fn new(index: usize, node: &Arc<Node>, runtime: runtime::Handle) -> io::Result<Self> {
        Ok(Self {
            handle: node.shards()[index].clone(),
            node: node.clone(),
            delivery: Delivery::new(index as u8, node.budget().clone(), node.setup().drops().has_hook()),
            peers: Vec::new(),
            endpoints: Vec::new(),
            poller: Poller::new()?,
            events: Vec::new(),
            todo: VecDeque::new(),
            again: VecDeque::new(),
            taken_up: 0,
            reads_from: 0,
            buffer: vec![0; READ_BUFFER],
            control: Joined::default(),
            runtime,
            started: Instant::now(),
            now: Tick::default(),
            sweep_interval: TICK,
            swept: Tick::default(),
            sweep_at: usize::MAX,
            occupied: 0,
            stopping: None,
        })
    }

    /// Returns the poller, for the event loop to wait on.
    pub(crate) fn poller(&self) -> &Poller {
        &self.poller
    }

    /// Returns the mailbox, for the event loop to wait on.
    pub(crate) fn mailbox(&self) -> &Arc<Mailbox<Command<TcpStream>>> {
        self.handle.mailbox()
    }

    /// Returns the longest time between two turns.
    pub(crate) fn tick(&self) -> Duration {
        self.sweep_interval
    }

    /// Returns whether it has been shut down and every `on_close` has returned.
    pub(crate) fn has_ended(&self) -> bool {
        self.stopping.is_some() && self.occupied == 0
    }

    /// Runs one bounded turn. Polls only if `poll`, and waits for at most `timeout`.
    pub(crate) fn turn(&mut self, poll: bool, timeout: Duration) -> Turn {
        let mut drained = false;
        // With much to deliver, no more is read: input waits in the sockets.
        if poll && self.delivery.waiting() < PENDING_BYTES {
            drained = self.poller.poll(timeout, &mut self.events);
        }
        self.now = Tick(self.started.elapsed().as_millis() as u32);
        self.take_events();
        self.read_again();
        self.take_commands();
        self.delivery.fan_out();
        self.close_faulty();
        self.sweep();
        let slower = self.delivery.shed_if_over();
        self.pass_on(slower);
        self.publish_counts();
        let more = !self.todo.is_empty()
            || self.delivery.is_dirty()
            || !self.again.is_empty()
            || self.sweep_at != usize::MAX
            || (poll && !drained);
        Turn { more, drained }
    }

    fn take_events(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            let who = Local { shard: self.shard(), slot: event.slot, generation: event.generation };
            self.make_quiet();
            if !self.delivery.is_open(who) {
                continue;
            }
            if event.writable {
                self.flush(who);
            }
            if event.readable && self.delivery.is_open(who) {
                if event.hung_up {
                    self.peers[who.slot as usize].ended = true;
                    if self.is_input_paused(who) {
                        self.finish_as_begun(who); // it disconnected without reading our close frame
                        continue;
                    }
                    if self.is_waiting(who.slot as usize) {
                        self.hung_up(who);
                    }
                }
                self.read(who, event.hung_up);
            }
        }
        self.events = events;
    }

    fn read_again(&mut self) {
        // Each at most once a turn. Those whose turn it was when the mailbox became crowded come first in the next.
        for _ in 0..self.again.len() {
            if self.delivery.waiting() >= PENDING_BYTES || !self.may_read() {
                return;
            }
            self.make_quiet();
            let Some((who, due)) = self.again.pop_front() else { return };
            if !self.delivery.is_open(who) {
                continue;
            }
            if self.taken_up < due {
                self.again.push_back((who, due));
            } else {
                self.peers[who.slot as usize].again = false;
                self.read(who, true);
            }
        }
        if self.again.is_empty() && self.again.capacity() > EVENTS_PER_TURN {
            self.again = VecDeque::new();
        }
    }

    /// Takes up commands before a peer is read: while any wait, what its callbacks push goes behind them one by one
    /// instead of straight to its socket, and a new connection would wait for all peers that are ready to be read.
    fn make_quiet(&mut self) {
        if !self.handle.mailbox().is_quiet() {
            self.take_commands();
        }
    }

    fn take_commands(&mut self) {
        self.handle.mailbox().drain_into(&mut self.todo);
        for _ in 0..COMMANDS_PER_TURN {
            if self.delivery.waiting() >= PENDING_BYTES {
                return;
            }
            let Some(command) = self.todo.pop_front() else { break };
            self.handle.mailbox().taken_up();
            self.taken_up += 1;
            if matches!(command, Command::Join { .. }) {
                self.handle.mailbox().join_taken_up();
            }
            self.apply(command);
        }
        if self.todo.is_empty() && self.todo.capacity() > 4 * COMMANDS_PER_TURN {
            self.todo = VecDeque::new();
        }
    }

    fn apply(&mut self, command: Command<TcpStream>) {
        match command {
            Command::Open(connection) => self.open(*connection),
            Command::Push { to, message, of } => self.delivery.push(to, &message, of),
            Command::Broadcast { room, message, offset } => self.delivery.broadcast(&room, &message, offset),
            Command::Join { who, room } if self.is_leaving(who) => room.forget(who),
            Command::Join { who, room } => self.delivery.join(who, &room),
            Command::Leave { who, room } => self.delivery.leave(who, &room),
            Command::Tap { who, sender } => self.delivery.tap(who, sender),
            Command::Close { who, close } => self.begin_close(who, close, Phase::Closing),
            Command::End { who } => self.end_in_order(who),
            Command::Done { who, outcome } => self.done(who, outcome),
            Command::Shed => {
                let slower = self.delivery.shed();
                self.pass_on(slower);
            }
            Command::Shutdown => self.begin_shutdown(),
        }
    }

    /// Closes the connections that were shed, and wakes the shard that has a slower one.
    fn pass_on(&mut self, slower: Option<usize>) {
        self.close_faulty();
        if let Some(shard) = slower {
            self.node.shards()[shard].mailbox().post(Command::Shed);
        }
    }

    fn close_faulty(&mut self) {
        while let Some((who, fault)) = self.delivery.next_fault() {
            if !self.delivery.is_open(who) {
                continue;
            }
            match fault {
                DeliveryFault::Lost => self.finish(who, Close::new(CloseCode::ABNORMAL, "")),
                DeliveryFault::SlowConsumer => {
                    if self.peers[who.slot as usize].phase != Phase::Open {
                        continue; // it is already closing, and its close frame waits in the backlog
                    }
                    self.handle.count(ShardCounter::SlowConsumers, 1);
                    self.delivery.discard_backlog(who.slot, Dropped::SlowConsumer);
                    self.begin_close(who, Close::new(CloseCode::TRY_AGAIN, "slow consumer"), Phase::Closing);
                }
                DeliveryFault::Unfinished => {
                    let close =
                        Close::new(CloseCode::TRY_AGAIN, "the server holds too many unfinished messages");
                    let peer = &mut self.peers[who.slot as usize];
                    peer.decoder = Decoder::default();
                    if let Some(pending) = &mut peer.pending {
                        pending.unread = Vec::new();
                    }
                    if matches!(peer.phase, Phase::Open | Phase::Ending) {
                        self.begin_close(who, close, Phase::Draining);
                    } else {
                        self.finish(who, close);
                    }
                }
                DeliveryFault::Shed | DeliveryFault::Cut => {
                    let was_open = self.peers[who.slot as usize].phase == Phase::Open;
                    self.handle.count(ShardCounter::SlowConsumers, u64::from(was_open));
                    let close = Close::new(CloseCode::TRY_AGAIN, "slow consumer");
                    if was_open && fault == DeliveryFault::Shed {
                        self.begin_close(who, close, Phase::Closing);
                    } else {
                        self.finish(who, close);
                    }
                }
            }
        }
    }

    fn publish_counts(&mut self) {
        let counts = self.delivery.take_counts();
        let compressed = take_compressed(); // by this thread, in this turn
        if compressed > 0 {
            self.handle.count(ShardCounter::CompressedFrames, compressed);
        }
        if counts.encoded_frames > 0 {
            self.handle.count(ShardCounter::EncodedFrames, counts.encoded_frames);
        }
        if counts.drops.total() > 0 {
            self.handle.count(ShardCounter::Replaced, counts.drops.replaced);
            self.handle.count(ShardCounter::OutboxFull, counts.drops.outbox_full);
            self.handle.count(ShardCounter::SlowConsumer, counts.drops.slow_consumer);
            self.handle.count(ShardCounter::Shed, counts.drops.shed);
        }
        for (who, reason, frames) in self.delivery.take_drop_reports() {
            let connection = Some(ConnectionId::new(self.handle.node_id(), who));
            self.handle.report_drop(DropReport { connection, reason, frames: u64::from(frames) });
        }
    }

    fn open(&mut self, connection: NewConnection<TcpStream>) {
        if self.stopping.is_some() {
            connection.refuse();
            return;
        }
        let NewConnection { wire, rest, preface, encoding, route, permit, states } = connection;
        let Some(who) = self.delivery.reserve(SLOTS) else {
            limited!(ERROR, limit = SLOTS, "a shard has no slot left; a connection was dropped");
            return;
        };
        if let Err(error) = self.poller.watch(&wire, who) {
            limited!(ERROR, %error, "a socket can't be watched; the connection was dropped");
            self.delivery.release(who);
            return;
        }
        let endpoint = self.endpoint(&route);
        self.delivery.open(who, wire, encoding, route.policy);
        let slot = who.slot as usize;
        if self.peers.len() <= slot {
            self.peers.resize_with(slot + 1, Peer::default);
        }
        let first_ping =
            route.ping_interval.map_or(Duration::ZERO, |interval| sweep::share(slot, interval * 3 / 8));
        self.peers[slot] =
            Peer { endpoint, since: self.now.before(first_ping), permit: Some(permit), ..Peer::default() };
        self.occupied += 1;
        let mut mailbox = self.handle.mailbox().lock();
        mailbox.open(who);
        for state in states {
            mailbox.set_user_state(who, state);
        }
        drop(mailbox);
        self.node.everyone().enter(who);
        self.delivery.join(who, self.node.everyone());
        self.handle.count(ShardCounter::Opened, 1);
        if !preface.is_empty() {
            self.delivery.append(who.slot, &preface);
        }
        self.call(who, Call::Open);
        // Input received together with the request for an event stream is bounded, and not treated as an error.
        if !rest.is_empty() && !encoding.is_stream() {
            self.feed(who, &mut rest.to_vec());
        }
        self.uncork(who);
    }

    /// Returns the index of an endpoint. Creates its callbacks for this shard if there are none.
    fn endpoint(&mut self, route: &Arc<Route>) -> usize {
        if self.endpoints.len() <= route.id {
            self.endpoints.resize_with(route.id + 1, || None);
        }
        let endpoint = &mut self.endpoints[route.id];
        if endpoint.is_none() {
            let callbacks = (route.callbacks)(usize::from(self.delivery.shard()));
            *endpoint = Some(LocalEndpoint { route: route.clone(), callbacks });
            let pings = [route.ping_interval, route.pong_timeout].into_iter().flatten();
            let shortest = pings.fold(route.message_timeout, Duration::min) / 4;
            self.sweep_interval = self.sweep_interval.min(shortest).max(Duration::from_millis(10));
        }
        route.id
    }

    /// Returns the number of the shard.
    fn shard(&self) -> u8 {
        self.delivery.shard()
    }

    /// Returns whether a callback of the connection waits.
    fn is_waiting(&self, slot: usize) -> bool {
        self.peers[slot].pending.as_ref().is_some_and(|pending| pending.waiting.is_some())
    }

    /// Returns the state of a connection that waits for something.
    fn pending(&mut self, slot: usize) -> &mut PendingWork {
        self.peers[slot].pending.get_or_insert_default()
    }

    /// Frees the state of a connection that no longer waits for anything.
    fn free_pending(&mut self, slot: usize) {
        let peer = &mut self.peers[slot];
        let empty = |pending: &PendingWork| {
            pending.unread.is_empty()
                && pending.waiting.is_none()
                && pending.closing.is_none()
                && pending.ending.is_none()
                && pending.unfinished.is_none()
        };
        if peer.pending.as_deref().is_some_and(empty) {
            peer.pending = None;
        }
    }
}
