//! Tests of the Redis backend only: every kind of outage, and changes to its queues by others.

mod leases;
mod masters;

use std::collections::HashMap;

use super::*;
use crate::redis::{Cluster, Proxy, Sentinels};

/// The key of the queue used by most tests, with the default prefix.
const KEY: &str = "ripplecast:s:{orders}";

/// Creates a server that keeps its data even if it is killed.
fn durable() -> Server {
    Server::setup(Flavour::Redis).durable().start()
}

/// Publishes until it succeeds. Returns the number of failures.
async fn insist(queue: &Queue, payload: &str) -> usize {
    let mut failures = 0;
    loop {
        match queue.publish(payload.to_owned()).await {
            Ok(_) => return failures,
            Err(error) => assert!(error.is_unavailable(), "{error}"),
        }
        failures += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_read_and_acknowledgement_loses_nothing() {
    let server = durable();
    let hub = node(&server.url()).await;
    let queue = hub.queue("orders");
    let (hold, mut begun) = Hold::new();
    let subscription = hold.subscribe(&queue, "g", patient(), || Ok(())).await;
    queue.publish("1").await.unwrap();
    queue.publish("2").await.unwrap();
    next(&mut begun).await;
    server.kill();
    hold.gate.add_permits(1);
    until("the handler to end", async || hold.done.load(Relaxed) == 1).await;
    server.restart();
    assert_eq!(text(&next(&mut begun).await), "2", "the first message is acknowledged and not handled again");
    hold.gate.add_permits(1);
    all_handled(&queue, "g").await;
    assert_eq!((subscription.counts().handled, subscription.counts().failed), (2, 0));
    assert!(begun.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_publishing_fails_and_subscriptions_wait() {
    let server = durable();
    let hub = node(&server.url()).await;
    let queue = hub.queue("orders");
    let (_subscription, mut messages) = listen(&queue, "g", patient()).await;
    insist(&queue, "before").await;
    assert_eq!(text(&next(&mut messages).await), "before");
    server.kill();
    for _ in 0..3 {
        let began = Instant::now();
        let error = queue.publish("lost").await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
        assert!(began.elapsed() < Duration::from_secs(20), "publishing fails within its time limit");
    }
    assert!(queue.subscribe("h", async |_| Ok(())).await.unwrap_err().is_unavailable());
    server.restart();
    insist(&queue, "after").await;
    assert_eq!(text(&next(&mut messages).await), "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn unsubscribing_completes_while_redis_is_unavailable() {
    let server = durable();
    let hub = node(&server.url()).await;
    let queue = hub.queue("orders");
    let (hold, mut begun) = Hold::new();
    let subscription = hold.subscribe(&queue, "g", quick(), || Ok(())).await;
    queue.publish("1").await.unwrap();
    next(&mut begun).await;
    server.kill();
    hold.gate.add_permits(1);
    timeout(PATIENCE, subscription.unsubscribe()).await.expect("unsubscribe timed out");
    assert_eq!(hold.done.load(Relaxed), 1);
    // The acknowledgement was abandoned, so the message is delivered again.
    server.restart();
    insist(&queue, "2").await;
    let (_next, mut messages) = listen(&queue, "g", quick()).await;
    let mut deliveries = HashMap::new();
    for _ in 0..2 {
        let message = next(&mut messages).await;
        deliveries.insert(text(&message), message.deliveries);
    }
    assert_eq!(deliveries, HashMap::from([("1".to_owned(), 2), ("2".to_owned(), 1)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_is_lost_while_redis_is_killed_paused_and_restarted() {
    const MESSAGES: usize = 400;
    let server = durable();
    let nodes = [node(&server.url()).await, node(&server.url()).await];
    let seen: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let mut subscriptions = Vec::new();
    for node in &nodes {
        let seen = Arc::clone(&seen);
        let handler = move |message: QueueMessage| {
            let seen = Arc::clone(&seen);
            async move {
                *seen.lock().unwrap().entry(text(&message)).or_default() += 1;
                Ok(())
            }
        };
        let options = quick().concurrency(4).max_deliveries(50);
        subscriptions.push(node.queue("orders").subscribe_with("g", options, handler).await.unwrap());
    }
    let published = Arc::new(AtomicUsize::new(0));
    let (queue, count) = (nodes[0].queue("orders"), Arc::clone(&published));
    let publisher = tokio::spawn(async move {
        let mut failures = 0;
        for number in 0..MESSAGES {
            failures += insist(&queue, &number.to_string()).await;
            count.fetch_add(1, Relaxed);
        }
        failures
    });
    let reach = async |share: usize| {
        until("messages to flow", async || published.load(Relaxed) >= MESSAGES * share / 8).await;
    };
    reach(1).await;
    server.kill();
    server.restart();
    reach(3).await;
    server.pause();
    let queue = nodes[1].queue("orders");
    until("the pause to be noticed", async || queue.publish("probe").await.is_err()).await;
    server.resume();
    reach(5).await;
    server.stop();
    server.restart();
    let failures = publisher.await.unwrap();
    all_handled(&queue, "g").await;
    let seen = seen.lock().unwrap();
    let missing: Vec<_> = (0..MESSAGES).filter(|number| !seen.contains_key(&number.to_string())).collect();
    assert!(missing.is_empty(), "{missing:?} were published and never handled");
    let handled: usize = seen.values().sum();
    // A message is handled twice only if a publish was repeated after a time-out, or if the message was taken
    // over: its delivery or acknowledgement was lost in a fault, or its holder was not scheduled for long.
    let twice = handled - seen.len();
    let counts: Vec<_> = subscriptions.iter().map(QueueSubscription::counts).collect();
    let claimed: u64 = counts.iter().map(|counts| counts.claimed).sum();
    assert!(
        twice <= failures + claimed as usize,
        "{twice} were handled twice, after {failures} failures and {claimed} takeovers"
    );
    assert!(counts.iter().all(|counts| counts.dead == 0));
}

/// A subscription behind a stalled proxy, to which a message was delivered. The server answers the blocked
/// read, and the answer never arrives.
struct Stalled {
    server: Server,
    proxy: Proxy,
    /// The queue, not through the proxy.
    queue: Queue,
    subscription: QueueSubscription,
    messages: UnboundedReceiver<QueueMessage>,
    /// The payload of the message.
    lost: String,
    /// One node connected directly, one through the proxy.
    _nodes: [Hub; 2],
}

impl Stalled {
    async fn new() -> Self {
        let server = durable();
        let proxy = Proxy::before(&server);
        let nodes = [node(&server.url()).await, node(&proxy.url()).await];
        let queue = nodes[0].queue("orders");
        let (subscription, mut messages) = listen(&nodes[1].queue("orders"), "g", patient()).await;
        let mut number = 0;
        // Once a second there is briefly no blocked read. Then the message is not delivered, but the next one
        // may be.
        let lost = loop {
            number += 1;
            until("the read", async || server.ask::<String>("CLIENT LIST").contains("cmd=xreadgroup")).await;
            proxy.stall();
            insist(&queue, &number.to_string()).await;
            if unhandled(&queue, "g").await == (1, Some(0)) {
                break number.to_string();
            }
            proxy.heal();
            assert_eq!(text(&next(&mut messages).await), number.to_string());
            all_handled(&queue, "g").await;
        };
        Self { server, proxy, queue, subscription, messages, lost, _nodes: nodes }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_lost_in_the_network_is_recovered() {
    let mut stalled = Stalled::new().await;
    insist(&stalled.queue, "behind").await;
    stalled.proxy.cut();
    stalled.proxy.heal();
    for expected in [&*stalled.lost, "behind"] {
        let message = next(&mut stalled.messages).await;
        assert_eq!((&*text(&message), message.deliveries), (expected, 1));
    }
    all_handled(&stalled.queue, "g").await;
    assert_eq!(stalled.subscription.counts().failed, 0);
    assert_eq!(stalled.server.ask::<u64>(&format!("XLEN {KEY}.dead")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_after_the_end_goes_to_another_and_does_not_count() {
    let Stalled { proxy, queue, subscription, mut messages, lost, _nodes, server: _server } =
        Stalled::new().await;
    drop(subscription);
    proxy.heal();
    let (_other, mut others) = listen(&queue, "g", patient()).await;
    let message = next(&mut others).await;
    assert_eq!((text(&message), message.deliveries), (lost, 1));
    assert!(timeout(PATIENCE, messages.recv()).await.expect("the handler was not dropped").is_none());
    all_handled(&queue, "g").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_outlasts_redis_does_not_get_its_message_again() {
    let server = durable();
    let hub = node(&server.url()).await;
    let queue = hub.queue("orders");
    let (hold, mut begun) = Hold::new();
    let _subscription = hold.subscribe(&queue, "g", patient().concurrency(2), || Ok(())).await;
    insist(&queue, "1").await;
    next(&mut begun).await;
    server.kill();
    server.restart();
    insist(&queue, "2").await;
    assert_eq!(
        text(&next(&mut begun).await),
        "2",
        "the subscription reads again and does not repeat the first message"
    );
    hold.gate.add_permits(9);
    all_handled(&queue, "g").await;
    assert_eq!(hold.done.load(Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_entry_becomes_a_dead_letter() {
    let server = Server::start();
    let hub = node(&server.url()).await;
    let queue = hub.queue("orders");
    let (_dead, mut dead) = listen(&queue.dead_letters(), "operator", quick()).await;
    let (_subscription, mut messages) = listen(&queue, "g", quick()).await;
    let _: String = server.ask(&format!("XADD {KEY} * some field"));
    let _: String = server.ask(&format!("XADD {KEY} * p good"));
    assert_eq!(text(&next(&mut messages).await), "good");
    let why = next(&mut dead).await.dead.unwrap();
    assert!(why.reason.contains("no field `p`"), "{}", why.reason);
    all_handled(&queue, "g").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_deleted_during_handling_is_still_handled_or_dead() {
    let server = Server::start();
    let hub = node(&server.url()).await;
    let queue = hub.queue("orders");
    let (_dead, mut dead) = listen(&queue.dead_letters(), "operator", quick()).await;
    let (hold, mut begun) = Hold::new();
    let fails = || Err(Error::other("no"));
    let subscription = hold.subscribe(&queue, "g", quick().max_deliveries(2), fails).await;
    let id = queue.publish("x").await.unwrap();
    next(&mut begun).await;
    assert_eq!(server.ask::<u64>(&format!("XDEL {KEY} {id}")), 1);
    hold.gate.add_permits(2);
    assert_eq!(next(&mut begun).await.deliveries, 2);
    let letter = next(&mut dead).await;
    assert_eq!((text(&letter), letter.dead.unwrap().id), ("x".to_owned(), id));
    assert_eq!(subscription.counts().trimmed, 1);
    all_handled(&queue, "g").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_redis_is_used_again() {
    let server = Server::start();
    let hub = node(&server.url()).await;
    let queue = hub.queue("orders");
    let (_subscription, mut messages) = listen(&queue, "g", quick()).await;
    queue.publish("1").await.unwrap();
    assert_eq!(text(&next(&mut messages).await), "1");
    let _: () = server.ask("FLUSHALL");
    insist(&queue, "2").await;
    assert_eq!(text(&next(&mut messages).await), "2");
    server.kill();
    server.restart();
    insist(&queue, "3").await;
    assert_eq!(text(&next(&mut messages).await), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_unread_messages_makes_the_lag_unknown() {
    let server = Server::start();
    let hub = node(&server.url()).await;
    let queue = hub.queue("orders");
    let (hold, mut begun) = Hold::new();
    let _subscription = hold.subscribe(&queue, "g", quick(), || Ok(())).await;
    queue.publish("1").await.unwrap();
    next(&mut begun).await;
    let gone = queue.publish("2").await.unwrap();
    queue.publish("3").await.unwrap();
    assert_eq!(server.ask::<u64>(&format!("XDEL {KEY} {gone}")), 1);
    assert_eq!(unhandled(&queue, "g").await, (1, None));
    hold.gate.add_permits(9);
    assert_eq!(text(&next(&mut begun).await), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_is_reported() {
    let server = Server::start();
    let hub = node(&server.url()).await;
    let _: () = server.ask(&format!("SET {KEY} x"));
    let queue = hub.queue("orders");
    for error in [
        queue.publish("x").await.unwrap_err(),
        queue.status().await.unwrap_err(),
        queue.subscribe("g", async |_| Ok(())).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("WRONGTYPE"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_with_large_numbers_does_not_break_the_limit() {
    let server = Server::start();
    let hub = node(&server.url()).await;
    let queue = hub.queue("orders").max_len(2);
    let (_subscription, mut messages) = listen(&queue, "g", quick()).await;
    let id = format!("9007199254740993-{}", u64::MAX - 1);
    let _: String = server.ask(&format!("XADD {KEY} {id} p x"));
    assert_eq!(next(&mut messages).await.id.to_string(), id);
    all_handled(&queue, "g").await;
    for expected in ["1", "2", "3", "4"] {
        queue.publish(expected).await.unwrap();
        assert_eq!(text(&next(&mut messages).await), expected);
        all_handled(&queue, "g").await;
    }
}
