//! The behaviour of counters and tables on every backend: one suite, run on each kind of world. Any
//! difference between two worlds is a failure.

mod agree;
mod counters;
mod many;
mod tables;

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use ripplecast::{Hub, Result};

use crate::{
    redis::{Cluster, Flavour, Server},
    support::PATIENCE,
};

/// The place of a test's state: two hubs that share it, initially empty.
pub(crate) struct World {
    hub: Hub,
    /// Another hub with the same state; in memory it is the same hub.
    other: Hub,
    /// How much less work to do than in memory, because each operation crosses the network.
    slower: u32,
}

impl World {
    /// Creates a world in this process's memory.
    async fn memory() -> Self {
        let hub = crate::state::hub();
        Self { other: hub.clone(), hub, slower: 1 }
    }

    /// Creates a world on a server shared with other tests. Each world has its own prefix.
    async fn server(flavour: Flavour) -> Self {
        Self::on(&Server::shared(flavour).url()).await
    }

    /// Creates a world on a Cluster shared by the tests of this suite.
    async fn cluster() -> Self {
        static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::start(Flavour::Redis));
        Self::on(&CLUSTER.url()).await
    }

    /// Creates a world on a backend, with a new prefix.
    async fn on(url: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let prefix = format!("conformance-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let backend = format!("{url}?prefix={prefix}");
        let hub = async || Hub::builder().backend(&backend).connect().await.unwrap();
        Self { hub: hub().await, other: hub().await, slower: 10 }
    }

    /// Returns that many rounds, or fewer where they take longer.
    fn rounds(&self, in_memory: u32) -> u32 {
        in_memory / self.slower
    }

    /// Alternates between the two hubs.
    fn one_of_both(&self, n: usize) -> Hub {
        if n.is_multiple_of(2) { self.hub.clone() } else { self.other.clone() }
    }
}

/// Returns names and keys that could be misread: patterns, separators, hash tags, line ends.
fn names() -> Vec<String> {
    let mut names: Vec<String> = [
        "",
        "a",
        "A",
        " ",
        "a b",
        "{",
        "}",
        "{}",
        "}{",
        "{a}",
        "{a}b",
        "a}",
        "}a",
        "a:b",
        "a:",
        ":a",
        "*",
        "?",
        "[a-z]",
        "\\",
        "%7D",
        "%",
        "\0",
        "a\0b",
        "\r\n",
        "\"'",
        "ü",
        "u\u{308}",
        "\u{1F600}",
        "a}:r:b",
        "0",
        "00",
        "-1",
    ]
    .map(String::from)
    .into();
    names.push("x".repeat(255));
    names.push(format!("{}}}", "x".repeat(254)));
    names.push("ä".repeat(127));
    names
}

/// Waits until `look` returns true, for example after an expiry.
async fn eventually(mut look: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !look().await? {
        assert!(began.elapsed() < PATIENCE, "the condition was not met in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Declares a test for each part of the suite.
macro_rules! tests {
    ($world:expr; $($part:ident: $($test:ident),* $(,)?;)*) => {$($(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $test() -> ripplecast::Result<()> {
            let world = $world.await;
            super::$part::$test(&world).await
        }
    )*)*};
}

/// Declares all tests of the suite, on one kind of world. A test missing here is reported as dead code.
macro_rules! suite {
    ($world:expr) => {
        tests! {
            $world;
            counters:
                a_counter_counts,
                a_counters_overflow_is_an_error_that_changes_nothing,
                operations_report_a_counters_invalid_name,
                a_counter_adds_over_all_64_bits,
                counters_expire,
                a_window_starts_with_its_first_increment,
                a_lease_is_acquired_with_its_expiry,
                every_name_is_a_separate_counter;
            tables:
                rows_round_trip_exactly,
                rows_are_found_by_key,
                supported_column_types_are_accepted,
                sizes_are_enforced,
                increments_stay_in_the_columns_range,
                rows_are_compared_and_set,
                set_many_is_all_or_nothing,
                columns_add_over_all_64_bits,
                each_columns_overflow_names_its_value,
                compare_and_set_compares_every_column,
                floats_round_trip_bit_for_bit,
                values_may_be_any_bytes,
                every_name_is_a_separate_table_and_every_key_a_separate_row,
                rows_expire,
                a_row_is_written_with_its_expiry,
                many_rows_expire_at_once,
                two_hubs_see_one_table,
                an_empty_batch_is_valid;
            many:
                concurrent_increments_lose_nothing,
                nobody_sees_half_a_row,
                the_capacity_is_exact_under_eight_inserters,
                writes_complete_during_a_paused_scan,
                a_scan_returns_each_lasting_row_once_under_churn,
                pages_cover_the_table,
                a_page_ends_where_the_table_ends,
                only_one_of_many_wins;
            agree:
                results_equal_those_of_memory;
        }
    };
}

mod memory {
    suite!(super::World::memory());
}

mod redis {
    suite!(super::World::server(super::Flavour::Redis));
}

mod valkey8 {
    suite!(super::World::server(super::Flavour::Valkey8));
}

mod valkey9 {
    suite!(super::World::server(super::Flavour::Valkey9));
}

mod cluster {
    suite!(super::World::cluster());
}
