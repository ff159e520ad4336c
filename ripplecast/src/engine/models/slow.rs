//! Slow readers.

use super::*;

#[test]
fn the_newest_frame_of_a_key_waits_whoever_pushed_it() {
    explore("the_newest_frame_of_a_key_waits_whoever_pushed_it", || {
        let (mut shard, registry) = one_shard();
        let room = registry.room("a");
        let (who, pipe) = shard.open_under(Overflow::LatestPerKey);
        room.join(who, None).unwrap();
        shard.turn();
        pipe.stuck.store(true, Ordering::Relaxed);
        let counter = Arc::new(crate::sync::Mutex::new(0_u8));
        let bump = |room: &Arc<RoomCore<Pipe>>, counter: &crate::sync::Mutex<u8>| {
            let mut value = counter.lock();
            *value += 1;
            assert!(room.push(&Message::text(value.to_string()).with_key("value")).is_queued());
        };
        let publisher = thread::spawn({
            let (room, counter) = (room.clone(), counter.clone());
            move || bump(&room, &counter)
        });
        let other = thread::spawn(move || {
            shard.turn();
            shard
        });
        bump(&room, &counter);
        publisher.join().unwrap();
        let mut shard = other.join().unwrap();
        shard.turn();
        pipe.stuck.store(false, Ordering::Relaxed);
        shard.delivery.flush(who.slot);
        assert_eq!(pipe.received(), ["2"], "only the newest frame is delivered");
        assert_eq!(shard.delivery.take_counts().drops.replaced, 1);
    });
}

#[test]
fn shards_that_shed_at_once_keep_the_limit_and_finish() {
    explore("shards_that_shed_at_once_keep_the_limit_and_finish", || {
        const LIMIT: usize = 500;
        let mailboxes = mailboxes(2);
        let budget = Arc::new(MemoryBudget::new(LIMIT, 2));
        let mut shards = [0, 1].map(|index| ModelShard::with_budget(index, &mailboxes, budget.clone()));
        for (shard, frames) in shards.iter_mut().zip([1, 2]) {
            let (who, pipe) = shard.open();
            pipe.stuck.store(true, Ordering::Relaxed);
            for _ in 0..frames {
                push(
                    &shard.mailbox,
                    who,
                    concat!(
                        "0123456789012345678901234567890123456789",
                        "0123456789012345678901234567890123456789"
                    ),
                );
            }
        }
        let [mut one, mut two] = shards;
        let second = thread::spawn({
            let mailboxes = mailboxes.clone();
            move || {
                two.turn_and_forward(&mailboxes);
                two
            }
        });
        one.turn_and_forward(&mailboxes);
        let mut two = second.join().unwrap();
        let mut turns = 0;
        while !(one.mailbox.is_quiet() && two.mailbox.is_quiet()) {
            one.turn_and_forward(&mailboxes);
            two.turn_and_forward(&mailboxes);
            turns += 1;
            assert!(turns < 4, "the shards wake each other forever");
        }
        assert!(!budget.is_over(), "{} bytes wait", budget.used());
        let dropped = one.delivery.take_counts().drops.shed + two.delivery.take_counts().drops.shed;
        assert!(dropped > 0, "more waits than the limit allows");
        drop((one, two));
        assert_eq!(budget.used(), 0);
    });
}
