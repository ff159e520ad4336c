//! One connection of the test, and its role.

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

/// The receive buffer of a slow reader, small so that the kernel does not buffer for it.
const SMALL_BUFFER: usize = 4 << 10;

/// The role of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Sends, and reads like any other connection.
    Publisher(u8),
    Reader,
    Stream,
    /// Never reads once it is in the room, and must be closed for it.
    Never,
    /// Does not read until told to, and must be closed for it with 1013.
    Stalled,
    /// Reads a little at a time.
    Sluggish,
    /// Does not read until told to, and loses the oldest messages.
    Newest,
    /// Violates the protocol.
    Breaker(Breach),
    /// Sends half a request, and disconnects.
    Rude,
}

impl Role {
    /// Returns its path.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Publisher(_) | Self::Reader | Self::Breaker(_) | Self::Rude => "/soak",
            Self::Stream => "/soak/events",
            Self::Never | Self::Stalled | Self::Sluggish => "/soak/tight",
            Self::Newest => "/soak/newest",
        }
    }

    /// Returns whether the server has no reason to close it, and must deliver everything.
    pub(super) const fn is_careful(self) -> bool {
        matches!(self, Self::Publisher(_) | Self::Reader | Self::Stream)
    }

    /// Returns whether it reads less than it could.
    pub(super) const fn is_slow(self) -> bool {
        matches!(self, Self::Never | Self::Stalled | Self::Sluggish | Self::Newest)
    }

    /// Returns whether the server may close it for being slow.
    pub(super) const fn may_be_too_slow(self) -> bool {
        matches!(self, Self::Never | Self::Stalled | Self::Sluggish)
    }

    /// Returns whether it reconnects after a restart of the server.
    pub(super) const fn comes_back(self) -> bool {
        matches!(self, Self::Reader | Self::Stream)
    }
}

/// A way to violate the protocol.
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

    /// Returns the code with which the server must close it.
    pub(super) const fn code(self) -> u16 {
        match self {
            Self::NotUtf8 => 1007,
            Self::TooLong => 1009,
            _ => 1002,
        }
    }

    /// Returns the bytes to send.
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

/// A way to disconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// Sends a close frame.
    Close,
    /// Closes its sending side, and waits for the server to close.
    Half,
    Drop,
    /// Resets the connection.
    Reset,
}

/// The stage of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The SYN is sent.
    Connecting,
    /// The request is sent.
    Upgrading,
    /// The server has accepted, but not yet confirmed the join.
    Joining,
    Open,
    /// We or the server have started to close it.
    Ending,
}

pub(super) struct Client {
    pub(super) socket: TcpStream,
    pub(super) role: Role,
    pub(super) stage: Stage,
    /// When it reached this stage.
    pub(super) since: Instant,
    /// The expected `Sec-WebSocket-Accept`.
    pub(super) accept: Accept,
    /// Bytes of an incomplete frame.
    pub(super) part: Vec<u8>,
    /// Bytes that the socket has not accepted yet.
    pub(super) out: Vec<u8>,
    /// What it has received since it joined the room.
    pub(super) track: Option<Track>,
    /// Whether a slow reader has been told to read.
    pub(super) awake: bool,
    /// How it leaves, if we decided that.
    pub(super) leave: Option<Leave>,
    /// The server's close code; 1005 if it sent none.
    pub(super) code: Option<u16>,
}

impl Client {
    /// Starts a connection.
    pub(super) fn connect(role: Role, addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        // So that its port is not kept in TIME_WAIT. `close_softly` undoes this.
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

    /// Enters a stage.
    pub(super) fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.since = Instant::now();
    }

    /// Returns whether to read what arrives.
    pub(super) const fn reads(&self) -> bool {
        match self.role {
            Role::Never | Role::Stalled | Role::Newest | Role::Sluggish => {
                self.awake || !matches!(self.stage, Stage::Open)
            }
            _ => true,
        }
    }

    /// Returns whether everything sent must reach it.
    pub(super) fn is_owed(&self) -> bool {
        self.stage == Stage::Open && (self.role.is_careful() || (self.role == Role::Newest && self.awake))
    }

    /// Writes what the socket accepts.
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

    /// Closes the sending side.
    pub(super) fn shut(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// From now on, closing the socket does not reset the connection.
    pub(super) fn close_softly(&self) {
        let _ = socket2::SockRef::from(&self.socket).set_linger(None);
    }
}

/// Returns whether the connection is in progress.
fn is_pending(error: &io::Error) -> bool {
    // `io::ErrorKind::InProgress` is not stable yet.
    #[cfg(unix)]
    if error.raw_os_error() == Some(libc::EINPROGRESS) {
        return true;
    }
    error.kind() == io::ErrorKind::WouldBlock
}
