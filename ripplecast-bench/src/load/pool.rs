//! All connections of a run: opens them a few at a time, and reads and writes what is ready. One thread, no task per
//! connection.

use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};

use super::{
    conn::{Conn, Phase, Read},
    frames::{self, Messages},
    handshake,
    measure::histogram,
    random::Random,
    target::{Target, Url},
};
use crate::result::Result;

/// Events per poll.
const EVENTS: usize = 1024;
/// The most connections being opened at a time, unless all are opened at once.
const MAKING: usize = 64;
/// Bytes per read, unless messages are longer.
const BUFFER: usize = 256 << 10;
/// The longest sleep, so that Ctrl-C is noticed soon.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
/// The pause before the next attempt after a failed connection.
const RETRY: Duration = Duration::from_millis(100);

/// Receives the events of a pool.
pub(super) trait Sink {
    /// A connection has opened.
    fn opened(&mut self, _index: usize, _now: u64) {}
    /// A message has arrived; `now` is when it was read, in nanoseconds since the run started.
    fn message(&mut self, index: usize, payload: &[u8], now: u64);
    /// An open connection has ended, and we did not end it.
    fn closed(&mut self, index: usize, why: &str);
}

/// What to do when a connection fails to open.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum OnFailure {
    Stop,
    Retry,
}

pub(super) struct Pool {
    poll: Poll,
    /// Filled by the poller; kept to avoid reallocation.
    events: Events,
    conns: Vec<Conn>,
    /// The read buffer, shared by all connections.
    buffer: Vec<u8>,
    /// The longest frame that fits.
    longest: usize,
    target: Target,
    url: Url,
    random: Random,
    begin: Instant,
    opener: Opener,
    /// Times from the first SYN to the 101, in nanoseconds.
    pub(super) handshakes: Histogram<u64>,
    /// Bytes read and written, including handshakes and headers.
    pub(super) bytes: (u64, u64),
}

/// Which connections are still to be opened, and how fast.
struct Opener {
    waiting: VecDeque<usize>,
    /// Failed connections, ordered by the time of their next attempt.
    later: VecDeque<(u64, usize)>,
    /// Connections being opened.
    making: usize,
    most: usize,
    ramp: Option<f64>,
    /// When the ramp started, and how many connections were started since.
    since: (u64, u64),
    on_failure: OnFailure,
    retries: u64,
    open: usize,
}

impl Pool {
    pub(super) fn new(
        target: Target,
        url: Url,
        size: usize,
        ramp: Option<f64>,
        random: Random,
    ) -> Result<Self> {
        let longest = size.max(BUFFER);
        let opener = Opener {
            waiting: VecDeque::new(),
            later: VecDeque::new(),
            making: 0,
            most: MAKING,
            ramp,
            since: (0, 0),
            on_failure: OnFailure::Stop,
            retries: 0,
            open: 0,
        };
        Ok(Self {
            poll: Poll::new().map_err(|error| format!("failed to create a poller: {error}"))?,
            events: Events::with_capacity(EVENTS),
            conns: Vec::new(),
            // With space for a frame's header and the start of the next frame.
            buffer: vec![0; longest + (64 << 10)],
            longest,
            target,
            url,
            random,
            begin: Instant::now(),
            opener,
            handshakes: histogram(),
            bytes: (0, 0),
        })
    }

    /// Returns the nanoseconds since the run started.
    pub(super) fn now(&self) -> u64 {
        nanos(self.begin)
    }

    pub(super) const fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Returns the number of open connections.
    pub(super) const fn open_count(&self) -> usize {
        self.opener.open
    }

    pub(super) const fn retries(&self) -> u64 {
        self.opener.retries
    }

    pub(super) fn is_open(&self, index: usize) -> bool {
        self.conns[index].phase == Phase::Open
    }

    /// Adds connections, which the following turns open. Those from index `slow_from` on read only on request.
    pub(super) fn add(&mut self, count: usize, slow_from: usize) {
        self.conns.extend((0..count).map(|index| Conn::new(index >= slow_from)));
        self.opener.waiting.extend(0..count);
        self.opener.since = (self.now(), 0);
    }

    /// Sets how many connections may be opened at a time, and what a failure means.
    pub(super) const fn reopen_with(&mut self, most: Option<usize>, on_failure: OnFailure) {
        self.opener.most = match most {
            Some(most) => most,
            None => usize::MAX,
        };
        self.opener.on_failure = on_failure;
    }

    /// Resets a connection in any phase.
    pub(super) fn cut(&mut self, index: usize) {
        match self.conns[index].drop_socket() {
            Phase::Open => self.opener.open -= 1,
            Phase::Connecting | Phase::Upgrading => self.opener.making -= 1,
            Phase::Away => {}
        }
    }

    /// Reopens a connection in the following turns.
    pub(super) fn reopen(&mut self, index: usize) {
        if self.opener.waiting.is_empty() {
            self.opener.since = (self.now(), 0);
        }
        self.opener.waiting.push_back(index);
    }

    /// Writes message `number` to a connection's buffer; `flush` sends it.
    pub(super) fn write(&mut self, index: usize, messages: &mut Messages, number: u32) {
        messages.write(number, self.random.key(), &mut self.conns[index].out);
    }

    /// Returns the number of bytes that a connection's socket has not accepted yet.
    pub(super) fn backlog(&self, index: usize) -> usize {
        self.conns[index].out.len()
    }

    /// Sends what was written.
    pub(super) fn flush(&mut self, index: usize, sink: &mut impl Sink) {
        match self.conns[index].flush() {
            Ok(sent) => self.bytes.1 += sent as u64,
            Err(error) => self.lose(index, &error.to_string(), sink),
        }
    }

    /// Runs one turn: opens connections, polls for at most `wait`, reads and writes.
    pub(super) fn turn(&mut self, wait: Duration, sink: &mut impl Sink) -> Result<()> {
        let mut wait = wait.min(LONGEST_SLEEP);
        if !self.opener.waiting.is_empty() || !self.opener.later.is_empty() {
            wait = wait.min(self.start_due()?);
        }
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        match self.poll.poll(&mut events, Some(wait)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                return Err(format!("polling failed: {error}"));
            }
            _ => {}
        }
        for event in &events {
            let index = event.token().0;
            if event.is_writable() || event.is_error() {
                self.on_writable(index, sink)?;
            }
            let ended = event.is_read_closed() || event.is_error();
            if event.is_readable() || ended {
                self.on_readable(index, ended, sink)?;
            }
        }
        self.events = events;
        Ok(())
    }

    /// Reads at most `most` bytes from a connection that reads only on request.
    pub(super) fn read_slowly(&mut self, index: usize, most: usize, sink: &mut impl Sink) -> Result<()> {
        if self.is_open(index) && most > 0 {
            let most = most.min(self.buffer.len() / 2);
            self.read(index, most, false, sink)?;
        }
        Ok(())
    }

    /// Starts the connections that are due. Returns the time until the next one.
    fn start_due(&mut self) -> Result<Duration> {
        let now = self.now();
        while self.opener.later.front().is_some_and(|(at, _)| *at <= now) {
            let failed = self.opener.later.pop_front();
            self.opener.waiting.extend(failed.map(|(_, index)| index));
        }
        while self.opener.making < self.opener.most {
            if let Some(ramp) = self.opener.ramp {
                let due = self.opener.since.0 + (self.opener.since.1 as f64 / ramp * 1e9) as u64;
                if due > now && !self.opener.waiting.is_empty() {
                    return Ok(Duration::from_nanos(due - now).max(Duration::from_millis(1)));
                }
            }
            let Some(index) = self.opener.waiting.pop_front() else { break };
            self.opener.since.1 += 1;
            self.start(index)?;
        }
        let retry = self.opener.later.front();
        Ok(retry.map_or(LONGEST_SLEEP, |(at, _)| Duration::from_nanos(at.saturating_sub(now))))
    }

    /// Starts to connect.
    fn start(&mut self, index: usize) -> Result<()> {
        let now = self.now();
        let conn = &mut self.conns[index];
        self.opener.making += 1;
        conn.phase = Phase::Connecting;
        conn.began = now;
        conn.out.clear();
        let made = self.target.connect(index, conn.slow).and_then(|mut socket| {
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut socket, Token(index), both)?;
            Ok(socket)
        });
        match made {
            Ok(socket) => conn.socket = Some(socket),
            Err(error) => self.fail(index, &connect_error(&error))?,
        }
        Ok(())
    }

    fn on_writable(&mut self, index: usize, sink: &mut impl Sink) -> Result<()> {
        let conn = &mut self.conns[index];
        match conn.phase {
            Phase::Connecting => match conn.connected() {
                Ok(false) => {}
                Ok(true) => {
                    conn.phase = Phase::Upgrading;
                    let (path, host) = (self.url.path(), self.url.host());
                    conn.accept = handshake::request(path, host, &mut self.random, &mut conn.out);
                    self.flush(index, sink);
                }
                Err(error) => self.fail(index, &connect_error(&error))?,
            },
            Phase::Upgrading | Phase::Open if !conn.out.is_empty() => self.flush(index, sink),
            _ => {}
        }
        Ok(())
    }

    fn on_readable(&mut self, index: usize, ended: bool, sink: &mut impl Sink) -> Result<()> {
        let conn = &self.conns[index];
        match conn.phase {
            Phase::Open if conn.slow && ended => self.lose(index, "the server closed it", sink),
            Phase::Open if conn.slow => {}
            Phase::Open | Phase::Upgrading => self.read(index, usize::MAX, ended, sink)?,
            Phase::Connecting | Phase::Away => {}
        }
        Ok(())
    }

    /// Reads until a read is short, or `most` bytes have arrived. If the connection is known to have `ended`, reads to
    /// the very end, because no further event follows.
    fn read(&mut self, index: usize, most: usize, ended: bool, sink: &mut impl Sink) -> Result<()> {
        loop {
            let conn = &mut self.conns[index];
            let read = conn.read(&mut self.buffer, most);
            let (total, more) = match read {
                Read::Nothing => return Ok(()),
                Read::Some { total, new, more } => {
                    self.bytes.0 += new as u64;
                    (total, ended || (more && most == usize::MAX))
                }
                Read::End(why) => {
                    self.lose_or_fail(index, &why, sink)?;
                    return Ok(());
                }
            };
            if let Err(why) = self.take(index, total, sink) {
                self.lose_or_fail(index, &why, sink)?;
            }
            if !more || self.conns[index].socket.is_none() {
                return Ok(());
            }
        }
    }

    /// Handles the first `total` bytes of the buffer, and keeps the incomplete rest.
    fn take(&mut self, index: usize, total: usize, sink: &mut impl Sink) -> Result<()> {
        let now = nanos(self.begin);
        let conn = &mut self.conns[index];
        let mut rest = &self.buffer[..total];
        if conn.phase == Phase::Upgrading {
            match handshake::check(rest, conn.accept)? {
                None => {
                    conn.part.extend_from_slice(rest);
                    return Ok(());
                }
                Some(length) => {
                    rest = &rest[length..];
                    conn.phase = Phase::Open;
                    self.opener.making -= 1;
                    self.opener.open += 1;
                    self.handshakes.saturating_record(now - conn.began);
                    sink.opened(index, now);
                }
            }
        }
        let mut answered = false;
        while let Some(frame) = frames::decode(&mut rest, self.longest)? {
            match frame.opcode {
                frames::TEXT | frames::BINARY => sink.message(index, frame.payload, now),
                frames::PING => {
                    frames::encode(frames::PONG, frame.payload, self.random.key(), &mut conn.out);
                    answered = true;
                }
                frames::CLOSE => return Err(close_reason(frame.payload)),
                _ => {}
            }
        }
        conn.part.extend_from_slice(rest);
        if answered {
            self.flush(index, sink);
        }
        Ok(())
    }

    /// Handles the end of an open connection, or a failure to open one.
    fn lose_or_fail(&mut self, index: usize, why: &str, sink: &mut impl Sink) -> Result<()> {
        match self.conns[index].phase {
            Phase::Upgrading => self.fail(index, &format!("{}: the server {why}", self.url.as_str())),
            _ => {
                self.lose(index, &format!("the server {why}"), sink);
                Ok(())
            }
        }
    }

    /// Handles the end of an open connection.
    fn lose(&mut self, index: usize, why: &str, sink: &mut impl Sink) {
        let was_open = self.is_open(index);
        self.cut(index);
        if was_open {
            sink.closed(index, why);
        } else {
            self.retry(index);
        }
    }

    /// Handles a failure to open a connection.
    fn fail(&mut self, index: usize, why: &str) -> Result<()> {
        self.cut(index);
        if self.opener.on_failure == OnFailure::Retry {
            self.retry(index);
            return Ok(());
        }
        let so_far = match self.opener.open {
            0 => String::new(),
            open => format!(" (after {open} connections)"),
        };
        Err(format!("{why}{so_far}"))
    }

    fn retry(&mut self, index: usize) {
        self.opener.retries += 1;
        self.opener.later.push_back((self.now() + RETRY.as_nanos() as u64, index));
    }

    /// Returns the server's address, for messages.
    pub(super) fn addr(&self) -> String {
        self.target.addr().to_string()
    }
}

/// Returns the nanoseconds since `begin`.
fn nanos(begin: Instant) -> u64 {
    begin.elapsed().as_nanos() as u64
}

/// Returns a message for a failed attempt, with advice.
fn connect_error(error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::ConnectionRefused => "; is the server running?",
        io::ErrorKind::AddrNotAvailable => {
            "; no port is free, or a --source is not an address of this machine: add addresses with --source"
        }
        _ => "",
    };
    format!("failed to connect: {error}{advice}")
}

/// Describes a close frame, to be prefixed with "the server".
fn close_reason(payload: &[u8]) -> String {
    match payload.split_first_chunk::<2>() {
        Some((code, [])) => format!("closed it with {}", u16::from_be_bytes(*code)),
        Some((code, reason)) => {
            let reason = String::from_utf8_lossy(reason);
            format!("closed it with {} ({reason})", u16::from_be_bytes(*code))
        }
        None => "closed it".to_owned(),
    }
}
