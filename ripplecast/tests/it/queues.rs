//! Streams: the same suite on every backend. Handlers report over channels or are held by a semaphore. Where
//! a backend needs time, its times are set short, and the test waits for the expected result.

/// Tests of the memory backend only.
mod memory;
/// Tests of the Redis backend only.
mod redis;
/// Tests of every backend.
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
    Error, Hub, Queue, Result,
    error::QueueError,
    queue::{QueueMessage, QueueOptions, QueueStatus, QueueSubscription},
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

/// The backend of a test.
enum Ground {
    /// In one process, so that every node is the same hub.
    Memory(Hub),
    /// On a server, under keys with their own prefix. Each node is a separate hub, kept until the test ends.
    Redis { url: String, nodes: Mutex<Vec<Hub>> },
}

impl Ground {
    fn memory() -> Self {
        Self::Memory(Hub::builder().shards(1).build().unwrap())
    }

    fn redis(flavour: Flavour) -> Self {
        Self::at(&Server::shared(flavour).url())
    }

    fn cluster() -> Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        Self::at(&SHARED.get_or_init(|| Cluster::start(Flavour::Redis)).url())
    }

    /// Uses a backend shared with other tests.
    fn at(url: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let url = format!("{url}?prefix=queues-{}", NEXT.fetch_add(1, Relaxed));
        Self::Redis { url, nodes: Mutex::default() }
    }

    /// Creates a node that is kept until the test ends.
    async fn node(&self) -> Hub {
        let node = self.own_node().await;
        if let Self::Redis { nodes, .. } = self {
            nodes.lock().unwrap().push(node.clone());
        }
        node
    }

    /// Creates a node that ends when its last handle is dropped.
    async fn own_node(&self) -> Hub {
        match self {
            Self::Memory(hub) => hub.clone(),
            Self::Redis { url, .. } => node(url).await,
        }
    }

    /// Returns the queue used by most tests, on a new node.
    async fn queue(&self) -> Queue {
        self.node().await.queue("orders")
    }
}

/// Creates a node on that backend.
async fn node(url: &str) -> Hub {
    Hub::builder().shards(1).backend(url).connect().await.unwrap()
}

/// Returns settings with short waits.
fn quick() -> QueueOptions {
    QueueOptions::new()
        .backoff(Duration::from_millis(5), Duration::from_millis(20))
        .claim_after(Duration::from_millis(400))
}

/// Returns settings under which nothing is taken over during a test, however slow the machine is.
fn patient() -> QueueOptions {
    quick().claim_after(Duration::from_secs(3600))
}

/// Receives the next item, with a deadline.
#[track_caller]
fn next<T>(receiver: &mut UnboundedReceiver<T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        match timeout(PATIENCE, receiver.recv()).await {
            Ok(Some(value)) => value,
            Ok(None) => panic!("the sender was dropped, at {caller}"),
            Err(_) => panic!("nothing was received, at {caller}"),
        }
    }
}

/// Waits until `look` returns true.
async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !look().await {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Returns a message's payload as text.
fn text(message: &QueueMessage) -> String {
    String::from_utf8(message.payload.to_vec()).unwrap()
}

/// Subscribes with a handler that always succeeds and reports each message when it starts.
async fn listen(
    queue: &Queue,
    group: &str,
    options: QueueOptions,
) -> (QueueSubscription, UnboundedReceiver<QueueMessage>) {
    answer(queue, group, options, |_| Ok(())).await
}

/// Subscribes with a handler that reports each message and returns the result of `answer`.
async fn answer(
    queue: &Queue,
    group: &str,
    options: QueueOptions,
    answer: impl Fn(&QueueMessage) -> Result<()> + Send + Sync + 'static,
) -> (QueueSubscription, UnboundedReceiver<QueueMessage>) {
    let (sender, receiver) = unbounded_channel();
    let answer = Arc::new(answer);
    let handler = move |message: QueueMessage| {
        let (sender, answer) = (sender.clone(), Arc::clone(&answer));
        async move {
            drop(sender.send(message.clone()));
            answer(&message)
        }
    };
    (queue.subscribe_with(group, options, handler).await.unwrap(), receiver)
}

/// Controls held handlers and counts them.
#[derive(Clone)]
struct Hold {
    /// One permit for each message that may continue.
    gate: Arc<Semaphore>,
    /// Handlers that have started and not ended.
    running: Arc<AtomicUsize>,
    /// Handlers that have ended.
    done: Arc<AtomicUsize>,
    /// Receives each message when its handler starts.
    begun: UnboundedSender<QueueMessage>,
}

impl Hold {
    /// Creates a control that holds every message.
    fn new() -> (Self, UnboundedReceiver<QueueMessage>) {
        let (begun, receiver) = unbounded_channel();
        let gate = Arc::new(Semaphore::new(0));
        (Self { gate, running: Arc::default(), done: Arc::default(), begun }, receiver)
    }

    /// Subscribes with a handler that waits for a permit and then returns the result of `answer`.
    async fn subscribe(
        &self,
        queue: &Queue,
        group: &str,
        options: QueueOptions,
        answer: fn() -> Result<()>,
    ) -> QueueSubscription {
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
        queue.subscribe_with(group, options, handler).await.unwrap()
    }
}

/// Extracts the error of a queue from the crate's.
#[track_caller]
fn queue_error<T>(result: Result<T>) -> QueueError {
    match result {
        Err(Error::Queue(error)) => error,
        Err(other) => panic!("unexpected error: {other}"),
        Ok(_) => panic!("expected an error"),
    }
}

/// Returns how many messages a group has not handled: those delivered, and those not delivered.
async fn unhandled(queue: &Queue, group: &str) -> (u64, Option<u64>) {
    left(&queue.status().await.unwrap(), group)
}

/// Returns the same from a status.
fn left(status: &QueueStatus, group: &str) -> (u64, Option<u64>) {
    let group = status.groups.iter().find(|status| status.name == group);
    group.map_or((0, Some(0)), |group| (group.pending, group.lag))
}

/// Waits until a group has handled everything. The backend may be unavailable meanwhile.
async fn all_handled(queue: &Queue, group: &str) {
    until("everything to be handled", async || {
        queue.status().await.is_ok_and(|status| left(&status, group) == (0, Some(0)))
    })
    .await;
}
