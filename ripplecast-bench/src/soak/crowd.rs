//! All connections of the test: opens them, reads and writes what is ready, and checks everything that arrives. One
//! thread.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, Read as _},
    mem,
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, event::Event};

use super::{
    client::{Client, Leave, Role, Stage},
    judge::Faults,
    message::{JOINED, Mark, Misplaced, PUBLISHERS, Track},
};
use crate::load::{frames, handshake, random::Random};
use crate::result::Result;

/// The most connections being opened at a time.
const MAKING: usize = 128;
/// Bytes per read.
const BUFFER: usize = 256 << 10;
/// Bytes that a sluggish reader reads every `TICK`: less than a burst sends, more than arrives otherwise.
const SIP: usize = 2 << 10;
/// The interval of time-based checks.
const TICK: Duration = Duration::from_millis(50);
/// The interval at which a slow reader sends a pong, so that it can only be closed for being slow.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// The time limit for joining the room.
const JOIN_LIMIT: Duration = Duration::from_secs(20);
/// The time limit for closing a connection: twice the server's own limit for its peer's close frame.
const END_LIMIT: Duration = Duration::from_secs(10);

/// What can be expected of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Up,
    /// That it closes connections properly.
    Stopping,
    Down,
}

/// Counts of actions and observations since the start of the run or the life.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Connections that joined the room.
    pub(super) opened: u64,
    pub(super) sent: u64,
    /// Messages received, summed over all connections.
    pub(super) received: u64,
    /// Slow readers closed with 1013.
    pub(super) slow: u64,
    /// Protocol violations answered correctly.
    pub(super) breaches: u64,
    /// Connections that received a close for a restart, or whose stream ended with one.
    pub(super) farewells: u64,
}

pub(super) struct Crowd {
    poll: Poll,
    /// Filled by the poller; kept to avoid reallocation.
    events: Events,
    /// By token. Tokens are never reused.
    clients: BTreeMap<usize, Client>,
    next_token: usize,
    /// The read buffer, shared by all connections.
    buffer: Vec<u8>,
    addr: SocketAddr,
    /// The number of the server's life.
    life: u32,
    /// Messages sent in this life, by publisher.
    sent: [u32; PUBLISHERS],
    publishers: [Option<usize>; PUBLISHERS],
    pub(super) standing: Standing,
    /// Connections to open when the server is up.
    waiting: VecDeque<Role>,
    /// Connections being opened.
    making: usize,
    next_tick: Instant,
    next_sign: Instant,
    pub(super) random: Random,
    pub(super) tally: Tally,
    pub(super) faults: Faults,
}

impl Crowd {
    pub(super) fn new(random: Random) -> Result<Self> {
        let now = Instant::now();
        Ok(Self {
            poll: Poll::new().map_err(|error| format!("failed to create a poller: {error}"))?,
            events: Events::with_capacity(1024),
            clients: BTreeMap::new(),
            next_token: 0,
            buffer: vec![0; BUFFER],
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            life: 0,
            sent: [0; PUBLISHERS],
            publishers: [None; PUBLISHERS],
            standing: Standing::Down,
            waiting: VecDeque::new(),
            making: 0,
            next_tick: now,
            next_sign: now,
            random,
            tally: Tally::default(),
            faults: Faults::default(),
        })
    }

    /// Starts a new life: the server is up, and the connections that were cut off reconnect at once.
    pub(super) fn begin_life(&mut self, addr: SocketAddr) {
        self.addr = addr;
        self.life = self.random.next() as u32;
        self.sent = [0; PUBLISHERS];
        self.standing = Standing::Up;
        self.tally = Tally::default();
    }

    /// Ends a life: the server has exited. Connections that have not received a close never will.
    pub(super) fn end_life(&mut self) {
        for client in mem::take(&mut self.clients).into_values() {
            self.gone(&client, "was still connected when the server had exited");
        }
        self.standing = Standing::Down;
        self.publishers = [None; PUBLISHERS];
        self.making = 0;
    }

    /// Queues connections, which the following turns open.
    pub(super) fn add(&mut self, role: Role, count: usize) {
        self.waiting.extend(std::iter::repeat_n(role, count));
    }

    /// Queues the missing publishers.
    pub(super) fn add_publishers(&mut self) {
        for index in 0..PUBLISHERS as u8 {
            if self.publishers[usize::from(index)].is_none() {
                self.waiting.push_back(Role::Publisher(index));
            }
        }
    }

    /// Returns the number of connections.
    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Returns the number of connections that are queued, or have not joined the room yet.
    pub(super) fn arriving(&self) -> usize {
        self.waiting.len() + self.making
    }

    /// Returns the connections of some roles that are in the room.
    pub(super) fn open(&self, which: impl Fn(Role) -> bool) -> Vec<usize> {
        let open =
            self.clients.iter().filter(|(_, client)| client.stage == Stage::Open && which(client.role));
        open.map(|(token, _)| *token).collect()
    }

    /// Returns the number of deliveries that are still expected.
    pub(super) fn owed(&self) -> u64 {
        let owed = self.clients.values().filter(|client| client.is_owed());
        owed.filter_map(|client| client.track.map(|track| u64::from(track.missing(&self.sent)))).sum()
    }

    /// Records the deliveries that never happened as faults.
    pub(super) fn note_lost(&mut self) {
        for (token, client) in self.clients.iter().filter(|(_, client)| client.is_owed()) {
            let missing = client.track.map_or(0, |track| track.missing(&self.sent));
            if missing > 0 {
                let example =
                    format!("connection {token} ({:?}) never received the last {missing}", client.role);
                self.faults.add("messages lost", example);
            }
        }
    }

    /// Sends a message from a publisher, if it is connected.
    pub(super) fn publish(&mut self, publisher: usize, size: usize) {
        let Some(client) = self.publishers[publisher].and_then(|token| self.clients.get_mut(&token)) else {
            return;
        };
        if client.stage != Stage::Open {
            return;
        }
        let mark = Mark { life: self.life, publisher: publisher as u8, number: self.sent[publisher] };
        frames::encode(frames::TEXT, &mark.message(size), self.random.key(), &mut client.out);
        self.sent[publisher] += 1;
        self.tally.sent += 1;
        // Errors show up when it is read.
        let _ = client.flush();
    }

    /// Makes a connection leave.
    pub(super) fn leave(&mut self, token: usize, how: Leave) {
        let Some(mut client) = self.clients.remove(&token) else { return };
        if let Role::Publisher(index) = client.role {
            self.publishers[usize::from(index)] = None;
        }
        client.leave = Some(how);
        match how {
            Leave::Reset => return,
            Leave::Drop => return client.close_softly(),
            Leave::Half => client.shut(),
            Leave::Close if client.role == Role::Stream => return client.close_softly(),
            Leave::Close => {
                let code = 1000_u16.to_be_bytes();
                frames::encode(frames::CLOSE, &code, self.random.key(), &mut client.out);
                let _ = client.flush();
            }
        }
        client.enter(Stage::Ending);
        self.clients.insert(token, client);
    }

    /// Tells the slow readers with a role to read.
    pub(super) fn wake(&mut self, role: Role) {
        for token in self.open(|other| other == role) {
            if let Some(client) = self.clients.get_mut(&token) {
                client.awake = true;
            }
            self.with(token, |crowd, client| crowd.read(client, usize::MAX));
        }
    }

    /// Runs one turn: opens connections, polls for at most `wait`, reads and writes.
    pub(super) fn turn(&mut self, wait: Duration) -> Result<()> {
        self.start_waiting();
        let mut events = mem::replace(&mut self.events, Events::with_capacity(0));
        match self.poll.poll(&mut events, Some(wait.min(TICK))) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                return Err(format!("polling failed: {error}"));
            }
            _ => {}
        }
        for event in &events {
            self.with(event.token().0, |crowd, client| crowd.on_event(client, event));
        }
        self.events = events;
        let now = Instant::now();
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.tick(now);
        }
        Ok(())
    }

    /// Runs `work` on a client, and removes the client if it returns an error.
    fn with(&mut self, token: usize, work: impl FnOnce(&mut Self, &mut Client) -> Result<()>) {
        let Some(mut client) = self.clients.remove(&token) else { return };
        let before = client.stage;
        let outcome = work(self, &mut client);
        let arriving = |stage| matches!(stage, Stage::Connecting | Stage::Upgrading | Stage::Joining);
        let arrives = outcome.is_ok() && arriving(client.stage);
        if arriving(before) && !arrives {
            self.making = self.making.saturating_sub(1);
        }
        match outcome {
            Ok(()) => {
                if let (Role::Publisher(index), Stage::Open) = (client.role, client.stage) {
                    self.publishers[usize::from(index)] = Some(token);
                }
                self.clients.insert(token, client);
            }
            Err(why) => self.gone(&client, &why),
        }
    }

    fn start_waiting(&mut self) {
        while self.standing == Standing::Up && self.making < MAKING {
            let Some(role) = self.waiting.pop_front() else { return };
            let made = Client::connect(role, self.addr).and_then(|mut client| {
                let both = Interest::READABLE | Interest::WRITABLE;
                self.poll.registry().register(&mut client.socket, Token(self.next_token), both)?;
                Ok(client)
            });
            match made {
                Ok(client) => {
                    self.clients.insert(self.next_token, client);
                    self.next_token += 1;
                    self.making += 1;
                }
                Err(error) => self.faults.add("connections that failed to open", error.to_string()),
            }
        }
    }

    fn on_event(&mut self, client: &mut Client, event: &Event) -> Result<()> {
        if event.is_writable() || event.is_error() {
            self.on_writable(client)?;
        }
        if event.is_error() && !client.reads() {
            return Err("broke".to_owned());
        }
        let ended = event.is_read_closed() || event.is_error();
        if (event.is_readable() || ended) && client.reads() {
            return self.read(client, usize::MAX);
        }
        Ok(())
    }

    fn on_writable(&mut self, client: &mut Client) -> Result<()> {
        if client.stage == Stage::Connecting {
            if let Some(error) = client.socket.take_error().map_err(|error| error.to_string())? {
                return Err(format!("failed to connect: {error}"));
            }
            if client.socket.peer_addr().is_err() {
                return Ok(());
            }
            self.request(client);
            client.enter(Stage::Upgrading);
        }
        // Errors show up when it is read.
        let _ = client.flush();
        if client.role == Role::Rude && client.out.is_empty() {
            return Err("went".to_owned());
        }
        Ok(())
    }

    fn request(&mut self, client: &mut Client) {
        let (path, host) = (client.role.path(), self.addr.to_string());
        if client.role == Role::Stream {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n");
            client.out.extend_from_slice(request.as_bytes());
        } else {
            client.accept = handshake::request(path, &host, &mut self.random, &mut client.out);
        }
        if client.role == Role::Rude {
            client.out.truncate(client.out.len() / 2);
        }
    }

    /// Reads until nothing more is available, or `most` bytes have arrived. An error says why the connection has ended,
    /// as a phrase without a subject.
    fn read(&mut self, client: &mut Client, most: usize) -> Result<()> {
        let mut buffer = mem::take(&mut self.buffer);
        let outcome = self.read_into(&mut buffer, client, most);
        self.buffer = buffer;
        outcome
    }

    fn read_into(&mut self, buffer: &mut [u8], client: &mut Client, most: usize) -> Result<()> {
        loop {
            let kept = client.part.len();
            let room = most.min(buffer.len() - kept);
            if room == 0 {
                return Err("received a frame that is too long".to_owned());
            }
            let new = match client.socket.read(&mut buffer[kept..kept + room]) {
                Ok(0) => return Err("was closed".to_owned()),
                Ok(new) => new,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(format!("broke: {error}")),
            };
            buffer[..kept].copy_from_slice(&client.part);
            client.part.clear();
            let left = self.take(client, &buffer[..kept + new])?;
            client.part.extend_from_slice(left);
            // A client that has just become slow stops reading.
            if most != usize::MAX || !client.reads() {
                return Ok(());
            }
        }
    }

    /// Handles what has arrived, and returns the incomplete rest.
    fn take<'a>(&mut self, client: &mut Client, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let mut rest = bytes;
        if client.stage == Stage::Upgrading {
            let length = if client.role == Role::Stream {
                ok_head(rest)
            } else {
                handshake::check(rest, client.accept)
            };
            match length? {
                None => return Ok(rest),
                Some(length) => rest = &rest[length..],
            }
            client.enter(Stage::Joining);
        }
        if client.role == Role::Stream {
            while let Some(end) = rest.windows(2).position(|end| end == b"\n\n") {
                let (event, after) = (&rest[..end], &rest[end + 2..]);
                rest = after;
                for data in event.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"data: "))
                {
                    self.message(client, data);
                }
            }
            return Ok(rest);
        }
        while let Some(frame) = frames::decode(&mut rest, BUFFER / 2)? {
            match frame.opcode {
                frames::TEXT => self.message(client, frame.payload),
                frames::PING => {
                    frames::encode(frames::PONG, frame.payload, self.random.key(), &mut client.out);
                    let _ = client.flush();
                }
                frames::CLOSE => {
                    let code = frame.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    client.code = Some(code);
                    if client.leave != Some(Leave::Close) {
                        frames::encode(frames::CLOSE, frame.payload, self.random.key(), &mut client.out);
                        let _ = client.flush();
                    }
                    client.enter(Stage::Ending);
                }
                _ => {}
            }
        }
        Ok(rest)
    }

    fn message(&mut self, client: &mut Client, payload: &[u8]) {
        if payload == JOINED.as_bytes() {
            self.joined(client);
            return;
        }
        let Some(track) = &mut client.track else { return };
        self.tally.received += 1;
        let Some(mark) = Mark::of(payload) else {
            let text = String::from_utf8_lossy(payload);
            self.faults.add("corrupted messages", format!("{:?} received {text:?}", client.role));
            return;
        };
        if mark.life != self.life {
            self.faults.add("messages of another life of the server", format!("{mark:?}"));
            return;
        }
        match track.take(mark) {
            Ok(()) => {}
            // It chose to lose the oldest messages.
            Err(Misplaced::Gap(_)) if client.role == Role::Newest => {}
            Err(Misplaced::Gap(count)) => {
                let example = format!("{:?} received {mark:?} without the {count} before it", client.role);
                self.faults.add("messages lost", example);
            }
            Err(Misplaced::Again) => {
                let example = format!("{:?} received {mark:?} again, or after a later one", client.role);
                self.faults.add("duplicate or reordered messages", example);
            }
        }
    }

    /// Handles the server's confirmation that a client is in the room.
    fn joined(&mut self, client: &mut Client) {
        if client.stage != Stage::Joining {
            self.faults.add("connections that joined twice", format!("{:?}", client.role));
            return;
        }
        self.tally.opened += 1;
        client.track = Some(Track::since(&self.sent));
        client.enter(Stage::Open);
        if let Role::Breaker(breach) = client.role {
            client.out.extend_from_slice(&breach.bytes(&mut self.random));
            let _ = client.flush();
            client.enter(Stage::Ending);
        }
    }

    /// Performs the time-based checks.
    fn tick(&mut self, now: Instant) {
        let sips = |client: &Client| match client.stage {
            Stage::Open => client.role == Role::Sluggish,
            // A slow reader may not have read the close yet.
            Stage::Ending => client.role.is_slow(),
            _ => false,
        };
        let sipping: Vec<usize> =
            self.clients.iter().filter(|(_, client)| sips(client)).map(|(token, _)| *token).collect();
        for token in sipping {
            self.with(token, |crowd, client| crowd.read(client, SIP));
        }
        if now >= self.next_sign {
            self.next_sign = now + SIGN_OF_LIFE;
            for client in self.clients.values_mut() {
                if client.role.is_slow() && client.stage == Stage::Open {
                    frames::encode(frames::PONG, b"", self.random.key(), &mut client.out);
                    let _ = client.flush();
                }
            }
        }
        if self.standing == Standing::Up {
            self.note_late(now);
        }
    }

    /// Records connections for which the server took too long, and drops them.
    fn note_late(&mut self, now: Instant) {
        let late = self.clients.iter().filter(|(_, client)| {
            let limit = match client.stage {
                Stage::Open => return false,
                Stage::Ending => END_LIMIT,
                _ => JOIN_LIMIT,
            };
            now.duration_since(client.since) > limit
        });
        let late: Vec<usize> = late.map(|(token, _)| *token).collect();
        for token in late {
            let Some(client) = self.clients.remove(&token) else { continue };
            let example = format!("{:?}, {:?}, leaving by {:?}", client.role, client.stage, client.leave);
            if client.stage == Stage::Ending {
                self.faults.add("connections that the server did not close", example);
            } else {
                self.making = self.making.saturating_sub(1);
                self.faults.add("connections that never joined the room", example);
            }
        }
    }

    /// Handles the end of a connection that we did not close. Records a fault if it is wrong.
    fn gone(&mut self, client: &Client, why: &str) {
        if let Role::Publisher(index) = client.role {
            self.publishers[usize::from(index)] = None;
        }
        if let Some((kind, example)) = self.wrong_end(client, why) {
            self.faults.add(kind, example);
        }
        if self.standing != Standing::Up && client.role.comes_back() && client.leave.is_none() {
            self.waiting.push_back(client.role);
        }
    }

    /// Returns what is wrong with the end of a connection, if anything.
    fn wrong_end(&mut self, client: &Client, why: &str) -> Option<(&'static str, String)> {
        let Client { role, stage, leave, code, .. } = *client;
        let example = match code {
            Some(code) => format!("{role:?} {why} with {code}"),
            None => format!("{role:?} {why}"),
        };
        match (self.standing, role, code) {
            (Standing::Down, ..) | (_, Role::Rude, _) => None,
            (standing, ..) if !matches!(stage, Stage::Open | Stage::Ending) => (standing == Standing::Up)
                .then(|| ("connections that never joined the room", format!("{stage:?}: {example}"))),
            // The server closed first, as it should with a slow reader.
            (Standing::Up, role, Some(1013)) if role.may_be_too_slow() => {
                self.tally.slow += 1;
                None
            }
            (standing, ..) if leave.is_some() => {
                // A slow reader may have been closed in the meantime, and find the connection reset.
                let sure = standing == Standing::Up && !role.may_be_too_slow();
                let asked = sure && leave == Some(Leave::Close) && code != Some(1000);
                asked.then_some(("close frames not answered with 1000", example))
            }
            (Standing::Up, Role::Breaker(breach), Some(code)) if code == breach.code() => {
                self.tally.breaches += 1;
                None
            }
            (Standing::Up, Role::Breaker(breach), _) => {
                Some(("protocol violations answered incorrectly", format!("{breach:?}: {example}")))
            }
            // A reader that reads too late finds the connection reset.
            (Standing::Up, role, None) if role.may_be_too_slow() => None,
            (Standing::Up, ..) => Some(("connections that the server closed without a reason", example)),
            (Standing::Stopping, Role::Stream, _) | (Standing::Stopping, _, Some(1001 | 1012)) => {
                self.tally.farewells += 1;
                None
            }
            (Standing::Stopping, ..) if role.is_careful() => {
                Some(("connections without a close frame at a graceful restart", example))
            }
            (Standing::Stopping, ..) => None,
        }
    }
}

/// Returns the length of a valid event-stream response head at the start of `bytes`, or `None` if it is incomplete.
fn ok_head(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else { return Ok(None) };
    if bytes.starts_with(b"HTTP/1.1 200 ") {
        Ok(Some(end + 4))
    } else {
        Err(format!("answered {:?}", String::from_utf8_lossy(&bytes[..end.min(40)])))
    }
}
