use std::time::{Duration, Instant};

use ripplecast::{Error, Result, error::StateError};

use super::{World, eventually, names};
use crate::state::state_error;

pub(super) async fn a_counter_counts(world: &World) -> Result<()> {
    let hub = &world.hub;
    let counter = hub.counter("a");
    assert_eq!(counter.get().await?, 0);
    assert_eq!(counter.increment().await?, 1);
    assert_eq!(counter.add(10).await?, 11);
    assert_eq!(counter.decrement().await?, 10);
    assert_eq!(counter.add(-20).await?, -10);
    assert_eq!(counter.set(5).await?, 5);
    assert_eq!(hub.counter("a").get().await?, 5, "the same name is the same counter");
    assert_eq!(hub.counter("b").get().await?, 0);
    assert_eq!(counter.compare_and_set(5, 6).await?, Ok(6));
    assert_eq!(counter.compare_and_set(5, 7).await?, Err(6));
    assert_eq!(counter.increment_bounded(7).await?, Some(7));
    assert_eq!(counter.increment_bounded(7).await?, None);
    assert_eq!(counter.get().await?, 7);
    assert_eq!(counter.expire(Duration::from_secs(3600)).await?, 7);
    assert_eq!(counter.expire(Duration::ZERO).await?, 0);
    assert_eq!(counter.set(3).await?, 3);
    assert_eq!(counter.reset().await?, 0);
    Ok(())
}

pub(super) async fn a_counters_overflow_is_an_error_that_changes_nothing(world: &World) -> Result<()> {
    let counter = world.hub.counter("likes");
    counter.set(i64::MAX).await?;
    let error = state_error(counter.increment().await);
    assert_eq!(error, StateError::CounterOverflow { name: "likes".into(), value: i64::MAX, by: 1 });
    assert!(error.to_string().contains("likes") && error.to_string().contains(&i64::MAX.to_string()));
    assert_eq!(counter.get().await?, i64::MAX);
    assert_eq!(counter.increment_bounded(i64::MAX).await?, None);
    counter.set(i64::MIN).await?;
    assert!(matches!(state_error(counter.decrement().await), StateError::CounterOverflow { by: -1, .. }));
    assert!(matches!(state_error(counter.add(i64::MIN).await), StateError::CounterOverflow { .. }));
    assert_eq!(counter.get().await?, i64::MIN);
    Ok(())
}

pub(super) async fn operations_report_a_counters_invalid_name(world: &World) -> Result<()> {
    let (hub, long) = (&world.hub, "x".repeat(256));
    assert!(hub.counter(&long[1..]).increment().await.is_ok());
    let empty = hub.counter("");
    assert!(matches!(empty.get().await, Err(Error::EmptyName { what: "counter" })));
    assert!(matches!(empty.expire(Duration::ZERO).await, Err(Error::EmptyName { .. })));
    let error = hub.counter(&long).increment().await.unwrap_err();
    assert!(matches!(error, Error::NameTooLong { what: "counter", len: 256, limit: 255 }), "{error}");
    Ok(())
}

pub(super) async fn a_counter_adds_over_all_64_bits(world: &World) -> Result<()> {
    let counter = world.hub.counter("wide");
    for bit in 0..63 {
        let power = 1_i64 << bit;
        assert_eq!(counter.set(power - 1).await?, power - 1);
        assert_eq!(counter.increment().await?, power);
        assert_eq!(counter.add(power - 1).await?, 2 * (power - 1) + 1);
        assert_eq!(counter.set(-power).await?, -power);
        assert_eq!(counter.decrement().await?, -power - 1);
        assert_eq!(counter.add(power).await?, -1);
        assert_eq!(counter.add(i64::MIN + 1).await?, i64::MIN);
        assert_eq!(counter.add(i64::MAX).await?, -1);
    }
    // Neighbours with the same float value, to detect rounding.
    for value in [i64::MAX, i64::MAX - 1, i64::MIN, i64::MIN + 1, (1 << 53) + 1, -(1 << 53) - 1] {
        counter.set(value).await?;
        assert_eq!(counter.compare_and_set(value ^ 1, 0).await?, Err(value));
        assert_eq!(counter.increment_bounded(value).await?, None);
        assert_eq!(counter.compare_and_set(value, value).await?, Ok(value));
    }
    counter.set(i64::MAX - 2).await?;
    assert_eq!(counter.increment_bounded(i64::MAX - 1).await?, Some(i64::MAX - 1));
    assert_eq!(counter.increment_bounded(i64::MAX - 1).await?, None);
    counter.set(i64::MIN).await?;
    assert_eq!(counter.increment_bounded(i64::MIN).await?, None);
    assert_eq!(counter.increment_bounded(-5).await?, Some(i64::MIN + 1));
    counter.set(-1).await?;
    assert_eq!(counter.increment_bounded(1).await?, Some(0));
    assert_eq!(counter.increment_bounded(10).await?, Some(1));
    assert_eq!(counter.increment_bounded(-10).await?, None);
    Ok(())
}

pub(super) async fn counters_expire(world: &World) -> Result<()> {
    let counter = |name: &str| world.hub.counter(name);
    let (soon, later) = (Duration::from_millis(100), Duration::from_millis(150));
    let lasting = ["set", "swapped", "replaced", "never"];
    for name in ["gone", "refused"].iter().chain(&lasting) {
        assert_eq!(counter(name).set(5).await?, 5);
        assert_eq!(counter(name).expire(soon).await?, 5);
    }
    counter("set").set(6).await?;
    while counter("swapped").compare_and_set(counter("swapped").get().await?, 6).await?.is_err() {}
    assert!(counter("refused").compare_and_set(9, 6).await?.is_err());
    counter("replaced").set(6).await?;
    counter("replaced").expire(Duration::from_secs(3600)).await?;
    counter("never").set(6).await?;
    counter("never").expire(Duration::MAX).await?;
    // An addition keeps the expiry, even at 0. Retried if the machine was too slow.
    for (name, value) in [("from 0", 0), ("from 5", 5)] {
        loop {
            counter(name).set(value).await?;
            let began = Instant::now();
            counter(name).expire(soon).await?;
            let sum = counter(name).increment().await?;
            if began.elapsed() < soon {
                assert_eq!(sum, value + 1);
                break;
            }
        }
    }
    let marker = counter("marker");
    let marked = async || {
        marker.set(1).await?;
        marker.expire(later).await?;
        eventually(async || Ok(marker.get().await? == 0)).await
    };
    marked().await?;
    for name in ["gone", "refused", "from 0", "from 5"] {
        assert_eq!(world.other.counter(name).get().await?, 0, "{name}");
    }
    for name in lasting {
        assert_eq!(world.other.counter(name).get().await?, 6, "{name}");
    }
    assert_eq!(counter("gone").increment().await?, 1, "the counter starts again");
    marked().await?;
    assert_eq!(counter("gone").get().await?, 1, "the counter has no expiry");
    Ok(())
}

pub(super) async fn a_window_starts_with_its_first_increment(world: &World) -> Result<()> {
    let attempts = world.hub.counter("attempts");
    let elsewhere = world.other.counter("attempts");
    let hour = Duration::from_secs(3600);
    assert_eq!(attempts.increment_bounded_for(2, hour).await?, Ok(1));
    assert_eq!(
        elsewhere.increment_bounded_for(2, 10 * hour).await?,
        Ok(2),
        "the end of the window does not move"
    );
    let wait = attempts.increment_bounded_for(2, 10 * hour).await?.unwrap_err();
    assert!(wait <= hour && wait > hour / 2, "{wait:?}");
    assert_eq!(attempts.get().await?, 2);
    assert_eq!(attempts.increment_bounded_for(3, hour).await?, Ok(3), "with another maximum");
    // A window ends by itself, and a new one starts.
    let soon = world.hub.counter("soon");
    for _ in 0..2 {
        assert_eq!(soon.increment_bounded_for(1, Duration::from_millis(50)).await?, Ok(1));
        eventually(async || Ok(soon.get().await? == 0)).await?;
    }
    // A counter without an expiry gets one, even if the increment is refused.
    let left = world.hub.counter("left");
    left.set(5).await?;
    let wait = left.increment_bounded_for(5, Duration::from_millis(50)).await?.unwrap_err();
    assert!(wait <= Duration::from_millis(50), "{wait:?}");
    eventually(async || Ok(left.increment_bounded_for(5, hour).await? == Ok(1))).await?;
    // An increment that is never allowed has no end to wait for, and an endless window does not end.
    let never = world.hub.counter("never");
    assert_eq!(never.increment_bounded_for(0, hour).await?, Err(Duration::MAX));
    assert_eq!(never.increment_bounded_for(1, Duration::MAX).await?, Ok(1));
    assert_eq!(never.increment_bounded_for(1, Duration::MAX).await?, Err(Duration::MAX));
    assert_eq!(world.hub.counter("at once").increment_bounded_for(1, Duration::ZERO).await?, Ok(1));
    eventually(async || Ok(world.hub.counter("at once").get().await? == 0)).await
}

pub(super) async fn a_lease_is_acquired_with_its_expiry(world: &World) -> Result<()> {
    let lease = world.hub.counter("lease");
    let hour = Duration::from_secs(3600);
    assert_eq!(lease.compare_and_set_for(0, 7, Duration::from_millis(50)).await?, Ok(7));
    eventually(async || Ok(world.other.counter("lease").compare_and_set_for(0, 8, hour).await? == Ok(8)))
        .await?;
    assert_eq!(
        lease.compare_and_set_for(0, 9, Duration::ZERO).await?,
        Err(8),
        "a failed compare_and_set changes nothing"
    );
    let wait = lease.increment_bounded_for(8, 10 * hour).await?.unwrap_err();
    assert!(wait <= hour, "{wait:?}");
    assert_eq!(lease.compare_and_set_for(8, 0, hour).await?, Ok(0));
    assert_eq!(lease.compare_and_set(0, 1).await?, Ok(1));
    assert_eq!(
        lease.increment_bounded_for(1, Duration::MAX).await?,
        Err(Duration::MAX),
        "the expiry is cleared"
    );
    Ok(())
}

pub(super) async fn every_name_is_a_separate_counter(world: &World) -> Result<()> {
    for (n, name) in (1..).zip(names().iter().filter(|name| !name.is_empty())) {
        assert_eq!(world.hub.counter(name).add(n).await?, n, "{name:?}");
    }
    for (n, name) in (1..).zip(names().iter().filter(|name| !name.is_empty())) {
        assert_eq!(world.other.counter(name).get().await?, n, "{name:?}");
    }
    Ok(())
}
