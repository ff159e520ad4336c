//! The floor: a minimal WebSocket broadcast server, to measure the cost of the kernel itself. One thread, one poller,
//! one prepared frame, one `send` per socket.
//!
//! `floor --port PORT [--mode single|joined]`: text frames are broadcast; on `/echo` they are echoed. `joined` combines
//! up to 64 waiting frames into one `send`. It checks almost nothing, and has no limits and no features: use it only
//! for comparisons.

mod frames;

use std::{
    collections::HashMap,
    io::{self, Read as _, Write as _},
    net::Ipv4Addr,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};

/// Frames per `send` in `joined` mode.
const JOINED: usize = 64;
/// The listener's token.
const LISTENER: Token = Token(usize::MAX);

fn main() -> Result<(), String> {
    let options = Options::read(std::env::args().skip(1))?;
    // If this fails, fewer connections succeed, and the load reports that.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    Floor::listen(options).and_then(Floor::run).map_err(|error| format!("floor: {error}"))
}

struct Options {
    port: u16,
    /// Frames per `send`.
    joined: usize,
}

impl Options {
    fn read(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let usage = "usage: floor --port PORT [--mode single|joined]";
        let mut options = Self { port: 0, joined: 1 };
        while let Some(name) = args.next() {
            match (name.as_str(), args.next().as_deref()) {
                ("--port", Some(port)) => options.port = port.parse().map_err(|_| usage)?,
                ("--mode", Some("single")) => options.joined = 1,
                ("--mode", Some("joined")) => options.joined = JOINED,
                _ => return Err(usage.to_owned()),
            }
        }
        Ok(options)
    }
}

struct Floor {
    poll: Poll,
    listener: TcpListener,
    joined: usize,
    clients: Vec<Option<Client>>,
    /// Free indexes in `clients`.
    free: Vec<usize>,
    /// Indexes of the clients that receive broadcasts.
    audience: Vec<usize>,
    /// The position of each client in `audience`.
    places: HashMap<usize, usize>,
    /// Encoded frames to broadcast.
    waiting: Vec<Vec<u8>>,
    buffer: Vec<u8>,
}

struct Client {
    socket: TcpStream,
    /// Whether the handshake is complete.
    open: bool,
    echo: bool,
    /// An incomplete frame.
    part: Vec<u8>,
    /// Bytes that the socket has not accepted.
    backlog: Vec<u8>,
}

impl Floor {
    fn listen(options: Options) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port).into())?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            joined: options.joined,
            clients: Vec::new(),
            free: Vec::new(),
            audience: Vec::new(),
            places: HashMap::new(),
            waiting: Vec::new(),
            buffer: vec![0; 64 << 10],
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            for event in &events {
                if event.token() == LISTENER {
                    self.accept()?;
                    continue;
                }
                let index = event.token().0;
                let mut gone = false;
                if event.is_writable()
                    && let Some(Some(client)) = self.clients.get_mut(index)
                {
                    client.flush();
                }
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    gone = !self.read(index, event.is_read_closed() || event.is_error());
                }
                if gone {
                    self.remove(index);
                }
            }
            self.broadcast();
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // Disconnected before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            socket.set_nodelay(true)?;
            let index = self.free.pop().unwrap_or_else(|| {
                self.clients.push(None);
                self.clients.len() - 1
            });
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut socket, Token(index), both)?;
            let (part, backlog) = (Vec::new(), Vec::new());
            self.clients[index] = Some(Client { socket, open: false, echo: false, part, backlog });
        }
    }

    /// Reads what is available, to the end if the peer has closed. Returns false if the client has disconnected.
    fn read(&mut self, index: usize, ended: bool) -> bool {
        let Some(Some(client)) = self.clients.get_mut(index) else { return true };
        loop {
            let count = match client.socket.read(&mut self.buffer) {
                Ok(0) => return false,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return false,
            };
            let joined;
            let bytes = if client.part.is_empty() {
                &self.buffer[..count]
            } else {
                client.part.extend_from_slice(&self.buffer[..count]);
                joined = std::mem::take(&mut client.part);
                &joined
            };
            let left = if client.open {
                let left = frames::texts(bytes, |frame| match client.echo {
                    true => client.backlog.extend_from_slice(&frame),
                    false => self.waiting.push(frame),
                });
                client.flush();
                left
            } else if let Some((answer, echo)) = frames::handshake(bytes) {
                (client.open, client.echo) = (true, echo);
                client.send(answer.as_bytes());
                if !echo {
                    self.places.insert(index, self.audience.len());
                    self.audience.push(index);
                }
                &[]
            } else {
                bytes
            };
            client.part = left.to_vec();
            if count < self.buffer.len() && !ended {
                return true;
            }
        }
    }

    /// Broadcasts the waiting frames.
    fn broadcast(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        for frames in waiting.chunks(self.joined) {
            let joined;
            let bytes = match frames {
                [one] => one,
                several => {
                    joined = several.concat();
                    &joined
                }
            };
            for index in &self.audience {
                if let Some(client) = &mut self.clients[*index] {
                    client.send(bytes);
                }
            }
        }
    }

    fn remove(&mut self, index: usize) {
        if self.clients[index].take().is_none() {
            return;
        }
        self.free.push(index);
        if let Some(place) = self.places.remove(&index) {
            self.audience.swap_remove(place);
            if let Some(moved) = self.audience.get(place) {
                self.places.insert(*moved, place);
            }
        }
    }
}

impl Client {
    /// Sends once, and keeps the rest. A failed socket is detected when it is read.
    fn send(&mut self, bytes: &[u8]) {
        if !self.backlog.is_empty() {
            self.backlog.extend_from_slice(bytes);
            return;
        }
        let sent = self.socket.write(bytes).unwrap_or(0);
        if sent < bytes.len() {
            self.backlog.extend_from_slice(&bytes[sent..]);
        }
    }

    fn flush(&mut self) {
        while !self.backlog.is_empty() {
            let Ok(sent) = self.socket.write(&self.backlog) else { return };
            self.backlog.drain(..sent);
        }
    }
}
