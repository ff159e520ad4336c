//! Streams: the same suite on every backend. Handlers report over channels or are held by a semaphore; where a backend needs
//! time, its times are set short, and the test waits for what it needs to see.

/// What tells in memory alone.
mod memory;
/// What tells on Redis alone.
mod redis;
/// What holds on every backend.
mod suite;

use std::{
    future::Future,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use ripplecast::{
    Error, Hub, ReliableOptions, ReliableStream, ReliableSubscription, Result, StreamError, StreamMessage,
    StreamStatus,
};
use tokio::{
    sync::{
        Semaphore,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    time::timeout,
};

use crate::{
    redis::{Cluster, Flavour, Server},
    support::PATIENCE,
};

/// Where the streams of a test live.
enum Ground {
    /// In one process, so that every node is the same hub.
    Memory(Hub),
    /// On a server, under keys of the test's own. Each node is a hub of its own, kept until the test ends.
    Redis { url: String, nodes: Mutex<Vec<Hub>> },
}

impl Ground {
    /// The memory of this process.
    fn memory() -> Self {
        Self::Memory(Hub::builder().shards(1).build().unwrap())
    }

    /// A server.
    fn redis(flavour: Flavour) -> Self {
        Self::at(&Server::shared(flavour).url())
    }

    /// A Cluster.
    fn cluster() -> Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        Self::at(&SHARED.get_or_init(|| Cluster::start(Flavour::Redis)).url())
    }

    /// A backend that other tests use too.
    fn at(url: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let url = format!("{url}?prefix=streams-{}", NEXT.fetch_add(1, Relaxed));
        Self::Redis { url, nodes: Mutex::default() }
    }

    /// A node, kept until the test ends.
    async fn node(&self) -> Hub {
        let node = self.own_node().await;
        if let Self::Redis { nodes, .. } = self {
            nodes.lock().unwrap().push(node.clone());
        }
        node
    }

    /// A node that ends when the last handle of it does.
    async fn own_node(&self) -> Hub {
        match self {
            Self::Memory(hub) => hub.clone(),
            Self::Redis { url, .. } => node(url).await,
        }
    }

    /// The stream of most tests, on a node of its own.
    async fn stream(&self) -> ReliableStream {
        self.node().await.stream("orders")
    }
}

/// A node on that backend.
async fn node(url: &str) -> Hub {
    Hub::builder().shards(1).backend(url).connect().await.unwrap()
}

/// Settings whose waits are short.
fn quick() -> ReliableOptions {
    ReliableOptions::new()
        .backoff(Duration::from_millis(5), Duration::from_millis(20))
        .claim_after(Duration::from_millis(400))
}

/// Settings under which nothing is taken over from others while a test runs, however slow the machine is.
fn patient() -> ReliableOptions {
    quick().claim_after(Duration::from_secs(3600))
}

/// The next that comes.
#[track_caller]
fn next<T>(receiver: &mut UnboundedReceiver<T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        match timeout(PATIENCE, receiver.recv()).await {
            Ok(Some(value)) => value,
            Ok(None) => panic!("nobody sends any more, at {caller}"),
            Err(_) => panic!("nothing comes, at {caller}"),
        }
    }
}

/// Waits until `look` says yes.
async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !look().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A handler's message, as text.
fn text(message: &StreamMessage) -> String {
    String::from_utf8(message.payload.to_vec()).unwrap()
}

/// Subscribes with a handler that always succeeds, and tells of each message when it begins.
async fn listen(
    stream: &ReliableStream,
    group: &str,
    options: ReliableOptions,
) -> (ReliableSubscription, UnboundedReceiver<StreamMessage>) {
    answer(stream, group, options, |_| Ok(())).await
}

/// Subscribes with a handler that tells of each message, and says what `answer` says.
async fn answer(
    stream: &ReliableStream,
    group: &str,
    options: ReliableOptions,
    answer: impl Fn(&StreamMessage) -> Result<()> + Send + Sync + 'static,
) -> (ReliableSubscription, UnboundedReceiver<StreamMessage>) {
    let (sender, receiver) = unbounded_channel();
    let answer = Arc::new(answer);
    let handler = move |message: StreamMessage| {
        let (sender, answer) = (sender.clone(), Arc::clone(&answer));
        async move {
            drop(sender.send(message.clone()));
            answer(&message)
        }
    };
    (stream.subscribe_with(group, options, handler).await.unwrap(), receiver)
}

/// What a held handler does, and how many of them run.
#[derive(Clone)]
struct Hold {
    /// One permit for each message that may go on.
    gate: Arc<Semaphore>,
    /// Handlers that have begun and not ended.
    running: Arc<AtomicUsize>,
    /// Handlers that have ended.
    done: Arc<AtomicUsize>,
    /// Tells of each message when its handler begins.
    begun: UnboundedSender<StreamMessage>,
}

impl Hold {
    /// One that holds every message.
    fn new() -> (Self, UnboundedReceiver<StreamMessage>) {
        let (begun, receiver) = unbounded_channel();
        let gate = Arc::new(Semaphore::new(0));
        (Self { gate, running: Arc::default(), done: Arc::default(), begun }, receiver)
    }

    /// Subscribes with a handler that waits for a permit, and then says what `answer` says.
    async fn subscribe(
        &self,
        stream: &ReliableStream,
        group: &str,
        options: ReliableOptions,
        answer: fn() -> Result<()>,
    ) -> ReliableSubscription {
        let hold = self.clone();
        let handler = move |message| {
            let hold = hold.clone();
            async move {
                hold.running.fetch_add(1, Relaxed);
                drop(hold.begun.send(message));
                hold.gate.acquire().await.unwrap().forget();
                hold.running.fetch_sub(1, Relaxed);
                hold.done.fetch_add(1, Relaxed);
                answer()
            }
        };
        stream.subscribe_with(group, options, handler).await.unwrap()
    }
}

/// The error of a stream inside the crate's.
#[track_caller]
fn stream_error<T>(result: Result<T>) -> StreamError {
    match result {
        Err(Error::Stream(error)) => error,
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("no error"),
    }
}

/// How many messages a group has not handled: those that were delivered, and those that were not.
async fn unhandled(stream: &ReliableStream, group: &str) -> (u64, Option<u64>) {
    left(&stream.status().await.unwrap(), group)
}

/// The same, of a status.
fn left(status: &StreamStatus, group: &str) -> (u64, Option<u64>) {
    let group = status.groups.iter().find(|status| status.name == group);
    group.map_or((0, Some(0)), |group| (group.pending, group.lag))
}

/// Waits until a group has handled everything; the backend may be away meanwhile.
async fn all_handled(stream: &ReliableStream, group: &str) {
    until("everything to be handled", async || {
        stream.status().await.is_ok_and(|status| left(&status, group) == (0, Some(0)))
    })
    .await;
}
