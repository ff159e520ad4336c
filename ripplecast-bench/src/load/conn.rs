//! One connection, with as little state as possible.

use std::io::{self, Read as _, Write as _};

use mio::net::TcpStream;

use super::handshake::Accept;

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Phase {
    /// Not connected.
    Away,
    /// The SYN is sent.
    Connecting,
    /// The request is sent.
    Upgrading,
    Open,
}

pub(super) struct Conn {
    pub(super) socket: Option<TcpStream>,
    pub(super) phase: Phase,
    /// Whether it reads only on request.
    pub(super) slow: bool,
    /// When it started to connect.
    pub(super) began: u64,
    /// The expected `Sec-WebSocket-Accept`.
    pub(super) accept: Accept,
    /// Bytes of an incomplete frame.
    pub(super) part: Vec<u8>,
    /// Bytes that the socket has not accepted yet.
    pub(super) out: Vec<u8>,
}

/// The result of a read.
pub(super) enum Read {
    Nothing,
    Some {
        /// Bytes in the buffer, including those kept from before.
        total: usize,
        /// New bytes.
        new: usize,
        /// Whether more may be available.
        more: bool,
    },
    /// Why the connection ended, to be prefixed with "the server".
    End(String),
}

impl Conn {
    pub(super) const fn new(slow: bool) -> Self {
        Self {
            socket: None,
            phase: Phase::Away,
            slow,
            began: 0,
            accept: Accept::new(),
            part: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Closes the socket, which resets the connection, and clears its buffers. Returns the previous phase.
    pub(super) fn drop_socket(&mut self) -> Phase {
        self.socket = None;
        self.part = Vec::new();
        self.out = Vec::new();
        std::mem::replace(&mut self.phase, Phase::Away)
    }

    /// Returns whether the TCP connection is established.
    pub(super) fn connected(&self) -> io::Result<bool> {
        let Some(socket) = &self.socket else { return Ok(false) };
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        match socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads once, after the bytes kept from before; at most `most` bytes.
    #[inline]
    pub(super) fn read(&mut self, buffer: &mut [u8], most: usize) -> Read {
        let Some(socket) = &mut self.socket else { return Read::Nothing };
        let kept = self.part.len();
        let room = most.min(buffer.len() - kept);
        loop {
            match socket.read(&mut buffer[kept..kept + room]) {
                Ok(0) => return Read::End("closed it".to_owned()),
                Ok(new) => {
                    if kept > 0 {
                        buffer[..kept].copy_from_slice(&self.part);
                        self.part.clear();
                    }
                    return Read::Some { total: kept + new, new, more: new == room };
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Read::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Read::End("reset it".to_owned());
                }
                Err(error) => return Read::End(format!("disconnected: {error}")),
            }
        }
    }

    /// Writes what the socket accepts, and returns the number of bytes.
    pub(super) fn flush(&mut self) -> io::Result<usize> {
        let Some(socket) = &mut self.socket else { return Ok(0) };
        let mut sent = 0;
        let outcome = loop {
            if sent == self.out.len() {
                break Ok(sent);
            }
            match socket.write(&self.out[sent..]) {
                Ok(taken) => sent += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(sent),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        if sent == self.out.len() {
            self.out.clear();
        } else {
            self.out.drain(..sent);
        }
        outcome
    }
}
