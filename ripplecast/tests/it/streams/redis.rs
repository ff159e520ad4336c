//! What tells on Redis alone: what happens when it goes away in every way, and what others do to its streams.

use std::collections::HashMap;

use super::*;
use crate::redis::{Cluster, Proxy, Sentinels};

/// The key of the stream of most tests, with the usual prefix.
const KEY: &str = "ripplecast:s:{orders}";

/// A server that keeps what it has been told also when it is killed.
fn durable() -> Server {
    Server::setup(Flavour::Redis).durable().start()
}

/// Publishes until it is known to have worked; how often it failed.
async fn insist(stream: &ReliableStream, payload: &str) -> usize {
    let mut failures = 0;
    loop {
        match stream.publish(payload.to_owned()).await {
            Ok(_) => return failures,
            Err(error) => assert!(error.is_unavailable(), "{error}"),
        }
        failures += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A function that blocks its thread until the sender is dropped.
fn blocker() -> (impl Fn() + Clone, std::sync::mpsc::Sender<()>) {
    let (unblock, blocked) = std::sync::mpsc::channel();
    let blocked = Arc::new(Mutex::new(blocked));
    let block = move || {
        let _ = blocked.lock().unwrap().recv();
    };
    (block, unblock)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_read_and_acknowledgement_it_loses_nothing() {
    let server = durable();
    let hub = node(&server.url()).await;
    let stream = hub.stream("orders");
    let (hold, mut begun) = Hold::new();
    let subscription = hold.subscribe(&stream, "g", patient(), || Ok(())).await;
    stream.publish("1").await.unwrap();
    stream.publish("2").await.unwrap();
    next(&mut begun).await;
    server.kill();
    hold.gate.add_permits(1);
    until("the handler to end", async || hold.done.load(Relaxed) == 1).await;
    server.restart();
    assert_eq!(text(&next(&mut begun).await), "2", "the first is acknowledged, and not handled again");
    hold.gate.add_permits(1);
    all_handled(&stream, "g").await;
    assert_eq!((subscription.counts().handled, subscription.counts().failed), (2, 0));
    assert!(begun.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_publishing_fails_and_subscriptions_wait() {
    let server = durable();
    let hub = node(&server.url()).await;
    let stream = hub.stream("orders");
    let (_subscription, mut messages) = listen(&stream, "g", patient()).await;
    insist(&stream, "before").await;
    assert_eq!(text(&next(&mut messages).await), "before");
    server.kill();
    for _ in 0..3 {
        let began = Instant::now();
        let error = stream.publish("lost").await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
        assert!(began.elapsed() < Duration::from_secs(20), "it fails within its time limit");
    }
    assert!(stream.subscribe("h", async |_| Ok(())).await.unwrap_err().is_unavailable());
    server.restart();
    insist(&stream, "after").await;
    assert_eq!(text(&next(&mut messages).await), "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn unsubscribing_ends_also_while_redis_is_away() {
    let server = durable();
    let hub = node(&server.url()).await;
    let stream = hub.stream("orders");
    let (hold, mut begun) = Hold::new();
    let subscription = hold.subscribe(&stream, "g", quick(), || Ok(())).await;
    stream.publish("1").await.unwrap();
    next(&mut begun).await;
    server.kill();
    hold.gate.add_permits(1);
    timeout(PATIENCE, subscription.unsubscribe()).await.expect("unsubscribing does not end");
    assert_eq!(hold.done.load(Relaxed), 1);
    // The acknowledgement was given up, so the message comes again.
    server.restart();
    insist(&stream, "2").await;
    let (_next, mut messages) = listen(&stream, "g", quick()).await;
    let mut deliveries = HashMap::new();
    for _ in 0..2 {
        let message = next(&mut messages).await;
        deliveries.insert(text(&message), message.deliveries);
    }
    assert_eq!(deliveries, HashMap::from([("1".to_owned(), 2), ("2".to_owned(), 1)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_paused_and_restarted_while_messages_flow_it_loses_none() {
    const MESSAGES: usize = 400;
    let server = durable();
    let nodes = [node(&server.url()).await, node(&server.url()).await];
    let seen: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let mut subscriptions = Vec::new();
    for node in &nodes {
        let seen = Arc::clone(&seen);
        let handler = move |message: StreamMessage| {
            let seen = Arc::clone(&seen);
            async move {
                *seen.lock().unwrap().entry(text(&message)).or_default() += 1;
                Ok(())
            }
        };
        let options = quick().concurrency(4).max_deliveries(50);
        subscriptions.push(node.stream("orders").subscribe_with("g", options, handler).await.unwrap());
    }
    let published = Arc::new(AtomicUsize::new(0));
    let (stream, count) = (nodes[0].stream("orders"), Arc::clone(&published));
    let publisher = tokio::spawn(async move {
        let mut failures = 0;
        for number in 0..MESSAGES {
            failures += insist(&stream, &number.to_string()).await;
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
    let stream = nodes[1].stream("orders");
    until("the pause to be noticed", async || stream.publish("probe").await.is_err()).await;
    server.resume();
    reach(5).await;
    server.stop();
    server.restart();
    let failures = publisher.await.unwrap();
    all_handled(&stream, "g").await;
    let seen = seen.lock().unwrap();
    let missing: Vec<_> = (0..MESSAGES).filter(|number| !seen.contains_key(&number.to_string())).collect();
    assert!(missing.is_empty(), "{missing:?} were published and never handled");
    let handled: usize = seen.values().sum();
    // What was handled twice is either a publish that was tried again after a time-out, or a message that was taken over:
    // its delivery or acknowledgement fell into a fault, or its holder had no turn for long.
    let twice = handled - seen.len();
    let counts: Vec<_> = subscriptions.iter().map(ReliableSubscription::counts).collect();
    let claimed: u64 = counts.iter().map(|counts| counts.claimed).sum();
    assert!(
        twice <= failures + claimed as usize,
        "{twice} were handled twice, after {failures} failures and {claimed} taken over"
    );
    assert!(counts.iter().all(|counts| counts.dead == 0));
}

/// A subscription behind a proxy that passes nothing any more, with a message that was delivered into it. The read that
/// waits at the server is answered, and the answer arrives nowhere.
struct Stalled {
    server: Server,
    proxy: Proxy,
    /// The stream, past the proxy.
    stream: ReliableStream,
    subscription: ReliableSubscription,
    messages: UnboundedReceiver<StreamMessage>,
    /// What the message says.
    lost: String,
    /// The nodes, past the proxy and behind it.
    _nodes: [Hub; 2],
}

impl Stalled {
    async fn new() -> Self {
        let server = durable();
        let proxy = Proxy::before(&server);
        let nodes = [node(&server.url()).await, node(&proxy.url()).await];
        let stream = nodes[0].stream("orders");
        let (subscription, mut messages) = listen(&nodes[1].stream("orders"), "g", patient()).await;
        let mut number = 0;
        // Once a second no read waits for a moment; then the message is not delivered, and the next one may be.
        let lost = loop {
            number += 1;
            until("the read", async || server.ask::<String>("CLIENT LIST").contains("cmd=xreadgroup")).await;
            proxy.stall();
            insist(&stream, &number.to_string()).await;
            if unhandled(&stream, "g").await == (1, Some(0)) {
                break number.to_string();
            }
            proxy.heal();
            assert_eq!(text(&next(&mut messages).await), number.to_string());
            all_handled(&stream, "g").await;
        };
        Self { server, proxy, stream, subscription, messages, lost, _nodes: nodes }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_into_a_dead_network_is_found_again() {
    let mut stalled = Stalled::new().await;
    insist(&stalled.stream, "behind").await;
    stalled.proxy.cut();
    stalled.proxy.heal();
    for expected in [&*stalled.lost, "behind"] {
        let message = next(&mut stalled.messages).await;
        assert_eq!((&*text(&message), message.deliveries), (expected, 1));
    }
    all_handled(&stalled.stream, "g").await;
    assert_eq!(stalled.subscription.counts().failed, 0);
    assert_eq!(stalled.server.ask::<u64>(&format!("XLEN {KEY}.dead")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_after_the_end_goes_to_another_and_does_not_count() {
    let Stalled { proxy, stream, subscription, mut messages, lost, _nodes, server: _server } =
        Stalled::new().await;
    drop(subscription);
    proxy.heal();
    let (_other, mut others) = listen(&stream, "g", patient()).await;
    let message = next(&mut others).await;
    assert_eq!((text(&message), message.deliveries), (lost, 1));
    assert!(timeout(PATIENCE, messages.recv()).await.expect("the handler is kept").is_none());
    all_handled(&stream, "g").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_outlasts_redis_does_not_get_its_message_again() {
    let server = durable();
    let hub = node(&server.url()).await;
    let stream = hub.stream("orders");
    let (hold, mut begun) = Hold::new();
    let _subscription = hold.subscribe(&stream, "g", patient().concurrency(2), || Ok(())).await;
    insist(&stream, "1").await;
    next(&mut begun).await;
    server.kill();
    server.restart();
    insist(&stream, "2").await;
    assert_eq!(text(&next(&mut begun).await), "2", "it reads again, and knows that it has the first");
    hold.gate.add_permits(9);
    all_handled(&stream, "g").await;
    assert_eq!(hold.done.load(Relaxed), 2);
}

/// The handler blocks the only thread of its runtime, so that nothing of the application runs meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_blocks_its_runtime_keeps_its_message() {
    let server = Server::start();
    let hub = node(&server.url()).await;
    let stream = hub.stream("orders");
    // Long enough that a busy machine still renews in time.
    let options = quick().claim_after(Duration::from_secs(6));
    let (sender, mut begun) = unbounded_channel();
    let (block, unblock) = blocker();
    let handler = move |message: StreamMessage| {
        let (sender, block) = (sender.clone(), block.clone());
        async move {
            sender.send(message).map_err(Error::other)?;
            block();
            Ok(())
        }
    };
    let (url, own) = (server.url(), options.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let blocking = std::thread::spawn(move || {
        runtime.block_on(async {
            let hub = node(&url).await;
            let subscription = hub.stream("orders").subscribe_with("g", own, handler).await.unwrap();
            until("it to be handled", async || subscription.counts().handled == 1).await;
            subscription.counts()
        })
    });
    stream.publish("1").await.unwrap();
    next(&mut begun).await;
    let (_other, mut messages) = listen(&stream, "g", options).await;
    // Four renewals, each after a third of the time after which the other may take over: longer than that.
    let (mut renewals, mut before) = (0, 0);
    until("renewals", async || {
        let pending: Vec<(String, String, u64, u64)> = server.ask(&format!("XPENDING {KEY} g - + 10"));
        let (_, _, idle, deliveries) = &pending[0];
        assert_eq!((*deliveries, pending.len()), (1, 1));
        renewals += usize::from(*idle < before);
        before = *idle;
        renewals >= 4
    })
    .await;
    assert!(messages.try_recv().is_err(), "the other has taken over what is being handled");
    drop(unblock);
    let counts = tokio::task::spawn_blocking(|| blocking.join().unwrap()).await.unwrap();
    assert_eq!((counts.handled, counts.failed), (1, 0));
    assert!(counts.slow >= 1, "it is counted that the handler held its thread");
    all_handled(&stream, "g").await;
    assert!(messages.try_recv().is_err() && begun.try_recv().is_err());
}

/// A consumer that was given a message and is never heard of again.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_held_is_taken_over_after_the_silence() {
    let server = Server::start();
    let hub = node(&server.url()).await;
    let stream = hub.stream("orders");
    stream.publish("1").await.unwrap();
    server.ask::<()>(&format!("XGROUP CREATE {KEY} g 0"));
    server.ask::<::redis::Value>(&format!("XREADGROUP GROUP g killed STREAMS {KEY} >"));
    let (subscription, mut messages) = listen(&stream, "g", quick()).await;
    let message = next(&mut messages).await;
    assert_eq!((&*text(&message), message.deliveries), ("1", 2));
    all_handled(&stream, "g").await;
    assert_eq!((subscription.counts().claimed, subscription.counts().handled), (1, 1));
    until("it to be forgotten", async || stream.status().await.unwrap().groups[0].consumers == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_there_by_hand_is_a_dead_letter() {
    let server = Server::start();
    let hub = node(&server.url()).await;
    let stream = hub.stream("orders");
    let (_dead, mut dead) = listen(&stream.dead_letters(), "operator", quick()).await;
    let (_subscription, mut messages) = listen(&stream, "g", quick()).await;
    let _: String = server.ask(&format!("XADD {KEY} * some field"));
    let _: String = server.ask(&format!("XADD {KEY} * p good"));
    assert_eq!(text(&next(&mut messages).await), "good");
    let why = next(&mut dead).await.dead.unwrap();
    assert!(why.reason.contains("no field `p`"), "{}", why.reason);
    all_handled(&stream, "g").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_deleted_under_its_handler_is_still_handled_or_dead() {
    let server = Server::start();
    let hub = node(&server.url()).await;
    let stream = hub.stream("orders");
    let (_dead, mut dead) = listen(&stream.dead_letters(), "operator", quick()).await;
    let (hold, mut begun) = Hold::new();
    let fails = || Err(Error::other("no"));
    let subscription = hold.subscribe(&stream, "g", quick().max_deliveries(2), fails).await;
    let id = stream.publish("x").await.unwrap();
    next(&mut begun).await;
    assert_eq!(server.ask::<u64>(&format!("XDEL {KEY} {id}")), 1);
    hold.gate.add_permits(2);
    assert_eq!(next(&mut begun).await.deliveries, 2);
    let letter = next(&mut dead).await;
    assert_eq!((text(&letter), letter.dead.unwrap().id), ("x".to_owned(), id));
    assert_eq!(subscription.counts().trimmed, 1);
    all_handled(&stream, "g").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_lost_everything_is_used_anew() {
    let server = Server::start();
    let hub = node(&server.url()).await;
    let stream = hub.stream("orders");
    let (_subscription, mut messages) = listen(&stream, "g", quick()).await;
    stream.publish("1").await.unwrap();
    assert_eq!(text(&next(&mut messages).await), "1");
    let _: () = server.ask("FLUSHALL");
    insist(&stream, "2").await;
    assert_eq!(text(&next(&mut messages).await), "2");
    server.kill();
    server.restart();
    insist(&stream, "3").await;
    assert_eq!(text(&next(&mut messages).await), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_unread_leaves_no_lag_to_tell() {
    let server = Server::start();
    let hub = node(&server.url()).await;
    let stream = hub.stream("orders");
    let (hold, mut begun) = Hold::new();
    let _subscription = hold.subscribe(&stream, "g", quick(), || Ok(())).await;
    stream.publish("1").await.unwrap();
    next(&mut begun).await;
    let gone = stream.publish("2").await.unwrap();
    stream.publish("3").await.unwrap();
    assert_eq!(server.ask::<u64>(&format!("XDEL {KEY} {gone}")), 1);
    assert_eq!(unhandled(&stream, "g").await, (1, None));
    hold.gate.add_permits(9);
    assert_eq!(text(&next(&mut begun).await), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_kind_is_an_error_that_says_so() {
    let server = Server::start();
    let hub = node(&server.url()).await;
    let _: () = server.ask(&format!("SET {KEY} x"));
    let stream = hub.stream("orders");
    for error in [
        stream.publish("x").await.unwrap_err(),
        stream.status().await.unwrap_err(),
        stream.subscribe("g", async |_| Ok(())).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("WRONGTYPE"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_large_numbers_does_not_confuse_the_bound() {
    let server = Server::start();
    let hub = node(&server.url()).await;
    let stream = hub.stream("orders").max_len(2);
    let (_subscription, mut messages) = listen(&stream, "g", quick()).await;
    let id = format!("9007199254740993-{}", u64::MAX - 1);
    let _: String = server.ask(&format!("XADD {KEY} {id} p x"));
    assert_eq!(next(&mut messages).await.id.to_string(), id);
    all_handled(&stream, "g").await;
    for expected in ["1", "2", "3", "4"] {
        stream.publish(expected).await.unwrap();
        assert_eq!(text(&next(&mut messages).await), expected);
        all_handled(&stream, "g").await;
    }
}

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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_subscription_takes_over_from_itself_does_not_count() {
    let server = durable();
    let hub = node(&server.url()).await;
    let stream = hub.stream("orders");
    let (hold, mut begun) = Hold::new();
    // With a free hand, so that it goes on looking for messages.
    let options = quick().claim_after(Duration::from_secs(3)).concurrency(2);
    let _subscription = hold.subscribe(&stream, "g", options, || Ok(())).await;
    stream.publish("1").await.unwrap();
    let id = next(&mut begun).await.id;
    let pending = || {
        let pending: Vec<(String, String, u64, u64)> = server.ask(&format!("XPENDING {KEY} g - + 10"));
        let [(_, name, idle, deliveries)] = &pending[..] else { panic!("{pending:?}") };
        (name.clone(), *idle, *deliveries)
    };
    for _ in 0..3 {
        // It was silent for weeks, as one is that was suspended with its machine.
        let (name, _, deliveries) = pending();
        assert_eq!(deliveries, 1);
        server.ask::<Vec<String>>(&format!("XCLAIM {KEY} g {name} 0 {id} IDLE 2000000000 JUSTID"));
        until("it to be taken over", async || pending().1 < 1_000_000).await;
        until("the delivery not to count", async || pending().2 == 1).await;
    }
    assert!(begun.try_recv().is_err(), "it has it already");
    hold.gate.add_permits(1);
    all_handled(&stream, "g").await;
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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_shutdown_cancels_goes_to_another_at_once() {
    let server = Server::start();
    let other = node(&server.url()).await;
    let stream = other.stream("orders");
    let (sender, mut begun) = unbounded_channel();
    let (block, unblock) = blocker();
    let handler = move |message: StreamMessage| {
        let (sender, block) = (sender.clone(), block.clone());
        async move {
            let text = text(&message);
            sender.send(message).map_err(Error::other)?;
            if text == "blocks its thread" {
                block();
            }
            std::future::pending().await
        }
    };
    // A runtime of its own: the thread that blocks may be the one that looks for what the others wait for.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    let url = server.url();
    let start = runtime.spawn(async move {
        let ending = node(&url).await;
        // No silence is long enough for the other to take anything over.
        let options = patient().concurrency(2);
        ending.stream("orders").subscribe_with("g", options, handler).await.unwrap().detach();
        ending
    });
    let ending = start.await.unwrap();
    for payload in ["waits", "blocks its thread"] {
        stream.publish(payload).await.unwrap();
        next(&mut begun).await;
    }
    let (_other, mut messages) = listen(&stream, "g", patient()).await;
    timeout(PATIENCE, ending.shutdown()).await.expect("the shutdown does not end");
    let mut deliveries = HashMap::new();
    for _ in 0..2 {
        let message = next(&mut messages).await;
        deliveries.insert(text(&message), message.deliveries);
    }
    assert_eq!(deliveries, HashMap::from([("waits".to_owned(), 2), ("blocks its thread".to_owned(), 2)]));
    all_handled(&stream, "g").await;
    drop(unblock); // the other handler was blocked until now
    runtime.shutdown_background();
}

/// Redis measures silence with its wall clock. Neither a clock that is set back nor one that jumps ahead may take a message from
/// a handler, or keep one from those who take over.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_changes_nothing_for_who_holds_what() {
    let server = Server::setup(Flavour::Valkey9).own_clock().start();
    let (holder, other) = (node(&server.url()).await, node(&server.url()).await);
    // Long enough that a busy machine still renews in time.
    let options = quick().claim_after(Duration::from_secs(4));
    let stream = holder.stream("orders");
    let (hold, mut begun) = Hold::new();
    let holding = hold.subscribe(&stream, "g", options.clone(), || Ok(())).await;
    stream.publish("held").await.unwrap();
    next(&mut begun).await;
    let mut ids = Vec::new();
    for payload in ["first", "second", "third"] {
        ids.push(stream.publish(payload).await.unwrap());
        server.ask::<::redis::Value>(&format!("XREADGROUP GROUP g killed COUNT 1 STREAMS {KEY} >"));
    }
    // As its holder would.
    let renew = |id| server.ask::<Vec<String>>(&format!("XCLAIM {KEY} g killed 0 {id} JUSTID"));
    let (_other, mut messages) = listen(&other.stream("orders"), "g", options).await;
    let mut taken_over = async |kept: &[ripplecast::StreamId]| {
        let mut message = None;
        until("a message to be taken over", async || {
            kept.iter().for_each(|id| drop(renew(*id)));
            message = messages.try_recv().ok();
            message.is_some()
        })
        .await;
        text(&message.unwrap())
    };
    assert_eq!(taken_over(&ids[1..]).await, "first");
    server.set_clock(-3600);
    assert_eq!(taken_over(&ids[2..]).await, "second");
    server.set_clock(3600);
    assert_eq!(taken_over(&[]).await, "third");
    hold.gate.add_permits(1);
    all_handled(&stream, "g").await;
    assert_eq!((holding.counts().handled, holding.counts().failed), (1, 0));
    assert!(messages.try_recv().is_err() && begun.try_recv().is_err(), "a message was handled twice");
}
