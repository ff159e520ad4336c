//! One order: of a room for all of its members, and of everything that is pushed to one connection.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

use ripplecast::ws;

use super::{
    super::clients::{Script, Tab, TestServer, assert_contiguous},
    scripted,
};

/// The number of shards, and whether they run on threads.
const SHAPES: [(usize, bool); 4] = [(1, false), (2, false), (4, false), (2, true)];
/// Number of publishers that are tasks, and of those that are callbacks of connections.
const PUBLISHERS: usize = 4;
/// Messages per publisher.
const MESSAGES: usize = 150;
/// Members of a room: more than a shard sends to in one turn, so that others join and leave during a
/// broadcast.
const MEMBERS: usize = 80;

#[test]
fn all_members_receive_the_same_sequence_while_others_join_and_leave() {
    for (shards, threads) in SHAPES {
        let server = scripted(shards, threads);
        let over = AtomicBool::new(false);
        let mut members: Vec<_> = (0..MEMBERS).map(|_| server.scripted("/ws", "join r")).collect();
        let (logs, runs) = thread::scope(|scope| {
            let readers: Vec<_> =
                members.chunks_mut(10).map(|tabs| scope.spawn(move || read_all(tabs))).collect();
            let (server, over) = (&server, &over);
            let mut churners = Vec::new();
            for length in [1, 5, 17, 40] {
                let tab = server.scripted("/ws", "own here");
                churners.push(scope.spawn(move || leave_and_join(tab, length)));
                churners.push(scope.spawn(move || close_and_open(server, length, over)));
            }
            publish(server);
            assert!(server.hub.room("r").push("end").is_queued());
            over.store(true, SeqCst);
            assert!(server.hub.broadcast("over").is_queued());
            let logs: Vec<_> = readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
            let runs: Vec<_> = churners.into_iter().flat_map(|churner| churner.join().unwrap()).collect();
            (logs, runs)
        });

        let shape = format!("{shards} shards, threads: {threads}");
        let whole = &logs[0];
        assert_eq!(whole.len(), 2 * PUBLISHERS * MESSAGES + 1, "{shape}");
        assert!(logs.iter().all(|log| log == whole), "{shape}: the members received different sequences");
        for publisher in 0..2 * PUBLISHERS {
            let prefix = format!("p{publisher} ");
            let own: Vec<usize> = whole
                .iter()
                .filter_map(|text| text.strip_prefix(&prefix))
                .map(|n| n.parse().unwrap())
                .collect();
            assert!(own.into_iter().eq(0..MESSAGES), "{shape}: publisher {publisher} is out of order");
        }
        assert!(!runs.is_empty());
        for run in &runs {
            assert_contiguous(run, whole, &shape);
        }
    }
}

/// Collects what each of the tabs receives.
fn read_all(tabs: &mut [Tab]) -> Vec<Vec<String>> {
    tabs.iter_mut().map(|tab| tab.until("over")).collect()
}

/// Publishes from tasks and from callbacks, half each. Returns when everything has been pushed.
fn publish(server: &TestServer) {
    thread::scope(|scope| {
        for publisher in PUBLISHERS..2 * PUBLISHERS {
            scope.spawn(move || {
                let mut tab = server.tab("/ws");
                for n in (0..MESSAGES).step_by(2) {
                    tab.say(format!("room r p{publisher} {n}; room r p{publisher} {}", n + 1));
                }
                tab.run("own all are pushed");
            });
        }
        let tasks: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| {
                let room = server.hub.room("r");
                server.runtime().spawn(async move {
                    for n in 0..MESSAGES {
                        assert!(room.push(format!("p{publisher} {n}")).is_queued());
                        if n % 4 == 0 {
                            tokio::task::yield_now().await; // lets all four workers and the shards run
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            server.block_on(task).unwrap();
        }
    });
}

/// Repeatedly joins, reads some messages and leaves, on one connection. Returns what it received as a member
/// each time.
fn leave_and_join(mut tab: Tab, length: usize) -> Vec<Vec<String>> {
    let mut runs = Vec::new();
    loop {
        let mut run = Vec::new();
        tab.say("join r");
        loop {
            let text = tab.text();
            match text.as_str() {
                "over" => {
                    runs.push(run);
                    return runs;
                }
                "left true" => break,
                _ => run.push(text),
            }
            if run.len() == length {
                tab.say("leave r");
            }
        }
        runs.push(run);
    }
}

/// Like [`leave_and_join`], with a new connection each time.
fn close_and_open(server: &TestServer, length: usize, over: &AtomicBool) -> Vec<Vec<String>> {
    let mut runs = Vec::new();
    for turn in 0.. {
        let mut tab = server.tab("/ws");
        tab.say("join r; own in");
        let mut run = Vec::new();
        while run.len() < length {
            let text = tab.text();
            match text.as_str() {
                // From here on the server knows the connection, so later broadcasts reach it.
                "in" if over.load(SeqCst) => return runs,
                "in" => {}
                "over" => {
                    runs.push(run);
                    return runs;
                }
                _ => run.push(text),
            }
        }
        runs.push(run);
        if turn % 2 == 0 {
            tab.close();
        }
    }
    runs
}

#[test]
fn rooms_broadcasts_and_direct_pushes_of_one_publisher_keep_their_order() {
    const ROOMS: [&str; 3] = ["a", "b", "c"];
    for (shards, threads) in SHAPES {
        let server = scripted(shards, threads);
        // The rooms of each member, including all three rooms, joined in different orders.
        let kinds: [&[usize]; 6] = [&[0, 1, 2], &[2, 0, 1], &[1, 2, 0], &[0, 2], &[1], &[]];
        let rooms_of: Vec<&[usize]> = kinds.into_iter().cycle().take(MEMBERS).collect();
        let mut tabs: Vec<Tab> = Vec::new();
        let mut connections = Vec::new();
        for rooms in &rooms_of {
            let mut tab = server.scripted("/ws", "own here");
            for &room in *rooms {
                tab.run(&format!("join {}", ROOMS[room]));
            }
            connections.push(server.connection(&mut tab));
            tabs.push(tab);
        }
        let mut wanted = vec![Vec::new(); MEMBERS];
        let logs: Vec<Vec<String>> = thread::scope(|scope| {
            let readers: Vec<_> =
                tabs.chunks_mut(10).map(|tabs| scope.spawn(move || read_all(tabs))).collect();
            let noise = ROOMS.map(|room| make_noise(&server, room));
            let mut dice = 0x2545_f491_u32; // xorshift: any fixed mixture will do
            for n in 0..600 {
                dice ^= dice << 13;
                dice ^= dice >> 17;
                dice ^= dice << 5;
                let (text, kind) = (n.to_string(), dice as usize % 10);
                let (sent, to): (_, Vec<usize>) = match kind {
                    0..=5 => {
                        let members = (0..MEMBERS).filter(|&tab| rooms_of[tab].contains(&(kind % 3)));
                        (server.hub.room(ROOMS[kind % 3]).push(text.clone()), members.collect())
                    }
                    6 => (server.hub.broadcast(text.clone()), (0..MEMBERS).collect()),
                    _ => {
                        let to = dice as usize / 16 % MEMBERS;
                        (connections[to].push(text.clone()), vec![to])
                    }
                };
                assert!(sent.is_queued());
                to.into_iter().for_each(|tab| wanted[tab].push(text.clone()));
            }
            for task in noise {
                server.block_on(task).unwrap();
            }
            assert!(server.hub.broadcast("over").is_queued());
            readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect()
        });
        for (tab, log) in logs.into_iter().enumerate() {
            let log: Vec<_> = log.into_iter().filter(|text| text != "noise").collect();
            assert_eq!(log, wanted[tab], "tab {tab}; {shards} shards, threads: {threads}");
            assert!(log.len() > 30);
        }
    }
}

/// One thread pushes and makes members leave and join without waiting for the shards, so that it meets their
/// broadcasts in every state. What each connection must receive is known exactly.
#[test]
fn members_join_and_leave_during_a_broadcast() {
    const ROOMS: [&str; 2] = ["r", "s"];
    for (shards, threads) in SHAPES {
        let server = scripted(shards, threads);
        let mut tabs: Vec<_> = (0..MEMBERS).map(|_| server.scripted("/ws", "join r")).collect();
        let connections: Vec<_> = tabs.iter_mut().map(|tab| server.connection(tab)).collect();
        let mut is_member = [vec![true; MEMBERS], vec![false; MEMBERS]];
        let mut wanted = vec![Vec::new(); MEMBERS];
        let logs: Vec<Vec<String>> = thread::scope(|scope| {
            let readers: Vec<_> =
                tabs.chunks_mut(10).map(|tabs| scope.spawn(move || read_all(tabs))).collect();
            let mut dice = 0x9e37_79b9_u32; // xorshift, as above
            for n in 0..3000 {
                dice ^= dice << 13;
                dice ^= dice >> 17;
                dice ^= dice << 5;
                let (which, who) = (dice as usize % 2, dice as usize / 64 % MEMBERS);
                match dice / 2 % 4 {
                    0 | 1 => {
                        assert!(server.hub.room(ROOMS[which]).push(n.to_string()).is_queued());
                        let members = (0..MEMBERS).filter(|&tab| is_member[which][tab]);
                        members.for_each(|tab| wanted[tab].push(n.to_string()));
                    }
                    2 => {
                        assert_eq!(connections[who].leave(ROOMS[which]), is_member[which][who]);
                        is_member[which][who] = false;
                    }
                    _ => {
                        connections[who].join(ROOMS[which]).unwrap();
                        is_member[which][who] = true;
                    }
                }
            }
            assert!(server.hub.broadcast("over").is_queued());
            readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect()
        });
        for (tab, log) in logs.into_iter().enumerate() {
            assert_eq!(log, wanted[tab], "tab {tab}; {shards} shards, threads: {threads}");
        }
    }
}

/// A task that also pushes to a room.
fn make_noise(server: &TestServer, room: &str) -> tokio::task::JoinHandle<()> {
    let room = server.hub.room(room);
    server.runtime().spawn(async move {
        for n in 0..400 {
            assert!(room.push("noise").is_queued());
            if n % 8 == 0 {
                tokio::task::yield_now().await;
            }
        }
    })
}

#[test]
fn pushes_of_a_callback_keep_their_order_on_every_path() {
    for (shards, threads) in SHAPES {
        let server = scripted(shards, threads);
        let mut speaker = server.scripted("/ws", "join a; join b");
        let mut members: Vec<_> = (0..MEMBERS).map(|_| server.scripted("/ws", "join b; join a")).collect();
        let noise = [make_noise(&server, "a"), make_noise(&server, "b")];
        // All at once, so that one message is handled while the frames of another are still in transit.
        for turn in 0..60 {
            let n = |step: usize| turn * 13 + step;
            speaker.say(format!(
                "own {}; room a {}; own {}; room b {}; own {}; all {}; own {}",
                n(0),
                n(1),
                n(2),
                n(3),
                n(4),
                n(5),
                n(6)
            ));
            speaker.say(format!(
                "own {}; task {}; own {}; yield; own {}; room a {}; own {}",
                n(7),
                n(8),
                n(9),
                n(10),
                n(11),
                n(12)
            ));
        }
        speaker.say("all over");
        let received: Vec<usize> = numbers(&speaker.until("over"));
        assert!(received.into_iter().eq(0..60 * 13), "{shards} shards, threads: {threads}");
        let public: Vec<usize> = (0..60 * 13).filter(|n| [1, 3, 5, 11].contains(&(n % 13))).collect();
        for member in &mut members {
            assert_eq!(numbers(&member.until("over")), public, "{shards} shards, threads: {threads}");
        }
        for task in noise {
            server.block_on(task).unwrap();
        }
    }
}

fn numbers(log: &[String]) -> Vec<usize> {
    log.iter().filter(|text| *text != "noise").map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_push_to_a_member_does_not_overtake_one_to_its_room() {
    for (shards, threads) in SHAPES {
        let server = scripted(shards, threads);
        let mut tabs: Vec<_> = (0..MEMBERS).map(|_| server.scripted("/ws", "join r; join s")).collect();
        let connections: Vec<_> = tabs.iter_mut().map(|tab| server.connection(tab)).collect();
        for round in 0..50 {
            // A room with more members than one turn sends to, so that the broadcast is in progress when the
            // direct push arrives.
            for room in ["r", "s", "r"] {
                assert!(server.hub.room(room).push(format!("{room}{round}")).is_queued());
            }
            for conn in connections.iter().rev() {
                assert!(conn.push(format!("own{round}")).is_queued());
            }
        }
        for tab in &mut tabs {
            for round in 0..50 {
                let four = [tab.text(), tab.text(), tab.text(), tab.text()];
                let wanted = ["r", "s", "r", "own"].map(|text| format!("{text}{round}"));
                assert_eq!(four, wanted, "{shards} shards, threads: {threads}");
            }
        }
    }
}

#[test]
fn large_frames_keep_their_order_before_anyone_reads() {
    for (shards, threads) in SHAPES {
        let server = TestServer::with_shards(shards, threads, |app| {
            let hub = app.hub();
            app.ws("/ws", ws::endpoint(Script(hub)).outbox(64 << 20).max_message(16 << 20))
        });
        let mut speaker = server.scripted("/ws", "join r");
        let mut member = server.scripted("/ws", "join r");
        let conn = server.connection(&mut member);
        // Sizes close to those of the buffers, so that some go straight to the socket and others wait.
        let sizes = [1, 60_000, 70_000, 10, 65_535, 200_000, 65_536, 3, 125, 126, 500_000, 1, 1];
        let frame = |n: usize| format!("{n} {}", "x".repeat(sizes[n % sizes.len()]));
        for turn in 0..8 {
            let steps = (0..13).map(|step| {
                let text = frame(turn * 13 + step);
                if step % 4 == 1 { format!("room r {text}") } else { format!("own {text}") }
            });
            speaker.say(steps.collect::<Vec<_>>().join(";"));
        }
        speaker.say("own over");
        for n in 0..8 * 13 {
            assert_eq!(speaker.text(), frame(n), "{shards} shards, threads: {threads}");
        }
        assert_eq!(speaker.text(), "over");
        assert!(conn.push("over").is_queued());
        let public = (0..8 * 13).filter(|n| n % 13 % 4 == 1).map(frame);
        assert!(member.until("over").into_iter().eq(public), "{shards} shards, threads: {threads}");
    }
}
