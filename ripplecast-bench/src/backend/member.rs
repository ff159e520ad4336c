//! A member of the room: a real WebSocket, and a thread that reads it.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::mark::Seen;
use crate::load::{
    frames::{TEXT, decode},
    handshake,
    random::Random,
};
use crate::result::Result;

/// The time limit for the node's handshake response.
const ANSWER: Duration = Duration::from_secs(10);
/// Silence after which missing messages count as lost.
const SILENCE: Duration = Duration::from_secs(5);
/// The size of a read in bytes, and the longest message.
const BUFFER: usize = 256 << 10;

pub(super) struct Member {
    /// Its socket. The thread has another handle.
    socket: TcpStream,
    shared: Arc<Shared>,
    /// The reading thread.
    reader: Option<JoinHandle<()>>,
}

/// State shared with the reading thread.
struct Shared {
    /// The messages received.
    seen: Mutex<Seen>,
    /// Why reading ended.
    ended: Mutex<Option<String>>,
}

/// Locks a mutex. Nothing panics while holding it, so it is never poisoned.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Member {
    /// Opens a member at the node with this address.
    pub(super) fn connect(addr: SocketAddr) -> Result<Self> {
        let failed = |error: std::io::Error| format!("failed to connect a member to {addr}: {error}");
        let mut socket = TcpStream::connect_timeout(&addr, ANSWER).map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        socket.set_read_timeout(Some(ANSWER)).map_err(failed)?;
        let mut request = Vec::new();
        let mut random = Random::new(Random::fresh_seed());
        let accept = handshake::request("/member", &addr.to_string(), &mut random, &mut request);
        socket.write_all(&request).map_err(failed)?;
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; BUFFER]);
        let head = loop {
            let read = socket.read(&mut buffer).map_err(failed)?;
            if read == 0 {
                return Err(format!("the node at {addr} closed a member's connection"));
            }
            bytes.extend_from_slice(&buffer[..read]);
            match handshake::check(&bytes, accept) {
                Ok(None) => {}
                Ok(Some(head)) => break head,
                Err(error) => return Err(format!("the node at {addr} {error}")),
            }
        };
        socket.set_read_timeout(None).map_err(failed)?;
        let shared = Arc::new(Shared { seen: Mutex::new(Seen::new(0)), ended: Mutex::new(None) });
        let (theirs, reading) = (shared.clone(), socket.try_clone().map_err(failed)?);
        let rest = bytes.split_off(head);
        let reader = thread::Builder::new().name("member".to_owned());
        let reader = reader.spawn(move || read(reading, rest, &theirs)).map_err(failed)?;
        Ok(Self { socket, shared, reader: Some(reader) })
    }

    /// Starts counting the messages of `run`.
    pub(super) fn begin(&self, run: u32) {
        *lock(&self.shared.seen) = Seen::new(run);
    }

    /// Returns the number of messages received.
    pub(super) fn received(&self) -> u64 {
        lock(&self.shared.seen).received
    }

    /// Returns the statistics and resets them.
    pub(super) fn finish(&self) -> Seen {
        std::mem::replace(&mut *lock(&self.shared.seen), Seen::new(0))
    }

    /// Waits for `count` messages, or until none has arrived for several seconds.
    pub(super) fn wait(&self, count: u64) -> Result<()> {
        let (mut last, mut at) = (self.received(), Instant::now());
        while last < count && at.elapsed() < SILENCE {
            self.wait_a_moment()?;
            let received = self.received();
            if received != last {
                (last, at) = (received, Instant::now());
            }
        }
        Ok(())
    }

    /// Waits a moment, much shorter than a round of commands. Fails if the connection has ended.
    pub(super) fn wait_a_moment(&self) -> Result<()> {
        thread::sleep(Duration::from_millis(20));
        self.check()
    }

    /// Fails if the connection has ended.
    pub(super) fn check(&self) -> Result<()> {
        lock(&self.shared.ended).clone().map_or(Ok(()), Err)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // The connection may have ended already.
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Reads until the connection ends.
fn read(mut socket: TcpStream, mut bytes: Vec<u8>, shared: &Shared) {
    let mut buffer = vec![0; BUFFER];
    let ended = loop {
        let mut rest = &bytes[..];
        let mut seen = lock(&shared.seen);
        let wrong = loop {
            match decode(&mut rest, BUFFER) {
                Ok(Some(frame)) if frame.opcode == TEXT => seen.take(frame.payload),
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        drop(seen);
        if let Some(error) = wrong {
            break format!("a node violated the protocol: {error}");
        }
        let used = bytes.len() - rest.len();
        bytes.drain(..used);
        match socket.read(&mut buffer) {
            Ok(0) => break "a node closed its member's connection".to_owned(),
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(error) => break format!("a member's connection failed: {error}"),
        }
    };
    *lock(&shared.ended) = Some(ended);
}
