//! Publish and subscribe. No test waits for time to pass: handlers report over channels or are held by a
//! semaphore.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use ripplecast::{
    Hub, Result,
    bus::{BusMessage, BusOptions, Subscription},
};
use tokio::sync::{
    Semaphore,
    mpsc::{UnboundedReceiver, unbounded_channel},
};

use crate::clients::PATIENCE;

/// Subscribes and forwards the messages to a receiver.
async fn listen(hub: &Hub, pattern: &str) -> (Subscription, UnboundedReceiver<BusMessage>) {
    let (sender, receiver) = unbounded_channel();
    let handler = move |message| {
        let sender = sender.clone();
        async move { drop(sender.send(message)) }
    };
    (hub.bus().subscribe(pattern, handler).await.unwrap(), receiver)
}

/// Subscribes with a handler that waits for a permit for each message. The receiver gets each message when
/// its handler starts.
async fn listen_held(
    hub: &Hub,
    pattern: &str,
) -> (Subscription, UnboundedReceiver<BusMessage>, Arc<Semaphore>, Arc<AtomicUsize>) {
    let (sender, receiver) = unbounded_channel();
    let (gate, done) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (held, count) = (Arc::clone(&gate), Arc::clone(&done));
    let handler = move |message| {
        let (sender, held, count) = (sender.clone(), Arc::clone(&held), Arc::clone(&count));
        async move {
            drop(sender.send(message));
            held.acquire().await.unwrap().forget();
            count.fetch_add(1, Relaxed);
        }
    };
    (hub.bus().subscribe(pattern, handler).await.unwrap(), receiver, gate, done)
}

/// Waits for what happens at once unless something is wrong.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("nothing happened")
}

#[tokio::test]
async fn a_subscription_handles_as_many_messages_at_once_as_it_allows() -> Result<()> {
    let hub = Hub::builder().build()?;
    for pattern in ["a", "a*"] {
        let (sender, mut begun) = unbounded_channel();
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let handler = move |message: BusMessage| {
            let (sender, held) = (sender.clone(), Arc::clone(&held));
            async move {
                drop(sender.send(message.payload));
                held.acquire().await.unwrap().forget();
            }
        };
        let twenty = BusOptions::new().concurrency(20); // more than the 16 topics of a pattern
        let subscription = hub.bus().subscribe_with(pattern, twenty, handler).await?;
        for number in 0..30_u8 {
            assert_eq!(hub.bus().publish("a", vec![number]).await?, 1);
        }
        for number in 0..20 {
            assert_eq!(soon(begun.recv()).await.unwrap(), vec![number], "they start in order");
        }
        for _ in 0..100 {
            tokio::task::yield_now().await; // the only other task would start one more
        }
        assert!(begun.try_recv().is_err(), "no more than 20 at once");
        gate.add_permits(1);
        assert_eq!(soon(begun.recv()).await.unwrap(), vec![20], "the next starts when one ends");
        gate.add_permits(100);
        subscription.unsubscribe().await;
    }
    Ok(())
}

#[tokio::test]
async fn a_concurrency_out_of_range_is_an_error() -> Result<()> {
    let hub = Hub::builder().build()?;
    for messages in [0, 1025] {
        let options = BusOptions::new().concurrency(messages);
        let subscribed = hub.bus().subscribe_with("a", options, |_| async {}).await;
        assert!(matches!(subscribed, Err(ripplecast::Error::Setting { .. })), "{messages}");
    }
    Ok(())
}

#[tokio::test]
async fn each_subscription_receives_a_message_once() -> Result<()> {
    let hub = Hub::builder().build()?;
    assert_eq!(hub.bus().publish("a", "lost").await?, 0);
    let (_one, mut one) = listen(&hub, "a").await;
    let (_two, mut two) = listen(&hub, "a").await;
    let (_all, mut all) = listen(&hub, "*").await;
    let (_other, mut other) = listen(&hub, "b").await;
    let (_star, mut star) = listen(&hub, r"\*").await;
    assert_eq!(hub.bus().publish("a", vec![1, 2]).await?, 3);
    assert_eq!(hub.bus().publish("b", "for b").await?, 2);
    assert_eq!(hub.bus().publish("*", "for a star").await?, 2);
    for receiver in [&mut one, &mut two, &mut all] {
        let message = receiver.recv().await.unwrap();
        assert_eq!((&*message.topic, &message.payload[..]), ("a", &[1, 2][..]));
    }
    assert_eq!(&*other.recv().await.unwrap().payload, b"for b");
    assert_eq!(&*star.recv().await.unwrap().payload, b"for a star");
    assert_eq!(&*all.recv().await.unwrap().topic, "b");
    assert_eq!(&*all.recv().await.unwrap().topic, "*");
    assert!(one.try_recv().is_err() && two.try_recv().is_err() && other.try_recv().is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_order_of_each_publisher_is_kept() -> Result<()> {
    let hub = Hub::builder().build()?;
    let (exact, mut by_name) = listen(&hub, "room.1").await;
    let (glob, mut by_pattern) = listen(&hub, "room.?").await;
    let publishers: Vec<_> = (0..8_u8)
        .map(|publisher| {
            let hub = hub.clone();
            tokio::spawn(async move {
                for step in 0..100_u8 {
                    assert_eq!(hub.bus().publish("room.1", vec![publisher, step]).await.unwrap(), 2);
                }
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    for receiver in [&mut by_name, &mut by_pattern] {
        let mut next = [0; 8];
        for _ in 0..800 {
            let message = receiver.recv().await.unwrap();
            let (publisher, step) = (usize::from(message.payload[0]), message.payload[1]);
            assert_eq!(step, next[publisher]);
            next[publisher] += 1;
        }
    }
    assert_eq!((exact.dropped(), glob.dropped()), (0, 0));
    Ok(())
}

#[tokio::test]
async fn a_full_queue_drops_new_messages_of_that_subscription_only() -> Result<()> {
    let hub = Hub::builder().build()?;
    let (slow, mut begun, gate, done) = listen_held(&hub, "a").await;
    hub.bus().publish("a", "0").await?;
    begun.recv().await.unwrap(); // the handler has the message, so the queue is empty
    for i in 1..=1024 {
        assert_eq!(hub.bus().publish("a", i.to_string()).await?, 1);
    }
    let (_quick, mut quick) = listen(&hub, "a").await;
    assert_eq!(hub.bus().publish("a", "too much").await?, 1);
    assert_eq!(hub.bus().publish("a", "too much").await?, 1);
    assert_eq!(slow.dropped(), 2);
    assert_eq!(&*quick.recv().await.unwrap().payload, b"too much");
    gate.add_permits(2000);
    for i in 1..=1024 {
        assert_eq!(begun.recv().await.unwrap().payload, i.to_string());
    }
    assert_eq!(hub.bus().publish("a", "again").await?, 2);
    assert_eq!(&*begun.recv().await.unwrap().payload, b"again");
    assert_eq!(slow.dropped(), 2);
    slow.unsubscribe().await;
    assert_eq!(done.load(Relaxed), 1026, "unsubscribe waits for the running handler");
    Ok(())
}

#[tokio::test]
async fn payload_bytes_fill_a_queue_too() -> Result<()> {
    let hub = Hub::builder().build()?;
    let (slow, mut begun, gate, _) = listen_held(&hub, "a").await;
    hub.bus().publish("a", "0").await?;
    begun.recv().await.unwrap();
    let half = bytes::Bytes::from(vec![0; 8 << 20]);
    assert_eq!(hub.bus().publish("a", half.clone()).await?, 1);
    assert_eq!(hub.bus().publish("a", half.clone()).await?, 1);
    assert_eq!(hub.bus().publish("a", "x").await?, 0);
    assert_eq!(slow.dropped(), 1);
    gate.add_permits(2);
    begun.recv().await.unwrap();
    begun.recv().await.unwrap();
    assert_eq!(hub.bus().publish("a", half).await?, 1);
    let error = hub.bus().publish("a", vec![0; (16 << 20) + 1]).await.unwrap_err().to_string();
    assert!(error.contains("`a`") && error.contains("16777217") && error.contains("16777216"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_subscription_continues_after_its_handler_panics() -> Result<()> {
    let hub = Hub::builder().build()?;
    let (sender, mut receiver) = unbounded_channel();
    let subscription = hub
        .bus()
        .subscribe("a", move |message| {
            assert!(message.payload != "at once", "the handler panics before it returns its future");
            let sender = sender.clone();
            async move {
                tokio::task::yield_now().await;
                assert!(message.payload != "later", "the handler's future panics");
                drop(sender.send(message.payload));
            }
        })
        .await?;
    for payload in ["at once", "1", "later", "2"] {
        hub.bus().publish("a", payload).await?;
    }
    assert_eq!(receiver.recv().await.unwrap(), "1");
    assert_eq!(receiver.recv().await.unwrap(), "2");
    assert_eq!(subscription.dropped(), 0);
    Ok(())
}

#[tokio::test]
async fn a_dropped_subscription_receives_nothing_more() -> Result<()> {
    let hub = Hub::builder().build()?;
    for pattern in ["a", "?"] {
        let (subscription, mut begun, gate, done) = listen_held(&hub, pattern).await;
        hub.bus().publish("a", "0").await?;
        hub.bus().publish("a", "waits and is dropped").await?;
        begun.recv().await.unwrap();
        drop(subscription);
        assert_eq!(hub.bus().publish("a", "1").await?, 0);
        gate.add_permits(9);
        assert!(begun.recv().await.is_none(), "the handler is dropped after its current message");
        assert_eq!(done.load(Relaxed), 1);
    }
    Ok(())
}

#[tokio::test]
async fn a_handler_may_use_the_hub_and_end_itself() -> Result<()> {
    let hub = Hub::builder().build()?;
    let (_answers, mut answers) = listen(&hub, "answer").await;
    let own = Arc::new(std::sync::Mutex::new(None::<Subscription>));
    let (slot, inside) = (Arc::clone(&own), hub.clone());
    let subscription = hub
        .bus()
        .subscribe("question", move |message| {
            let (slot, hub) = (Arc::clone(&slot), inside.clone());
            async move {
                let subscription = slot.lock().unwrap().take();
                if let Some(subscription) = subscription {
                    subscription.unsubscribe().await;
                }
                hub.bus().publish("answer", message.payload).await.unwrap();
            }
        })
        .await?;
    *own.lock().unwrap() = Some(subscription);
    assert_eq!(hub.bus().publish("question", "1").await?, 1);
    assert_eq!(answers.recv().await.unwrap().payload, "1");
    assert_eq!(hub.bus().publish("question", "2").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_detached_subscription_lives_as_long_as_the_hub() -> Result<()> {
    let hub = Hub::builder().build()?;
    let (subscription, mut messages) = listen(&hub, "a*").await;
    subscription.detach();
    assert_eq!(hub.bus().publish("abc", "1").await?, 1);
    assert_eq!(messages.recv().await.unwrap().payload, "1");
    Ok(())
}

#[tokio::test]
async fn invalid_names_are_errors() -> Result<()> {
    let hub = Hub::builder().build()?;
    let (longest, long) = ("x".repeat(255), "x".repeat(256));
    let handler = |_| async {};
    assert!(hub.bus().publish(&longest, "").await.is_ok());
    assert!(hub.bus().subscribe(&longest, handler).await.is_ok());
    for name in ["", &long] {
        assert!(hub.bus().publish(name, "").await.is_err());
        assert!(hub.bus().subscribe(name, handler).await.is_err());
    }
    Ok(())
}

#[tokio::test]
async fn a_dropped_subscribe_or_publish_does_nothing() -> Result<()> {
    let hub = Hub::builder().build()?;
    drop(hub.bus().subscribe("a", |_| async {}));
    assert_eq!(hub.bus().publish("a", "").await?, 0);
    let (_subscription, mut messages) = listen(&hub, "a").await;
    drop(hub.bus().publish("a", ""));
    tokio::task::yield_now().await;
    assert!(messages.try_recv().is_err());
    Ok(())
}

#[tokio::test]
async fn a_slow_topic_of_a_pattern_delays_only_itself() {
    let hub = Hub::builder().build().unwrap();
    let (sender, mut seen) = unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let (hold, at_once) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let most = at_once.clone();
    let _subscription = hub
        .bus()
        .subscribe("c*", move |message| {
            let (sender, hold, most) = (sender.clone(), hold.clone(), most.clone());
            async move {
                let number = message.payload[0];
                if &*message.topic == "c-slow" {
                    hold.acquire().await.unwrap().forget();
                } else if message.topic.starts_with("c-many") {
                    most.fetch_add(1, Relaxed);
                    hold.acquire().await.unwrap().forget();
                }
                sender.send((message.topic.to_string(), number)).unwrap();
            }
        })
        .await
        .unwrap();
    for number in 0..3 {
        hub.bus().publish("c-slow", vec![number]).await.unwrap();
        hub.bus().publish("c-quick", vec![number]).await.unwrap();
    }
    for number in 0..3 {
        assert_eq!(
            seen.recv().await.unwrap(),
            ("c-quick".to_owned(), number),
            "in order, despite the slow topic"
        );
    }
    gate.add_permits(3);
    for number in 0..3 {
        assert_eq!(seen.recv().await.unwrap(), ("c-slow".to_owned(), number), "in order");
    }
    // At most sixteen run at once.
    for number in 0..40 {
        hub.bus().publish(format!("c-many-{number}"), vec![number]).await.unwrap();
    }
    hub.bus().publish("c-quick", vec![9]).await.unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(at_once.load(Relaxed), 16);
    gate.add_permits(40);
    for _ in 0..41 {
        seen.recv().await.unwrap();
    }
}
