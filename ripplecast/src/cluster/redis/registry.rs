//! The registry of which node has members of which room and connections of which user. Each node writes its
//! own entries, under a lease.
//!
//! A node acquires a lease with a new name each time it connects. Its entries
//! carry that name. A node that loses the lease, or Redis, starts again under a new one, and its entries
//! under the old one no longer count. Other nodes remove them.
//!
//! | key | content |
//! |---|---|
//! | `leases` | hash: lease, and the number of heartbeats that its node has sent; 0 if given up |
//! | `room:{R}:nodes`, `user:{C}:nodes` | hash: lease, and the number of connections of its node |
//! | `lease:{S}:rooms`, `lease:{S}:users` | set: the entries of the lease, for the node that removes them |
//! | `lease:{S}` | channel: messages for that node alone |

use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::Pin,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redis::{Cmd, Script, cmd};
use tokio::{
    sync::watch,
    time::{sleep, sleep_until, timeout},
};

use super::{
    ClusterInner,
    leases::{BEGIN, HEARTBEAT_INTERVAL, LEASE, Lease, LeaseStates},
};
use crate::{
    Error, Result,
    cluster::sign::ReplayFilter,
    error::BackendError,
    log::limited,
    redis_client::{Backoff, Channel, Link, Subscribed, TIME_LIMIT},
};

/// Entries written or removed in one round trip.
const BATCH: usize = 256;
/// Time that a node takes to give up its lease and send its last messages.
const LEAVE_TIME: Duration = Duration::from_secs(2);

/// Expired leases that are removed between two heartbeats.
const SWEPT: usize = 8;

/// Counts a heartbeat. KEYS: the leases. ARGV: the lease, whether it is new, and the former lease, which is
/// given up. This applies even if others removed it, because its node may have written under it since.
/// Returns nothing if the lease is lost, else the counts of all leases.
static HEARTBEAT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[3], 0)
end
if ARGV[2] == '0' and (redis.call('HGET', KEYS[1], ARGV[1]) or '0') == '0' then return false end
redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
return redis.call('HGETALL', KEYS[1])",
    )
});

/// Gives up the expired lease of another node, unless that node has sent a heartbeat meanwhile. KEYS: the
/// leases. ARGV: the lease, its last count. Returns 1 if the lease was given up.
static GIVE_UP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], 0)
return 1",
    )
});

/// An entry that other nodes read.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum RegistryEntry {
    /// The number of members of a room on this node.
    Room(Arc<str>),
    /// The number of connections of a user on this node.
    User(Arc<str>),
}

/// What other nodes know about this node.
#[derive(Default)]
pub(super) struct Registration {
    /// The lease, while the node holds one.
    pub(super) lease: Option<Lease>,
    /// The subscription to the lease's channel.
    inbox: Option<Subscribed>,
    /// Entries to be written. Empty without a lease, because the next one starts by writing everything.
    dirty: Dirty,
    /// Entries that could not be written because a shard of the Cluster is unavailable. Retried at the next
    /// heartbeat.
    later: HashSet<RegistryEntry>,
}

impl Registration {
    /// Marks an entry to be written. Returns whether the task must be woken.
    pub(super) fn touch(&mut self, entry: RegistryEntry) -> bool {
        self.lease.is_some() && self.dirty.insert(entry)
    }

    /// Marks an entry for a caller that waits until it is written and the inbox is subscribed. Returns `None`
    /// without a lease.
    fn watch(&mut self, entry: RegistryEntry) -> Option<(watch::Receiver<bool>, Inbox)> {
        let inbox = Box::pin(self.inbox.as_ref()?.ready());
        Some((self.dirty.watch(entry), inbox))
    }
}

/// Waits until the subscription to the lease's channel is active.
type Inbox = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Notified when an entry was written; dropped if it could not be.
type WriteNotifier = watch::Sender<bool>;

/// Entries to be written, each once, oldest first, so that each has its turn however many are added.
#[derive(Default)]
struct Dirty {
    order: VecDeque<RegistryEntry>,
    /// The entries in `order`, and who waits for each.
    entries: HashMap<RegistryEntry, Option<WriteNotifier>>,
}

impl Dirty {
    /// Adds an entry and returns whether it is new.
    fn insert(&mut self, entry: RegistryEntry) -> bool {
        let is_new = !self.entries.contains_key(&entry);
        if is_new {
            self.order.push_back(entry.clone());
            self.entries.insert(entry, None);
        }
        is_new
    }

    /// Adds several entries.
    fn extend(&mut self, entries: impl IntoIterator<Item = RegistryEntry>) {
        for entry in entries {
            self.insert(entry);
        }
    }

    /// Adds an entry for a caller that waits for it.
    fn watch(&mut self, entry: RegistryEntry) -> watch::Receiver<bool> {
        self.insert(entry.clone());
        let waiting = self.entries.entry(entry).or_default();
        waiting.get_or_insert_with(|| WriteNotifier::new(false)).subscribe()
    }

    /// Removes and returns up to `count` entries.
    fn take(&mut self, count: usize) -> Vec<(RegistryEntry, Option<WriteNotifier>)> {
        let some = self.order.drain(..count.min(self.order.len()));
        let some = some.filter_map(|entry| self.entries.remove_entry(&entry)).collect();
        if self.order.is_empty() {
            *self = Self::default(); // free the memory, which may be large
        }
        some
    }
}

/// Returns the error for a lost connection. Redis may have lost what was written.
fn connection_lost() -> Error {
    BackendError::Unavailable { reason: "the connection was lost".into() }.into()
}

/// Keeps the node registered until aborted.
pub(super) async fn run(inner: Arc<ClusterInner>) {
    LazyLock::force(&BEGIN);
    let mut backoff = Backoff::default();
    let mut link = inner.redis.link();
    let mut former = None;
    loop {
        if link.wait_for(|link| *link != Link::Down).await.is_err() {
            return;
        }
        let lease = Lease::new(inner.node);
        let begun = Instant::now();
        let error = inner.hold_lease(&lease, former.as_ref(), &mut link).await;
        inner.has_lease.send_replace(false);
        let lost = std::mem::take(&mut *inner.registration.lock()).lease;
        if lost.is_some() {
            former = lost;
        }
        if let Err(error) = error {
            tracing::debug!(%error, "this node's lease is lost; acquiring a new one");
        }
        if begun.elapsed() > LEASE {
            backoff = Backoff::default();
        }
        sleep(backoff.next()).await;
    }
}

impl ClusterInner {
    /// Acquires a lease and renews it. Returns when it is lost.
    async fn hold_lease(
        self: &Arc<Self>,
        lease: &Lease,
        former: Option<&Lease>,
        link: &mut watch::Receiver<Link>,
    ) -> Result<()> {
        let (weak, own, replays) = (Arc::downgrade(self), lease.clone(), Mutex::new(ReplayFilter::default()));
        let inbox = self.redis.subscribe(Channel::Exact(lease.inbox(&self.redis)), move |event| {
            if let Some(inner) = weak.upgrade() {
                inner.receive_direct(&own, &replays, event);
            }
        });
        inbox.ready().await?;
        let mut expired = self.send_heartbeat(lease, true, former).await?;
        self.begin(lease, inbox);
        let mut next = tokio::time::Instant::now() + HEARTBEAT_INTERVAL;
        loop {
            // This comes first: endless changes, or a large lease to remove, must not cost our own lease.
            let now = tokio::time::Instant::now();
            if now >= next {
                next = now + HEARTBEAT_INTERVAL;
                expired = self.send_heartbeat(lease, false, None).await?;
                let mut registration = self.registration.lock();
                let later = std::mem::take(&mut registration.later);
                registration.dirty.extend(later);
            }
            if link.has_changed().unwrap_or(true) {
                return Err(connection_lost());
            }
            if self.redis.is_away(&lease.inbox(&self.redis)) {
                // On a Cluster a new lease may be on another shard.
                let reason = "the Redis shard of this node's lease is unavailable".into();
                return Err(BackendError::Unavailable { reason }.into());
            }
            let has_written = self.write(lease).await?;
            if let Some((other, count)) = expired.last_mut() {
                match self.sweep(other, count).await {
                    Ok(false) => {}
                    Ok(true) => drop(expired.pop()),
                    // A shard of Redis is unavailable, which does not affect this node. It retries after the
                    // next heartbeat.
                    Err(error) if self.redis.is_cluster() => {
                        tracing::debug!(%error, "failed to remove the entries of a dead node; retrying");
                        expired.pop();
                    }
                    Err(error) => return Err(error),
                }
            } else if !has_written {
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = sleep_until(next) => {}
                    _ = link.changed() => return Err(connection_lost()),
                }
            }
        }
    }

    /// Sends a heartbeat, which renews the lease. Returns some of the expired leases, each with its count.
    async fn send_heartbeat(
        &self,
        lease: &Lease,
        is_new: bool,
        former: Option<&Lease>,
    ) -> Result<Vec<(Lease, u64)>> {
        let sent = Instant::now();
        let mut heartbeat = HEARTBEAT.key(self.leases_key());
        heartbeat.arg(lease.field()).arg(u8::from(is_new)).arg(former.map_or("", |lease| lease.field()));
        let counts: Option<HashMap<String, String>> = self.own.script(&self.leases_key(), &heartbeat).await?;
        let counts = counts.ok_or_else(|| BackendError::Unavailable {
            reason: "the lease of this node has expired".into(),
        })?;
        lease.renew(sent);
        let LeaseStates { mut expired, .. } = self.detector.lock().observe(sent, Instant::now(), &counts);
        expired.truncate(SWEPT);
        Ok(expired)
    }

    /// Gives up an expired lease and then removes some of its entries. Returns whether it is finished.
    async fn sweep(&self, lease: &Lease, count: &mut u64) -> Result<bool> {
        if *count == 0 {
            return self.remove_some(lease).await;
        }
        let mut end = GIVE_UP.key(self.leases_key());
        end.arg(lease.field()).arg(*count);
        let is_over: bool = self.own.script(&self.leases_key(), &end).await?;
        *count = 0;
        Ok(!is_over) // keep a lease whose node has sent a heartbeat meanwhile
    }

    /// Starts writing entries, first of all those of everything on this node.
    fn begin(&self, lease: &Lease, inbox: Subscribed) {
        // In the order in which a change takes these locks. A change made meanwhile is written here, or
        // twice.
        let mut registration = self.registration.lock();
        registration.lease = Some(lease.clone());
        registration.inbox = Some(inbox);
        drop(registration);
        let rooms: Vec<_> = self.rooms.lock().names().cloned().map(RegistryEntry::Room).collect();
        let users: Vec<_> = self.users.lock().keys().cloned().map(RegistryEntry::User).collect();
        self.registration.lock().dirty.extend(rooms.into_iter().chain(users));
        self.has_lease.send_replace(true);
    }

    /// Waits until other nodes can reach a user here: its entry is written, and the lease's channel is
    /// subscribed.
    ///
    /// # Errors
    /// [`BackendError`]: at once while Redis is unavailable, otherwise within [`TIME_LIMIT`]. The entry is written as
    /// soon as possible.
    pub(super) async fn wait_registered(&self, user: &str) -> Result<()> {
        let entry = RegistryEntry::User(user.into());
        if self.redis.is_away(&self.counts_key(entry.audience())) {
            return Err(connection_lost());
        }
        let registered = async {
            let mut has_lease = self.has_lease.subscribe();
            let (mut written, inbox) = loop {
                if has_lease.wait_for(|&has_lease| has_lease).await.is_err() {
                    return Err(connection_lost());
                }
                let waiting = self.registration.lock().watch(entry.clone());
                if let Some(waiting) = waiting {
                    break waiting;
                }
            };
            self.changed.notify_one();
            if written.wait_for(|&written| written).await.is_err() {
                return Err(connection_lost());
            }
            inbox.await
        };
        timeout(TIME_LIMIT, registered).await.map_err(|_| BackendError::TimedOut { after: TIME_LIMIT })?
    }

    /// Writes some entries and returns whether there were any.
    async fn write(&self, lease: &Lease) -> Result<bool> {
        let some = self.registration.lock().dirty.take(BATCH);
        let has_written = !some.is_empty();
        if self.redis.is_cluster() {
            self.write_each(lease, some).await;
        } else {
            let commands: Vec<Cmd> = some.iter().flat_map(|(entry, _)| self.commands(lease, entry)).collect();
            self.own.all(&commands).await?;
            for waiting in some.into_iter().filter_map(|(_, waiting)| waiting) {
                waiting.send_replace(true);
            }
        }
        Ok(has_written)
    }

    /// Writes entries on the shards of a Cluster separately, because one may be unavailable while others are
    /// not.
    async fn write_each(&self, lease: &Lease, some: Vec<(RegistryEntry, Option<WriteNotifier>)>) {
        let each = some.into_iter().map(async |(entry, waiting)| {
            for command in self.commands(lease, &entry) {
                if let Err(error) = self.own.run::<()>(&command).await {
                    limited!(DEBUG, %error, "failed to write a change for the other nodes; retrying");
                    self.registration.lock().later.insert(entry);
                    return;
                }
            }
            if let Some(waiting) = waiting {
                waiting.send_replace(true);
            }
        });
        futures_util::future::join_all(each).await;
    }

    /// Returns the commands that write one entry. The set used for removal is written first and removed last.
    fn commands(&self, lease: &Lease, entry: &RegistryEntry) -> [Cmd; 2] {
        let (count, set) = match entry {
            RegistryEntry::Room(room) => (self.rooms.lock().members(room), ":rooms"),
            RegistryEntry::User(user) => (self.users.lock().get(user).copied().unwrap_or(0), ":users"),
        };
        let (set, hash) = (self.redis.key("lease", lease.field(), set), self.counts_key(entry.audience()));
        if count > 0 {
            let (mut add, mut write) = (cmd("SADD"), cmd("HSET"));
            add.arg(set).arg(entry.name());
            write.arg(hash).arg(lease.field()).arg(count);
            [add, write]
        } else {
            let (mut delete, mut remove) = (cmd("HDEL"), cmd("SREM"));
            delete.arg(hash).arg(lease.field());
            remove.arg(set).arg(entry.name());
            [delete, remove]
        }
    }

    /// Removes some entries of a lease, or the lease itself once it has none. Returns whether the lease was
    /// removed. Several nodes may do this at once with the same result.
    async fn remove_some(&self, lease: &Lease) -> Result<bool> {
        for (set, entry) in [
            (":rooms", RegistryEntry::Room as fn(Arc<str>) -> RegistryEntry),
            (":users", RegistryEntry::User),
        ] {
            let set = self.redis.key("lease", lease.field(), set);
            let mut read = cmd("SRANDMEMBER");
            read.arg(&set).arg(BATCH);
            let names: Vec<Arc<str>> =
                self.own.run::<Vec<String>>(&read).await?.into_iter().map(Into::into).collect();
            if names.is_empty() {
                continue;
            }
            let delete = |name: &Arc<str>| {
                let mut delete = cmd("HDEL");
                delete.arg(self.counts_key(entry(name.clone()).audience())).arg(lease.field());
                delete
            };
            self.own.all(&names.iter().map(delete).collect::<Vec<_>>()).await?;
            let mut remove = cmd("SREM");
            remove.arg(&set).arg(names.iter().map(|name| &**name).collect::<Vec<_>>());
            self.own.run::<()>(&remove).await?;
            return Ok(false);
        }
        let mut remove = cmd("HDEL");
        remove.arg(self.leases_key()).arg(lease.field());
        self.own.run::<()>(&remove).await?;
        Ok(true)
    }

    /// Returns the leases that have not expired.
    pub(super) async fn leases(&self) -> Result<Vec<Lease>> {
        let sent = Instant::now();
        let mut read = cmd("HGETALL");
        read.arg(self.leases_key());
        let counts: HashMap<String, String> = self.redis.run(&read).await?;
        Ok(self.detector.lock().observe(sent, Instant::now(), &counts).live)
    }

    /// Sends waiting messages and gives up the lease, at the same time.
    pub(super) async fn leave(&self) -> Result<()> {
        let (flushed, left) = tokio::join!(timeout(LEAVE_TIME, self.out.flush()), self.give_up());
        if flushed.is_err() {
            tracing::debug!("some messages to other nodes could not be sent before the shutdown");
        }
        left
    }

    async fn give_up(&self) -> Result<()> {
        self.has_lease.send_replace(false);
        let Some(lease) = std::mem::take(&mut *self.registration.lock()).lease else { return Ok(()) };
        lease.release();
        let end = async {
            let mut end = cmd("HSET");
            end.arg(self.leases_key()).arg(lease.field()).arg(0);
            self.own.run::<()>(&end).await?;
            while !self.remove_some(&lease).await? {}
            Ok(())
        };
        timeout(LEAVE_TIME, end).await.map_err(|_| BackendError::TimedOut { after: LEAVE_TIME })?
    }

    /// Returns the key of the leases.
    fn leases_key(&self) -> String {
        self.redis.key("leases", "", "")
    }
}

impl RegistryEntry {
    fn name(&self) -> &str {
        match self {
            Self::Room(name) | Self::User(name) => name,
        }
    }

    /// Returns the audience that the entry counts.
    fn audience(&self) -> crate::engine::Audience<'_> {
        match self {
            Self::Room(room) => crate::engine::Audience::Room(room),
            Self::User(user) => crate::engine::Audience::User(user),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_taken_once_and_oldest_first_with_their_waiters() {
        let entry = |number: usize| RegistryEntry::Room(number.to_string().into());
        let mut dirty = Dirty::default();
        dirty.extend((0..5).map(entry));
        assert!(!dirty.insert(entry(0)));
        let (first, second, later) = (dirty.watch(entry(3)), dirty.watch(entry(3)), dirty.watch(entry(9)));
        let mut some = dirty.take(4);
        assert!(some.iter().map(|(entry, _)| entry).eq(&[0, 1, 2, 3].map(entry)));
        some.pop().unwrap().1.unwrap().send_replace(true);
        assert!(*first.borrow() && *second.borrow() && !*later.borrow());
        // An entry that changes while it is written is written again.
        assert!(dirty.insert(entry(3)));
        assert!(dirty.take(9).iter().map(|(entry, _)| entry).eq(&[4, 9, 3].map(entry)));
        assert!(
            later.has_changed().is_err(),
            "an entry that can't be written is dropped, and its waiter is notified"
        );
        assert!(dirty.take(1).is_empty());
    }
}
