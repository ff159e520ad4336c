//! Runs a subscription on any backend: takes messages, calls the handler, and settles the results.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    backend::{Consumer, QueueDelivery, QueueHandler, Redelivery},
    message::{QueueCounts, QueueMessage},
    options::QueueOptions,
    pause::Pause,
};
use crate::{
    Result, limits,
    log::{cut, limited},
    panics::{caught, guarded},
    reply::Reply,
    text::prefix,
};

/// Longest reason kept with a dead letter, in bytes: a few lines of an error, not a dump.
const REASON: usize = 1024;
/// Time above which a handler that blocks its thread is counted and logged, because everything else on that
/// thread waits meanwhile. Longer than the limit for a connection's callback, since a handler has its own
/// task and other threads can take over the rest.
const SLOW_HANDLER: Duration = Duration::from_millis(100);
/// Time that handlers have to stop once they are cancelled at shutdown. A handler that blocks its thread
/// never stops.
const CANCEL_LIMIT: Duration = Duration::from_millis(250);
/// Time that the backend has to release the messages of a subscription that ends at shutdown. With `HANDLER_GRACE`,
/// `CANCEL_LIMIT` and the 2 s for the other nodes, a shutdown stays below the 8.5 s of `server.rs`.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);

tokio::task_local! {
    /// The subscription whose handler runs in this task, by the address of its [`Control`].
    static HANDLER_OF: usize;
}

/// Returns whether the caller is a handler of that subscription.
pub(super) fn is_own_handler(control: &Arc<Control>) -> bool {
    HANDLER_OF.try_with(|running| *running == address(control)).unwrap_or(false)
}

/// Identifies a subscription.
fn address(control: &Arc<Control>) -> usize {
    Arc::as_ptr(control).addr()
}

/// State shared by a subscription and its handle.
pub(super) struct Control {
    /// True once the subscription must end.
    pub(super) stop: watch::Sender<bool>,
    pub(super) counters: SubscriptionCounters,
}

impl Control {
    /// Creates the state of a new subscription.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { stop: watch::Sender::new(false), counters: SubscriptionCounters::default() })
    }
}

/// The counters of a subscription; see [`QueueCounts`].
#[derive(Default)]
pub(super) struct SubscriptionCounters {
    handled: AtomicU64,
    failed: AtomicU64,
    dead: AtomicU64,
    claimed: AtomicU64,
    pub(super) trimmed: AtomicU64,
    slow: AtomicU64,
}

impl SubscriptionCounters {
    /// Returns the current values.
    pub(super) fn read(&self) -> QueueCounts {
        QueueCounts {
            handled: self.handled.load(Relaxed),
            failed: self.failed.load(Relaxed),
            dead: self.dead.load(Relaxed),
            claimed: self.claimed.load(Relaxed),
            trimmed: self.trimmed.load(Relaxed),
            slow: self.slow.load(Relaxed),
        }
    }
}

/// State shared by all subscriptions of a hub.
pub(super) struct QueueLifecycle {
    /// True once the hub shuts down.
    closing: watch::Sender<bool>,
    /// True if handlers have no time to end.
    hurried: watch::Sender<bool>,
    /// Number of subscriptions whose tasks have not ended.
    running: watch::Sender<usize>,
}

impl QueueLifecycle {
    /// Creates the state of a new hub.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            closing: watch::Sender::new(false),
            hurried: watch::Sender::new(false),
            running: watch::Sender::new(0),
        })
    }

    /// Ends all current and future subscriptions.
    pub(super) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Ends all current and future subscriptions, and cancels their handlers.
    pub(super) fn close_now(&self) {
        self.hurried.send_replace(true);
        self.close();
    }

    /// Waits until all subscriptions have ended, or until their time at shutdown is over.
    pub(super) async fn ended(&self) {
        let mut running = self.running.subscribe();
        // This fails only if the sender is dropped, and `self` holds it.
        let ended = running.wait_for(|&running| running == 0);
        let _ = timeout(limits::HANDLER_GRACE + CANCEL_LIMIT + LEAVE_LIMIT, ended).await;
    }

    /// Counts a subscription as running until the result is dropped.
    fn begin(self: &Arc<Self>) -> RunningGuard {
        self.running.send_modify(|running| *running += 1);
        RunningGuard(Arc::clone(self))
    }
}

/// A running subscription.
pub(super) struct RunningGuard(Arc<QueueLifecycle>);

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| *running -= 1);
    }
}

/// Waits until the value is true or its sender is dropped.
async fn wait_until_true(receiver: &mut watch::Receiver<bool>) {
    let _ = receiver.wait_for(|&is| is).await;
}

pub(super) struct Runner {
    pub(super) queue: Arc<str>,
    pub(super) group: Arc<str>,
    pub(super) handler: QueueHandler,
    pub(super) options: QueueOptions,
    pub(super) consumer: Arc<dyn Consumer>,
    /// Shared with the handle.
    pub(super) control: Arc<Control>,
}

impl Runner {
    /// Starts the subscription's task.
    pub(super) fn start(self, lifecycle: &Arc<QueueLifecycle>) -> tokio::task::JoinHandle<()> {
        let running = lifecycle.begin();
        let (closing, hurried) = (lifecycle.closing.subscribe(), lifecycle.hurried.subscribe());
        tokio::spawn(async move {
            Arc::new(self).run(closing, hurried).await;
            drop(running);
        })
    }

    /// Runs the subscription, with one more task for each message being handled, up to the maximum.
    async fn run(self: Arc<Self>, mut closing: watch::Receiver<bool>, mut hurried: watch::Receiver<bool>) {
        let mut stop = self.control.stop.subscribe();
        let mut closed = closing.clone();
        let mut too_late = pin!(async move {
            wait_until_true(&mut closed).await;
            let _ = timeout(limits::HANDLER_GRACE, wait_until_true(&mut hurried)).await;
        });
        let mut jobs = JoinSet::new();
        // Never dropped before it completes, because it may be receiving messages.
        let mut reading: Option<Pin<Box<dyn Future<Output = Vec<QueueDelivery>> + Send + '_>>> = None;
        let mut ending = false;
        while !(ending && jobs.is_empty() && reading.is_none()) {
            let free = self.options.concurrency - jobs.len();
            if reading.is_none() && free > 0 && !ending {
                reading = Some(self.consumer.take(free));
            }
            let read = async {
                match &mut reading {
                    Some(reading) => reading.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased; // take nothing more once the subscription has ended
                () = async { tokio::select! { () = wait_until_true(&mut closing) => {} () = wait_until_true(&mut stop) => {} } }, if !ending => {
                    ending = true;
                    self.control.stop.send_replace(true);
                    // The time starts now, even if Redis hangs and the next line takes long.
                    let _ = too_late.as_mut().now_or_never();
                    self.consumer.stop().await;
                }
                () = &mut too_late => break,
                Some(_) = jobs.join_next() => {}
                deliveries = read => {
                    reading = None;
                    for delivery in deliveries {
                        jobs.spawn(Arc::clone(&self).job(delivery));
                    }
                }
            }
        }
        drop(reading); // anything it still receives is released with the rest
        if !jobs.is_empty() {
            let (queue, group, messages) = (&*self.queue, &*self.group, jobs.len());
            tracing::warn!(
                queue,
                group,
                messages,
                "messages were still being handled when the time for the shutdown was over; their handlers are cancelled, and the messages \
                 are delivered to other subscriptions of the group"
            );
            jobs.abort_all();
            let _ = timeout(CANCEL_LIMIT, async { while jobs.join_next().await.is_some() {} }).await;
        }
        if *closing.borrow() {
            let _ = timeout(LEAVE_LIMIT, self.consumer.leave()).await;
        } else {
            self.consumer.leave().await;
        }
    }

    /// Processes a message from its delivery until it is handled, dead or owned by another consumer.
    async fn job(self: Arc<Self>, delivery: QueueDelivery) {
        let QueueDelivery { mut message, claimed, mut fault } = delivery;
        let counters = &self.control.counters;
        counters.claimed.fetch_add(claimed.into(), Relaxed);
        if message.deliveries > self.options.max_deliveries {
            let ended = format!("it was delivered {} times and not handled", message.deliveries - 1);
            fault.get_or_insert(ended);
        }
        loop {
            if let Some(fault) = fault {
                return self.bury(&message, &fault).await;
            }
            if *self.control.stop.borrow() {
                return self.release(&message, false).await;
            }
            let handled = self.call(message.clone()).await;
            let Err(reason) = handled else {
                counters.handled.fetch_add(1, Relaxed);
                self.settle("acknowledge a message", || self.consumer.acknowledge(&message)).await;
                return;
            };
            counters.failed.fetch_add(1, Relaxed);
            if message.deliveries >= self.options.max_deliveries {
                return self.bury(&message, &reason).await;
            }
            let wait = self.options.wait_after(message.deliveries);
            self.log_failure(&message, &reason, wait);
            if !self.wait(wait).await {
                return self.release(&message, true).await;
            }
            match self.settle("deliver a message again", || self.consumer.redeliver(&message)).await {
                Some(Redelivery::Ours { deliveries }) => message.deliveries = deliveries,
                Some(Redelivery::Gone) => {
                    counters.trimmed.fetch_add(1, Relaxed);
                    message.deliveries += 1;
                }
                Some(Redelivery::Theirs) | None => return,
            }
            // Other consumers may have had it in between.
            fault = (message.deliveries > self.options.max_deliveries).then_some(reason);
        }
    }

    /// Calls the handler and returns the reason of a failure.
    async fn call(&self, message: QueueMessage) -> Result<(), String> {
        let mut call = pin!(HANDLER_OF.scope(address(&self.control), caught(|| (self.handler)(message))));
        let timed = poll_fn(|cx| {
            let before = Instant::now();
            let polled = call.as_mut().poll(cx);
            let took = before.elapsed();
            if took >= SLOW_HANDLER {
                self.note_slow(took);
            }
            polled
        });
        match timed.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let text = guarded(|| error.to_string());
                guarded(move || drop(error)); // its destructor is application code
                Err(text.unwrap_or_else(|| "an error whose Display panicked".to_owned()))
            }
            Err(panic) => Err(format!("the handler panicked: {panic}")),
        }
    }

    /// Counts and logs a handler that blocked its thread.
    #[cold]
    fn note_slow(&self, took: Duration) {
        self.control.counters.slow.fetch_add(1, Relaxed);
        limited!(
            WARN,
            queue = &*self.queue,
            group = &*self.group,
            milliseconds = took.as_millis() as u64,
            "a queue handler blocked its thread; use .await or tokio::task::spawn_blocking"
        );
    }

    /// Waits before another delivery. Returns false if the subscription ends first.
    async fn wait(&self, wait: Duration) -> bool {
        let mut stop = self.control.stop.subscribe();
        tokio::select! {
            () = sleep(wait) => true,
            () = wait_until_true(&mut stop) => false,
        }
    }

    /// Moves a message to the dead letters.
    async fn bury(&self, message: &QueueMessage, reason: &str) {
        let reason = shortened(reason);
        limited!(
            ERROR,
            queue = &*self.queue,
            group = &*self.group,
            id = %message.id,
            deliveries = message.deliveries,
            reason = %cut(reason),
            "a message could not be handled and moves to the dead letters"
        );
        let buried =
            self.settle("move a message to the dead letters", || self.consumer.bury(message, reason)).await;
        self.control.counters.dead.fetch_add(u64::from(buried == Some(true)), Relaxed);
    }

    /// Releases a message, so that another consumer can take it at once. A delivery that no handler saw does
    /// not count.
    async fn release(&self, message: &QueueMessage, seen: bool) {
        self.settle("release a message", || self.consumer.release(message, seen)).await;
    }

    /// Repeats an operation of the backend until its outcome is known. Returns `None` if the subscription
    /// ended and the backend stayed unavailable for as long as handlers have at shutdown. The message is then
    /// delivered again to some consumer.
    async fn settle<'a, T>(&'a self, what: &'static str, step: impl Fn() -> Reply<'a, T>) -> Option<T>
    where
        T: Unpin,
    {
        let mut stop = self.control.stop.subscribe();
        let too_late = async {
            wait_until_true(&mut stop).await;
            sleep(limits::HANDLER_GRACE).await;
        };
        let insist = async {
            let mut pause = Pause::reconnect();
            let mut logged = false;
            loop {
                match step().await {
                    Ok(done) => return done,
                    Err(error) if !std::mem::replace(&mut logged, true) => {
                        let (queue, group) = (&*self.queue, &*self.group);
                        limited!(WARN, queue, group, error = %cut(error), "failed to {what}; retrying");
                    }
                    Err(_) => {}
                }
                sleep(pause.next()).await;
            }
        };
        tokio::select! {
            biased;
            done = insist => Some(done),
            () = too_late => None,
        }
    }

    /// Logs a failed delivery.
    fn log_failure(&self, message: &QueueMessage, reason: &str, wait: Duration) {
        limited!(
            WARN,
            queue = &*self.queue,
            group = &*self.group,
            id = %message.id,
            deliveries = message.deliveries,
            reason = %cut(reason),
            "a message was not handled; it is delivered again in {wait:?}"
        );
    }
}

/// Returns the part of a reason that is kept.
fn shortened(reason: &str) -> &str {
    prefix(reason, REASON)
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio::sync::Notify;

    use super::*;
    use crate::Error;

    /// A consumer that delivers one message and whose backend hangs when the subscription ends.
    struct Hanging(Mutex<Option<QueueMessage>>);

    /// Less than the handlers' time, so that the test observes the remainder.
    const HANGS: Duration = Duration::from_secs(3);

    impl Consumer for Hanging {
        fn take(&self, _: usize) -> Pin<Box<dyn Future<Output = Vec<QueueDelivery>> + Send + '_>> {
            let message = self.0.lock().take();
            Box::pin(async {
                match message {
                    Some(message) => vec![QueueDelivery { message, claimed: false, fault: None }],
                    None => std::future::pending().await,
                }
            })
        }

        fn redeliver<'a>(&'a self, _: &'a QueueMessage) -> Reply<'a, Redelivery> {
            Reply::now(Ok::<_, Error>(Redelivery::Theirs))
        }

        fn acknowledge<'a>(&'a self, _: &'a QueueMessage) -> Reply<'a, ()> {
            Reply::now(Ok::<_, Error>(()))
        }

        fn bury<'a>(&'a self, _: &'a QueueMessage, _: &'a str) -> Reply<'a, bool> {
            Reply::now(Ok::<_, Error>(true))
        }

        fn release<'a>(&'a self, _: &'a QueueMessage, _: bool) -> Reply<'a, ()> {
            Reply::now(Ok::<_, Error>(()))
        }

        fn stop(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(sleep(HANGS))
        }

        fn leave(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(async {})
        }
    }

    /// Uses tokio's paused clock, so the times are exact however busy the machine is.
    #[tokio::test(start_paused = true)]
    async fn a_hanging_backend_does_not_extend_the_handlers_time_at_shutdown() {
        let message = QueueMessage {
            id: "1-1".parse().unwrap(),
            queue: "orders".into(),
            payload: "x".into(),
            deliveries: 1,
            dead: None,
        };
        let (lifecycle, begun) = (QueueLifecycle::new(), Arc::new(Notify::new()));
        let notify = Arc::clone(&begun);
        let handler: QueueHandler = Box::new(move |_| {
            notify.notify_one();
            Box::pin(std::future::pending())
        });
        let runner = Runner {
            queue: "orders".into(),
            group: "g".into(),
            handler,
            options: QueueOptions::new(),
            consumer: Arc::new(Hanging(Mutex::new(Some(message)))),
            control: Control::new(),
        };
        let task = runner.start(&lifecycle);
        begun.notified().await;
        let closed = tokio::time::Instant::now();
        lifecycle.close();
        task.await.unwrap();
        let took = closed.elapsed();
        assert!(took >= limits::HANDLER_GRACE && took < limits::HANDLER_GRACE + HANGS / 2, "{took:?}");
    }
}
