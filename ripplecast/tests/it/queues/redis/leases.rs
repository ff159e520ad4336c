//! Ownership of messages: leases, silence, and the server's clock.

use super::*;

/// Returns a function that blocks its thread until the sender is dropped.
fn blocker() -> (impl Fn() + Clone, std::sync::mpsc::Sender<()>) {
    let (unblock, blocked) = std::sync::mpsc::channel();
    let blocked = Arc::new(Mutex::new(blocked));
    let block = move || {
        let _ = blocked.lock().unwrap().recv();
    };
    (block, unblock)
}

/// The handler blocks the only thread of its runtime, so that nothing else in the application runs meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_blocks_its_runtime_keeps_its_message() {
    let server = Server::start();
    let hub = node(&server.url()).await;
    let queue = hub.queue("orders");
    // Long enough for a busy machine to renew in time.
    let options = quick().claim_after(Duration::from_secs(6));
    let (sender, mut begun) = unbounded_channel();
    let (block, unblock) = blocker();
    let handler = move |message: QueueMessage| {
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
            let subscription = hub.queue("orders").subscribe_with("g", own, handler).await.unwrap();
            until("the message to be handled", async || subscription.counts().handled == 1).await;
            subscription.counts()
        })
    });
    queue.publish("1").await.unwrap();
    next(&mut begun).await;
    let (_other, mut messages) = listen(&queue, "g", options).await;
    // Four renewals, at intervals of a third of `claim_after`, exceed the time after which the other may take
    // over.
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
    assert!(messages.try_recv().is_err(), "the other subscription took over a message that is being handled");
    drop(unblock);
    let counts = tokio::task::spawn_blocking(|| blocking.join().unwrap()).await.unwrap();
    assert_eq!((counts.handled, counts.failed), (1, 0));
    assert!(counts.slow >= 1, "a handler that blocks its thread is counted");
    all_handled(&queue, "g").await;
    assert!(messages.try_recv().is_err() && begun.try_recv().is_err());
}

/// A consumer that received a message and disappeared.
#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_killed_process_are_taken_over_after_the_silence() {
    let server = Server::start();
    let hub = node(&server.url()).await;
    let queue = hub.queue("orders");
    queue.publish("1").await.unwrap();
    server.ask::<()>(&format!("XGROUP CREATE {KEY} g 0"));
    server.ask::<::redis::Value>(&format!("XREADGROUP GROUP g killed STREAMS {KEY} >"));
    let (subscription, mut messages) = listen(&queue, "g", quick()).await;
    let message = next(&mut messages).await;
    assert_eq!((&*text(&message), message.deliveries), ("1", 2));
    all_handled(&queue, "g").await;
    assert_eq!((subscription.counts().claimed, subscription.counts().handled), (1, 1));
    until("the dead consumer to be removed", async || queue.status().await.unwrap().groups[0].consumers == 1)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_from_itself_does_not_count() {
    let server = durable();
    let hub = node(&server.url()).await;
    let queue = hub.queue("orders");
    let (hold, mut begun) = Hold::new();
    // With a free handler, so that it continues to look for messages.
    let options = quick().claim_after(Duration::from_secs(3)).concurrency(2);
    let _subscription = hold.subscribe(&queue, "g", options, || Ok(())).await;
    queue.publish("1").await.unwrap();
    let id = next(&mut begun).await.id;
    let pending = || {
        let pending: Vec<(String, String, u64, u64)> = server.ask(&format!("XPENDING {KEY} g - + 10"));
        let [(_, name, idle, deliveries)] = &pending[..] else { panic!("{pending:?}") };
        (name.clone(), *idle, *deliveries)
    };
    for _ in 0..3 {
        // It was silent for weeks, like a suspended machine.
        let (name, _, deliveries) = pending();
        assert_eq!(deliveries, 1);
        server.ask::<Vec<String>>(&format!("XCLAIM {KEY} g {name} 0 {id} IDLE 2000000000 JUSTID"));
        until("the message to be taken over", async || pending().1 < 1_000_000).await;
        until("the delivery not to be counted", async || pending().2 == 1).await;
    }
    assert!(begun.try_recv().is_err(), "the subscription already has the message");
    hold.gate.add_permits(1);
    all_handled(&queue, "g").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_cancelled_by_a_shutdown_go_to_another_at_once() {
    let server = Server::start();
    let other = node(&server.url()).await;
    let queue = other.queue("orders");
    let (sender, mut begun) = unbounded_channel();
    let (block, unblock) = blocker();
    let handler = move |message: QueueMessage| {
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
    // A separate runtime, because the blocked thread may be the one that polls for the others.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    let url = server.url();
    let start = runtime.spawn(async move {
        let ending = node(&url).await;
        // No silence lasts long enough for the other to take anything over.
        let options = patient().concurrency(2);
        ending.queue("orders").subscribe_with("g", options, handler).await.unwrap().detach();
        ending
    });
    let ending = start.await.unwrap();
    for payload in ["waits", "blocks its thread"] {
        queue.publish(payload).await.unwrap();
        next(&mut begun).await;
    }
    let (_other, mut messages) = listen(&queue, "g", patient()).await;
    timeout(PATIENCE, ending.shutdown()).await.expect("the shutdown timed out");
    let mut deliveries = HashMap::new();
    for _ in 0..2 {
        let message = next(&mut messages).await;
        deliveries.insert(text(&message), message.deliveries);
    }
    assert_eq!(deliveries, HashMap::from([("waits".to_owned(), 2), ("blocks its thread".to_owned(), 2)]));
    all_handled(&queue, "g").await;
    drop(unblock); // the other handler was blocked until now
    runtime.shutdown_background();
}

/// Redis measures silence with its wall clock. A clock that is set back or jumps ahead must neither take a
/// message from a handler nor keep one from those who take over.
#[tokio::test(flavor = "multi_thread")]
async fn setting_the_clock_does_not_change_who_holds_a_message() {
    let server = Server::setup(Flavour::Valkey9).own_clock().start();
    let (holder, other) = (node(&server.url()).await, node(&server.url()).await);
    // Long enough for a busy machine to renew in time.
    let options = quick().claim_after(Duration::from_secs(4));
    let queue = holder.queue("orders");
    let (hold, mut begun) = Hold::new();
    let holding = hold.subscribe(&queue, "g", options.clone(), || Ok(())).await;
    queue.publish("held").await.unwrap();
    next(&mut begun).await;
    let mut ids = Vec::new();
    for payload in ["first", "second", "third"] {
        ids.push(queue.publish(payload).await.unwrap());
        server.ask::<::redis::Value>(&format!("XREADGROUP GROUP g killed COUNT 1 STREAMS {KEY} >"));
    }
    // As the holder would.
    let renew = |id| server.ask::<Vec<String>>(&format!("XCLAIM {KEY} g killed 0 {id} JUSTID"));
    let (_other, mut messages) = listen(&other.queue("orders"), "g", options).await;
    let mut taken_over = async |kept: &[ripplecast::queue::MessageId]| {
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
    all_handled(&queue, "g").await;
    assert_eq!((holding.counts().handled, holding.counts().failed), (1, 0));
    assert!(messages.try_recv().is_err() && begun.try_recv().is_err(), "a message was handled twice");
}
