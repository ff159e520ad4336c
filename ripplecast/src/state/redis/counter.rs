//! Counters on Redis. One script implements all operations (`lua/counter.lua`).

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use redis::{Script, Value as Raw};

use super::{
    history::{Basis, HistoryModel, Moment},
    shared::{RedisShared, as_text, invalid, milliseconds},
    watch::{Watch, WatchSource},
};
use crate::{
    Result,
    error::StateError,
    reply::Reply,
    state::{Counted, CounterBackend, CounterObserver, CounterOp, Epoch, Observation, Observers, Version},
};

/// Entries of observed counters before the first sweep of those no longer observed. Later sweeps wait until
/// the remaining number has doubled.
const SWEEP_AT: usize = 64;

/// The script for every operation.
static STEP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/counter.lua")));

pub(super) struct RedisCounter {
    place: CounterKey,
    observed: Arc<ObservedCounters>,
}

/// The counters that are observed on this node, by name.
pub(super) struct ObservedCounters(Mutex<Observed>);

struct Observed {
    /// Includes counters that are no longer observed, until the next sweep.
    watches: HashMap<Box<str>, Weak<Watch<WatchedCounter>>>,
    /// The number of entries at which the next sweep happens.
    sweep_at: usize,
}

impl Default for ObservedCounters {
    fn default() -> Self {
        Self(Mutex::new(Observed { watches: HashMap::new(), sweep_at: SWEEP_AT }))
    }
}

/// Where a counter is stored.
#[derive(Clone)]
struct CounterKey {
    shared: Arc<RedisShared>,
    name: Arc<str>,
    /// The counter's key, which is also the channel of its changes.
    key: Arc<str>,
}

/// The answer of the counter script.
struct CounterReply {
    value: i64,
    /// 0 if the condition was not met, 2 on overflow, else 1.
    done: i64,
    /// `None` if there is no history: the counter was never changed or has been forgotten.
    epoch: Option<Epoch>,
    number: u64,
    expires_in: Option<Duration>,
}

/// Formats an optional time for the script.
fn or_never(after: Option<Duration>) -> String {
    after.map_or_else(|| "never".to_owned(), milliseconds)
}

impl Observed {
    /// Returns the watch of a counter that is observed.
    fn get(&self, name: &str) -> Option<Arc<Watch<WatchedCounter>>> {
        self.watches.get(name)?.upgrade()
    }

    /// Adds a watch, and removes those that are no longer observed if there are many entries.
    fn add(&mut self, name: &str, watch: &Arc<Watch<WatchedCounter>>) {
        if self.watches.len() >= self.sweep_at {
            self.watches.retain(|_, watch| watch.strong_count() > 0);
            self.sweep_at = SWEEP_AT.max(self.watches.len() * 2);
        }
        self.watches.insert(name.into(), Arc::downgrade(watch));
    }
}

impl RedisCounter {
    /// The counter of that name.
    pub(super) fn new(shared: &Arc<RedisShared>, observed: &Arc<ObservedCounters>, name: &str) -> Self {
        let key = shared.redis.key("c", name, "").into();
        let place = CounterKey { shared: Arc::clone(shared), name: name.into(), key };
        Self { place, observed: Arc::clone(observed) }
    }

    /// Returns the counter's watch, if it is observed.
    fn watched(&self) -> Option<Arc<Watch<WatchedCounter>>> {
        self.observed.0.lock().get(&self.place.name)
    }

    /// Returns the counter's watch, created if necessary.
    fn watch(&self) -> Arc<Watch<WatchedCounter>> {
        let CounterKey { shared, name, key } = &self.place;
        let mut counters = self.observed.0.lock();
        if let Some(watch) = counters.get(name) {
            return watch;
        }
        let source = WatchedCounter { place: self.place.clone() };
        let watch = Watch::new(shared, key.to_string(), source, CounterValue::default());
        counters.add(name, &watch);
        watch
    }
}

impl CounterKey {
    async fn step(&self, operation: &str, operands: &[String]) -> Result<CounterReply> {
        let mut call = STEP.prepare_invoke();
        call.key(&*self.key).arg(self.shared.publish()).arg(Epoch::random().to_string());
        call.arg(operation).arg(operands);
        let answer: Vec<Raw> = self.shared.redis.script(&self.key, &call).await?;
        let read = || match &answer[..] {
            [value, Raw::Int(done), epoch, number, expires_in] => Some(CounterReply {
                value: as_text(value)?.parse().ok()?,
                done: *done,
                epoch: as_text(epoch)?.parse().ok(),
                number: as_text(number)?.parse().ok()?,
                expires_in: as_text(expires_in)?.parse().ok().map(Duration::from_millis),
            }),
            _ => None,
        };
        read().ok_or_else(|| invalid("a counter is not a number"))
    }

    /// Runs one operation.
    async fn apply(&self, op: CounterOp) -> Result<Counted> {
        let (operation, operands) = match op {
            CounterOp::Get => ("get", vec![]),
            CounterOp::Add(by) => ("add", vec![by.to_string()]),
            CounterOp::Set(value) => ("set", vec![value.to_string()]),
            CounterOp::CompareAndSet { expected, new, expires } => {
                ("swap", vec![expected.to_string(), new.to_string(), or_never(expires)])
            }
            CounterOp::IncrementBelow { max, window } => ("below", vec![max.to_string(), or_never(window)]),
            CounterOp::Expire(after) => ("expire", vec![milliseconds(after)]),
        };
        let CounterReply { value, done, expires_in, .. } = self.step(operation, &operands).await?;
        match (done, op) {
            (2, CounterOp::Add(by)) => {
                Err(StateError::CounterOverflow { name: self.name.to_string(), value, by }.into())
            }
            _ => Ok(Counted { value, applied: done == 1, expires_in }),
        }
    }
}

impl CounterBackend for RedisCounter {
    fn apply(&self, op: CounterOp) -> Reply<'_, Counted> {
        Reply::later(self.place.apply(op))
    }

    fn observe(&self, observer: Arc<CounterObserver>) -> Observation {
        let watch = self.watch();
        let observation = watch.known.lock().model.observers.add(observer);
        observation.and_keep(watch)
    }

    fn ready(&self) -> Reply<'_, ()> {
        match self.watched() {
            Some(watch) => Reply::later(async move { watch.ready().await }),
            None => Reply::Ready(Some(Ok(()))),
        }
    }

    fn inspect(&self, look: &mut dyn FnMut(Option<(i64, Version)>)) {
        let Some(watch) = self.watched() else { return look(None) };
        let mut known = watch.known.lock();
        let version = known.version_or_await();
        look(known.model.value.zip(version));
    }
}

/// An observed counter.
pub(super) struct WatchedCounter {
    place: CounterKey,
}

impl WatchSource for WatchedCounter {
    type Model = CounterValue;
    /// A third of the time for which the history of a counter at 0 is kept, so that it is never forgotten
    /// while observed.
    const RENEW: Duration = Duration::from_secs(300);

    async fn read(&self, Basis { at, digest }: Basis) -> Result<(Moment, i64)> {
        let (epoch, number) =
            at.map_or_else(Default::default, |at| (at.epoch.to_string(), at.number.to_string()));
        let CounterReply { value, epoch, number, .. } =
            self.place.step("look", &[epoch, number, digest]).await?;
        let epoch = epoch.ok_or_else(|| invalid("a counter has no history"))?;
        Ok((Moment { epoch, number }, value))
    }

    fn name(&self) -> &str {
        &self.place.name
    }
}

/// The value of a counter, and its observers.
#[derive(Default)]
pub(super) struct CounterValue {
    /// `None` until the first read.
    value: Option<i64>,
    observers: Observers<CounterObserver>,
}

impl HistoryModel for CounterValue {
    type Change<'a> = i64;
    type State = i64;

    fn parse(payload: &[u8]) -> Option<i64> {
        std::str::from_utf8(payload).ok()?.parse().ok()
    }

    fn agrees(&self, &value: &i64) -> bool {
        Some(value) == self.value
    }

    fn apply(&mut self, value: i64, version: Version) {
        self.value = Some(value);
        self.observers.each(|observer| observer(value, version));
    }

    fn replace(&mut self, value: i64, version: Version, notify: bool) {
        let before = self.value.replace(value);
        if notify && before != Some(value) {
            self.observers.each(|observer| observer(value, version));
        }
    }

    fn digest(&self) -> String {
        self.value.map(|value| value.to_string()).unwrap_or_default()
    }
}
