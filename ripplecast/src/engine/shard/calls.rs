//! Calls callbacks, and continues when one that had to wait is done.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use tracing::{Instrument, Span};

use super::{Phase, Shard};
use crate::{
    Close, CloseCode, Error, Message, Result,
    engine::{
        admission::Permit,
        command::{CallbackOutcome, Command},
        cork,
        node::{ShardCounter, ShardHandle},
        route::{Called, EndpointPath},
    },
    error::Chain,
    id::{ConnectionId, Local},
    limits::SLOW_HANDLER,
    log::{cut, limited},
    panics::{guarded, panic_message},
};

impl Shard {
    /// Calls a callback. Frames that it pushes to its own connection stay in `cork` until [`Shard::uncork`].
    pub(super) fn call(&mut self, who: Local, call: Call) {
        let slot = who.slot as usize;
        let endpoint_index = self.peers[slot].endpoint;
        let span = self.callback_span(who, endpoint_index, &call);
        let Some(endpoint) = &mut self.endpoints[endpoint_index] else { return };
        let open = !matches!(call, Call::Close(_)) && !self.peers[slot].hung_up;
        let before = Instant::now();
        let (encoding, compress_above) =
            (self.delivery.encoding(who.slot), endpoint.route.policy.compress_above);
        let entered = cork::enter(self.handle.node_id(), who, encoding, compress_above, open);
        let in_span = span.enter();
        let called = match call {
            Call::Open => endpoint.callbacks.open(who),
            Call::Message(message) => endpoint.callbacks.message(who, message),
            Call::Close(close) => endpoint.callbacks.close(who, close),
        };
        drop(in_span);
        drop(entered);
        let took = before.elapsed();
        match called {
            Called::Returned(Ok(())) => self.returned(who, CallbackOutcome::Good),
            Called::Returned(Err(error)) => {
                let outcome = log_failure(&self.handle, &endpoint.route.path, who, &error);
                guarded(move || drop(error)); // the error's destructor is application code
                self.returned(who, outcome);
            }
            Called::Panicked(message) => {
                log_panic(&self.handle, &endpoint.route.path, who, &message);
                self.returned(who, CallbackOutcome::Failed);
            }
            Called::Waits(future) if span.is_disabled() => self.wait_for(who, future),
            Called::Waits(future) => self.wait_for(who, Box::pin(future.instrument(span))),
        }
        if took >= SLOW_HANDLER {
            self.note_slow_callback(endpoint_index, took);
        }
    }

    /// Creates the span in which a callback runs.
    fn callback_span(&self, who: Local, endpoint: usize, call: &Call) -> Span {
        let connection = || ConnectionId::new(self.handle.node_id(), who);
        let peer = || self.peers[who.slot as usize].permit.as_ref().and_then(Permit::address);
        let path = || self.endpoints[endpoint].as_ref().map(|endpoint| &endpoint.route.path);
        tracing::debug_span!(
            target: "ripplecast::callback",
            "callback",
            name = call.name(),
            path = path().map(tracing::field::display),
            connection = %connection(),
            peer = peer().map(tracing::field::display),
        )
    }

    /// Counts and logs a callback that held the shard for long. On a busy machine this may also be a callback that did
    /// nothing wrong.
    #[cold]
    fn note_slow_callback(&mut self, endpoint: usize, took: Duration) {
        self.handle.count(ShardCounter::SlowCallbacks, 1);
        let Some(endpoint) = &self.endpoints[endpoint] else { return };
        let path = &endpoint.route.path;
        let milliseconds = took.as_millis() as u64;
        limited!(
            WARN,
            %path,
            milliseconds,
            "a callback held its shard; if it blocks, use .await or tokio::task::spawn_blocking"
        );
    }

    /// Handles the result of a callback that returned at once.
    pub(super) fn returned(&mut self, who: Local, outcome: CallbackOutcome) {
        let slot = who.slot as usize;
        if self.peers[slot].phase == Phase::Closed {
            self.release(who);
            return;
        }
        let close = match outcome {
            CallbackOutcome::Good => return,
            CallbackOutcome::Failed => Close::new(CloseCode::INTERNAL, "the handler failed"),
            CallbackOutcome::Unavailable => Close::new(CloseCode::TRY_AGAIN, "try again later"),
        };
        self.uncork(who);
        self.close_in_order(who, close, Phase::Closing);
    }

    /// Continues a callback that waits on the runtime. The connection is not read until it is done.
    pub(super) fn wait_for(&mut self, who: Local, future: BoxFuture<'static, Result<()>>) {
        let Some(endpoint) = &self.endpoints[self.peers[who.slot as usize].endpoint] else { return };
        let (handle, route) = (self.handle.clone(), endpoint.route.clone());
        // Created here, so that it reports even if the task is cancelled before it first runs.
        let report = Report { handle, who, outcome: CallbackOutcome::Failed, ended: false };
        let task = self.runtime.spawn(async move {
            let mut report = report;
            let ended = AssertUnwindSafe(future).catch_unwind().await;
            report.ended = true;
            match ended {
                Ok(Ok(())) => report.outcome = CallbackOutcome::Good,
                Ok(Err(error)) => report.outcome = log_failure(&report.handle, &route.path, who, &error),
                Err(panic) => log_panic(&report.handle, &route.path, who, &panic_message(&*panic)),
            }
        });
        let slot = who.slot as usize;
        self.pending(slot).waiting = Some(task.abort_handle());
        // The peer may have closed right behind the message. No event would report that while the callback waits.
        if self.peers[slot].ended && self.peers[slot].phase != Phase::Closed {
            self.hung_up(who);
        }
    }

    /// Handles the end of a callback that had to wait.
    pub(super) fn done(&mut self, who: Local, outcome: CallbackOutcome) {
        let slot = who.slot as usize;
        self.pending(slot).waiting = None;
        if self.peers[slot].phase == Phase::Closed {
            self.returned(who, outcome);
            return;
        }
        if !self.delivery.is_open(who) {
            self.call_on_close(who);
            return;
        }
        self.shows_life(slot); // its timers were paused meanwhile
        let now = self.now;
        let pending = self.pending(slot);
        if pending.unfinished.is_some() {
            pending.unfinished = Some(now);
        }
        self.returned(who, outcome);
        if !self.delivery.is_open(who) {
            return;
        }
        let mut unread = std::mem::take(&mut self.pending(slot).unread);
        self.feed(who, &mut unread);
        if self.delivery.is_open(who) && !self.is_waiting(slot) && self.peers[slot].unread_socket {
            self.peers[slot].unread_socket = false;
            self.read(who, true);
        }
        self.uncork(who);
        if self.delivery.is_open(who) {
            self.free_pending(slot);
        }
    }
}

/// The callback to be called.
pub(super) enum Call {
    Open,
    Message(Message),
    Close(Close),
}

impl Call {
    /// Returns the name of the callback.
    fn name(&self) -> &'static str {
        match self {
            Self::Open => "on_open",
            Self::Message(_) => "on_message",
            Self::Close(_) => "on_close",
        }
    }
}

/// Reports to the shard that a callback has ended, even if its task was cancelled.
struct Report {
    handle: Arc<ShardHandle>,
    who: Local,
    outcome: CallbackOutcome,
    /// Whether the callback has ended; if not when this is dropped, it was cancelled.
    ended: bool,
}

impl Drop for Report {
    fn drop(&mut self) {
        if !self.ended {
            self.handle.count(ShardCounter::FailedCallbacks, 1);
            let id = ConnectionId::new(self.handle.node_id(), self.who);
            limited!(WARN, %id, "a callback still waited at the end of the shutdown, and was cancelled");
        }
        self.handle.mailbox().post(Command::Done { who: self.who, outcome: self.outcome });
    }
}

/// Logs the result of a callback. Returns its outcome.
fn log_failure(handle: &ShardHandle, path: &EndpointPath, who: Local, error: &Error) -> CallbackOutcome {
    // The sources of an application error are found and printed by application code.
    if guarded(|| error.is_closed()) == Some(true) && !handle.mailbox().is_live(who) {
        limited!(DEBUG, %path, "a callback used its connection after it was closed");
        return CallbackOutcome::Failed;
    }
    handle.count(ShardCounter::FailedCallbacks, 1);
    let id = ConnectionId::new(handle.node_id(), who);
    let needed_backend = guarded(|| error.backend().is_some()) == Some(true);
    let error =
        guarded(|| Chain(error).to_string()).unwrap_or_else(|| "an error whose Display panicked".to_owned());
    if needed_backend {
        limited!(WARN, %path, %id, error = %cut(error), "a callback needed the backend; its connection is closed with 1013");
        return CallbackOutcome::Unavailable;
    }
    limited!(ERROR, %path, %id, error = %cut(error), "a callback failed; its connection is closed with 1011");
    CallbackOutcome::Failed
}

fn log_panic(handle: &ShardHandle, path: &EndpointPath, who: Local, message: &str) {
    handle.count(ShardCounter::FailedCallbacks, 1);
    let id = ConnectionId::new(handle.node_id(), who);
    limited!(ERROR, %path, %id, message = %cut(message), "a callback panicked; its connection is closed with 1011");
}
