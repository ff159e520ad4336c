//! What counters and tables do, wherever their state lives: one suite, run on each kind of world. Every difference between
//! two worlds is a failure.

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

/// Where a test's state lives: two hubs that share it, and nothing in it yet.
pub(crate) struct World {
    /// One hub.
    hub: Hub,
    /// Another one with the same state; in memory it is the same.
    other: Hub,
    /// How much less is done here than in memory, since each operation takes a way over the network.
    slower: u32,
}

impl World {
    /// This process's memory.
    async fn memory() -> Self {
        let hub = crate::store::hub();
        Self { other: hub.clone(), hub, slower: 1 }
    }

    /// A server that other tests use, too; what the test does there has a prefix of its own.
    async fn server(flavour: Flavour) -> Self {
        Self::on(&Server::shared(flavour).url()).await
    }

    /// A Cluster that the other tests of the suite use, too.
    async fn cluster() -> Self {
        static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::start(Flavour::Redis));
        Self::on(&CLUSTER.url()).await
    }

    /// A backend, under a new prefix.
    async fn on(url: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let prefix = format!("conformance-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let backend = format!("{url}?prefix={prefix}");
        let hub = async || Hub::builder().backend(&backend).connect().await.unwrap();
        Self { hub: hub().await, other: hub().await, slower: 10 }
    }

    /// That many rounds, or fewer where they take longer.
    fn rounds(&self, in_memory: u32) -> u32 {
        in_memory / self.slower
    }

    /// The one hub or the other, by turns.
    fn one_of_both(&self, n: usize) -> Hub {
        if n.is_multiple_of(2) { self.hub.clone() } else { self.other.clone() }
    }
}

/// Names and keys that somebody may have taken for something else: patterns, separators, hash tags, line ends.
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

/// Waits until it is so. What it waits for is a time that passes, such as an expiry.
async fn eventually(mut look: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !look().await? {
        assert!(began.elapsed() < PATIENCE, "it didn't happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Makes a test of each part of the suite.
macro_rules! tests {
    ($world:expr; $($part:ident: $($test:ident),* $(,)?;)*) => {$($(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $test() -> ripplecast::Result<()> {
            let world = $world.await;
            super::$part::$test(&world).await
        }
    )*)*};
}

/// The suite: all tests, on worlds of one kind. What is not named here is reported as dead code.
macro_rules! suite {
    ($world:expr) => {
        tests! {
            $world;
            counters:
                a_counter_counts,
                a_counters_overflow_is_an_error_that_changes_nothing,
                a_counters_wrong_name_is_reported_by_its_operations,
                a_counter_adds_over_all_64_bits,
                counters_expire,
                a_window_begins_with_its_first_increment,
                a_lease_is_taken_with_its_end,
                any_name_is_a_counter_of_its_own;
            tables:
                rows_come_back_exactly,
                rows_by_key,
                what_can_be_a_column,
                sizes_are_enforced,
                increments_stay_in_the_columns_range,
                compare_and_set_of_rows,
                set_many_is_all_or_nothing,
                columns_add_over_all_64_bits,
                each_columns_overflow_names_its_value,
                compare_and_set_looks_at_every_column,
                floats_come_back_bit_by_bit,
                values_may_be_any_bytes,
                any_name_is_a_table_and_any_key_a_row_of_its_own,
                rows_expire,
                a_row_is_written_with_its_end,
                many_rows_expire_at_once,
                two_hubs_see_one_table,
                nothing_is_a_batch_too;
            many:
                sixty_four_bumpers_lose_nothing,
                nobody_sees_half_a_row,
                the_capacity_is_exact_under_eight_inserters,
                writes_complete_while_a_walk_is_held,
                a_walk_sees_each_lasting_row_once_under_churn,
                pages_cover_the_table,
                a_page_ends_where_the_table_ends,
                only_one_of_many_is_the_first;
            agree:
                it_answers_as_memory_does;
        }
    };
}

/// In this process's memory.
mod memory {
    suite!(super::World::memory());
}

/// On Redis.
mod redis {
    suite!(super::World::server(super::Flavour::Redis));
}

/// On Valkey 8.
mod valkey8 {
    suite!(super::World::server(super::Flavour::Valkey8));
}

/// On Valkey 9.
mod valkey9 {
    suite!(super::World::server(super::Flavour::Valkey9));
}

/// On a Cluster.
mod cluster {
    suite!(super::World::cluster());
}
