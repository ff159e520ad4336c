//! Leases, which show Redis that a subscription is still working on the messages it holds.
//!
//! A thread with its own runtime and connection renews them, so a handler that blocks the application's
//! threads keeps its message for as long as it works. The thread exists while there is a subscription.

use std::{
    io, mem,
    sync::{Arc, LazyLock, Weak, mpsc},
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use redis::Script;
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    task::{AbortHandle, JoinHandle},
    time::{sleep, timeout},
};
use tracing::dispatcher::{Dispatch, with_default};

use crate::redis_client::Redis;

script!(REASSIGN, "reassign.lua");

/// Maximum wait before a failed renewal is repeated: soon after Redis is available again.
const RENEW_AGAIN: Duration = Duration::from_secs(1);
/// Time that Redis has to release the messages of subscriptions whose runtime has ended. The thread that
/// drops the runtime waits for it.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);
/// Attempts within that time, because the connection may not exist yet.
const RELEASE_TRIES: u32 = 20;

/// A subscription's membership in a group. Its messages are held under its name.
pub(super) struct GroupMembership {
    /// The queue's key.
    pub(super) key: String,
    pub(super) group: Arc<str>,
    /// The consumer's name.
    pub(super) name: String,
}

impl GroupMembership {
    /// Renews whatever the consumer holds.
    async fn renew(&self, redis: &Redis) -> crate::Result<u64> {
        self.reassign(redis, &self.name).await
    }

    /// Releases whatever the consumer holds, and removes the consumer.
    pub(super) async fn leave(&self, redis: &Redis) -> crate::Result<u64> {
        self.reassign(redis, "released").await
    }

    /// Transfers whatever the consumer holds to `owner`, and returns the number of messages.
    async fn reassign(&self, redis: &Redis, owner: &str) -> crate::Result<u64> {
        let mut script = REASSIGN.key(&self.key);
        script.arg(&*self.group).arg(&self.name).arg(owner);
        redis.script(&self.key, &script).await
    }
}

/// The thread that renews leases.
pub(super) struct Renewer {
    runtime: Handle,
    /// Connections that live on that runtime.
    redis: Redis,
    /// Releases in progress, at most one for each subscription.
    leaving: Mutex<Vec<JoinHandle<()>>>,
    /// Ends the thread once the tasks sent with it have ended.
    stop: Option<oneshot::Sender<Vec<JoinHandle<()>>>>,
    /// Disconnected once the thread has ended.
    ended: Mutex<mpsc::Receiver<()>>,
}

impl Renewer {
    /// Returns the running thread, or starts one.
    pub(super) fn shared(current: &Mutex<Weak<Self>>, redis: &Redis) -> io::Result<Arc<Self>> {
        let mut current = current.lock();
        if let Some(renewer) = current.upgrade() {
            return Ok(renewer);
        }
        let renewer = Arc::new(Self::start(redis)?);
        *current = Arc::downgrade(&renewer);
        Ok(renewer)
    }

    fn start(redis: &Redis) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let redis = {
            let _entered = handle.enter();
            redis.apart()
        };
        let (stop, stopped) = oneshot::channel::<Vec<JoinHandle<()>>>();
        let (running, ended) = mpsc::channel::<()>();
        thread::Builder::new().name("ripplecast-leases".to_owned()).spawn(move || {
            // The node's own connections already log that Redis is unavailable.
            with_default(&Dispatch::none(), || {
                runtime.block_on(async {
                    let leaving = stopped.await.unwrap_or_default();
                    let _ = timeout(RELEASE_LIMIT, futures_util::future::join_all(leaving)).await;
                });
                drop(runtime);
            });
            drop(running);
        })?;
        Ok(Self {
            runtime: handle,
            redis,
            leaving: Mutex::default(),
            stop: Some(stop),
            ended: Mutex::new(ended),
        })
    }

    /// Renews what a consumer holds, three times in `claim_after`, until the returned handle is aborted.
    pub(super) fn keep(&self, membership: Arc<GroupMembership>, claim_after: Duration) -> AbortHandle {
        let (redis, every) = (self.redis.clone(), claim_after / 3);
        let task = self.runtime.spawn(async move {
            let mut wait = every;
            loop {
                sleep(wait).await;
                wait = if membership.renew(&redis).await.is_ok() { every } else { every.min(RENEW_AGAIN) };
            }
        });
        task.abort_handle()
    }

    /// Releases what a consumer holds after its own runtime has ended.
    pub(super) fn release(&self, membership: Arc<GroupMembership>) {
        let redis = self.redis.clone();
        let task = self.runtime.spawn(async move {
            for _ in 0..RELEASE_TRIES {
                if membership.leave(&redis).await.is_ok() {
                    return;
                }
                sleep(RELEASE_LIMIT / RELEASE_TRIES).await;
            }
            // If this fails, the messages are taken over after the silence, like those of a killed process.
        });
        self.leaving.lock().push(task);
    }
}

impl Drop for Renewer {
    fn drop(&mut self) {
        let leaving = mem::take(self.leaving.get_mut());
        let must_wait = !leaving.is_empty();
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(leaving);
        }
        if must_wait {
            // The process may end right after this.
            let _ = self.ended.get_mut().recv_timeout(RELEASE_LIMIT);
        }
    }
}
