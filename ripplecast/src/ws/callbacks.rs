//! Calls a handler. Each future is first polled in place, so a callback that does not wait costs no task and
//! no allocation.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use super::handlers::Handler;
use crate::{
    Close, Connection, Message, Result,
    engine::{Called, MakeCallbacks, Node, ShardCallbacks, ShardHandle},
    id::Local,
    panics::{guarded, panic_message},
};

/// Returns a function that creates a handler's callbacks for each shard.
pub(crate) fn callbacks<H: Handler>(node: &Node, handler: Arc<H>) -> MakeCallbacks {
    let shards = node.shards().clone();
    Box::new(move |shard| of_shard(shards[shard].clone(), handler.clone()))
}

/// Creates a handler's callbacks for one shard.
fn of_shard<H: Handler>(shard: Arc<ShardHandle>, handler: Arc<H>) -> Box<dyn ShardCallbacks> {
    // A reference count per shard: the handler is cloned for each call, and a shared count would bounce
    // between cores.
    let handler = Arc::new(handler);
    let (for_open, for_message, for_close) = (handler.clone(), handler.clone(), handler);
    Box::new(ErasedCallbacks {
        shard,
        open: CallbackSlot::new(move |(connection,)| {
            let handler = for_open.clone();
            async move { handler.on_open(connection).await }
        }),
        message: CallbackSlot::new(move |(connection, message)| {
            let handler = for_message.clone();
            async move { handler.on_message(connection, message).await }
        }),
        close: CallbackSlot::new(move |(connection, close)| {
            let handler = for_close.clone();
            async move { handler.on_close(connection, close).await }
        }),
    })
}

/// Hides the three future types of a handler.
struct ErasedCallbacks<O, FO, M, FM, C, FC> {
    shard: Arc<ShardHandle>,
    open: CallbackSlot<O, FO>,
    message: CallbackSlot<M, FM>,
    close: CallbackSlot<C, FC>,
}

impl<O, FO, M, FM, C, FC> ShardCallbacks for ErasedCallbacks<O, FO, M, FM, C, FC>
where
    O: Fn((Connection,)) -> FO + Send,
    M: Fn((Connection, Message)) -> FM + Send,
    C: Fn((Connection, Close)) -> FC + Send,
    FO: Future<Output = Result<()>> + Send + 'static,
    FM: Future<Output = Result<()>> + Send + 'static,
    FC: Future<Output = Result<()>> + Send + 'static,
{
    fn open(&mut self, who: Local) -> Called {
        self.open.call((Connection::new(self.shard.clone(), who),))
    }

    fn message(&mut self, who: Local, message: Message) -> Called {
        self.message.call((Connection::new(self.shard.clone(), who), message))
    }

    fn close(&mut self, who: Local, close: Close) -> Called {
        self.close.call((Connection::new(self.shard.clone(), who), close))
    }
}

/// One callback, and the box in which its futures are polled.
struct CallbackSlot<F, Fut> {
    make: F,
    /// The box of the last future that did not have to wait. A future can't be moved once it has been polled,
    /// so one that has to wait keeps its box.
    idle: Option<Pin<Box<Option<Fut>>>>,
}

impl<F, Fut: Future<Output = Result<()>> + Send + 'static> CallbackSlot<F, Fut> {
    fn new<A>(make: F) -> Self
    where
        F: Fn(A) -> Fut,
    {
        Self { make, idle: None }
    }

    fn call<A>(&mut self, arguments: A) -> Called
    where
        F: Fn(A) -> Fut,
    {
        let mut cell = self.idle.take().unwrap_or_else(|| Box::pin(None));
        let polled = catch_unwind(AssertUnwindSafe(|| {
            cell.set(Some((self.make)(arguments)));
            let first_poll = poll_fn(|cx| poll_cell(cell.as_mut(), cx));
            // Unconstrained: a poll in place must neither use up the cooperative budget of the shard's task
            // nor be stopped by it.
            let polled =
                pin!(tokio::task::unconstrained(first_poll)).poll(&mut Context::from_waker(Waker::noop()));
            if polled.is_ready() {
                cell.set(None);
            }
            polled
        }));
        match polled {
            Ok(Poll::Ready(returned)) => {
                self.idle = Some(cell);
                Called::Returned(returned)
            }
            Ok(Poll::Pending) => {
                Called::Waits(Box::pin(async move { poll_fn(|cx| poll_cell(cell.as_mut(), cx)).await }))
            }
            Err(panic) => {
                let message = panic_message(&*panic);
                std::mem::forget(panic); // its destructor could panic again
                guarded(move || drop(cell));
                Called::Panicked(message)
            }
        }
    }
}

fn poll_cell<Fut: Future<Output = Result<()>>>(
    cell: Pin<&mut Option<Fut>>,
    cx: &mut Context<'_>,
) -> Poll<Result<()>> {
    match cell.as_pin_mut() {
        Some(future) => future.poll(cx),
        None => Poll::Ready(Ok(())),
    }
}
