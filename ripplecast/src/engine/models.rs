//! Loom models of the concurrent core: every interleaving of its threads, with up to three preemptions per run.
//!
//! They use the real types. Only the shard's turn is reimplemented, without sockets and callbacks. Run them with
//! `cargo xtask test --only models`.

mod handles;
mod rooms;
mod shard;
mod slow;

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
};

use ::loom::{model::Builder, sync::Notify, thread};
use bytes::Bytes;

use self::shard::{ModelShard, Pipe, mailboxes, one_shard, push};
use super::{
    batch::Encoding,
    budget::MemoryBudget,
    command::Command,
    delivery::{Delivery, DeliveryFault},
    mailbox::{Alarm, Mailbox, NO_SECOND_LOOK},
    new_connection::ConnectionSocket,
    node::ShardHandle,
    outbox::{OutboxPolicy, Overflow, Wire},
    room::{Registry, RoomCore},
    users::Users,
};
use crate::{CloseCode, Error, Message, hub::Connection, id::Local, limits::MAILBOX_BYTES, outcome::Sent};

/// Runs a model under every interleaving.
fn explore(name: &str, model: impl Fn() + Send + Sync + 'static) {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let mut builder = Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let runs = runs.load(Ordering::Relaxed);
    println!("{name}: {runs} interleavings");
    assert!(runs > 1, "nothing races in this model");
}

// ----- wake-ups -----

fn wakeups(name: &str, run: fn(ModelShard) -> ModelShard) {
    explore(name, move || {
        let (mut shard, _registry) = one_shard();
        let (who, pipe) = shard.open();
        let mailbox = shard.mailbox.clone();
        let shard = thread::spawn(move || run(shard));
        let other = mailbox.clone();
        let poster = thread::spawn(move || push(&other, who, "a"));
        push(&mailbox, who, "b");
        poster.join().unwrap();
        mailbox.post(Command::Shutdown);
        // loom reports a shard that keeps sleeping as a deadlock.
        let shard = shard.join().unwrap();
        assert!(shard.mailbox.is_quiet());
        let mut received = pipe.received();
        received.sort();
        assert_eq!(received, ["a", "b"]);
    });
}

#[test]
fn wakeups_of_a_task() {
    wakeups("wakeups_of_a_task", ModelShard::run_as_task);
}

#[test]
fn wakeups_of_a_thread() {
    wakeups("wakeups_of_a_thread", ModelShard::run_as_thread);
}

/// Shows that the second look is needed, and that these models notice a lost wake-up.
#[test]
#[should_panic(expected = "deadlock")]
fn wakeups_of_a_task_need_the_second_look() {
    NO_SECOND_LOOK.set(true);
    wakeups("wakeups_of_a_task_need_the_second_look", ModelShard::run_as_task);
}

#[test]
#[should_panic(expected = "deadlock")]
fn wakeups_of_a_thread_need_the_second_look() {
    NO_SECOND_LOOK.set(true);
    wakeups("wakeups_of_a_thread_need_the_second_look", ModelShard::run_as_thread);
}

/// When the mailbox is quiet, a handler's own push goes straight to the socket. Every command posted before it must have
/// been taken up by then.
#[test]
fn quiet_means_taken_up() {
    explore("quiet_means_taken_up", || {
        let (mut shard, _registry) = one_shard();
        let (who, _pipe) = shard.open();
        let mailbox = shard.mailbox.clone();
        let taken = Arc::new(::loom::sync::atomic::AtomicUsize::new(0));
        let posters = ["a", "b"].map(|text| {
            let (mailbox, taken) = (mailbox.clone(), taken.clone());
            thread::spawn(move || {
                push(&mailbox, who, text);
                if mailbox.is_quiet() {
                    // At least its own command was taken up.
                    assert!(taken.load(Ordering::Relaxed) > 0);
                }
            })
        });
        for _ in 0..2 {
            shard.mailbox.drain_into(&mut shard.todo);
            while shard.todo.pop_front().is_some() {
                taken.fetch_add(1, Ordering::Relaxed);
                shard.mailbox.taken_up();
            }
        }
        for poster in posters {
            poster.join().unwrap();
        }
        let all_taken = taken.load(Ordering::Relaxed) == 2;
        assert_eq!(mailbox.is_quiet(), all_taken);
        shard.turn();
        assert!(mailbox.is_quiet());
    });
}

#[test]
fn the_end_of_a_shard_races_posts() {
    explore("the_end_of_a_shard_races_posts", || {
        let (mut shard, registry) = one_shard();
        let (who, _pipe) = shard.open();
        let mailbox = shard.mailbox.clone();
        let room = registry.room("a");
        let joiner = thread::spawn(move || {
            let joined = room.join(who, None);
            assert!(joined.is_ok() || matches!(joined, Err(Error::Closed)));
        });
        let poster = thread::spawn(move || push(&mailbox, who, "a"));
        shard.finish(who);
        shard.mailbox.end();
        joiner.join().unwrap();
        poster.join().unwrap();
        assert!(shard.mailbox.is_quiet(), "dropped commands still count as waiting");
        assert!(matches!(shard.mailbox.lock().check(1), Err(Error::Closed)));
        assert_eq!(registry.len(), 0);
    });
}
