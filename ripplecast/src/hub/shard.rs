//! A shard: its connections' sockets, what they send, and when their callbacks are called.
//!
//! It is driven in turns by [`super::driver`]. A turn is bounded: so many events, commands, reads and sends, and then
//! everybody else of the runtime has a turn.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::{runtime, task::AbortHandle};

use crate::{
    Close, CloseCode, Connection, Error, Frame,
    limits::{
        CLOSE_TIMEOUT, COMMANDS_PER_TURN, HANDLER_GRACE, MISSED_PINGS, PENDING_BYTES, READ_BUFFER, READS_PER_TURN,
        SLOTS, SLOW_HANDLER, SWEEP_PER_TURN, TICK,
    },
    ws::codec::{self, Decoder, Event as Received, Opcode, ProtocolError},
};

use super::{
    adoption::Adoption,
    batch::Dialect,
    callbacks::{Called, Callbacks, Route, Waiting, panic_message},
    command::{Command, Outcome},
    connection::Local,
    core::{Core, Fault, Wire},
    current,
    mailbox::Mailbox,
    poller::{Event, Poller},
    shards::{ShardHandle, Shards, count},
};

impl Wire for TcpStream {
    #[inline]
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        (&mut &*self).write(bytes)
    }
}

/// What a turn has left.
pub(crate) struct Turn {
    /// There is more to do at once.
    pub(crate) more: bool,
    /// The poller had no more events.
    pub(crate) drained: bool,
}

/// What a shard keeps of a connection beside the core's slot: what is not touched when a room is walked.
#[derive(Default)]
struct Peer {
    /// Which endpoint it belongs to; an index of `Shard::endpoints`.
    endpoint: usize,
    /// When the peer was last heard, or its timers began anew.
    heard: Tick,
    /// Pings since then.
    missed_pings: u8,
    /// Its state.
    phase: Phase,
    /// The peer has closed its side while a callback waited; what it sent before is still to be read.
    hung_up: bool,
    /// The socket may have more to read.
    unread_socket: bool,
    /// What it has sent of a message so far; empty between messages.
    decoder: Decoder,
    /// What only some have.
    held: Option<Box<Held>>,
    /// Its place among the connections.
    _permit: Option<super::admission::Permit>,
}

/// What a connection holds on to for a while.
#[derive(Default)]
struct Held {
    /// Input that came behind a message whose callback waits.
    unread: Vec<u8>,
    /// The callback that waits.
    waiting: Option<AbortHandle>,
    /// How it closes, and when that began.
    closing: Option<(Close, Tick)>,
    /// When the unfinished message began.
    unfinished: Option<Tick>,
}

/// How far the end of a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    /// It is open.
    #[default]
    Open,
    /// We have sent a close frame; the peer's answer is awaited. Messages are discarded.
    Closing,
    /// As `Closing`, but the peer broke the protocol or is through: whatever it sends is discarded until it closes.
    Draining,
    /// The peer has closed: as soon as everything is written, the socket goes.
    Finishing,
    /// `on_close` is called, or has been and waits.
    Closed,
}

/// Milliseconds of the shard's clock; they wrap after 49 days, so only differences count.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Tick(u32);

impl Tick {
    /// Time since `earlier`.
    fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::from(self.0.wrapping_sub(earlier.0)))
    }
}

/// An endpoint on this shard.
struct Endpoint {
    /// What all shards share of it.
    route: Arc<Route>,
    /// Its callbacks, with the boxes of this shard.
    callbacks: Box<dyn Callbacks>,
}

/// See the module.
pub(crate) struct Shard {
    /// What others see of it.
    handle: Arc<ShardHandle>,
    /// All shards.
    shards: Arc<Shards>,
    /// Slots, rooms, outboxes.
    core: Core<TcpStream>,
    /// By slot: the rest of each connection.
    peers: Vec<Peer>,
    /// By the route's number: the endpoints that have had connections here.
    endpoints: Vec<Option<Endpoint>>,
    /// Readiness of the sockets.
    poller: Poller,
    /// Events of this turn.
    events: Vec<Event>,
    /// Commands taken from the mailbox and not yet applied.
    todo: VecDeque<Command<TcpStream>>,
    /// Connections that had more to read than one turn allows.
    again: Vec<Local>,
    /// What is read goes here, for whichever connection.
    buffer: Vec<u8>,
    /// Control frames are put together here.
    control: Vec<u8>,
    /// Where callbacks that wait go on.
    runtime: runtime::Handle,
    /// When the clock was started.
    started: Instant,
    /// The time of this turn.
    now: Tick,
    /// How often the sweep is due.
    sweep_interval: Duration,
    /// When it was last begun.
    swept: Tick,
    /// The slot at which it goes on; `usize::MAX` when it is through.
    sweep_at: usize,
    /// Connections that were opened and not yet released.
    occupied: usize,
    /// Since when the shard is shutting down.
    stopping: Option<Tick>,
}

impl Shard {
    /// A shard without connections.
    pub(crate) fn new(index: usize, shards: &Arc<Shards>, runtime: runtime::Handle) -> io::Result<Self> {
        Ok(Self {
            handle: shards.handles[index].clone(),
            shards: shards.clone(),
            core: Core::new(index as u8),
            peers: Vec::new(),
            endpoints: Vec::new(),
            poller: Poller::new()?,
            events: Vec::new(),
            todo: VecDeque::new(),
            again: Vec::new(),
            buffer: vec![0; READ_BUFFER],
            control: Vec::new(),
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

    /// The poller, for the driver to wait on.
    pub(crate) fn poller(&self) -> &Poller {
        &self.poller
    }

    /// The mailbox, for the driver to wait on.
    pub(crate) fn mailbox(&self) -> &Arc<Mailbox<TcpStream>> {
        &self.handle.mailbox
    }

    /// How often there must be a turn, whatever happens.
    pub(crate) fn tick(&self) -> Duration {
        self.sweep_interval
    }

    /// Whether it has been shut down, and every `on_close` has returned.
    pub(crate) fn has_ended(&self) -> bool {
        self.stopping.is_some() && self.occupied == 0
    }

    /// One bounded turn. The poller is asked only if `poll`, for at most `timeout`.
    pub(crate) fn turn(&mut self, poll: bool, timeout: Duration) -> Turn {
        let mut drained = false;
        // With much to deliver, nobody may add to it: what peers send waits in their sockets.
        if poll && self.core.waiting() < PENDING_BYTES {
            drained = self.poller.poll(timeout, &mut self.events);
        }
        self.now = Tick(self.started.elapsed().as_millis() as u32);
        self.take_events();
        self.read_again();
        self.take_commands();
        self.core.walk();
        self.close_faulty();
        self.sweep();
        self.publish_counts();
        let more = !self.todo.is_empty()
            || self.core.is_dirty()
            || !self.again.is_empty()
            || self.sweep_at != usize::MAX
            || (poll && !drained);
        Turn { more, drained }
    }

    /// Ends the shard: nothing is taken any more.
    pub(crate) fn end(&mut self) {
        self.handle.mailbox.end();
        self.todo.clear();
        self.shards.running.send_modify(|running| *running -= 1);
    }

    // ----- the parts of a turn -----

    fn take_events(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            let who = Local { shard: self.shard(), slot: event.slot, generation: event.generation };
            if !self.core.is_open(who) {
                continue;
            }
            if event.writable {
                self.flush(who);
            }
            if event.readable && self.core.is_open(who) {
                if event.hung_up && self.is_waiting(who.slot as usize) {
                    self.hung_up(who);
                }
                self.read(who, event.hung_up);
            }
        }
        self.events = events;
    }

    fn read_again(&mut self) {
        if self.again.is_empty() || self.core.waiting() >= PENDING_BYTES {
            return;
        }
        for who in std::mem::take(&mut self.again) {
            if self.core.is_open(who) {
                self.read(who, true);
            }
        }
    }

    fn take_commands(&mut self) {
        self.handle.mailbox.drain_into(&mut self.todo);
        for _ in 0..COMMANDS_PER_TURN {
            if self.core.waiting() >= PENDING_BYTES {
                return;
            }
            let Some(command) = self.todo.pop_front() else { break };
            self.handle.mailbox.taken_up();
            self.apply(command);
        }
        if self.todo.is_empty() && self.todo.capacity() > 4 * COMMANDS_PER_TURN {
            self.todo = VecDeque::new();
        }
    }

    fn apply(&mut self, command: Command<TcpStream>) {
        match command {
            Command::Adopt(adoption) => self.adopt(*adoption),
            Command::Push { to, frame, cursor } => self.core.push(to, &frame, cursor),
            Command::Cast { room, frame, offset } => self.core.cast(&room, &frame, offset),
            Command::Join { who, room } => self.core.join(who, &room),
            Command::Leave { who, room } => self.core.leave(who, &room),
            Command::Close { who, close } => self.begin_close(who, close, Phase::Closing),
            Command::Done { who, outcome } => self.done(who, outcome),
            Command::Shutdown => self.begin_shutdown(),
        }
    }

    fn close_faulty(&mut self) {
        while let Some((who, fault)) = self.core.next_fault() {
            if !self.core.is_open(who) {
                continue;
            }
            match fault {
                Fault::Lost => self.finish(who, Close::new(CloseCode::ABNORMAL, "")),
                Fault::SlowConsumer => {
                    count(&self.handle.counters.slow_consumers, 1);
                    self.core.discard_backlog(who.slot);
                    self.begin_close(who, Close::new(CloseCode::TRY_AGAIN, "slow consumer"), Phase::Closing);
                }
            }
        }
    }

    fn publish_counts(&mut self) {
        let counts = std::mem::take(&mut self.core.counts);
        if counts.encoded_frames > 0 {
            count(&self.handle.counters.encoded_frames, counts.encoded_frames);
        }
        if counts.dropped_frames > 0 {
            count(&self.handle.counters.dropped_frames, counts.dropped_frames);
        }
    }

    // ----- a connection comes in -----

    fn adopt(&mut self, adoption: Adoption<TcpStream>) {
        let Adoption { wire, rest, preface, dialect, route, permit, states } = adoption;
        if self.stopping.is_some() {
            return; // the socket is dropped; no callback has heard of it
        }
        let Some(who) = self.core.reserve(SLOTS) else {
            tracing::error!(limit = SLOTS, "a shard has no slot left; a connection was dropped");
            return;
        };
        if let Err(error) = self.poller.watch(&wire, who) {
            tracing::error!(%error, "a socket can't be watched; the connection was dropped");
            self.core.release(who);
            return;
        }
        let endpoint = self.endpoint(&route);
        self.core.open(who, wire, dialect, route.profile);
        let slot = who.slot as usize;
        if self.peers.len() <= slot {
            self.peers.resize_with(slot + 1, Peer::default);
        }
        self.peers[slot] = Peer { endpoint, heard: self.now, _permit: Some(permit), ..Peer::default() };
        self.occupied += 1;
        let mut mailbox = self.handle.mailbox.lock();
        mailbox.state.open(who);
        for state in states {
            mailbox.state.details.set_state(who, state);
        }
        drop(mailbox);
        self.shards.everyone.enter(who);
        self.core.join(who, &self.shards.everyone);
        if !preface.is_empty() {
            self.core.append(who.slot, &preface);
        }
        count(&self.handle.counters.opened, 1);
        self.call(who, Callback::Open);
        if !rest.is_empty() {
            self.feed(who, &mut rest.to_vec());
        }
        self.cork(who);
    }

    /// The index of an endpoint; it gets callbacks of this shard if it has none.
    fn endpoint(&mut self, route: &Arc<Route>) -> usize {
        if self.endpoints.len() <= route.id {
            self.endpoints.resize_with(route.id + 1, || None);
        }
        let endpoint = &mut self.endpoints[route.id];
        if endpoint.is_none() {
            *endpoint = Some(Endpoint { route: route.clone(), callbacks: (route.callbacks)() });
            let shortest = route.ping_interval.unwrap_or(TICK).min(route.message_timeout) / 4;
            self.sweep_interval = self.sweep_interval.min(shortest).max(Duration::from_millis(10));
        }
        route.id
    }

    // ----- input -----

    /// Reads what the peer has sent; with `to_end`, until the socket has nothing more, since no further event will come.
    fn read(&mut self, who: Local, to_end: bool) {
        let slot = who.slot as usize;
        if self.is_waiting(slot) {
            self.peers[slot].unread_socket = true;
            return;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut reads = 0;
        loop {
            if reads == READS_PER_TURN {
                self.again.push(who);
                break;
            }
            reads += 1;
            let Some(wire) = self.core.wire(who.slot) else { break };
            match (&mut &*wire).read(&mut buffer) {
                Ok(0) => {
                    self.cork(who);
                    self.input_ended(who);
                    break;
                }
                Ok(n) => {
                    self.heard(slot);
                    self.feed(who, &mut buffer[..n]);
                    if self.is_waiting(slot) {
                        self.peers[slot].unread_socket = true;
                        break;
                    }
                    if !self.core.is_open(who) || (n < buffer.len() && !to_end) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.finish(who, Close::new(CloseCode::ABNORMAL, ""));
                    break;
                }
            }
        }
        self.buffer = buffer;
        self.cork(who);
    }

    /// The peer was heard.
    fn heard(&mut self, slot: usize) {
        let peer = &mut self.peers[slot];
        peer.heard = self.now;
        peer.missed_pings = 0;
    }

    /// Decodes input, and calls callbacks with what it says, until one of them has to wait.
    fn feed(&mut self, who: Local, input: &mut [u8]) {
        let slot = who.slot as usize;
        if self.core.dialect(who.slot) == Dialect::Sse {
            return; // a stream of events goes one way
        }
        let max_message = self.endpoints[self.peers[slot].endpoint].as_ref().map_or(0, |e| e.route.max_message);
        let mut decoder = std::mem::take(&mut self.peers[slot].decoder);
        let mut message_ended = false;
        let mut at = 0;
        while at < input.len() && self.core.is_open(who) {
            match self.peers[slot].phase {
                Phase::Open | Phase::Closing => {}
                Phase::Draining | Phase::Finishing | Phase::Closed => break,
            }
            if self.is_waiting(slot) {
                self.held(slot).unread.extend_from_slice(&input[at..]);
                break;
            }
            match decoder.decode(&mut input[at..], max_message) {
                Ok((n, event)) => {
                    at += n;
                    if let Some(event) = event {
                        message_ended |= matches!(event, Received::Text(_) | Received::Binary(_));
                        self.received(who, event);
                    }
                }
                Err(error) => {
                    self.protocol_error(who, &error);
                    break;
                }
            }
        }
        if !self.core.is_open(who) {
            return;
        }
        let now = self.now;
        let idle = decoder.is_idle();
        let peer = &mut self.peers[slot];
        peer.decoder = decoder;
        if !idle {
            let held = peer.held.get_or_insert_default();
            if message_ended || held.unfinished.is_none() {
                held.unfinished = Some(now);
            }
        } else if let Some(held) = &mut peer.held {
            held.unfinished = None;
        }
        self.let_go(slot);
    }

    /// One event of the codec.
    fn received(&mut self, who: Local, event: Received<'_>) {
        let closing = self.peers[who.slot as usize].phase != Phase::Open;
        match event {
            Received::Text(_) | Received::Binary(_) | Received::Ping(_) if closing => {}
            Received::Text(payload) => {
                count(&self.handle.counters.messages, 1);
                self.call(who, Callback::Message(Frame::from_checked_text(payload.into_bytes())));
            }
            Received::Binary(payload) => {
                count(&self.handle.counters.messages, 1);
                self.call(who, Callback::Message(Frame::binary(payload.into_bytes())));
            }
            Received::Ping(payload) => {
                self.cork(who);
                let mut pong = std::mem::take(&mut self.control);
                codec::encode_frame(&mut pong, Opcode::Pong, &payload);
                self.core.send_encoded(who.slot, &mut pong, 1);
                pong.clear();
                self.control = pong;
            }
            Received::Pong(_) => {}
            Received::Close { code, reason } => {
                let code = code.map_or(CloseCode::NO_STATUS, CloseCode::from_peer);
                let close = Close::new(code, reason.into_owned());
                self.cork(who);
                self.begin_close(who, close, Phase::Finishing);
            }
        }
    }

    /// The peer sends no more.
    fn input_ended(&mut self, who: Local) {
        self.finish(who, Close::new(CloseCode::ABNORMAL, ""));
    }

    /// The peer has gone while a callback waits: it counts as closed at once, and what it sent before is still handled.
    fn hung_up(&mut self, who: Local) {
        let peer = &mut self.peers[who.slot as usize];
        if !std::mem::replace(&mut peer.hung_up, true) {
            self.no_longer_live(who);
        }
    }

    fn protocol_error(&mut self, who: Local, error: &ProtocolError) {
        count(&self.handle.counters.protocol_errors, 1);
        tracing::debug!(code = error.code, reason = error.reason, "a peer broke the protocol");
        let close = Close::new(CloseCode::from_peer(error.code), error.reason);
        self.cork(who);
        self.begin_close(who, close, Phase::Draining);
    }

    // ----- output -----

    /// Sends what a callback pushed to its own connection, in one write.
    fn cork(&mut self, who: Local) {
        let (mut bytes, frames) = current::take();
        if !bytes.is_empty() && self.core.is_open(who) {
            self.core.send_encoded(who.slot, &mut bytes, frames);
        }
        current::give_back(bytes);
    }

    /// The socket takes more.
    fn flush(&mut self, who: Local) {
        self.core.flush(who.slot);
        let phase = self.peers[who.slot as usize].phase;
        if self.core.backlog(who.slot) == 0 {
            match phase {
                Phase::Finishing => self.finish_as_begun(who),
                Phase::Draining => self.shut_down_writing(who.slot),
                _ => {}
            }
        }
    }

    /// Tells the peer that nothing more will come, while we still read.
    fn shut_down_writing(&self, slot: u32) {
        if let Some(wire) = self.core.wire(slot) {
            let _ = wire.shutdown(Shutdown::Write); // fails only if the socket has gone already
        }
    }

    // ----- callbacks -----

    /// Calls a callback. What it pushes to its own connection stays in `current` until [`Shard::cork`].
    fn call(&mut self, who: Local, callback: Callback) {
        let slot = who.slot as usize;
        let Some(endpoint) = &mut self.endpoints[self.peers[slot].endpoint] else { return };
        let connection = Connection { shard: self.handle.clone(), local: who };
        let open = !matches!(callback, Callback::Close(_)) && !self.peers[slot].hung_up;
        let before = Instant::now();
        let entered = current::enter(self.handle.node, who, self.core.dialect(who.slot), open);
        let called = match callback {
            Callback::Open => endpoint.callbacks.open(connection),
            Callback::Message(frame) => endpoint.callbacks.message(connection, frame),
            Callback::Close(close) => endpoint.callbacks.close(connection, close),
        };
        drop(entered);
        let took = before.elapsed();
        if took >= SLOW_HANDLER {
            count(&self.handle.counters.slow_callbacks, 1);
            let route = &endpoint.route.name;
            let milliseconds = took.as_millis() as u64;
            tracing::warn!(route, milliseconds, "a callback blocked its shard; use .await or tokio::task::spawn_blocking");
        }
        match called {
            Called::Returned(Ok(())) => self.returned(who, Outcome::Good),
            Called::Returned(Err(error)) => {
                log_failure(&self.handle, &endpoint.route.name, who, &error);
                self.returned(who, Outcome::Failed);
            }
            Called::Panicked(message) => {
                log_panic(&self.handle, &endpoint.route.name, who, &message);
                self.returned(who, Outcome::Failed);
            }
            Called::Waits(future) => self.wait_for(who, future),
        }
    }

    /// A callback has returned in place.
    fn returned(&mut self, who: Local, outcome: Outcome) {
        let slot = who.slot as usize;
        if self.peers[slot].phase == Phase::Closed {
            self.release(who);
        } else if outcome == Outcome::Failed {
            self.cork(who);
            self.begin_close(who, Close::new(CloseCode::INTERNAL, "the handler failed"), Phase::Closing);
        }
    }

    /// A callback waits: the runtime drives it on, and the connection is not read until it is done.
    fn wait_for(&mut self, who: Local, future: Waiting) {
        let Some(endpoint) = &self.endpoints[self.peers[who.slot as usize].endpoint] else { return };
        let (handle, route) = (self.handle.clone(), endpoint.route.clone());
        let task = self.runtime.spawn(async move {
            let mut report = Report { handle, who, outcome: Outcome::Failed };
            match AssertUnwindSafe(future).catch_unwind().await {
                Ok(Ok(())) => report.outcome = Outcome::Good,
                Ok(Err(error)) => log_failure(&report.handle, &route.name, who, &error),
                Err(panic) => log_panic(&report.handle, &route.name, who, &panic_message(&*panic)),
            }
        });
        self.held(who.slot as usize).waiting = Some(task.abort_handle());
    }

    /// A callback that had to wait has ended.
    fn done(&mut self, who: Local, outcome: Outcome) {
        let slot = who.slot as usize;
        self.held(slot).waiting = None;
        if self.peers[slot].phase == Phase::Closed {
            self.returned(who, outcome);
            return;
        }
        if !self.core.is_open(who) {
            self.call_on_close(who);
            return;
        }
        self.heard(slot); // its timers stood still meanwhile
        let now = self.now;
        let held = self.held(slot);
        if held.unfinished.is_some() {
            held.unfinished = Some(now);
        }
        self.returned(who, outcome);
        if !self.core.is_open(who) {
            return;
        }
        let mut unread = std::mem::take(&mut self.held(slot).unread);
        self.feed(who, &mut unread);
        if self.core.is_open(who) && !self.is_waiting(slot) && self.peers[slot].unread_socket {
            self.peers[slot].unread_socket = false;
            self.read(who, true);
        }
        self.cork(who);
        if self.core.is_open(who) {
            self.let_go(slot);
        }
    }

    // ----- the end of a connection -----

    /// Sends a close frame behind everything that was pushed, and waits for the peer's in the given phase.
    fn begin_close(&mut self, who: Local, close: Close, phase: Phase) {
        let slot = who.slot as usize;
        if !self.core.is_open(who) {
            return;
        }
        if self.peers[slot].phase != Phase::Open {
            // The answer to our own close frame, or a second reason: the first one stands.
            if phase == Phase::Finishing {
                self.peers[slot].phase = Phase::Finishing;
                if self.core.backlog(who.slot) == 0 {
                    self.finish_as_begun(who);
                }
            }
            return;
        }
        self.core.catch_up(who.slot);
        self.no_longer_live(who);
        let stream = self.core.dialect(who.slot) == Dialect::Sse;
        if !stream {
            let mut frame = std::mem::take(&mut self.control);
            let code = (close.code != CloseCode::NO_STATUS).then_some(close.code.get());
            codec::encode_close(&mut frame, code, &close.reason);
            self.core.append(who.slot, &frame);
            frame.clear();
            self.control = frame;
        }
        self.core.mute(who.slot);
        let now = self.now;
        self.held(slot).closing = Some((close, now));
        self.peers[slot].phase = if stream { Phase::Finishing } else { phase };
        if self.core.backlog(who.slot) == 0 {
            match self.peers[slot].phase {
                Phase::Finishing => self.finish_as_begun(who),
                Phase::Draining => self.shut_down_writing(who.slot),
                _ => {}
            }
        }
    }

    /// From now on it is closed for everybody, and a member of nothing.
    fn no_longer_live(&mut self, who: Local) {
        let mut mailbox = self.handle.mailbox.lock();
        mailbox.state.close(who);
        let client = mailbox.state.details.client(who);
        drop(mailbox);
        if let Some(client) = client {
            self.shards.clients.remove(&client, who);
        }
        self.core.leave_all(who);
    }

    /// Drops the socket, with the close that was begun.
    fn finish_as_begun(&mut self, who: Local) {
        self.finish(who, Close::new(CloseCode::ABNORMAL, ""));
    }

    /// Drops the socket, and calls `on_close` as soon as no other callback waits. A close that was begun stands.
    fn finish(&mut self, who: Local, close: Close) {
        if !self.core.is_open(who) {
            return;
        }
        self.no_longer_live(who);
        drop(self.core.detach(who));
        let slot = who.slot as usize;
        let now = self.now;
        self.held(slot).closing.get_or_insert((close, now));
        self.peers[slot].decoder = Decoder::default();
        if !self.is_waiting(slot) {
            self.call_on_close(who);
        }
    }

    fn call_on_close(&mut self, who: Local) {
        let peer = &mut self.peers[who.slot as usize];
        peer.phase = Phase::Closed;
        let closing = peer.held.as_mut().and_then(|held| held.closing.take());
        let close = closing.map_or_else(|| Close::new(CloseCode::ABNORMAL, ""), |(close, _)| close);
        count(&self.handle.counters.closed, 1);
        self.call(who, Callback::Close(close));
    }

    /// `on_close` has returned: the slot is free for the next connection.
    fn release(&mut self, who: Local) {
        let details = self.handle.mailbox.lock().state.details.remove(who);
        drop(details);
        self.peers[who.slot as usize] = Peer::default();
        self.core.release(who);
        self.occupied -= 1;
    }

    fn begin_shutdown(&mut self) {
        self.stopping = Some(self.now);
        self.sweep_interval = self.sweep_interval.min(Duration::from_millis(100));
        for slot in 0..self.peers.len() {
            if let Some(who) = self.core.current(slot as u32) {
                self.begin_close(who, Close::new(CloseCode::GOING_AWAY, "the server is shutting down"), Phase::Closing);
            }
        }
    }

    // ----- time -----

    /// Looks after silent peers, unfinished messages and unanswered close frames: some slots a turn, all of them a tick.
    fn sweep(&mut self) {
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

    fn look_after(&mut self, slot: usize) {
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
            if self.now.since(*since) >= CLOSE_TIMEOUT {
                self.finish_as_begun(who);
            }
            return;
        }
        if waiting.is_some() {
            return; // the timers stand still
        }
        let Some(endpoint) = &self.endpoints[peer.endpoint] else { return };
        let route = endpoint.route.clone();
        if let Some(held) = &peer.held {
            if held.unfinished.is_some_and(|begun| self.now.since(begun) >= route.message_timeout) {
                let close = Close::new(CloseCode::POLICY, "a message was left unfinished for too long");
                self.begin_close(who, close, Phase::Draining);
                return;
            }
        }
        if let Some(interval) = route.ping_interval {
            self.ping_if_silent(who, interval);
        }
    }

    fn ping_if_silent(&mut self, who: Local, interval: Duration) {
        let peer = &mut self.peers[who.slot as usize];
        let silent = self.now.since(peer.heard);
        if silent < interval * (u32::from(peer.missed_pings) + 1) {
            return;
        }
        if self.core.dialect(who.slot) == Dialect::Sse {
            // A comment; the peer has no way to answer, and TCP tells when it is gone.
            peer.heard = self.now;
            self.core.send_encoded(who.slot, &mut b":\n\n".to_vec(), 0);
        } else if peer.missed_pings >= MISSED_PINGS {
            self.finish(who, Close::new(CloseCode::ABNORMAL, "the peer answered no ping"));
        } else {
            peer.missed_pings += 1;
            let mut ping = Vec::with_capacity(2);
            codec::encode_frame(&mut ping, Opcode::Ping, b"");
            self.core.send_encoded(who.slot, &mut ping, 1);
        }
    }

    // ----- small helps -----

    /// Its number.
    fn shard(&self) -> u8 {
        self.core.shard()
    }

    /// Whether a callback of the connection waits.
    fn is_waiting(&self, slot: usize) -> bool {
        self.peers[slot].held.as_ref().is_some_and(|held| held.waiting.is_some())
    }

    /// What a connection holds on to for a while.
    fn held(&mut self, slot: usize) -> &mut Held {
        self.peers[slot].held.get_or_insert_default()
    }

    /// Gives the memory back when nothing is held any more.
    fn let_go(&mut self, slot: usize) {
        let peer = &mut self.peers[slot];
        let empty = |held: &Held| {
            held.unread.is_empty() && held.waiting.is_none() && held.closing.is_none() && held.unfinished.is_none()
        };
        if peer.held.as_deref().is_some_and(empty) {
            peer.held = None;
        }
    }
}

/// Which callback is to be called.
enum Callback {
    Open,
    Message(Frame),
    Close(Close),
}

/// Says to the shard that a callback has ended, also when its task was cancelled.
struct Report {
    handle: Arc<ShardHandle>,
    who: Local,
    outcome: Outcome,
}

impl Drop for Report {
    fn drop(&mut self) {
        self.handle.mailbox.post(Command::Done { who: self.who, outcome: self.outcome });
    }
}

fn log_failure(handle: &ShardHandle, route: &str, who: Local, error: &Error) {
    if error.is_closed() {
        tracing::debug!(route, "a callback used its connection after it was closed");
        return;
    }
    count(&handle.counters.failed_callbacks, 1);
    let id = crate::ConnectionId::new(handle.node, who);
    tracing::error!(route, %id, %error, "a callback failed; its connection is closed with 1011");
}

fn log_panic(handle: &ShardHandle, route: &str, who: Local, message: &str) {
    count(&handle.counters.failed_callbacks, 1);
    let id = crate::ConnectionId::new(handle.node, who);
    tracing::error!(route, %id, message, "a callback panicked; its connection is closed with 1011");
}

