//! Streams of live counters.

use super::*;

#[test]
fn a_live_counter_streams_its_value_and_each_change() {
    for (shards, threads) in [(1, false), (2, false), (4, false), (2, true)] {
        let mut counter = None;
        let server = TestServer::with_shards(shards, threads, |app| {
            let hub = app.hub();
            let live = hub.counter("demo").publish_to(&hub.room("demo")).unwrap();
            let app = app.sse("/events", &live);
            counter = Some(live);
            app
        });
        let counter = counter.unwrap();
        const LAST: i64 = 16 * 40;
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..4 {
                        watch(&mut server.events("/events"), LAST);
                    }
                });
            }
            for _ in 0..16 {
                let counter = counter.clone();
                drop(server.runtime().spawn(async move {
                    for _ in 0..40 {
                        counter.increment().await.unwrap();
                        tokio::task::yield_now().await;
                    }
                }));
            }
        });
        assert_eq!(server.block_on(counter.get()).unwrap(), LAST);
        assert_eq!(server.events("/events").data(), r#"{"value":640}"#);
    }
}

#[test]
fn the_counter_of_a_stream_can_depend_on_the_request() {
    let mut counters = Vec::new();
    let server = TestServer::start(App::builder(), |app| {
        let hub = app.hub();
        let live = |n| hub.counter(format!("job {n}")).publish_to(&hub.room(format!("job {n}"))).unwrap();
        counters = vec![live(0), live(1)];
        let known = counters.clone();
        let by_path = sse::counter_by(move |request: &Request| {
            known.get(request.param("id")?.parse::<usize>().ok()?).cloned()
        });
        app.sse("/jobs/{id}/events", by_path)
    });
    for path in ["/jobs/2/events", "/jobs/x/events"] {
        assert_eq!(server.http("GET", path).status, 404);
    }
    assert_eq!(server.hub.stats().opened, 0);

    server.block_on(counters[1].set(7)).unwrap();
    let (mut first, mut second) = (server.events("/jobs/0/events"), server.events("/jobs/1/events"));
    assert_eq!((first.data().as_str(), second.data().as_str()), (r#"{"value":0}"#, r#"{"value":7}"#));
    for counter in &counters {
        server.block_on(counter.increment()).unwrap();
    }
    assert_eq!((first.data().as_str(), second.data().as_str()), (r#"{"value":1}"#, r#"{"value":8}"#));
}

/// The stream joins the room and receives the value in one step, not in two with a change in between.
#[test]
fn a_change_while_a_counters_stream_opens_arrives_once() {
    let ((sender, receiver), (open_gate, gate)) = (mpsc::channel(), mpsc::channel::<()>());
    let gate = Mutex::new(Some(gate));
    let mut counter = None;
    let server = TestServer::with_shards(1, true, |app| {
        let hub = app.hub();
        let render = move |value: i64| {
            // The first change is blocked halfway, under the counter's lock.
            if let Some(gate) = gate.lock().unwrap().take_if(|_| value == 1) {
                sender.send(()).unwrap();
                let _ = gate.recv();
            }
            Message::text(value.to_string())
        };
        let live = hub.counter("demo").publish_with(&hub.room("demo"), render).unwrap();
        let app = app.sse("/events", &live);
        counter = Some(live);
        app
    });
    let counter = counter.unwrap();
    thread::scope(|scope| {
        scope.spawn(|| server.block_on(counter.increment()).unwrap());
        receiver.recv_timeout(PATIENCE).unwrap();
        let mut stream = server.events("/events");
        wait_until("it is opening", || server.hub.stats().opened == 1);
        // Now or a little later, the stream waits for the lock. Nothing depends on when.
        for _ in 0..1000 {
            if server.len("demo") == 1 {
                break;
            }
            thread::yield_now();
        }
        open_gate.send(()).unwrap();
        assert_eq!(stream.data(), "1");
        server.block_on(counter.increment()).unwrap();
        assert_eq!(stream.data(), "2", "the same value arrived twice");
    });
}

/// From the first value on, each one arrives, with an id that counts with it.
fn watch(stream: &mut EventStream, last: i64) {
    let mut shown: Option<(i64, u64)> = None;
    while shown.is_none_or(|(value, _)| value < last) {
        let event = stream.event().unwrap();
        let data = event.data.unwrap();
        let value = data.strip_prefix(r#"{"value":"#).unwrap().strip_suffix('}').unwrap().parse().unwrap();
        let offset = event.id.unwrap().split_once(':').unwrap().1.parse().unwrap();
        if let Some((before, offset_before)) = shown {
            assert_eq!((value, offset), (before + 1, offset_before + 1));
        }
        shown = Some((value, offset));
    }
}
