//! The registry of which node has members of which room and connections of which user. Each node writes its
//! own entries, under a lease.
//!
//! A node acquires a lease with a new name (called a *seat* in the keys) each time it connects. Its entries
//! carry that name. A node that loses the lease, or Redis, starts again under a new one, and its entries
//! under the old one no longer count. Other nodes remove them.
//!
//! | key | content |
//! |---|---|
//! | `seats` | hash: lease, and the number of heartbeats that its node has sent; 0 if given up |
//! | `room:{R}:nodes`, `user:{C}:nodes` | hash: lease, and the number of connections of its node |
//! | `seat:{S}:rooms`, `seat:{S}:users` | set: the entries of the lease, for the node that removes them |
//! | `seat:{S}` | channel: messages for that node alone |

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
    Inner,
    leases::{BEAT, BEGIN, LEASE, Look, Seat},
};
use crate::{
    Error, Result,
    cluster::sign::Once,
    error::BackendError,
    log::limited,
    redis_client::{Backoff, Channel, Link, Subscribed, TIME_LIMIT},
};

/// Entries written or removed in one round trip.
const BATCH: usize = 256;
/// Time that a node takes to give up its lease and send its last messages.
const GOODBYE: Duration = Duration::from_secs(2);

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
pub(super) enum Item {
    /// The number of members of a room on this node.
    Room(Arc<str>),
    /// The number of connections of a user on this node.
    User(Arc<str>),
}

/// What other nodes know about this node.
#[derive(Default)]
pub(super) struct Registration {
    /// The lease, while the node holds one.
    pub(super) seat: Option<Seat>,
    /// The subscription to the lease's channel.
    inbox: Option<Subscribed>,
    /// Entries to be written. Empty without a lease, because the next one starts by writing everything.
    dirty: Dirty,
    /// Entries that could not be written because a shard of the Cluster is unavailable. Retried at the next
    /// heartbeat.
    later: HashSet<Item>,
}

impl Registration {
    /// Marks an entry to be written. Returns whether the task must be woken.
    pub(super) fn touch(&mut self, item: Item) -> bool {
        self.seat.is_some() && self.dirty.insert(item)
    }

    /// Marks an entry for a caller that waits until it is written and the inbox is subscribed. Returns `None`
    /// without a lease.
    fn watch(&mut self, item: Item) -> Option<(watch::Receiver<bool>, Inbox)> {
        let inbox = Box::pin(self.inbox.as_ref()?.ready());
        Some((self.dirty.watch(item), inbox))
    }
}

/// Waits until the subscription to the lease's channel is active.
type Inbox = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Notified when an entry was written; dropped if it could not be.
type Written = watch::Sender<bool>;

/// Entries to be written, each once, oldest first, so that each has its turn however many are added.
#[derive(Default)]
struct Dirty {
    order: VecDeque<Item>,
    /// The entries in `order`, and who waits for each.
    items: HashMap<Item, Option<Written>>,
}

impl Dirty {
    /// Adds an entry and returns whether it is new.
    fn insert(&mut self, item: Item) -> bool {
        let is_new = !self.items.contains_key(&item);
        if is_new {
            self.order.push_back(item.clone());
            self.items.insert(item, None);
        }
        is_new
    }

    /// Adds several entries.
    fn extend(&mut self, items: impl IntoIterator<Item = Item>) {
        for item in items {
            self.insert(item);
        }
    }

    /// Adds an entry for a caller that waits for it.
    fn watch(&mut self, item: Item) -> watch::Receiver<bool> {
        self.insert(item.clone());
        let waiting = self.items.entry(item).or_default();
        waiting.get_or_insert_with(|| Written::new(false)).subscribe()
    }

    /// Removes and returns up to `count` entries.
    fn take(&mut self, count: usize) -> Vec<(Item, Option<Written>)> {
        let some = self.order.drain(..count.min(self.order.len()));
        let some = some.filter_map(|item| self.items.remove_entry(&item)).collect();
        if self.order.is_empty() {
            *self = Self::default(); // free the memory, which may be large
        }
        some
    }
}

/// Returns the error for a lost connection. Redis may have lost what was written.
fn lost() -> Error {
    BackendError::Unavailable { reason: "the connection was lost".into() }.into()
}

/// Keeps the node registered until aborted.
pub(super) async fn run(inner: Arc<Inner>) {
    LazyLock::force(&BEGIN);
    let mut backoff = Backoff::default();
    let mut link = inner.redis.link();
    let mut former = None;
    loop {
        if link.wait_for(|link| *link != Link::Down).await.is_err() {
            return;
        }
        let seat = Seat::new(inner.node);
        let begun = Instant::now();
        let error = inner.sit(&seat, former.as_ref(), &mut link).await;
        inner.seated.send_replace(false);
        let lost = std::mem::take(&mut *inner.registration.lock()).seat;
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

impl Inner {
    /// Acquires a lease and renews it. Returns when it is lost.
    async fn sit(
        self: &Arc<Self>,
        seat: &Seat,
        former: Option<&Seat>,
        link: &mut watch::Receiver<Link>,
    ) -> Result<()> {
        let (weak, own, heard) = (Arc::downgrade(self), seat.clone(), Mutex::new(Once::default()));
        let inbox = self.redis.subscribe(Channel::Exact(seat.inbox(&self.redis)), move |event| {
            if let Some(inner) = weak.upgrade() {
                inner.hear_inbox(&own, &heard, event);
            }
        });
        inbox.ready().await?;
        let mut over = self.beat(seat, true, former).await?;
        self.begin(seat, inbox);
        let mut next = tokio::time::Instant::now() + BEAT;
        loop {
            // This comes first: endless changes, or a large lease to remove, must not cost our own lease.
            let now = tokio::time::Instant::now();
            if now >= next {
                next = now + BEAT;
                over = self.beat(seat, false, None).await?;
                let mut registration = self.registration.lock();
                let later = std::mem::take(&mut registration.later);
                registration.dirty.extend(later);
            }
            if link.has_changed().unwrap_or(true) {
                return Err(lost());
            }
            if self.redis.is_away(&seat.inbox(&self.redis)) {
                // On a Cluster a new lease may be on another shard.
                let reason = "the Redis shard of this node's lease is unavailable".into();
                return Err(BackendError::Unavailable { reason }.into());
            }
            let has_written = self.write(seat).await?;
            if let Some((other, count)) = over.last_mut() {
                match self.sweep(other, count).await {
                    Ok(false) => {}
                    Ok(true) => drop(over.pop()),
                    // A shard of Redis is unavailable, which does not affect this node. It retries after the
                    // next heartbeat.
                    Err(error) if self.redis.is_cluster() => {
                        tracing::debug!(%error, "failed to remove the entries of a dead node; retrying");
                        over.pop();
                    }
                    Err(error) => return Err(error),
                }
            } else if !has_written {
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = sleep_until(next) => {}
                    _ = link.changed() => return Err(lost()),
                }
            }
        }
    }

    /// Sends a heartbeat, which renews the lease. Returns some of the expired leases, each with its count.
    async fn beat(&self, seat: &Seat, is_new: bool, former: Option<&Seat>) -> Result<Vec<(Seat, u64)>> {
        let sent = Instant::now();
        let mut beat = HEARTBEAT.key(self.seats_key());
        beat.arg(seat.field()).arg(u8::from(is_new)).arg(former.map_or("", |seat| seat.field()));
        let counts: Option<HashMap<String, String>> = self.own.script(&self.seats_key(), &beat).await?;
        let counts = counts.ok_or_else(|| BackendError::Unavailable {
            reason: "the lease of this node has expired".into(),
        })?;
        seat.hold(sent);
        let Look { mut over, .. } = self.detector.lock().look(sent, Instant::now(), &counts);
        over.truncate(SWEPT);
        Ok(over)
    }

    /// Gives up an expired lease and then removes some of its entries. Returns whether it is finished.
    async fn sweep(&self, seat: &Seat, count: &mut u64) -> Result<bool> {
        if *count == 0 {
            return self.remove_some(seat).await;
        }
        let mut end = GIVE_UP.key(self.seats_key());
        end.arg(seat.field()).arg(*count);
        let is_over: bool = self.own.script(&self.seats_key(), &end).await?;
        *count = 0;
        Ok(!is_over) // keep a lease whose node has sent a heartbeat meanwhile
    }

    /// Starts writing entries, first of all those of everything on this node.
    fn begin(&self, seat: &Seat, inbox: Subscribed) {
        // In the order in which a change takes these locks. A change made meanwhile is written here, or
        // twice.
        let mut registration = self.registration.lock();
        registration.seat = Some(seat.clone());
        registration.inbox = Some(inbox);
        drop(registration);
        let rooms: Vec<_> = self.rooms.lock().names().cloned().map(Item::Room).collect();
        let users: Vec<_> = self.users.lock().keys().cloned().map(Item::User).collect();
        self.registration.lock().dirty.extend(rooms.into_iter().chain(users));
        self.seated.send_replace(true);
    }

    /// Waits until other nodes can reach a user here: its entry is written, and the lease's channel is
    /// subscribed.
    ///
    /// # Errors
    /// [`BackendError`]: at once while Redis is unavailable, otherwise within [`TIME_LIMIT`]. The entry is written as
    /// soon as possible.
    pub(super) async fn registered(&self, user: &str) -> Result<()> {
        let item = Item::User(user.into());
        if self.redis.is_away(&self.counts_key(item.audience())) {
            return Err(lost());
        }
        let registered = async {
            let mut seated = self.seated.subscribe();
            let (mut written, inbox) = loop {
                if seated.wait_for(|&seated| seated).await.is_err() {
                    return Err(lost());
                }
                let waiting = self.registration.lock().watch(item.clone());
                if let Some(waiting) = waiting {
                    break waiting;
                }
            };
            self.changed.notify_one();
            if written.wait_for(|&written| written).await.is_err() {
                return Err(lost());
            }
            inbox.await
        };
        timeout(TIME_LIMIT, registered).await.map_err(|_| BackendError::TimedOut { after: TIME_LIMIT })?
    }

    /// Writes some entries and returns whether there were any.
    async fn write(&self, seat: &Seat) -> Result<bool> {
        let some = self.registration.lock().dirty.take(BATCH);
        let has_written = !some.is_empty();
        if self.redis.is_cluster() {
            self.write_each(seat, some).await;
        } else {
            let commands: Vec<Cmd> = some.iter().flat_map(|(item, _)| self.entry(seat, item)).collect();
            self.own.all(&commands).await?;
            for waiting in some.into_iter().filter_map(|(_, waiting)| waiting) {
                waiting.send_replace(true);
            }
        }
        Ok(has_written)
    }

    /// Writes entries on the shards of a Cluster separately, because one may be unavailable while others are
    /// not.
    async fn write_each(&self, seat: &Seat, some: Vec<(Item, Option<Written>)>) {
        let each = some.into_iter().map(async |(item, waiting)| {
            for command in self.entry(seat, &item) {
                if let Err(error) = self.own.run::<()>(&command).await {
                    limited!(DEBUG, %error, "failed to write a change for the other nodes; retrying");
                    self.registration.lock().later.insert(item);
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
    fn entry(&self, seat: &Seat, item: &Item) -> [Cmd; 2] {
        let (count, set) = match item {
            Item::Room(room) => (self.rooms.lock().members(room), ":rooms"),
            Item::User(user) => (self.users.lock().get(user).copied().unwrap_or(0), ":users"),
        };
        let (set, hash) = (self.redis.key("seat", seat.field(), set), self.counts_key(item.audience()));
        if count > 0 {
            let (mut add, mut write) = (cmd("SADD"), cmd("HSET"));
            add.arg(set).arg(item.name());
            write.arg(hash).arg(seat.field()).arg(count);
            [add, write]
        } else {
            let (mut delete, mut remove) = (cmd("HDEL"), cmd("SREM"));
            delete.arg(hash).arg(seat.field());
            remove.arg(set).arg(item.name());
            [delete, remove]
        }
    }

    /// Removes some entries of a lease, or the lease itself once it has none. Returns whether the lease was
    /// removed. Several nodes may do this at once with the same result.
    async fn remove_some(&self, seat: &Seat) -> Result<bool> {
        for (set, item) in [(":rooms", Item::Room as fn(Arc<str>) -> Item), (":users", Item::User)] {
            let set = self.redis.key("seat", seat.field(), set);
            let mut read = cmd("SRANDMEMBER");
            read.arg(&set).arg(BATCH);
            let names: Vec<Arc<str>> =
                self.own.run::<Vec<String>>(&read).await?.into_iter().map(Into::into).collect();
            if names.is_empty() {
                continue;
            }
            let delete = |name: &Arc<str>| {
                let mut delete = cmd("HDEL");
                delete.arg(self.counts_key(item(name.clone()).audience())).arg(seat.field());
                delete
            };
            self.own.all(&names.iter().map(delete).collect::<Vec<_>>()).await?;
            let mut remove = cmd("SREM");
            remove.arg(&set).arg(names.iter().map(|name| &**name).collect::<Vec<_>>());
            self.own.run::<()>(&remove).await?;
            return Ok(false);
        }
        let mut remove = cmd("HDEL");
        remove.arg(self.seats_key()).arg(seat.field());
        self.own.run::<()>(&remove).await?;
        Ok(true)
    }

    /// Returns the leases that have not expired.
    pub(super) async fn seats(&self) -> Result<Vec<Seat>> {
        let sent = Instant::now();
        let mut read = cmd("HGETALL");
        read.arg(self.seats_key());
        let counts: HashMap<String, String> = self.redis.run(&read).await?;
        Ok(self.detector.lock().look(sent, Instant::now(), &counts).lasting)
    }

    /// Sends waiting messages and gives up the lease, at the same time.
    pub(super) async fn leave(&self) -> Result<()> {
        let (flushed, left) = tokio::join!(timeout(GOODBYE, self.out.flush()), self.give_up());
        if flushed.is_err() {
            tracing::debug!("some messages to other nodes could not be sent before the shutdown");
        }
        left
    }

    async fn give_up(&self) -> Result<()> {
        self.seated.send_replace(false);
        let Some(seat) = std::mem::take(&mut *self.registration.lock()).seat else { return Ok(()) };
        seat.release();
        let goodbye = async {
            let mut end = cmd("HSET");
            end.arg(self.seats_key()).arg(seat.field()).arg(0);
            self.own.run::<()>(&end).await?;
            while !self.remove_some(&seat).await? {}
            Ok(())
        };
        timeout(GOODBYE, goodbye).await.map_err(|_| BackendError::TimedOut { after: GOODBYE })?
    }

    /// Returns the key of the leases.
    fn seats_key(&self) -> String {
        self.redis.key("seats", "", "")
    }
}

impl Item {
    fn name(&self) -> &str {
        match self {
            Self::Room(name) | Self::User(name) => name,
        }
    }

    /// Returns the group that the entry counts.
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
        let item = |number: usize| Item::Room(number.to_string().into());
        let mut dirty = Dirty::default();
        dirty.extend((0..5).map(item));
        assert!(!dirty.insert(item(0)));
        let (first, second, later) = (dirty.watch(item(3)), dirty.watch(item(3)), dirty.watch(item(9)));
        let mut some = dirty.take(4);
        assert!(some.iter().map(|(item, _)| item).eq(&[0, 1, 2, 3].map(item)));
        some.pop().unwrap().1.unwrap().send_replace(true);
        assert!(*first.borrow() && *second.borrow() && !*later.borrow());
        // An entry that changes while it is written is written again.
        assert!(dirty.insert(item(3)));
        assert!(dirty.take(9).iter().map(|(item, _)| item).eq(&[4, 9, 3].map(item)));
        assert!(
            later.has_changed().is_err(),
            "an entry that can't be written is dropped, and its waiter is notified"
        );
        assert!(dirty.take(1).is_empty());
    }
}
