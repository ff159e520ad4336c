//! Sentinels and Clusters whose masters change or hang.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_follows_the_master() {
    let sentinels = Sentinels::start(Flavour::Redis);
    let hub = node(&sentinels.url()).await;
    let stream = hub.stream("orders");
    let (_subscription, mut messages) = listen(&stream, "g", quick()).await;
    insist(&stream, "before").await;
    assert_eq!(text(&next(&mut messages).await), "before");
    sentinels.failover();
    insist(&stream, "after").await;
    // The old master may have died before it passed on that the first was acknowledged, or that it was there at all.
    while text(&next(&mut messages).await) != "after" {}
    all_handled(&stream, "g").await;
}

/// The master goes on, and takes every reader, when the sentinels have named another one: as behind a network that is split.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_leaves_a_master_that_does_not_know_that_it_is_none() {
    let sentinels = Sentinels::start(Flavour::Redis);
    let hub = node(&sentinels.url()).await;
    let stream = hub.stream("orders");
    let (_subscription, mut messages) = listen(&stream, "g", quick()).await;
    insist(&stream, "before").await;
    assert_eq!(text(&next(&mut messages).await), "before");
    let (former, heir) = sentinels.master_and_other();
    // Nobody can tell it to be a replica.
    former.ask::<()>("ACL SETUSER default -slaveof -replicaof");
    sentinels.sentinels()[0].ask::<()>("SENTINEL FAILOVER lab");
    until("all sentinels to name the other", async || {
        sentinels.sentinels().iter().all(|sentinel| {
            let (_, port): (String, u16) = sentinel.ask("SENTINEL GET-MASTER-ADDR-BY-NAME lab");
            port == heir.addr().port()
        })
    })
    .await;
    let length = || heir.ask::<u64>(&format!("XLEN {KEY}"));
    let before = length();
    until("what is published to go to the heir", async || {
        insist(&stream, "after").await;
        length() > before
    })
    .await;
    insist(&stream, "the last").await;
    while text(&next(&mut messages).await) != "the last" {}
    assert!(former.ask::<String>("INFO replication").contains("role:master"), "it has never known");
}

/// The master of the stream hangs while messages flow; the others of the Cluster don't matter to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_master_of_a_cluster_hangs_while_messages_flow_and_none_is_lost() {
    const MESSAGES: usize = 300;
    let cluster = Cluster::start(Flavour::Redis);
    let (hub, master) = (node(&cluster.url()).await, cluster.master_of(KEY));
    let stream = hub.stream("orders");
    let (_subscription, mut messages) = listen(&stream, "g", quick().max_deliveries(50)).await;
    let published = Arc::new(AtomicUsize::new(0));
    let (publish, count) = (stream.clone(), Arc::clone(&published));
    let publisher = tokio::spawn(async move {
        for number in 0..MESSAGES {
            insist(&publish, &number.to_string()).await;
            count.fetch_add(1, Relaxed);
        }
    });
    for third in 0..2 {
        until("messages to flow", async || published.load(Relaxed) > MESSAGES * third / 3).await;
        master.pause();
        until("the pause to be noticed", async || hub.stats().remote.degraded).await;
        master.resume();
        until("all to be well", async || !hub.stats().remote.degraded).await;
    }
    publisher.await.unwrap();
    all_handled(&stream, "g").await;
    let mut seen = std::collections::HashSet::new();
    while seen.len() < MESSAGES {
        seen.insert(text(&next(&mut messages).await));
    }
}
