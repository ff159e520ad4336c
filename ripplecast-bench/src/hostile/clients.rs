//! Well-behaved clients, and how long they wait.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::{
    runtime::Builder,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::peer::Peer;
use crate::load::measure::histogram;
use crate::result::{Result, started};

/// The interval between two actions of a client.
const PERIOD: Duration = Duration::from_millis(100);
/// The time after which a client gives up. A failure counts as a wait this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// An endpoint that anyone may open.
const ENDPOINT: &str = "/ws/counter-demo";

/// An action of a client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Action {
    /// Sends a ping on an open WebSocket, and waits for its pong.
    Message,
    /// Opens a WebSocket.
    Open,
    /// Loads a page over a new connection.
    Page,
}

impl Action {
    pub(super) const ALL: [Self; 3] = [Self::Message, Self::Open, Self::Page];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Message => "round trip",
            Self::Open => "new WebSocket",
            Self::Page => "page",
        }
    }
}

/// The waits of the clients of one kind in nanoseconds, and the number of failed actions.
pub(super) struct Wait {
    pub(super) times: Histogram<u64>,
    pub(super) failed: u64,
    /// The error of the first failed action.
    pub(super) first_failure: Option<String>,
}

/// The waits of each kind, in the order of [`Action::ALL`].
pub(super) type Waits = [Wait; 3];

/// Runs `clients` clients of each kind at their pace for `time`, or until `stop`. They share only the calling thread.
pub(super) fn measure(
    addr: SocketAddr,
    clients: u32,
    time: Duration,
    stop: &Arc<AtomicBool>,
) -> Result<Waits> {
    started(Builder::new_current_thread().enable_all().build())?.block_on(async {
        let begin = Instant::now();
        let mut tasks = JoinSet::new();
        for action in Action::ALL {
            for index in 0..clients {
                let first = begin + PERIOD * index / clients;
                tasks.spawn(client(action, addr, first, begin + time, Arc::clone(stop)));
            }
        }
        let mut waits = Action::ALL.map(|_| Wait::new());
        while let Some(ended) = tasks.join_next().await {
            let (action, wait) = ended.map_err(|error| format!("a client failed: {error}"))?;
            waits[action as usize].add(wait);
        }
        Ok(waits)
    })
}

/// Runs one client. If an action is delayed by the one before, its wait counts from when it was
/// due.
async fn client(
    action: Action,
    addr: SocketAddr,
    first: Instant,
    end: Instant,
    stop: Arc<AtomicBool>,
) -> (Action, Wait) {
    let (mut wait, mut socket, mut due) = (Wait::new(), None, first);
    while due < end && !stop.load(Ordering::Relaxed) {
        let is_late = Instant::now() > due;
        sleep_until(due).await;
        let begin = if is_late { due } else { Instant::now() };
        let outcome = match end + PATIENCE > begin {
            true => timeout(PATIENCE, act(action, addr, &mut socket))
                .await
                .unwrap_or_else(|late| Err(late.into())),
            false => Err(io::ErrorKind::TimedOut.into()),
        };
        match outcome {
            Ok(()) => wait.times.saturating_record(begin.elapsed().as_nanos() as u64),
            Err(error) => {
                socket = None;
                wait.fail(&error);
            }
        }
        due += PERIOD;
    }
    (action, wait)
}

/// Performs a client's action.
async fn act(action: Action, addr: SocketAddr, socket: &mut Option<Peer>) -> io::Result<()> {
    if action == Action::Message
        && let Some(socket) = socket
    {
        return socket.round_trip().await;
    }
    let mut peer = Peer::connect(addr, false).await?;
    match action {
        Action::Message => {
            peer.upgrade(ENDPOINT).await?;
            socket.insert(peer).round_trip().await
        }
        Action::Open => peer.upgrade(ENDPOINT).await,
        Action::Page => {
            peer.send(format!("GET / HTTP/1.1\r\nHost: {addr}\r\n\r\n").as_bytes()).await?;
            match peer.answer().await?.status {
                200..400 => Ok(()),
                status => Err(io::Error::other(format!("the page returned status {status}"))),
            }
        }
    }
}

impl Wait {
    fn new() -> Self {
        Self { times: histogram(), failed: 0, first_failure: None }
    }

    fn fail(&mut self, error: &io::Error) {
        self.failed += 1;
        self.first_failure.get_or_insert_with(|| error.to_string());
        self.times.saturating_record(PATIENCE.as_nanos() as u64);
    }

    /// Adds the waits of another measurement.
    pub(super) fn add(&mut self, other: Self) {
        // Both have the same bounds.
        let _ = self.times.add(&other.times);
        self.failed += other.failed;
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }
}
