//! Tests of the memory backend only: names, settings, waits by a paused clock, and the limits of this
//! process.

use super::*;

#[tokio::test]
async fn invalid_names_and_settings_are_errors() {
    let hub = Hub::builder().shards(1).build().unwrap();
    let (longest, long) = ("x".repeat(250), "x".repeat(251));
    let handler = |_| async { Ok(()) };
    assert!(hub.publish_reliable(&longest, "").await.is_ok());
    assert!(hub.subscribe_reliable(&longest, "x".repeat(255), handler).await.is_ok());
    for name in ["", &long, ".dead", ".dead.dead"] {
        assert!(hub.publish_reliable(name, "").await.is_err(), "{name}");
        assert!(hub.subscribe_reliable(name, "g", handler).await.is_err(), "{name}");
        assert!(hub.stream(name).status().await.is_err(), "{name}");
        assert!(hub.stream(name).delete().await.is_err(), "{name}");
    }
    for group in ["", &"x".repeat(256)] {
        assert!(hub.subscribe_reliable("a", group, handler).await.is_err());
        assert!(hub.stream("a").remove_group(group).await.is_err());
    }
    let none = ReliableOptions::new().concurrency(0);
    let error = hub.stream("a").subscribe_with("g", none, handler).await.unwrap_err().to_string();
    assert!(error.contains("concurrency"), "{error}");
    let error = hub.stream("a").max_len(0).publish("").await.unwrap_err().to_string();
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
    let subscription = hub.subscribe_reliable("a", "g", handler).await.unwrap();
    hub.publish_reliable("a", "x").await.unwrap();
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
async fn streams_in_memory_are_bounded() {
    let hub = Hub::builder().shards(1).build().unwrap();
    for i in 0..10_000 {
        hub.publish_reliable(format!("{i}"), "").await.unwrap();
    }
    let error = hub.publish_reliable("one more", "").await.unwrap_err();
    assert!(error.is_overloaded(), "{error}");
    hub.publish_reliable("7", "").await.unwrap();
    assert!(hub.stream("8").delete().await.unwrap());
    hub.publish_reliable("one more", "").await.unwrap();
}

#[tokio::test]
async fn bytes_in_memory_are_bounded() {
    let hub = Hub::builder().shards(1).build().unwrap();
    let payload = bytes::Bytes::from(vec![0; 1 << 20]);
    for _ in 0..64 {
        hub.publish_reliable("a", payload.clone()).await.unwrap();
    }
    let error = stream_error(hub.publish_reliable("a", "x").await);
    assert!(matches!(error, StreamError::Full { unit: "bytes", .. }), "{error}");
    let subscription = hub.subscribe_reliable("a", "g", async |_| Ok(())).await.unwrap();
    all_handled(&hub.stream("a"), "g").await;
    hub.publish_reliable("a", payload).await.unwrap();
    subscription.unsubscribe().await;
}

#[tokio::test]
async fn a_dropped_publish_or_subscribe_does_nothing() {
    let hub = Hub::builder().shards(1).build().unwrap();
    drop(hub.publish_reliable("a", "x"));
    drop(hub.subscribe_reliable("a", "g", async |_| Ok(())));
    assert_eq!(hub.stream("a").status().await.unwrap(), StreamStatus::default());
}

#[tokio::test]
async fn a_hub_handles_nothing_after_its_shutdown() {
    let hub = Hub::builder().shards(1).build().unwrap();
    hub.shutdown().await;
    hub.publish_reliable("a", "x").await.unwrap();
    let (subscription, mut messages) = listen(&hub.stream("a"), "g", quick()).await;
    assert!(timeout(PATIENCE, messages.recv()).await.expect("the handler was not dropped").is_none());
    subscription.unsubscribe().await;
    assert_eq!(unhandled(&hub.stream("a"), "g").await, (0, Some(1)));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_outlasts_a_shutdown_is_cancelled() {
    let hub = Hub::builder().shards(1).build().unwrap();
    let (stream, (hold, mut begun)) = (hub.stream("a"), Hold::new());
    hold.subscribe(&stream, "g", quick(), || Ok(())).await.detach();
    stream.publish("x").await.unwrap();
    next(&mut begun).await;
    let began = tokio::time::Instant::now();
    hub.shutdown().await;
    assert!(began.elapsed() >= Duration::from_secs(5), "the handler had its 5 s");
    drop(hold);
    assert!(timeout(PATIENCE, begun.recv()).await.expect("the handler's future was not dropped").is_none());
    let status = stream.status().await.unwrap();
    assert_eq!((status.groups[0].pending, status.groups[0].consumers), (1, 0), "the message is kept");
}
