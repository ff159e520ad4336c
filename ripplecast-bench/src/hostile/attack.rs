//! The hostile connections. Each reconnects immediately when the server closes it.

use std::{
    fmt::Write as _,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use clap::ValueEnum;
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime::{Builder, Runtime},
    time::sleep,
};

use super::peer::Peer;
use crate::load::frames::{self, TEXT};
use crate::result::{Result, started};

/// The pause after a failed attempt to connect, which keeps the loop from spinning.
const REFUSED: Duration = Duration::from_millis(10);
/// The number of subprotocols that fit in a head of 16 KiB.
const PROTOCOLS: u32 = 3_000;
/// The length of an `Origin` header that fits in a head of 16 KiB.
const ORIGIN: usize = 14_000;
/// The longest message of the endpoint with the longest limit.
const LONGEST_MESSAGE: usize = 4 << 10;
/// Messages sent before their responses are read.
const BURST: usize = 100;
/// Bytes sent at once on an event stream.
const CHUNK: usize = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Attack {
    /// Upgrade requests that offer 3,000 subprotocols
    Protocols,
    /// Upgrade requests with a foreign origin of 14 KB, which fill the log
    Origins,
    /// Requests with a body that never ends
    Bodies,
    /// Page requests whose responses are read at a byte per second
    Readers,
    /// WebSocket messages that never send their last byte
    Unfinished,
    /// WebSockets that each join a different room
    Rooms,
    /// An endless stream of small WebSocket messages
    Messages,
    /// Data sent by the client on an event stream
    Events,
    /// Wrong inspector tokens
    Tokens,
    /// State-changing requests, each with a different forged X-Forwarded-For
    Forwarded,
}

/// What happened to the connections of one kind.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) attack: Attack,
    /// Concurrent connections.
    pub(super) connections: u64,
    /// Connections opened in total.
    pub(super) opened: u64,
    /// Responses with an error status (400 and above).
    pub(super) refused: u64,
    /// Connections closed by the server.
    pub(super) closed: u64,
    pub(super) held: u64,
}

/// Counters of one kind.
#[derive(Default)]
struct Tally {
    connections: u64,
    tried: AtomicU64,
    opened: AtomicU64,
    refused: AtomicU64,
    closed: AtomicU64,
}

/// A running attack on separate threads. Dropping it stops the attack.
pub(super) struct Attackers {
    tallies: Vec<(Attack, Arc<Tally>)>,
    yielding: Arc<AtomicBool>,
    /// Stops the threads and drops the connections when dropped.
    _runtime: Runtime,
}

impl Attackers {
    /// Starts `connections` connections, distributed evenly over the kinds.
    ///
    /// Real attackers have machines of their own. These share one with the server and the clients, so they take only CPU
    /// time that neither wants: the wait of a client shows what the server grants the attackers, not what the attackers
    /// cost.
    pub(super) fn start(addr: SocketAddr, connections: u32, kinds: &[Attack]) -> Result<Self> {
        let (count, connections) = (kinds.len() as u64, u64::from(connections));
        let tally = |(index, kind): (usize, &Attack)| {
            let more = u64::from((index as u64) < connections % count);
            (*kind, Arc::new(Tally { connections: connections / count + more, ..Tally::default() }))
        };
        let tallies: Vec<_> = kinds.iter().enumerate().map(tally).collect();
        let yielding = Arc::new(AtomicBool::new(true));
        let all_yield = Arc::clone(&yielding);
        let lower = move || {
            all_yield.fetch_and(lower_priority(), Relaxed);
        };
        // One thread per core, tokio's default: a single thread could not use all remaining CPU time.
        let mut builder = Builder::new_multi_thread();
        let runtime = started(builder.thread_name("hostile").on_thread_start(lower).enable_all().build())?;
        for (kind, tally) in &tallies {
            for _ in 0..tally.connections {
                runtime.spawn(attacker(*kind, addr, Arc::clone(tally)));
            }
        }
        Ok(Self { tallies, yielding, _runtime: runtime })
    }

    /// Returns whether all attacking threads started so far run at the lowest CPU priority.
    pub(super) fn are_yielding(&self) -> bool {
        self.yielding.load(Relaxed)
    }

    /// Returns whether each connection has made its first attempt.
    pub(super) fn have_begun(&self) -> bool {
        self.tallies.iter().all(|(_, tally)| tally.tried.load(Relaxed) >= tally.connections)
    }

    /// Stops the attack, and returns its outcome so far.
    pub(super) fn stop(self) -> Vec<Outcome> {
        let outcome = |(attack, tally): &(Attack, Arc<Tally>)| {
            let (closed, opened) = (tally.closed.load(Relaxed), tally.opened.load(Relaxed));
            Outcome {
                attack: *attack,
                connections: tally.connections,
                opened,
                refused: tally.refused.load(Relaxed),
                closed,
                held: opened.saturating_sub(closed),
            }
        };
        self.tallies.iter().map(outcome).collect()
    }
}

/// Lowers the calling thread to the lowest CPU priority. Returns whether that succeeded.
#[cfg(target_os = "linux")]
fn lower_priority() -> bool {
    /// The highest "nice" value: a thread with the default of 0 gets 68 times the CPU time.
    const NICEST: i32 = 19;
    // On Linux, "this process" means the calling thread.
    rustix::process::setpriority_process(None, NICEST).is_ok()
}

/// Elsewhere, priority is per process, and the clients run in this process.
#[cfg(not(target_os = "linux"))]
const fn lower_priority() -> bool {
    false
}

impl Attack {
    pub(super) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Runs one hostile connection, which reconnects as long as the attack lasts.
async fn attacker(kind: Attack, addr: SocketAddr, tally: Arc<Tally>) {
    loop {
        let connected = Peer::connect(addr, kind == Attack::Readers).await;
        tally.tried.fetch_add(1, Relaxed);
        let Ok(peer) = connected else {
            sleep(REFUSED).await;
            continue;
        };
        tally.opened.fetch_add(1, Relaxed);
        let _ = attack(kind, peer, addr, &tally).await;
        tally.closed.fetch_add(1, Relaxed);
        // A server that accepts and closes immediately must not keep the other tasks from running.
        tokio::task::yield_now().await;
    }
}

/// Attacks until the connection ends.
async fn attack(kind: Attack, mut peer: Peer, addr: SocketAddr, tally: &Tally) -> io::Result<()> {
    match kind {
        Attack::Protocols => {
            let names = (0..PROTOCOLS).fold(String::new(), |mut names, n| {
                let _ = write!(names, "{n:x},");
                names
            });
            let field =
                format!("Origin: http://{addr}\r\nSec-WebSocket-Protocol: {}", names.trim_end_matches(','));
            repeat(&mut peer, tally, |_| upgrade(addr, &field)).await
        }
        Attack::Origins => {
            let field = format!("Origin: http://{}", "a".repeat(ORIGIN));
            repeat(&mut peer, tally, |_| upgrade(addr, &field)).await
        }
        Attack::Tokens => {
            // Not a loopback name, for which this machine needs no token.
            let request = |n| {
                format!(
                    "GET /inspect HTTP/1.1\r\nHost: demo.example\r\nAuthorization: Bearer wrong-{n:016x}\r\n\r\n"
                )
            };
            repeat(&mut peer, tally, request).await
        }
        Attack::Forwarded => {
            let request = |n: u64| {
                let [a, b, c, ..] = n.to_ne_bytes();
                format!(
                    "POST /api/counter/bump HTTP/1.1\r\nHost: {addr}\r\nX-Forwarded-For: 127.0.0.1, 10.{a}.{b}.{c}\r\n\
                     Content-Length: 0\r\n\r\n"
                )
            };
            repeat(&mut peer, tally, request).await
        }
        Attack::Bodies => {
            let head = format!(
                "POST /api/learn/send HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{"
            );
            peer.send(head.as_bytes()).await?;
            tally.note(peer.answer().await?.status);
            peer.wait_for_end().await
        }
        Attack::Readers => read_slowly(&mut peer, addr).await,
        Attack::Unfinished => {
            peer.upgrade("/ws/demos/chat").await?;
            let mut frame = Vec::new();
            frames::encode(TEXT, &[b'x'; LONGEST_MESSAGE], peer.random.key(), &mut frame);
            peer.send(&frame[..frame.len() - 1]).await?;
            peer.wait_for_end().await
        }
        Attack::Rooms => {
            let room = peer.random.next();
            peer.upgrade(&format!("/ws/demos/chat?room={room:x}")).await?;
            // The first frame confirms that it has joined, or explains why it could not.
            peer.frame(|_| true).await.map(drop)
        }
        Attack::Messages => {
            peer.upgrade("/ws/counter-demo").await?;
            let mut burst = Vec::new();
            (0..BURST).for_each(|_| frames::encode(TEXT, b"ping", [1, 2, 3, 4], &mut burst));
            loop {
                peer.send(&burst).await?;
                let mut answers = 0;
                while answers < BURST {
                    answers += usize::from(peer.frame(|frame| frame.payload == b"pong").await?);
                }
            }
        }
        Attack::Events => {
            let head =
                format!("GET /events/counter HTTP/1.1\r\nHost: {addr}\r\nAccept: text/event-stream\r\n\r\n");
            peer.send(head.as_bytes()).await?;
            loop {
                peer.send(&[b'x'; CHUNK]).await?;
            }
        }
    }
}

/// Sends requests one after the other on one connection, as long as the server reads them.
async fn repeat(peer: &mut Peer, tally: &Tally, request: impl Fn(u64) -> String) -> io::Result<()> {
    loop {
        let request = request(peer.random.next());
        peer.send(request.as_bytes()).await?;
        let answer = peer.answer().await?;
        tally.note(answer.status);
        if !answer.stays {
            return Ok(());
        }
    }
}

/// Returns an upgrade request with additional header fields.
fn upgrade(addr: SocketAddr, fields: &str) -> String {
    format!(
        "GET /ws/counter-demo HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n\r\n"
    )
}

/// Requests pages as long as the server accepts requests, and reads one byte per second.
async fn read_slowly(peer: &mut Peer, addr: SocketAddr) -> io::Result<()> {
    let requests = format!("GET / HTTP/1.1\r\nHost: {addr}\r\n\r\n").repeat(50);
    let (mut read, mut write) = peer.stream.split();
    let asking = async {
        loop {
            if let Err(error) = write.write_all(requests.as_bytes()).await {
                return error;
            }
        }
    };
    let reading = async {
        loop {
            match read.read(&mut [0]).await {
                Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
                Ok(_) => sleep(Duration::from_secs(1)).await,
                Err(error) => return error,
            }
        }
    };
    tokio::select! {
        error = asking => Err(error),
        error = reading => Err(error),
    }
}

impl Tally {
    /// Counts a response.
    fn note(&self, status: u16) {
        if status >= 400 {
            self.refused.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn only_the_thread_that_asks_has_the_lowest_priority() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let lowered = thread::spawn(move || (lower_priority(), nice())).join().unwrap();
        assert_eq!((lowered, nice()), ((true, 19), before));
    }
}
