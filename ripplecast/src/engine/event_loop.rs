//! Runs a shard: as a task of the application's runtime, or as a thread of its own.
//!
//! A task is the default: tokio watches the shard's poller, so that the engine runs inside any application. Tokio's
//! readiness is cleared only when the poller had no more events.

use std::{
    future::poll_fn,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    task::Poll,
    time::Duration,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Interval, MissedTickBehavior, interval},
};

use super::shard::{Shard, Turn};
use crate::panics::panic_message;

/// Watches a shard's poller from tokio.
#[allow(deprecated)] // The new constructors are unsafe, for types whose descriptor may change; an OwnedFd keeps its own.
fn watch(poller: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(poller, Interest::READABLE)
}

/// Runs a shard as a task, until it is shut down or dropped with its runtime.
pub(crate) fn run_as_task(mut shard: Shard, runtime: &tokio::runtime::Handle) -> std::io::Result<()> {
    let entered = runtime.enter();
    let readiness = watch(shard.poller().duplicate()?)?;
    drop(entered);
    runtime.spawn(async move {
        let mut tick = ticks(shard.tick());
        let mailbox = shard.mailbox().clone();
        while !shard.has_ended() {
            if tick.period() != shard.tick() {
                tick = ticks(shard.tick());
            }
            let mut ready = None;
            poll_fn(|cx| {
                let mut due = tick.poll_tick(cx).is_ready();
                if let Poll::Ready(Ok(guard)) = readiness.poll_read_ready(cx) {
                    ready = Some(guard);
                    due = true;
                }
                due |= mailbox.poll_ready(cx).is_ready();
                if due { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            mailbox.awake();
            loop {
                let turn = or_abort(|| shard.turn(ready.is_some(), Duration::ZERO));
                if let Some(mut guard) = ready.take_if(|_| turn.drained) {
                    guard.clear_ready();
                }
                if !turn.more || shard.has_ended() {
                    break;
                }
                tokio::task::yield_now().await;
                if ready.is_none() {
                    poll_fn(|cx| {
                        if let Poll::Ready(Ok(guard)) = readiness.poll_read_ready(cx) {
                            ready = Some(guard);
                        }
                        Poll::Ready(())
                    })
                    .await;
                }
            }
        }
    });
    Ok(())
}

/// Runs a shard as a thread of its own, until it is shut down.
pub(crate) fn run_as_thread(mut shard: Shard, runtime: tokio::runtime::Handle) -> std::io::Result<()> {
    let name = "ripplecast-shard".to_owned();
    std::thread::Builder::new().name(name).spawn(move || {
        let _entered = runtime.enter();
        let mailbox = shard.mailbox().clone();
        let alarm = shard.poller().alarm().clone();
        let mut more = false;
        while !shard.has_ended() {
            let asleep = !more && mailbox.try_sleep(&alarm);
            let timeout = if asleep { shard.tick() } else { Duration::ZERO };
            let Turn { more: yet_more, .. } = or_abort(|| shard.turn(true, timeout));
            if asleep {
                mailbox.awake();
            }
            more = yet_more;
        }
    })?;
    Ok(())
}

/// Returns ticks that do not catch up after a delay.
fn ticks(period: Duration) -> Interval {
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

/// Runs `turn`, and aborts the process if it panics: a panic in a shard's own code would leave all its connections
/// hanging in silence.
pub(crate) fn or_abort<T>(turn: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(turn)) {
        Ok(value) => value,
        Err(panic) => {
            let message = panic_message(&*panic);
            tracing::error!(message, "a shard panicked; this is a bug in ripplecast, aborting the process");
            eprintln!(
                "ripplecast: a shard panicked ({message}); this is a bug in ripplecast, aborting the process"
            );
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::Command};

    use super::*;

    /// Set in the child process, which is to abort.
    const VICTIM: &str = "RIPPLECAST_TEST_VICTIM";

    #[test]
    fn a_panic_in_a_shard_is_loud_and_fatal() {
        if std::env::var_os(VICTIM).is_some() {
            or_abort(|| panic!("index out of order"));
        }
        let (_, module) = module_path!().split_once("::").unwrap();
        let name = format!("{module}::a_panic_in_a_shard_is_loud_and_fatal");
        let itself = std::env::current_exe().unwrap();
        let output =
            Command::new(itself).args(["--exact", &name, "--nocapture"]).env(VICTIM, "1").output().unwrap();
        const ABORTED: i32 = 6; // SIGABRT
        assert_eq!(output.status.signal(), Some(ABORTED));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("a shard panicked (index out of order)"), "{said}");
    }
}
