//! Sentinels and Clusters whose masters change or hang.

use super::*;

/// Subscribes to a queue, and returns once a first message has arrived.
async fn subscribed(queue: &Queue) -> (QueueSubscription, UnboundedReceiver<QueueMessage>) {
    let (subscription, mut messages) = listen(queue, "g", quick()).await;
    insist(queue, "before").await;
    assert_eq!(text(&next(&mut messages).await), "before");
    (subscription, messages)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_follows_the_master() {
    let sentinels = Sentinels::start(Flavour::Redis);
    let hub = node(&sentinels.url()).await;
    let queue = hub.queue("orders");
    let (_subscription, mut messages) = subscribed(&queue).await;
    sentinels.failover();
    insist(&queue, "after").await;
    // The old master may have died before it replicated the first message or its acknowledgement.
    while text(&next(&mut messages).await) != "after" {}
    all_handled(&queue, "g").await;
}

/// The old master continues to serve readers after the sentinels have named another one, as in a network
/// partition.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_leaves_an_unaware_former_master() {
    let sentinels = Sentinels::start(Flavour::Redis);
    let hub = node(&sentinels.url()).await;
    let queue = hub.queue("orders");
    let (_subscription, mut messages) = subscribed(&queue).await;
    let (former, heir) = sentinels.master_and_other();
    // Prevents the sentinels from making it a replica.
    former.ask::<()>("ACL SETUSER default -slaveof -replicaof");
    sentinels.sentinels()[0].ask::<()>("SENTINEL FAILOVER lab");
    until("all sentinels to name the new master", async || {
        sentinels.sentinels().iter().all(|sentinel| {
            let (_, port): (String, u16) = sentinel.ask("SENTINEL GET-MASTER-ADDR-BY-NAME lab");
            port == heir.addr().port()
        })
    })
    .await;
    let length = || heir.ask::<u64>(&format!("XLEN {KEY}"));
    let before = length();
    until("messages to be published to the new master", async || {
        insist(&queue, "after").await;
        length() > before
    })
    .await;
    insist(&queue, "the last").await;
    while text(&next(&mut messages).await) != "the last" {}
    assert!(
        former.ask::<String>("INFO replication").contains("role:master"),
        "the old master still considers itself the master"
    );
}

/// The master of the queue hangs while messages flow. The other masters of the Cluster are not involved.
#[tokio::test(flavor = "multi_thread")]
async fn no_message_is_lost_while_a_cluster_master_hangs() {
    const MESSAGES: usize = 300;
    let cluster = Cluster::start(Flavour::Redis);
    let (hub, master) = (node(&cluster.url()).await, cluster.master_of(KEY));
    let queue = hub.queue("orders");
    let (_subscription, mut messages) = listen(&queue, "g", quick().max_deliveries(50)).await;
    let published = Arc::new(AtomicUsize::new(0));
    let (publish, count) = (queue.clone(), Arc::clone(&published));
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
        until("all connections to be restored", async || !hub.stats().remote.degraded).await;
    }
    publisher.await.unwrap();
    all_handled(&queue, "g").await;
    let mut seen = std::collections::HashSet::new();
    while seen.len() < MESSAGES {
        seen.insert(text(&next(&mut messages).await));
    }
}
