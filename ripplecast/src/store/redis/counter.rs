//! Counters on Redis: one script for all operations (`lua/counter.lua`).

use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use redis::{Script, Value as Raw};

use super::{
    Shared, as_text, invalid, later, milliseconds,
    watch::{Source, Watch},
};
use crate::{
    Result,
    log::{cut, limited},
    store::{Counted, CounterBackend, CounterObserver, CounterOp, Observation, Observers, Reply, StoreError},
};

/// One step of a counter.
static STEP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/counter.lua")));

/// A counter on Redis.
pub(super) struct RedisCounter {
    /// Where it is.
    place: Place,
}

/// Where a counter is.
#[derive(Clone)]
struct Place {
    /// The connection.
    shared: Arc<Shared>,
    /// Its name.
    name: Arc<str>,
    /// Its key, and the channel that its changes are published on.
    key: Arc<str>,
}

impl RedisCounter {
    /// The counter of that name.
    pub(super) fn new(shared: &Arc<Shared>, name: &str) -> Self {
        let key = shared.redis.key("c", name, "").into();
        Self { place: Place { shared: Arc::clone(shared), name: name.into(), key } }
    }

    /// The counter as observers know it, if there are any.
    fn watched(&self) -> Option<Arc<Watch<WatchedCounter>>> {
        self.place.shared.counters.lock().get(&self.place.name)
    }

    /// The same, made if need be.
    fn watch(&self) -> Arc<Watch<WatchedCounter>> {
        let Place { shared, name, key } = &self.place;
        let mut counters = shared.counters.lock();
        if let Some(watch) = counters.get(name) {
            return watch;
        }
        let source = WatchedCounter { place: self.place.clone(), known: Mutex::default() };
        let watch = Watch::new(shared, key.to_string(), source);
        counters.add(name, &watch);
        watch
    }
}

impl Place {
    /// Does one step: the value, what became of it, and the number of the last change.
    async fn step(&self, operation: &str, operands: &[String]) -> Result<(i64, i64, u64)> {
        let mut call = STEP.prepare_invoke();
        call.key(&*self.key).arg(self.shared.publish()).arg(&*self.key).arg(operation).arg(operands);
        let answer: Vec<Raw> = self.shared.redis.script(&self.key, &call).await?;
        let read = || match &answer[..] {
            [value, Raw::Int(done), number] => {
                Some((as_text(value)?.parse().ok()?, *done, as_text(number)?.parse().ok()?))
            }
            _ => None,
        };
        read().ok_or_else(|| invalid("a counter is no number"))
    }

    /// Does an operation.
    async fn apply(&self, op: CounterOp) -> Result<Counted> {
        let (operation, operands) = match op {
            CounterOp::Get => ("get", vec![]),
            CounterOp::Add(by) => ("add", vec![by.to_string()]),
            CounterOp::Set(value) => ("set", vec![value.to_string()]),
            CounterOp::CompareAndSet { expected, new } => {
                ("swap", vec![expected.to_string(), new.to_string()])
            }
            CounterOp::IncrementBelow(max) => ("below", vec![max.to_string()]),
            CounterOp::Expire(after) => ("expire", vec![milliseconds(after)]),
        };
        let (value, done, _number) = self.step(operation, &operands).await?;
        match (done, op) {
            (2, CounterOp::Add(by)) => {
                Err(StoreError::CounterOverflow { name: self.name.to_string(), value, by }.into())
            }
            _ => Ok(Counted { value, applied: done == 1 }),
        }
    }
}

impl CounterBackend for RedisCounter {
    fn apply(&self, op: CounterOp) -> Reply<'_, Counted> {
        later(self.place.apply(op))
    }

    fn observe(&self, observer: Arc<CounterObserver>) -> Observation {
        let watch = self.watch();
        let observation = watch.source.known.lock().observers.add(observer);
        observation.and_keep(watch)
    }

    fn ready(&self) -> Reply<'_, ()> {
        match self.watched() {
            Some(watch) => later(async move { watch.ready().await }),
            None => Reply::Now(Some(Ok(()))),
        }
    }

    fn inspect(&self, look: &mut dyn FnMut(i64, u64)) {
        if let Some(watch) = self.watched() {
            let known = watch.source.known.lock();
            if known.is_known {
                look(known.value, known.number);
            }
        }
    }
}

/// A counter that somebody observes.
pub(super) struct WatchedCounter {
    /// Where it is.
    place: Place,
    /// What is known of it. Observers are called under this lock: that is their order.
    known: Mutex<Known>,
}

/// See [`WatchedCounter::known`].
#[derive(Default)]
struct Known {
    /// Whether anything is.
    is_known: bool,
    /// The newest value.
    value: i64,
    /// Its number.
    number: u64,
    /// Who hears of changes.
    observers: Observers<CounterObserver>,
}

impl Known {
    /// Takes a value if it is newer, and tells the observers if it is a change.
    fn take(&mut self, value: i64, number: u64, is_change: bool) {
        if number <= self.number {
            return;
        }
        let tell = is_change || (self.is_known && value != self.value);
        (self.is_known, self.value, self.number) = (true, value, number);
        if tell {
            self.observers.each(|observer| observer(value, number));
        }
    }
}

/// A published value: its number, the value, and a `~` if it is not a change but what the value has been for a while.
fn parse(payload: &[u8]) -> Option<(i64, u64, bool)> {
    let mut parts = std::str::from_utf8(payload).ok()?.split(' ');
    let number = parts.next()?.parse().ok()?;
    let value = parts.next()?.parse().ok()?;
    let is_change = match parts.next() {
        None => true,
        Some("~") => false,
        Some(_) => return None,
    };
    parts.next().is_none().then_some((value, number, is_change))
}

impl Source for WatchedCounter {
    type State = (i64, u64);

    fn begin(&self) {}

    async fn read(&self) -> Result<(i64, u64)> {
        let (value, _, number) = self.place.step("look", &[]).await?;
        Ok((value, number))
    }

    fn take(&self, (value, number): (i64, u64)) {
        self.known.lock().take(value, number, false);
    }

    fn end(&self) {}

    fn hear(&self, payload: &[u8]) {
        match parse(payload) {
            Some((value, number, is_change)) => self.known.lock().take(value, number, is_change),
            None => {
                limited!(
                    WARN,
                    counter = %cut(&self.place.name),
                    "a message on a counter's channel is not of this library"
                );
            }
        }
    }

    fn is_known(&self) -> bool {
        self.known.lock().is_known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values_are_read_and_others_refused() {
        assert_eq!(parse(b"12 -9223372036854775808"), Some((i64::MIN, 12, true)));
        assert_eq!(parse(b"12 0 ~"), Some((0, 12, false)));
        for wrong in [&b""[..], b"1", b"1 2 3", b"1 2 ~ ~", b"x 1", b"1 x", b"-1 1", b"1 \xff"] {
            assert_eq!(parse(wrong), None);
        }
    }

    #[test]
    fn observers_hear_each_newer_value_once() {
        let (mut known, log) = (Known::default(), Arc::new(Mutex::new(Vec::new())));
        let writer = Arc::clone(&log);
        let _observation =
            known.observers.add(Arc::new(move |value, number| writer.lock().push((value, number))));
        known.take(5, 10, false); // the first read: where it begins is no change
        known.take(4, 9, true); // a message that was on its way meanwhile
        known.take(6, 11, true);
        known.take(6, 11, true);
        known.take(6, 12, true); // set to the same value: a change
        known.take(6, 20, false); // read again: nothing was missed
        known.take(8, 30, false); // something was
        known.take(7, 29, true);
        assert_eq!(*log.lock(), [(6, 11), (6, 12), (8, 30)]);
    }
}
