//! Tests of the memory backend only: names, settings, waits by a paused clock, and the limits of this
//! process.

use super::*;

#[tokio::test]
async fn invalid_names_and_settings_are_errors() {
    let hub = Hub::builder().shards(1).build().unwrap();
    let (longest, long) = ("x".repeat(250), "x".repeat(251));
    let handler = |_| async { Ok(()) };
    assert!(hub.queue(&longest).publish("").await.is_ok());
    assert!(hub.queue(&longest).subscribe("x".repeat(255), handler).await.is_ok());
    for name in ["", &long, ".dead", ".dead.dead"] {
        assert!(hub.queue(name).publish("").await.is_err(), "{name}");
        assert!(hub.queue(name).subscribe("g", handler).await.is_err(), "{name}");
        assert!(hub.queue(name).status().await.is_err(), "{name}");
        assert!(hub.queue(name).delete().await.is_err(), "{name}");
    }
    for group in ["", &"x".repeat(256)] {
        assert!(hub.queue("a").subscribe(group, handler).await.is_err());
        assert!(hub.queue("a").remove_group(group).await.is_err());
    }
    let none = QueueOptions::new().concurrency(0);
    let error = hub.queue("a").subscribe_with("g", none, handler).await.unwrap_err().to_string();
    assert!(error.contains("concurrency"), "{error}");
    let error = hub.queue("a").max_len(0).publish("").await.unwrap_err().to_string();
    assert!(error.contains("max_len"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn waits_double_from_100_ms() {
    let hub = Hub::builder().shards(1).build().unwrap();
    let (sender, mut times) = unbounded_channel();
    let handler = move |_| {
        let sender = sender.clone();
        async move {
            let _ = sender.send(tokio::time::Instant::now());
            Err(Error::other("no"))
        }
    };
    let subscription = hub.queue("a").subscribe("g", handler).await.unwrap();
    hub.queue("a").publish("x").await.unwrap();
    let mut before = times.recv().await.unwrap();
    for wait in [100, 200, 400, 800] {
        let now = times.recv().await.unwrap();
        let (waited, wait) = (now - before, Duration::from_millis(wait));
        // A timer may be a millisecond late.
        assert!(waited >= wait / 2 && waited <= wait + Duration::from_millis(1), "{waited:?} of {wait:?}");
        before = now;
    }
    while subscription.counts().dead == 0 {
        tokio::task::yield_now().await;
    }
    assert!(times.try_recv().is_err(), "there are at most five deliveries");
}

#[tokio::test]
async fn queues_in_memory_are_bounded() {
    let hub = Hub::builder().shards(1).build().unwrap();
    for i in 0..10_000 {
        hub.queue(format!("{i}")).publish("").await.unwrap();
    }
    let error = hub.queue("one more").publish("").await.unwrap_err();
    assert!(error.is_overloaded(), "{error}");
    hub.queue("7").publish("").await.unwrap();
    assert!(hub.queue("8").delete().await.unwrap());
    hub.queue("one more").publish("").await.unwrap();
}

#[tokio::test]
async fn bytes_in_memory_are_bounded() {
    let hub = Hub::builder().shards(1).build().unwrap();
    let payload = bytes::Bytes::from(vec![0; 1 << 20]);
    for _ in 0..64 {
        hub.queue("a").publish(payload.clone()).await.unwrap();
    }
    let error = queue_error(hub.queue("a").publish("x").await);
    assert!(matches!(error, QueueError::Full { unit: "bytes", .. }), "{error}");
    let subscription = hub.queue("a").subscribe("g", async |_| Ok(())).await.unwrap();
    all_handled(&hub.queue("a"), "g").await;
    hub.queue("a").publish(payload).await.unwrap();
    subscription.unsubscribe().await;
}

#[tokio::test]
async fn a_dropped_publish_or_subscribe_does_nothing() {
    let hub = Hub::builder().shards(1).build().unwrap();
    drop(hub.queue("a").publish("x"));
    drop(hub.queue("a").subscribe("g", async |_| Ok(())));
    assert_eq!(hub.queue("a").status().await.unwrap(), QueueStatus::default());
}

#[tokio::test]
async fn a_hub_handles_nothing_after_its_shutdown() {
    let hub = Hub::builder().shards(1).build().unwrap();
    hub.shutdown().await;
    hub.queue("a").publish("x").await.unwrap();
    let (subscription, mut messages) = listen(&hub.queue("a"), "g", quick()).await;
    assert!(timeout(PATIENCE, messages.recv()).await.expect("the handler was not dropped").is_none());
    subscription.unsubscribe().await;
    assert_eq!(unhandled(&hub.queue("a"), "g").await, (0, Some(1)));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_outlasts_a_shutdown_is_cancelled() {
    let hub = Hub::builder().shards(1).build().unwrap();
    let (queue, (hold, mut begun)) = (hub.queue("a"), Hold::new());
    hold.subscribe(&queue, "g", quick(), || Ok(())).await.detach();
    queue.publish("x").await.unwrap();
    next(&mut begun).await;
    let began = tokio::time::Instant::now();
    hub.shutdown().await;
    assert!(began.elapsed() >= Duration::from_secs(5), "the handler had its 5 s");
    drop(hold);
    assert!(timeout(PATIENCE, begun.recv()).await.expect("the handler's future was not dropped").is_none());
    let status = queue.status().await.unwrap();
    assert_eq!((status.groups[0].pending, status.groups[0].consumers), (1, 0), "the message is kept");
}
