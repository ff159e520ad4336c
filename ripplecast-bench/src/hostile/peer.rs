//! A connection to the server, and what is sent and received on it.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::load::{
    frames::{self, PING, PONG},
    handshake,
    random::Random,
};

/// The longest head, body or frame accepted, in bytes.
const LONGEST: usize = 4 << 20;
/// The receive buffer of a slow reader, small so that the kernel does not buffer for it.
const SMALL_BUFFER: u32 = 4 << 10;

pub(super) struct Peer {
    pub(super) stream: TcpStream,
    host: String,
    /// Bytes received and not yet processed.
    received: Vec<u8>,
    pub(super) random: Random,
}

/// A response without its body.
pub(super) struct Answer {
    pub(super) status: u16,
    /// Whether the server accepts another request on this connection.
    pub(super) stays: bool,
}

impl Peer {
    /// Connects. Closing the connection resets it, so that its port is not kept in TIME_WAIT.
    pub(super) async fn connect(addr: SocketAddr, slow: bool) -> io::Result<Self> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if slow {
            socket.set_recv_buffer_size(SMALL_BUFFER)?;
        }
        let stream = socket.connect(addr).await?;
        stream.set_nodelay(true)?;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        let random = Random::new(Random::fresh_seed());
        Ok(Self { stream, host: addr.to_string(), received: Vec::new(), random })
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    pub(super) async fn upgrade(&mut self, path: &str) -> io::Result<()> {
        let mut request = Vec::new();
        let accept = handshake::request(path, &self.host, &mut self.random, &mut request);
        self.send(&request).await?;
        loop {
            if let Some(head) = handshake::check(&self.received, accept).map_err(io::Error::other)? {
                self.received.drain(..head);
                return Ok(());
            }
            self.receive().await?;
        }
    }

    /// Sends a ping, and waits for the response.
    pub(super) async fn round_trip(&mut self) -> io::Result<()> {
        let (payload, key) = (self.random.next().to_ne_bytes(), self.random.key());
        let mut frame = Vec::new();
        frames::encode(PING, &payload, key, &mut frame);
        self.send(&frame).await?;
        while !self.frame(|frame| frame.opcode == PONG && frame.payload == payload).await? {}
        Ok(())
    }

    /// Receives a frame, and returns the result of `is`.
    pub(super) async fn frame(&mut self, is: impl Fn(&frames::Frame<'_>) -> bool) -> io::Result<bool> {
        loop {
            let mut rest = self.received.as_slice();
            if let Some(frame) = frames::decode(&mut rest, LONGEST).map_err(io::Error::other)? {
                let found = is(&frame);
                let used = self.received.len() - rest.len();
                self.received.drain(..used);
                return Ok(found);
            }
            self.receive().await?;
        }
    }

    /// Receives a whole response.
    pub(super) async fn answer(&mut self) -> io::Result<Answer> {
        let wrong = || io::Error::other("not an HTTP response");
        let end = loop {
            if let Some(end) = self.received.windows(4).position(|end| end == b"\r\n\r\n") {
                break end + 4;
            }
            self.receive().await?;
        };
        let head = String::from_utf8_lossy(&self.received[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(wrong)?;
        let field = |name: &str| {
            head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let length = field("content-length").and_then(|length| length.parse::<usize>().ok());
        let stays = field("connection") != Some("close") && length.is_some();
        let end = end + length.unwrap_or(0).min(LONGEST);
        while self.received.len() < end {
            self.receive().await?;
        }
        self.received.drain(..end);
        Ok(Answer { status, stays })
    }

    /// Reads and discards until the server ends the connection.
    pub(super) async fn wait_for_end(&mut self) -> io::Result<()> {
        loop {
            self.received.clear();
            self.receive().await?;
        }
    }

    /// Reads once. The end of the stream is an error.
    async fn receive(&mut self) -> io::Result<()> {
        if self.received.len() > 2 * LONGEST {
            return Err(io::Error::other("the server sent more than the limit"));
        }
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
