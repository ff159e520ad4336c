//! A table's rows in memory: sharded maps, each over slots at which a scan can resume.
//!
//! A row keeps its slot as long as it exists, whatever is written around it. A scan goes from slot to slot
//! and holds a shard's lock for one page at a time. Each row records the version at which it was created. A
//! scan skips rows created after it began. It therefore returns each row that exists throughout exactly once
//! and no key twice, and ends under any load.
//!
//! No timer runs. Every operation first deletes the expired rows, wherever in the table they are.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hashbrown::HashTable;
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::{
    SHARDS, TimeSource,
    deadlines::{Deadlines, NEVER},
    shard_of,
};
use crate::{
    error::StateError,
    reply::Reply,
    state::{
        Observation, Observers, RawPage, TableBackend, TableObserver, Version,
        row::{Row, RowRef, Value},
        schema::Schema,
        table::Cursor,
    },
};

/// Slots that a scan reads under one lock: short enough that writers are not delayed noticeably.
const SLOTS_PER_LOCK: usize = 512;
/// Keys of expired rows that are copied at once, so that many expired rows need no large copy.
const EXPIRED_AT_ONCE: usize = 64;

/// The rows of one table.
pub(in crate::state) struct MemoryTable {
    schema: Arc<Schema>,
    /// Seeded, so that outsiders cannot choose keys that collide.
    hasher: RandomState,
    /// Spread by hash. Several shards are always locked in order.
    shards: Box<[Mutex<RowShard>]>,
    /// Number of rows. Space is reserved here before a row is added, so that the capacity is exact.
    len: AtomicUsize,
    /// Number of the last change. A change of a row is numbered under its shard's lock, so each row's numbers
    /// are ordered.
    version: AtomicU64,
    observers: RwLock<Observers<TableObserver>>,
    /// Number of observers, including ended ones. Saves writers the lock while nobody observes. A relaxed
    /// read is enough: an observer that reads the table after it registered takes the shard's lock before or
    /// after the writer does.
    observed: AtomicUsize,
    deadlines: Deadlines,
}

/// One shard of the rows.
#[derive(Default)]
struct RowShard {
    /// From a key to its slot.
    index: HashTable<usize>,
    /// Rows; a slot is empty after its row was deleted.
    slots: Vec<Option<RowEntry>>,
    /// Empty slots.
    free: Vec<usize>,
}

struct RowEntry {
    /// The key's hash, for when the map grows.
    hash: u64,
    key: Box<str>,
    row: Row,
    /// The version at which the row was created.
    born: u64,
    /// The deadline, or [`NEVER`].
    expires: u64,
}

impl RowShard {
    /// Returns the slot of a key.
    fn find(&self, hash: u64, key: &str) -> Option<usize> {
        self.index.find(hash, |&slot| matches!(&self.slots[slot], Some(entry) if *entry.key == *key)).copied()
    }

    /// Returns the row of a key.
    fn get(&self, hash: u64, key: &str) -> Option<&Row> {
        self.find(hash, key).and_then(|slot| self.slots[slot].as_ref()).map(|entry| &entry.row)
    }

    /// Returns the entry of a key for changes.
    fn get_mut(&mut self, hash: u64, key: &str) -> Option<&mut RowEntry> {
        self.find(hash, key).and_then(|slot| self.slots[slot].as_mut())
    }

    /// Adds a row whose key does not exist yet.
    fn insert(&mut self, entry: RowEntry) {
        let hash = entry.hash;
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(Some(entry));
        } else {
            self.slots[slot] = Some(entry);
        }
        let slots = &self.slots;
        self.index.insert_unique(hash, slot, |&slot| slots[slot].as_ref().map_or(0, |entry| entry.hash));
    }

    /// Removes a row if it exists.
    fn remove(&mut self, hash: u64, key: &str) -> Option<RowEntry> {
        let slots = &self.slots;
        let same = |slot: &usize| matches!(&slots[*slot], Some(entry) if *entry.key == *key);
        let (slot, _) = self.index.find_entry(hash, same).ok()?.remove();
        let entry = self.slots[slot].take();
        self.free.push(slot);
        if self.index.is_empty() {
            *self = Self::default();
        }
        entry
    }
}

/// The position of a scan.
#[derive(Clone, Copy)]
struct ScanPosition {
    /// The version at which the scan began.
    began: u64,
    shard: usize,
    /// The next slot in the shard.
    slot: usize,
}

impl ScanPosition {
    /// Parses a cursor.
    fn parse(cursor: &str) -> Option<Self> {
        let mut parts = cursor.split('-');
        let position = Self {
            began: parts.next()?.parse().ok()?,
            shard: parts.next()?.parse().ok()?,
            slot: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(position)
    }
}

impl From<ScanPosition> for Cursor {
    fn from(ScanPosition { began, shard, slot }: ScanPosition) -> Self {
        Self::new(format!("{began}-{shard}-{slot}"))
    }
}

impl MemoryTable {
    /// Creates an empty table.
    pub(super) fn new(schema: Arc<Schema>, clock: TimeSource) -> Self {
        Self {
            schema,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            len: AtomicUsize::new(0),
            version: AtomicU64::new(0),
            observers: RwLock::default(),
            observed: AtomicUsize::new(0),
            deadlines: Deadlines::new(clock),
        }
    }

    /// Returns a key's hash and its locked shard.
    fn lock(&self, key: &str) -> (u64, MutexGuard<'_, RowShard>) {
        let hash = self.hasher.hash_one(key);
        (hash, self.shards[shard_of(hash)].lock())
    }

    /// Locks the shards of several keys, in order; the others are `None`.
    fn lock_many(&self, hashes: impl Iterator<Item = u64>) -> Vec<Option<MutexGuard<'_, RowShard>>> {
        let mut wanted = [false; SHARDS];
        for hash in hashes {
            wanted[shard_of(hash)] = true;
        }
        self.shards.iter().zip(wanted).map(|(shard, wanted)| wanted.then(|| shard.lock())).collect()
    }

    /// Reserves space for that many more rows.
    fn reserve(&self, rows: usize) -> Result<(), StateError> {
        let capacity = self.schema.capacity();
        let more = |len: usize| len.checked_add(rows).filter(|&len| len <= capacity);
        match self.len.fetch_update(Relaxed, Relaxed, more) {
            Ok(_) => Ok(()),
            Err(len) => Err(StateError::TableFull {
                table: self.schema.table().to_owned(),
                capacity,
                rows: len.saturating_add(rows),
            }),
        }
    }

    /// Numbers a change of a row and notifies the observers. The row's shard is locked.
    fn changed(&self, key: &str, row: Option<&Row>) -> u64 {
        let version = self.version.fetch_add(1, Relaxed) + 1;
        if self.observed.load(Relaxed) > 0 {
            let row = row.map(|row| RowRef { schema: &self.schema, row });
            self.observers.read().each(|observer| observer(key, row, Version::of_memory(version)));
        }
        version
    }

    /// Writes a row into its existing space or into space reserved before.
    fn put(&self, shard: &mut RowShard, hash: u64, key: &str, row: Row) {
        let version = self.changed(key, Some(&row));
        match shard.get_mut(hash, key) {
            Some(entry) => {
                entry.row = row;
                let expired = std::mem::replace(&mut entry.expires, NEVER);
                self.deadlines.replace(key, expired, NEVER);
            }
            None => shard.insert(RowEntry { hash, key: key.into(), row, born: version, expires: NEVER }),
        }
    }

    /// Writes a row if there is space.
    fn write(&self, shard: &mut RowShard, hash: u64, key: &str, row: Row) -> Result<(), StateError> {
        if shard.find(hash, key).is_none() {
            self.reserve(1)?;
        }
        self.put(shard, hash, key, row);
        Ok(())
    }

    /// Removes a row and returns whether it existed.
    fn remove(&self, shard: &mut RowShard, hash: u64, key: &str) -> bool {
        let Some(entry) = shard.remove(hash, key) else { return false };
        self.len.fetch_sub(1, Relaxed);
        self.deadlines.replace(key, entry.expires, NEVER);
        self.changed(key, None);
        true
    }

    /// Deletes the expired rows.
    fn purge(&self) {
        if let Some(now) = self.deadlines.due() {
            self.purge_at(now);
        }
    }

    /// See [`Self::purge`]. Terminates, because deadlines added meanwhile lie after `now`, and a row that
    /// another task deletes or changes first is no longer among the earliest.
    #[cold]
    fn purge_at(&self, now: u64) {
        loop {
            let due = self.deadlines.first(now, EXPIRED_AT_ONCE);
            if due.is_empty() {
                return;
            }
            for key in due {
                let (hash, mut shard) = self.lock(&key);
                if shard.get_mut(hash, &key).is_some_and(|entry| entry.expires <= now) {
                    self.remove(&mut shard, hash, &key);
                }
            }
        }
    }

    /// Sets when a row expires, or deletes it at once. Returns whether it exists.
    fn expire_rows(&self, keys: &[Box<str>], after: Duration) -> usize {
        let hashes: Vec<u64> = keys.iter().map(|key| self.hasher.hash_one(&**key)).collect();
        let mut shards = self.lock_many(hashes.iter().copied());
        let mut expire = |key: &str, hash: u64| {
            let Some(shard) = &mut shards[shard_of(hash)] else { return false };
            if after.is_zero() { self.remove(shard, hash, key) } else { self.date(shard, hash, key, after) }
        };
        keys.iter().zip(hashes).filter(|(key, hash)| expire(key, *hash)).count()
    }

    /// Sets when a row expires. Returns whether it exists.
    fn date(&self, shard: &mut RowShard, hash: u64, key: &str, after: Duration) -> bool {
        let Some(entry) = shard.get_mut(hash, key) else { return false };
        let deadline = self.deadlines.at(after);
        let replaced = std::mem::replace(&mut entry.expires, deadline);
        self.deadlines.replace(key, replaced, deadline);
        true
    }

    /// Adds to a column and returns the new value.
    fn add_to(&self, key: &str, index: usize, by: i128) -> Result<i128, StateError> {
        let column = &self.schema.columns()[index];
        let (hash, mut shard) = self.lock(key);
        let value = shard.get(hash, key).map_or(Some(0), |row| row[index].as_integer()).unwrap_or(0);
        let sum = value.checked_add(by).and_then(|sum| Some((sum, column.kind.integer(sum)?)));
        let (sum, new) = sum.ok_or_else(|| StateError::ColumnOverflow {
            table: self.schema.table().to_owned(),
            key: key.to_owned(),
            column: column.name,
            kind: column.kind.name(),
            value,
            by,
        })?;
        match shard.get_mut(hash, key) {
            Some(entry) => {
                Arc::make_mut(&mut entry.row)[index] = new;
                self.changed(key, Some(&entry.row));
            }
            None => {
                let mut row = self.schema.zero_row();
                Arc::make_mut(&mut row)[index] = new;
                self.write(&mut shard, hash, key, row)?;
            }
        }
        Ok(sum)
    }

    /// Writes several rows in one step.
    fn write_many(&self, rows: Vec<(Box<str>, Row)>) -> Result<(), StateError> {
        let hashes: Vec<u64> = rows.iter().map(|(key, _)| self.hasher.hash_one(&**key)).collect();
        let mut shards = self.lock_many(hashes.iter().copied());
        let mut fresh = std::collections::HashSet::new();
        for ((key, _), &hash) in rows.iter().zip(&hashes) {
            if shards[shard_of(hash)].as_ref().is_some_and(|shard| shard.find(hash, key).is_none()) {
                fresh.insert(&**key);
            }
        }
        self.reserve(fresh.len())?;
        drop(fresh);
        for ((key, row), hash) in rows.into_iter().zip(hashes) {
            if let Some(shard) = &mut shards[shard_of(hash)] {
                self.put(shard, hash, &key, row);
            }
        }
        Ok(())
    }

    /// Returns up to `limit` rows, starting at `position`.
    fn page(&self, mut position: ScanPosition, limit: usize) -> RawPage {
        let mut rows = Vec::new();
        while position.shard < SHARDS {
            let shard = self.shards[position.shard].lock();
            let end = shard.slots.len().min(position.slot.saturating_add(SLOTS_PER_LOCK));
            while position.slot < end {
                if rows.len() == limit {
                    return RawPage { rows, next: Some(position.into()) };
                }
                if let Some(entry) = &shard.slots[position.slot]
                    && entry.born <= position.began
                {
                    rows.push((entry.key.clone(), Arc::clone(&entry.row)));
                }
                position.slot += 1;
            }
            if position.slot >= shard.slots.len() {
                position = ScanPosition { shard: position.shard + 1, slot: 0, ..position };
            }
        }
        RawPage { rows, next: None }
    }
}

impl TableBackend for MemoryTable {
    fn set<'a>(&'a self, key: &'a str, row: Row, expires: Option<Duration>) -> Reply<'a, ()> {
        self.purge();
        let (hash, mut shard) = self.lock(key);
        let written = self.write(&mut shard, hash, key, row);
        if let (Ok(()), Some(after)) = (&written, expires) {
            self.date(&mut shard, hash, key, after);
        }
        Reply::now(written)
    }

    fn get<'a>(&'a self, key: &'a str) -> Reply<'a, Option<Row>> {
        self.purge();
        let (hash, shard) = self.lock(key);
        Reply::now::<StateError>(Ok(shard.get(hash, key).cloned()))
    }

    fn get_field<'a>(&'a self, key: &'a str, column: usize) -> Reply<'a, Option<Value>> {
        self.purge();
        let (hash, shard) = self.lock(key);
        Reply::now::<StateError>(Ok(shard.get(hash, key).map(|row| row[column].clone())))
    }

    fn delete<'a>(&'a self, key: &'a str) -> Reply<'a, bool> {
        self.purge();
        let (hash, mut shard) = self.lock(key);
        Reply::now::<StateError>(Ok(self.remove(&mut shard, hash, key)))
    }

    fn exists<'a>(&'a self, key: &'a str) -> Reply<'a, bool> {
        self.purge();
        let (hash, shard) = self.lock(key);
        Reply::now::<StateError>(Ok(shard.find(hash, key).is_some()))
    }

    fn add<'a>(&'a self, key: &'a str, column: usize, by: i128) -> Reply<'a, i128> {
        self.purge();
        Reply::now(self.add_to(key, column, by))
    }

    fn expire<'a>(&'a self, keys: &'a [Box<str>], after: Duration) -> Reply<'a, usize> {
        self.purge();
        Reply::now::<StateError>(Ok(self.expire_rows(keys, after)))
    }

    fn len(&self) -> Reply<'_, usize> {
        self.purge();
        Reply::now::<StateError>(Ok(self.len.load(Relaxed)))
    }

    fn scan<'a>(&'a self, cursor: Option<&'a Cursor>, limit: usize) -> Reply<'a, RawPage> {
        self.purge();
        let position = match cursor {
            None => Some(ScanPosition { began: self.version.load(Relaxed), shard: 0, slot: 0 }),
            Some(cursor) => ScanPosition::parse(cursor.as_str()),
        };
        let unknown = || StateError::UnknownCursor {
            table: self.schema.table().to_owned(),
            cursor: cursor.map(ToString::to_string).unwrap_or_default(),
        };
        Reply::now(position.ok_or_else(unknown).map(|position| self.page(position, limit)))
    }

    fn get_many<'a>(&'a self, keys: &'a [Box<str>]) -> Reply<'a, Vec<Option<Row>>> {
        self.purge();
        let hashes: Vec<u64> = keys.iter().map(|key| self.hasher.hash_one(&**key)).collect();
        let shards = self.lock_many(hashes.iter().copied());
        let row = |hash: u64, key: &str| shards[shard_of(hash)].as_ref()?.get(hash, key).cloned();
        Reply::now::<StateError>(Ok(keys.iter().zip(hashes).map(|(key, hash)| row(hash, key)).collect()))
    }

    fn set_many(&self, rows: Vec<(Box<str>, Row)>) -> Reply<'_, ()> {
        self.purge();
        Reply::now(self.write_many(rows))
    }

    fn compare_and_set<'a>(
        &'a self,
        key: &'a str,
        expected: Option<Row>,
        new: Option<Row>,
    ) -> Reply<'a, bool> {
        self.purge();
        let (hash, mut shard) = self.lock(key);
        if shard.get(hash, key) != expected.as_ref() {
            return Reply::now::<StateError>(Ok(false));
        }
        let done = match new {
            Some(row) => self.write(&mut shard, hash, key, row),
            None => {
                self.remove(&mut shard, hash, key);
                Ok(())
            }
        };
        Reply::now(done.map(|()| true))
    }

    fn clear(&self) -> Reply<'_, usize> {
        self.purge();
        let mut shards: Vec<_> = self.shards.iter().map(Mutex::lock).collect();
        let mut removed = 0;
        for shard in &mut shards {
            for entry in std::mem::take(&mut **shard).slots.into_iter().flatten() {
                removed += 1;
                self.changed(&entry.key, None);
            }
        }
        self.len.fetch_sub(removed, Relaxed);
        self.deadlines.clear();
        Reply::now::<StateError>(Ok(removed))
    }

    fn observe(&self, observer: Arc<TableObserver>) -> Observation {
        let mut observers = self.observers.write();
        let observation = observers.add(observer);
        self.observed.store(observers.list.len(), Relaxed);
        observation
    }

    fn ready(&self) -> Reply<'_, ()> {
        Reply::Ready(Some(Ok(())))
    }

    fn inspect_row(&self, key: &str, look: &mut dyn FnMut(Option<RowRef<'_>>, Version)) {
        self.purge();
        let (hash, shard) = self.lock(key);
        let version = Version::of_memory(self.version.load(Relaxed));
        look(shard.get(hash, key).map(|row| RowRef { schema: &self.schema, row }), version);
    }

    fn inspect(&self, look: &mut dyn FnMut(&str, RowRef<'_>, Version)) {
        self.purge();
        for shard in &self.shards {
            for first in (0..).step_by(SLOTS_PER_LOCK) {
                let shard = shard.lock();
                let version = Version::of_memory(self.version.load(Relaxed));
                for entry in shard.slots.iter().skip(first).take(SLOTS_PER_LOCK).flatten() {
                    look(&entry.key, RowRef { schema: &self.schema, row: &entry.row }, version);
                }
                if first + SLOTS_PER_LOCK >= shard.slots.len() {
                    break;
                }
            }
        }
    }
}
