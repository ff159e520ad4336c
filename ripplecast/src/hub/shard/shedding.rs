//! Too much waits on the whole hub: the slowest connections go first, whichever shard they are on.

use std::sync::atomic::Ordering;

use super::{super::command::Command, Shard};

impl Shard {
    /// Lets the other shards know how much waits at the most for one connection of this one.
    pub(super) fn note_backlog(&self) {
        let largest = &self.handle.largest_backlog;
        if largest.load(Ordering::Relaxed) < self.core.largest_backlog {
            largest.store(self.core.largest_backlog, Ordering::Relaxed);
        }
    }

    /// Sheds the slowest connections of this shard until little enough waits, or until another shard has a slower one, to
    /// which it is left. What a shard says of its slowest may be out of date, but is never too little: a shard that finds
    /// so says what is true, and passes the word on.
    pub(super) fn shed(&mut self) {
        if self.core.largest_backlog == 0 && self.handle.largest_backlog.load(Ordering::Relaxed) == 0 {
            return; // nobody is slow here
        }
        let mut backlogs = self.core.backlogs();
        loop {
            let mine = backlogs.last().map_or(0, |(bytes, _)| *bytes);
            self.core.largest_backlog = mine;
            self.handle.largest_backlog.store(mine, Ordering::Relaxed);
            if self.shards.ledger.is_eased() {
                break;
            }
            let others =
                self.shards.handles.iter().map(|other| other.largest_backlog.load(Ordering::Relaxed));
            let slowest = others.enumerate().max_by_key(|(_, bytes)| *bytes);
            if let Some((shard, bytes)) = slowest
                && bytes > mine
            {
                self.shards.handles[shard].mailbox.post(Command::Shed);
                break;
            }
            let Some((_, slot)) = backlogs.pop() else { break };
            self.core.shed(slot);
            self.close_faulty();
        }
    }
}
