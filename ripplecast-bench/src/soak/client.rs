//! One connection of the test, and the part that it plays.

use std::{
    io::{self, Write as _},
    net::{Shutdown, SocketAddr},
    time::{Duration, Instant},
};

use mio::net::TcpStream;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{endpoints, message::Track};
use crate::load::{
    frames::{TEXT, encode},
    handshake::Accept,
    random::Random,
};

/// Receive buffer of a reader that is to be slow, so that the kernel does not read in its place.
const SMALL_BUFFER: usize = 4 << 10;

/// The part that a connection plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Sends, and reads like any other.
    Publisher(u8),
    /// Reads.
    Reader,
    /// Reads an event stream.
    Stream,
    /// Never reads once it is in the room, and is to be closed for it.
    Never,
    /// Reads nothing until told, and is to be closed for it: with 1013.
    Stalled,
    /// Reads a little at a time.
    Sluggish,
    /// Reads nothing until told, and loses the oldest messages for it.
    Newest,
    /// Breaks the protocol.
    Breaker(Breach),
    /// Sends half a request, and goes.
    Rude,
}

impl Role {
    /// Its path.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Publisher(_) | Self::Reader | Self::Breaker(_) | Self::Rude => "/soak",
            Self::Stream => "/soak/events",
            Self::Never | Self::Stalled | Self::Sluggish => "/soak/tight",
            Self::Newest => "/soak/newest",
        }
    }

    /// Whether the server has no reason to close it, and owes it everything.
    pub(super) const fn is_careful(self) -> bool {
        matches!(self, Self::Publisher(_) | Self::Reader | Self::Stream)
    }

    /// Whether it reads less than it could.
    pub(super) const fn is_slow(self) -> bool {
        matches!(self, Self::Never | Self::Stalled | Self::Sluggish | Self::Newest)
    }

    /// Whether the server may close it for being slow.
    pub(super) const fn may_be_too_slow(self) -> bool {
        matches!(self, Self::Never | Self::Stalled | Self::Sluggish)
    }

    /// Whether it connects again after a restart of the server.
    pub(super) const fn comes_back(self) -> bool {
        matches!(self, Self::Reader | Self::Stream)
    }
}

/// A way to break the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breach {
    Unmasked,
    ReservedBit,
    UnknownOpcode,
    LongPing,
    SplitPing,
    StrayContinuation,
    BadCloseCode,
    NotUtf8,
    TooLong,
}

impl Breach {
    pub(super) const ALL: [Self; 9] = [
        Self::Unmasked,
        Self::ReservedBit,
        Self::UnknownOpcode,
        Self::LongPing,
        Self::SplitPing,
        Self::StrayContinuation,
        Self::BadCloseCode,
        Self::NotUtf8,
        Self::TooLong,
    ];

    /// What the server must close it with.
    pub(super) const fn code(self) -> u16 {
        match self {
            Self::NotUtf8 => 1007,
            Self::TooLong => 1009,
            _ => 1002,
        }
    }

    /// What is sent.
    pub(super) fn bytes(self, random: &mut Random) -> Vec<u8> {
        let key = random.key();
        let mut out = Vec::new();
        let mut masked = |first: u8, payload: &[u8]| {
            encode(TEXT, payload, key, &mut out);
            out[0] = first;
        };
        match self {
            Self::Unmasked => return vec![0x81, 2, b'h', b'i'],
            Self::ReservedBit => masked(0xC1, b"hi"),
            Self::UnknownOpcode => masked(0x83, b"hi"),
            Self::LongPing => masked(0x89, &[b'p'; 126]),
            Self::SplitPing => masked(0x09, b"hi"),
            Self::StrayContinuation => masked(0x80, b"hi"),
            Self::BadCloseCode => masked(0x88, &1005_u16.to_be_bytes()),
            Self::NotUtf8 => masked(0x81, b"\xC3\x28"),
            Self::TooLong => masked(0x81, &[b'x'; endpoints::LONGEST + 1]),
        }
        out
    }
}

/// A way to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// With a close frame, as it should be.
    Close,
    /// Sends no more, and waits for the server to close.
    Half,
    /// Closes the socket.
    Drop,
    /// Resets the connection.
    Reset,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The SYN is out.
    Connecting,
    /// The request is out.
    Upgrading,
    /// The server has accepted, and has not said yet that it is in the room.
    Joining,
    Open,
    /// We, or the server, want it to end.
    Ending,
}

/// One connection.
pub(super) struct Client {
    pub(super) socket: TcpStream,
    pub(super) role: Role,
    pub(super) stage: Stage,
    /// When it came so far.
    pub(super) since: Instant,
    /// What the answer to its request must hold.
    pub(super) accept: Accept,
    /// The start of what has not all come yet.
    pub(super) part: Vec<u8>,
    /// What the socket has not taken yet.
    pub(super) out: Vec<u8>,
    /// What it has had, once it is in the room.
    pub(super) track: Option<Track>,
    /// Whether a slow one has been told to read.
    pub(super) awake: bool,
    /// How it goes, if that is our doing.
    pub(super) leave: Option<Leave>,
    /// The server's close code; 1005 when it gave none.
    pub(super) code: Option<u16>,
}

impl Client {
    /// One that is being connected.
    pub(super) fn connect(role: Role, addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        // So that no port waits for its time. Those that leave in another way say so.
        socket.set_linger(Some(Duration::ZERO))?;
        if role.is_slow() {
            socket.set_recv_buffer_size(SMALL_BUFFER)?;
        }
        match socket.connect(&SockAddr::from(addr)) {
            Err(error) if !is_pending(&error) => return Err(error),
            _ => {}
        }
        Ok(Self {
            socket: TcpStream::from_std(socket.into()),
            role,
            stage: Stage::Connecting,
            since: Instant::now(),
            accept: Accept::new(),
            part: Vec::new(),
            out: Vec::new(),
            track: None,
            awake: false,
            leave: None,
            code: None,
        })
    }

    /// The next stage.
    pub(super) fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.since = Instant::now();
    }

    /// Whether to read what comes.
    pub(super) const fn reads(&self) -> bool {
        match self.role {
            Role::Never | Role::Stalled | Role::Newest | Role::Sluggish => {
                self.awake || !matches!(self.stage, Stage::Open)
            }
            _ => true,
        }
    }

    /// Whether everything that was sent is to come to it.
    pub(super) fn is_owed(&self) -> bool {
        self.stage == Stage::Open && (self.role.is_careful() || (self.role == Role::Newest && self.awake))
    }

    /// Sends what the socket takes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        let outcome = loop {
            if sent == self.out.len() {
                break Ok(());
            }
            match self.socket.write(&self.out[sent..]) {
                Ok(taken) => sent += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.out.drain(..sent);
        outcome
    }

    /// Sends no more.
    pub(super) fn shut(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// From now on, closing the socket does not reset the connection.
    pub(super) fn close_softly(&self) {
        let _ = socket2::SockRef::from(&self.socket).set_linger(None);
    }
}

/// Whether the connection is on its way.
fn is_pending(error: &io::Error) -> bool {
    // `io::ErrorKind::InProgress` is not stable yet.
    #[cfg(unix)]
    if error.raw_os_error() == Some(libc::EINPROGRESS) {
        return true;
    }
    error.kind() == io::ErrorKind::WouldBlock
}
