//! Which node has members of which room and connections of which client: written by each node of itself, under a lease.
//!
//! A node takes a *seat*: a name that is new each time it (re)connects. Its entries carry that name, so whoever loses the
//! lease, or Redis, begins anew under another seat, and what was written under the old one counts no more. Others remove it.
//!
//! | key | what |
//! |---|---|
//! | `seats` | hash: seat, and how many heartbeats its node has sent; 0 for one that was given up |
//! | `room:{R}:nodes`, `client:{C}:nodes` | hash: seat, and how many connections it has |
//! | `seat:{S}:rooms`, `seat:{S}:clients` | set: where the seat is written, for whoever removes it |
//! | `seat:{S}` | channel: what is for that node alone |

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

/// Entries that are written, or removed, in one round trip.
const BATCH: usize = 256;
/// Time that a node takes for its goodbye, and for the last messages.
const GOODBYE: Duration = Duration::from_secs(2);

/// Seats that are removed in the time between two heartbeats.
const SWEPT: usize = 8;

/// Counts a heartbeat. KEYS: the seats. ARGV: the seat, whether it is new, the former seat, which is given up: also if others
/// removed it, for its node may have written under it since.
/// Answers with nothing if the seat is lost, else with the counts of all.
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

/// Gives up the seat of another node, unless that has sent a heartbeat meanwhile. KEYS: the seats. ARGV: the seat, the count at
/// which it is. Answers with 1 if the seat is given up.
static GIVE_UP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], 0)
return 1",
    )
});

/// Something that others are told of.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Item {
    /// How many members a room has here.
    Room(Arc<str>),
    /// How many connections a client has here.
    Client(Arc<str>),
}

/// What others know of this node.
#[derive(Default)]
pub(super) struct Registration {
    /// Its seat, while it has one.
    pub(super) seat: Option<Seat>,
    /// Brings what is sent to that seat.
    inbox: Option<Subscribed>,
    /// What they are not told yet. Nothing is kept here without a seat: the next one begins with everything.
    dirty: Dirty,
    /// What they could not be told, as a shard of the Cluster is away: it is tried again at the next word.
    later: HashSet<Item>,
}

impl Registration {
    /// Notes that others are to be told. Whether somebody must be woken.
    pub(super) fn touch(&mut self, item: Item) -> bool {
        self.seat.is_some() && self.dirty.insert(item)
    }

    /// The same for a caller that waits until the next write of it is done, and until the inbox is subscribed; `None`
    /// without a seat.
    fn watch(&mut self, item: Item) -> Option<(watch::Receiver<bool>, Inbox)> {
        let inbox = Box::pin(self.inbox.as_ref()?.ready());
        Some((self.dirty.watch(item), inbox))
    }
}

/// Waits until what is sent to a seat comes.
type Inbox = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// Tells that an entry was written; dropped when it could not be.
type Written = watch::Sender<bool>;

/// Entries that are to be written, each once, oldest first: so that each has its turn, however many come.
#[derive(Default)]
struct Dirty {
    order: VecDeque<Item>,
    /// Those in `order`, and who waits for each.
    items: HashMap<Item, Option<Written>>,
}

impl Dirty {
    /// Adds an entry; whether it is new.
    fn insert(&mut self, item: Item) -> bool {
        let is_new = !self.items.contains_key(&item);
        if is_new {
            self.order.push_back(item.clone());
            self.items.insert(item, None);
        }
        is_new
    }

    /// Adds several.
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

    /// Takes up to so many out.
    fn take(&mut self, count: usize) -> Vec<(Item, Option<Written>)> {
        let some = self.order.drain(..count.min(self.order.len()));
        let some = some.filter_map(|item| self.items.remove_entry(&item)).collect();
        if self.order.is_empty() {
            *self = Self::default(); // it may have been large
        }
        some
    }
}

/// The error for a server that has been away: when it comes back, it may have lost what was written.
fn lost() -> Error {
    BackendError::Unavailable { reason: "the connection was lost".into() }.into()
}

/// Keeps the node registered, until it is aborted.
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
            tracing::debug!(%error, "this node's seat among the others is lost; it takes another one");
        }
        if begun.elapsed() > LEASE {
            backoff = Backoff::default();
        }
        sleep(backoff.next()).await;
    }
}

impl Inner {
    /// Takes a seat and keeps it; returns when it is lost.
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
            // First of all: changes without end, or a large seat to remove, must not cost the lease.
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
                // On a Cluster another seat is on another shard, perhaps.
                let reason = "the Redis shard of this node's seat is not reachable".into();
                return Err(BackendError::Unavailable { reason }.into());
            }
            let has_written = self.write(seat).await?;
            if let Some((other, count)) = over.last_mut() {
                match self.sweep(other, count).await {
                    Ok(false) => {}
                    Ok(true) => drop(over.pop()),
                    // A shard of Redis is unavailable, which does not affect this node: it retries after the next
                    // heartbeat.
                    Err(error) if self.redis.is_cluster() => {
                        tracing::debug!(%error, "what a dead node left can't be removed yet");
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

    /// Sends a heartbeat, which renews the lease. Returns some of the seats whose lease is over, and the count of each.
    async fn beat(&self, seat: &Seat, is_new: bool, former: Option<&Seat>) -> Result<Vec<(Seat, u64)>> {
        let sent = Instant::now();
        let mut beat = HEARTBEAT.key(self.seats_key());
        beat.arg(seat.field()).arg(u8::from(is_new)).arg(former.map_or("", |seat| seat.field()));
        let counts: Option<HashMap<String, String>> = self.own.script(&self.seats_key(), &beat).await?;
        let counts = counts
            .ok_or_else(|| BackendError::Unavailable { reason: "the lease of this node is over".into() })?;
        seat.hold(sent);
        let Look { mut over, .. } = self.detector.lock().look(sent, Instant::now(), &counts);
        over.truncate(SWEPT);
        Ok(over)
    }

    /// Gives up a seat whose lease is over, and then removes some of what was written under it. Returns whether it is done.
    async fn sweep(&self, seat: &Seat, count: &mut u64) -> Result<bool> {
        if *count == 0 {
            return self.remove_some(seat).await;
        }
        let mut end = GIVE_UP.key(self.seats_key());
        end.arg(seat.field()).arg(*count);
        let is_over: bool = self.own.script(&self.seats_key(), &end).await?;
        *count = 0;
        Ok(!is_over) // one that has sent a heartbeat meanwhile stays
    }

    /// From now on others are told of changes; first of everything.
    fn begin(&self, seat: &Seat, inbox: Subscribed) {
        // In the order in which a change takes the locks. A change meanwhile is told twice, or here.
        let mut registration = self.registration.lock();
        registration.seat = Some(seat.clone());
        registration.inbox = Some(inbox);
        drop(registration);
        let rooms: Vec<_> = self.rooms.lock().names().cloned().map(Item::Room).collect();
        let clients: Vec<_> = self.clients.lock().keys().cloned().map(Item::Client).collect();
        self.registration.lock().dirty.extend(rooms.into_iter().chain(clients));
        self.seated.send_replace(true);
    }

    /// Waits until others can reach a client here: its entry is written, and what is sent to this node's seat comes.
    ///
    /// # Errors
    /// [`BackendError`]: at once while Redis is unavailable, otherwise within [`TIME_LIMIT`]. The entry is written as
    /// soon as possible.
    pub(super) async fn registered(&self, client: &str) -> Result<()> {
        let item = Item::Client(client.into());
        if self.redis.is_away(&self.counts_key(item.group())) {
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

    /// Tells the others of some changes. Whether there were any.
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

    /// The same for shards of a Cluster, of which one may be away while the others are not.
    async fn write_each(&self, seat: &Seat, some: Vec<(Item, Option<Written>)>) {
        let each = some.into_iter().map(async |(item, waiting)| {
            for command in self.entry(seat, &item) {
                if let Err(error) = self.own.run::<()>(&command).await {
                    limited!(DEBUG, %error, "a change can't be sent to the other nodes yet");
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

    /// The commands that write one entry. The set for whoever removes it is written first and removed last.
    fn entry(&self, seat: &Seat, item: &Item) -> [Cmd; 2] {
        let (count, set) = match item {
            Item::Room(room) => (self.rooms.lock().members(room), ":rooms"),
            Item::Client(client) => (self.clients.lock().get(client).copied().unwrap_or(0), ":clients"),
        };
        let (set, hash) = (self.redis.key("seat", seat.field(), set), self.counts_key(item.group()));
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

    /// Removes some of what was written under a seat, or, when there is nothing left, the seat: then it says so. Several nodes
    /// may do it at once: it is the same.
    async fn remove_some(&self, seat: &Seat) -> Result<bool> {
        for (set, item) in [(":rooms", Item::Room as fn(Arc<str>) -> Item), (":clients", Item::Client)] {
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
                delete.arg(self.counts_key(item(name.clone()).group())).arg(seat.field());
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

    /// The seats whose lease lasts.
    pub(super) async fn seats(&self) -> Result<Vec<Seat>> {
        let sent = Instant::now();
        let mut read = cmd("HGETALL");
        read.arg(self.seats_key());
        let counts: HashMap<String, String> = self.redis.run(&read).await?;
        Ok(self.detector.lock().look(sent, Instant::now(), &counts).lasting)
    }

    /// Lets what waits go out, and gives the seat up, at the same time.
    pub(super) async fn leave(&self) -> Result<()> {
        let (flushed, left) = tokio::join!(timeout(GOODBYE, self.out.flush()), self.give_up());
        if flushed.is_err() {
            tracing::debug!("some messages to other nodes could not be sent before the end");
        }
        left
    }

    /// Gives the seat up.
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

    /// The key of the seats.
    fn seats_key(&self) -> String {
        self.redis.key("seats", "", "")
    }
}

impl Item {
    /// Its name.
    fn name(&self) -> &str {
        match self {
            Self::Room(name) | Self::Client(name) => name,
        }
    }

    /// What it is a count of.
    fn group(&self) -> crate::engine::Group<'_> {
        match self {
            Self::Room(room) => crate::engine::Group::Room(room),
            Self::Client(client) => crate::engine::Group::Client(client),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_taken_once_and_oldest_first_with_those_who_wait() {
        let item = |number: usize| Item::Room(number.to_string().into());
        let mut dirty = Dirty::default();
        dirty.extend((0..5).map(item));
        assert!(!dirty.insert(item(0)));
        let (first, second, later) = (dirty.watch(item(3)), dirty.watch(item(3)), dirty.watch(item(9)));
        let mut some = dirty.take(4);
        assert!(some.iter().map(|(item, _)| item).eq(&[0, 1, 2, 3].map(item)));
        some.pop().unwrap().1.unwrap().send_replace(true);
        assert!(*first.borrow() && *second.borrow() && !*later.borrow());
        // One that changes while it is written is written again.
        assert!(dirty.insert(item(3)));
        assert!(dirty.take(9).iter().map(|(item, _)| item).eq(&[4, 9, 3].map(item)));
        assert!(later.has_changed().is_err(), "what can't be written is dropped, and whoever waits sees it");
        assert!(dirty.take(1).is_empty());
    }
}
