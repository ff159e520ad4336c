//! Tests of every backend.

use std::{
    collections::{BTreeMap, HashSet},
    sync::atomic::AtomicU32,
};

use super::*;

/// Declares the suite on each backend.
macro_rules! on_each_backend {
    (@ $backend:ident, $ground:expr, $($test:ident)*) => {
        mod $backend {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(&$ground).await;
                }
            )*
        }
    };
    ($($test:ident)*) => {
        on_each_backend!(@ memory, Ground::memory(), $($test)*);
        on_each_backend!(@ redis, Ground::redis(Flavour::Redis), $($test)*);
        on_each_backend!(@ valkey_8, Ground::redis(Flavour::Valkey8), $($test)*);
        on_each_backend!(@ valkey_9, Ground::redis(Flavour::Valkey9), $($test)*);
        on_each_backend!(@ cluster, Ground::cluster(), $($test)*);
    };
}

on_each_backend! {
    messages_arrive_in_order
    a_payload_may_be_any_bytes
    a_new_group_starts_with_the_oldest_message
    a_failed_message_is_redelivered_in_order
    a_panic_is_a_failure
    an_unhandled_message_becomes_a_dead_letter_with_its_reason
    dead_letters_have_dead_letters
    members_of_a_group_share_messages
    each_group_receives_every_message
    as_many_handlers_run_as_allowed
    released_messages_go_to_another_subscription
    messages_of_an_ended_runtime_go_to_another_at_once
    a_message_that_kills_every_process_becomes_a_dead_letter
    a_full_queue_refuses_until_its_messages_are_handled
    a_queue_without_a_group_fills_up
    a_removed_group_does_not_hold_up_publishers
    a_deleted_queue_starts_again
    the_status_shows_the_progress_of_groups
    unsubscribing_waits_for_the_handler
    a_handler_may_end_its_own_subscription
    a_detached_subscription_continues
    a_shutdown_waits_for_handlers_and_acknowledges
    many_handlers_handle_many_messages
}

async fn messages_arrive_in_order(ground: &Ground) {
    let queue = ground.queue().await;
    let mut ids = Vec::new();
    for i in 0..20 {
        ids.push(queue.publish(format!("{i}")).await.unwrap());
    }
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    let (subscription, mut messages) = listen(&queue, "g", quick()).await;
    for i in 20..40 {
        ids.push(queue.publish(format!("{i}")).await.unwrap());
    }
    for (i, id) in ids.iter().enumerate() {
        let message = next(&mut messages).await;
        assert_eq!((text(&message), message.id, message.deliveries), (i.to_string(), *id, 1));
        assert_eq!((&*message.queue, message.dead), ("orders", None));
    }
    all_handled(&queue, "g").await;
    assert_eq!(subscription.counts().handled, 40);
    assert_eq!(queue.status().await.unwrap().published, 40);
}

async fn a_payload_may_be_any_bytes(ground: &Ground) {
    let queue = ground.queue().await;
    let payloads = [vec![], (0..=255).collect(), b"\r\n".to_vec(), vec![7; 1 << 20]];
    for payload in &payloads {
        queue.publish(payload.clone()).await.unwrap();
    }
    let error = queue_error(queue.publish(vec![0; (1 << 20) + 1]).await);
    assert!(matches!(error, QueueError::PayloadTooLong { len: 1_048_577, .. }), "{error}");
    let (_subscription, mut messages) = listen(&queue, "g", quick()).await;
    for payload in &payloads {
        assert_eq!(&next(&mut messages).await.payload, payload);
    }
}

async fn a_new_group_starts_with_the_oldest_message(ground: &Ground) {
    let queue = ground.queue().await;
    queue.publish("1").await.unwrap();
    let (_early, mut early) = listen(&queue, "early", quick()).await;
    assert_eq!(text(&next(&mut early).await), "1");
    queue.publish("2").await.unwrap();
    assert_eq!(text(&next(&mut early).await), "2");
    let (_late, mut late) = listen(&queue, "late", quick()).await;
    assert_eq!(text(&next(&mut late).await), "1");
    assert_eq!(text(&next(&mut late).await), "2");
}

async fn a_failed_message_is_redelivered_in_order(ground: &Ground) {
    let queue = ground.queue().await;
    let (subscription, mut messages) = answer(&queue, "g", quick(), |message| {
        if text(message) == "bad" && message.deliveries < 4 { Err(Error::other("not yet")) } else { Ok(()) }
    })
    .await;
    for payload in ["good", "bad", "behind"] {
        queue.publish(payload).await.unwrap();
    }
    for expected in [("good", 1), ("bad", 1), ("bad", 2), ("bad", 3), ("bad", 4), ("behind", 1)] {
        let message = next(&mut messages).await;
        assert_eq!((&*text(&message), message.deliveries), expected);
    }
    all_handled(&queue, "g").await;
    let counts = subscription.counts();
    assert_eq!((counts.handled, counts.failed, counts.dead), (3, 3, 0));
    assert_eq!(queue.status().await.unwrap().dead, 0);
}

async fn a_panic_is_a_failure(ground: &Ground) {
    let queue = ground.queue().await;
    let (sender, mut deliveries) = unbounded_channel();
    let handler = move |message: QueueMessage| {
        let _ = sender.send(message.deliveries);
        assert!(message.deliveries != 1, "the handler panics before it returns its future");
        async move {
            tokio::task::yield_now().await;
            assert!(message.deliveries != 2, "its future panics");
            Ok(())
        }
    };
    let subscription = queue.subscribe_with("g", quick(), handler).await.unwrap();
    queue.publish("x").await.unwrap();
    for expected in 1..=3 {
        assert_eq!(next(&mut deliveries).await, expected);
    }
    all_handled(&queue, "g").await;
    assert_eq!((subscription.counts().failed, subscription.counts().handled), (2, 1));
}

async fn an_unhandled_message_becomes_a_dead_letter_with_its_reason(ground: &Ground) {
    let queue = ground.queue().await;
    let (_dead, mut dead) = listen(&queue.dead_letters(), "operator", quick()).await;
    let (subscription, mut messages) = answer(&queue, "bills", quick().max_deliveries(3), |message| {
        if message.payload.starts_with(b"\xff") { Err(Error::other("no paper")) } else { Ok(()) }
    })
    .await;
    let id = queue.publish(&b"\xff\x00bad"[..]).await.unwrap();
    queue.publish("good").await.unwrap();
    for expected in 1..=3 {
        assert_eq!(next(&mut messages).await.deliveries, expected);
    }
    assert_eq!(text(&next(&mut messages).await), "good");
    let letter = next(&mut dead).await;
    assert_eq!((&letter.payload[..], &*letter.queue), (&b"\xff\x00bad"[..], "orders.dead"));
    let why = letter.dead.expect("a dead letter has a reason");
    assert_eq!((why.id, &*why.group, &*why.reason, why.deliveries), (id, "bills", "no paper", 3));
    all_handled(&queue, "bills").await;
    assert_eq!(queue.status().await.unwrap().dead, 1);
    until("the dead letter to be counted", async || subscription.counts().dead == 1).await;
    assert_eq!(subscription.counts().handled, 1);
    let error = queue_error(queue.dead_letters().publish("by hand").await);
    assert!(matches!(error, QueueError::DeadLetters { .. }), "{error}");
}

async fn dead_letters_have_dead_letters(ground: &Ground) {
    let queue = ground.queue().await;
    let once = quick().max_deliveries(1);
    let fails = |_: &QueueMessage| Err(Error::other("x".repeat(5000)));
    let (_first, _a) = answer(&queue, "g", once.clone(), fails).await;
    let (_second, _b) = answer(&queue.dead_letters(), "h", once.clone(), fails).await;
    let (_third, mut last) = listen(&queue.dead_letters().dead_letters(), "i", once).await;
    queue.publish("x").await.unwrap();
    let letter = next(&mut last).await;
    let why = letter.dead.expect("a dead letter has a reason");
    assert_eq!((&*letter.queue, &*why.group), ("orders.dead.dead", "h"));
    assert_eq!(why.reason, "x".repeat(1024), "the reason is shortened");
}

async fn members_of_a_group_share_messages(ground: &Ground) {
    let (one, two) = (ground.queue().await, ground.queue().await);
    let (sender, mut handled) = unbounded_channel();
    let mut subscriptions = Vec::new();
    for (number, queue) in [&one, &one, &two].into_iter().enumerate() {
        let sender = sender.clone();
        let handler = move |message: QueueMessage| {
            let sender = sender.clone();
            async move { sender.send((number, text(&message), message.deliveries)).map_err(Error::other) }
        };
        subscriptions.push(queue.subscribe_with("g", patient(), handler).await.unwrap());
    }
    for i in 0..300 {
        one.publish(i.to_string()).await.unwrap();
    }
    let mut seen = HashSet::new();
    while seen.len() < 300 {
        let (_, message, deliveries) = next(&mut handled).await;
        assert_eq!(deliveries, 1);
        assert!(seen.insert(message.clone()), "{message} was handled twice");
    }
    all_handled(&one, "g").await;
    assert!(handled.try_recv().is_err());
    let counts: Vec<_> = subscriptions.iter().map(|subscription| subscription.counts().handled).collect();
    assert_eq!(counts.iter().sum::<u64>(), 300);
    assert!(counts.iter().all(|&count| count > 0), "one subscription received nothing: {counts:?}");
}

async fn each_group_receives_every_message(ground: &Ground) {
    let queue = ground.queue().await;
    let (_a, mut a) = listen(&queue, "a", quick()).await;
    let (_b, mut b) = listen(&queue, "b", quick()).await;
    for i in 0..50 {
        queue.publish(i.to_string()).await.unwrap();
    }
    for i in 0..50 {
        assert_eq!(text(&next(&mut a).await), i.to_string());
        assert_eq!(text(&next(&mut b).await), i.to_string());
    }
}

async fn as_many_handlers_run_as_allowed(ground: &Ground) {
    let queue = ground.queue().await;
    for i in 0..10 {
        queue.publish(i.to_string()).await.unwrap();
    }
    let (hold, mut begun) = Hold::new();
    let _subscription = hold.subscribe(&queue, "g", quick().concurrency(3), || Ok(())).await;
    for _ in 0..3 {
        next(&mut begun).await;
    }
    assert_eq!(
        unhandled(&queue, "g").await,
        (3, Some(7)),
        "only as many messages are taken as handlers are free"
    );
    for _ in 3..10 {
        hold.gate.add_permits(1);
        next(&mut begun).await;
        assert!(hold.running.load(Relaxed) <= 3);
    }
    hold.gate.add_permits(3);
    all_handled(&queue, "g").await;
    assert_eq!(hold.done.load(Relaxed), 10);
}

async fn released_messages_go_to_another_subscription(ground: &Ground) {
    let queue = ground.queue().await;
    let (hold, mut begun) = Hold::new();
    let slow = quick().backoff(Duration::from_secs(3600), Duration::from_secs(3600)).concurrency(2);
    let first = hold.subscribe(&queue, "g", slow, || Err(Error::other("no"))).await;
    queue.publish("waits to be tried again").await.unwrap();
    let waiting = next(&mut begun).await;
    hold.gate.add_permits(1);
    until("the first to fail", async || first.counts().failed == 1).await;
    queue.publish("its handler runs").await.unwrap();
    let running = next(&mut begun).await;
    drop(first);
    // Waiting messages are released at once; a running handler may finish.
    let (_second, mut messages) = listen(&ground.queue().await, "g", quick()).await;
    let message = next(&mut messages).await;
    assert_eq!((message.id, message.deliveries), (waiting.id, 2));
    assert_eq!(hold.done.load(Relaxed), 1, "a running handler finishes");
    hold.gate.add_permits(1);
    let message = next(&mut messages).await;
    assert_eq!((message.id, message.deliveries), (running.id, 2));
    all_handled(&queue, "g").await;
}

/// Runs a subscription with one message in a runtime that then ends, as after a panic.
async fn dies_with_a_message(ground: &Ground, options: QueueOptions) -> QueueMessage {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (hold, mut begun) = Hold::new();
    let mine = hold.clone();
    let start = async {
        let node = ground.own_node().await;
        let subscription = mine.subscribe(&node.queue("orders"), "g", options, || Ok(())).await;
        (subscription, node)
    };
    let died = std::thread::scope(|scope| scope.spawn(|| runtime.block_on(start)).join().unwrap());
    let message = next(&mut begun).await;
    std::thread::spawn(move || drop(runtime)).join().unwrap();
    drop(died);
    assert_eq!(hold.done.load(Relaxed), 0);
    message
}

async fn messages_of_an_ended_runtime_go_to_another_at_once(ground: &Ground) {
    let queue = ground.queue().await;
    let first = queue.publish("1").await.unwrap();
    queue.publish("2").await.unwrap();
    // No silence lasts long enough for the other to take anything over, so the message was released.
    let lost = dies_with_a_message(ground, patient()).await;
    assert_eq!(lost.id, first);
    let (subscription, mut messages) = listen(&queue, "g", patient()).await;
    let mut deliveries = BTreeMap::new();
    for _ in 0..2 {
        let message = next(&mut messages).await;
        deliveries.insert(text(&message), message.deliveries);
    }
    assert_eq!(deliveries, BTreeMap::from([("1".to_owned(), 2), ("2".to_owned(), 1)]));
    all_handled(&queue, "g").await;
    assert_eq!((subscription.counts().claimed, subscription.counts().handled), (1, 2));
    until("the old consumer to be removed", async || queue.status().await.unwrap().groups[0].consumers == 1)
        .await;
}

async fn a_message_that_kills_every_process_becomes_a_dead_letter(ground: &Ground) {
    let queue = ground.queue().await;
    let (_dead, mut dead) = listen(&queue.dead_letters(), "operator", quick()).await;
    queue.publish("poison").await.unwrap();
    for deliveries in 1..=2 {
        let message = dies_with_a_message(ground, quick().max_deliveries(2)).await;
        assert_eq!(message.deliveries, deliveries);
    }
    let (subscription, mut messages) = listen(&queue, "g", quick().max_deliveries(2)).await;
    let letter = next(&mut dead).await;
    assert!(letter.dead.unwrap().reason.contains("delivered 2 times"));
    assert!(messages.try_recv().is_err(), "no handler receives it again");
    until("the dead letter to be counted", async || subscription.counts().dead == 1).await;
}

async fn a_full_queue_refuses_until_its_messages_are_handled(ground: &Ground) {
    let queue = ground.queue().await.max_len(10);
    let (hold, mut begun) = Hold::new();
    let _slow = hold.subscribe(&queue, "slow", quick(), || Ok(())).await;
    let (_quick, mut messages) = listen(&queue, "quick", quick()).await;
    for i in 0..10 {
        queue.publish(i.to_string()).await.unwrap();
        next(&mut messages).await;
    }
    next(&mut begun).await;
    all_handled(&queue, "quick").await;
    for _ in 0..3 {
        let result = queue.publish("too much").await;
        assert!(result.as_ref().is_err_and(Error::is_overloaded));
        let error = queue_error(result);
        let QueueError::Full { queue, limit, unit, group } = &error else { panic!("{error}") };
        assert_eq!((&**queue, *limit, *unit, group.as_deref()), ("orders", 10, "messages", Some("slow")));
    }
    assert_eq!(queue.status().await.unwrap().length, 10, "nothing was dropped");
    hold.gate.add_permits(1);
    next(&mut begun).await; // the first is handled, and the second has started
    queue.publish("10").await.unwrap();
    assert!(queue.publish("too much again").await.is_err());
    hold.gate.add_permits(100);
    for i in 11..60 {
        until("space", async || queue.publish(i.to_string()).await.is_ok()).await;
        assert!(queue.status().await.unwrap().length <= 10);
    }
    for i in 10..60 {
        assert_eq!(text(&next(&mut messages).await), i.to_string());
    }
    for i in 2..60 {
        assert_eq!(text(&next(&mut begun).await), i.to_string(), "each group handles each message");
    }
}

async fn a_queue_without_a_group_fills_up(ground: &Ground) {
    let queue = ground.queue().await.max_len(2);
    queue.publish("1").await.unwrap();
    queue.publish("2").await.unwrap();
    let error = queue_error(queue.publish("3").await);
    assert!(matches!(error, QueueError::Full { group: None, .. }), "{error}");
    assert!(error.to_string().contains("no group"), "{error}");
    let (_subscription, mut messages) = listen(&queue, "g", quick()).await;
    assert_eq!(text(&next(&mut messages).await), "1");
    assert_eq!(text(&next(&mut messages).await), "2");
    all_handled(&queue, "g").await;
    queue.publish("3").await.unwrap();
    assert_eq!(text(&next(&mut messages).await), "3");
}

async fn a_removed_group_does_not_hold_up_publishers(ground: &Ground) {
    let queue = ground.queue().await.max_len(3);
    let (_quick, mut messages) = listen(&queue, "quick", quick()).await;
    let (gone, _nothing) = listen(&queue, "gone", quick()).await;
    gone.unsubscribe().await;
    for i in 0..3 {
        queue.publish(i.to_string()).await.unwrap();
        next(&mut messages).await;
    }
    all_handled(&queue, "quick").await;
    assert!(queue.publish("3").await.is_err());
    assert!(queue.remove_group("gone").await.unwrap());
    assert!(!queue.remove_group("gone").await.unwrap());
    queue.publish("3").await.unwrap();
    assert_eq!(text(&next(&mut messages).await), "3");
    assert!(!ground.node().await.queue("never used").remove_group("gone").await.unwrap());
}

async fn a_deleted_queue_starts_again(ground: &Ground) {
    let queue = ground.queue().await;
    assert!(!queue.delete().await.unwrap());
    let old = queue.publish("old").await.unwrap();
    assert!(queue.delete().await.unwrap());
    assert_eq!(queue.status().await.unwrap().length, 0);
    let new = queue.publish("new").await.unwrap();
    assert!(new > old || new.millis() >= old.millis());
    let (_subscription, mut messages) = listen(&queue, "g", quick()).await;
    assert_eq!(text(&next(&mut messages).await), "new");
    all_handled(&queue, "g").await;
    // Even with a subscription, which creates its group again.
    assert!(queue.delete().await.unwrap());
    queue.publish("newer").await.unwrap();
    assert_eq!(text(&next(&mut messages).await), "newer");
}

async fn the_status_shows_the_progress_of_groups(ground: &Ground) {
    let queue = ground.queue().await;
    assert_eq!(queue.status().await.unwrap(), QueueStatus::default());
    let mut last = None;
    for i in 0..5 {
        last = Some(queue.publish(i.to_string()).await.unwrap());
    }
    let (hold, mut begun) = Hold::new();
    let _slow = hold.subscribe(&queue, "slow", quick(), || Ok(())).await;
    let held = next(&mut begun).await;
    let (_quick, _messages) = listen(&ground.queue().await, "quick", quick()).await;
    all_handled(&queue, "quick").await;
    let status = queue.status().await.unwrap();
    assert_eq!((status.length, status.published, Some(status.last), status.dead), (5, 5, last, 0));
    let groups: Vec<_> =
        status.groups.iter().map(|g| (&*g.name, g.pending, g.lag, g.delivered, g.consumers)).collect();
    assert_eq!(groups, [("quick", 0, Some(0), status.last, 1), ("slow", 1, Some(4), held.id, 1)]);
}

async fn unsubscribing_waits_for_the_handler(ground: &Ground) {
    let queue = ground.queue().await;
    let (hold, mut begun) = Hold::new();
    let subscription = hold.subscribe(&queue, "g", quick(), || Ok(())).await;
    queue.publish("1").await.unwrap();
    queue.publish("2").await.unwrap();
    next(&mut begun).await;
    let mut ending = std::pin::pin!(subscription.unsubscribe());
    assert!(timeout(Duration::from_millis(1), &mut ending).await.is_err());
    hold.gate.add_permits(9);
    timeout(PATIENCE, ending).await.expect("unsubscribe timed out");
    assert_eq!(hold.done.load(Relaxed), 1);
    assert_eq!(
        unhandled(&queue, "g").await,
        (0, Some(1)),
        "the message was acknowledged, and no other was taken"
    );
    assert_eq!(queue.status().await.unwrap().groups[0].consumers, 0);
    let (_next, mut messages) = listen(&queue, "g", quick()).await;
    assert_eq!(text(&next(&mut messages).await), "2");
}

async fn a_handler_may_end_its_own_subscription(ground: &Ground) {
    let queue = ground.queue().await;
    let own = Arc::new(Mutex::new(None::<QueueSubscription>));
    let (slot, (sender, mut ended)) = (Arc::clone(&own), unbounded_channel());
    let handler = move |message: QueueMessage| {
        let (slot, sender) = (Arc::clone(&slot), sender.clone());
        async move {
            let subscription = loop {
                match slot.lock().unwrap().take() {
                    Some(subscription) => break subscription,
                    None => std::thread::yield_now(),
                }
            };
            subscription.unsubscribe().await;
            sender.send(text(&message)).map_err(Error::other)
        }
    };
    let subscription = queue.subscribe_with("g", quick(), handler).await.unwrap();
    *own.lock().unwrap() = Some(subscription);
    queue.publish("1").await.unwrap();
    assert_eq!(next(&mut ended).await, "1");
    assert!(timeout(PATIENCE, ended.recv()).await.expect("the handler was not dropped").is_none());
    all_handled(&queue, "g").await;
}

async fn a_detached_subscription_continues(ground: &Ground) {
    let node = ground.node().await;
    let queue = node.queue("orders");
    let (subscription, mut messages) = listen(&queue, "g", quick()).await;
    subscription.detach();
    queue.publish("1").await.unwrap();
    assert_eq!(text(&next(&mut messages).await), "1");
    drop(queue);
    node.shutdown().await;
    assert!(timeout(PATIENCE, messages.recv()).await.expect("the handler was not dropped").is_none());
}

async fn a_shutdown_waits_for_handlers_and_acknowledges(ground: &Ground) {
    let node = ground.node().await;
    let queue = node.queue("orders");
    let (hold, mut begun) = Hold::new();
    hold.subscribe(&queue, "g", quick(), || Ok(())).await.detach();
    queue.publish("1").await.unwrap();
    next(&mut begun).await;
    let mut ending = std::pin::pin!(node.shutdown());
    assert!(timeout(Duration::from_millis(1), &mut ending).await.is_err());
    hold.gate.add_permits(1);
    timeout(PATIENCE, ending).await.expect("the shutdown timed out");
    assert_eq!(hold.done.load(Relaxed), 1);
    let after = ground.queue().await;
    assert_eq!(unhandled(&after, "g").await, (0, Some(0)));
}

async fn many_handlers_handle_many_messages(ground: &Ground) {
    const MESSAGES: u32 = 1000;
    let nodes = [ground.queue().await, ground.queue().await];
    let counts: Arc<Vec<AtomicU32>> = Arc::new((0..MESSAGES).map(|_| AtomicU32::new(0)).collect());
    let mut subscriptions = Vec::new();
    for queue in &nodes {
        let counts = Arc::clone(&counts);
        let handler = move |message: QueueMessage| {
            let counts = Arc::clone(&counts);
            async move {
                let number: usize = text(&message).parse().unwrap();
                // Every seventh message fails at first.
                if number.is_multiple_of(7) && message.deliveries == 1 {
                    return Err(Error::other("not yet"));
                }
                counts[number].fetch_add(1, Relaxed);
                Ok(())
            }
        };
        subscriptions.push(queue.subscribe_with("g", patient().concurrency(8), handler).await.unwrap());
    }
    let publishers: Vec<_> = (0..4)
        .map(|publisher| {
            let queue = nodes[publisher % 2].clone();
            tokio::spawn(async move {
                for number in (publisher as u32..MESSAGES).step_by(4) {
                    queue.publish(number.to_string()).await.unwrap();
                }
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    all_handled(&nodes[0], "g").await;
    for (number, count) in counts.iter().enumerate() {
        assert_eq!(count.load(Relaxed), 1, "message {number}");
    }
    let failed: u64 = subscriptions.iter().map(|subscription| subscription.counts().failed).sum();
    assert_eq!(failed, u64::from(MESSAGES.div_ceil(7)));
}
