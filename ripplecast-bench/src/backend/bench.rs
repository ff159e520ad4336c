//! The state of a run, and what its parts share.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    mark::Seen,
    member::Member,
    options::BenchBackend,
    peer::Peer,
    protocol::{Load, Request},
    report::{Report, Series},
    server::Server,
};
use crate::result::Result;

/// The most pushes sent to a new member before it counts as unreachable, 20 ms apart.
const TRIES: usize = 500;
/// Messages sent before the measurement, to warm up connections, caches and the allocator.
pub(super) const WARM_UP: u64 = 200;

/// The state of a run.
pub(super) struct Bench {
    pub(super) options: BenchBackend,
    /// The prefix of all keys and channels of the run.
    pub(super) prefix: String,
    pub(super) stop: Arc<AtomicBool>,
    /// The connection for queries to Redis itself.
    pub(super) server: Server,
    /// The results so far.
    pub(super) report: Report,
    /// The number of message series so far. Each series has its own number.
    pub(super) runs: u32,
}

impl Bench {
    /// Returns whether Ctrl-C was pressed.
    pub(super) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Shows progress on a terminal.
    pub(super) fn say(&self, what: &str) {
        if !self.options.json && std::io::stderr().is_terminal() {
            // Progress is optional, so errors are ignored.
            let _ = writeln!(std::io::stderr(), "{what}");
        }
    }

    /// Returns the backend URL for the hubs of this run.
    pub(super) fn backend(&self) -> String {
        format!("{}?prefix={}", self.options.backend.as_str(), self.prefix)
    }

    /// Starts a node.
    pub(super) fn node(&self) -> Result<Peer> {
        Peer::start(&self.options.backend, &self.prefix)
    }

    /// Returns the number of the next series of messages.
    pub(super) fn next_run(&mut self) -> u32 {
        self.runs += 1;
        self.runs
    }

    /// Opens a member of the room on a node, and waits until pushes on the other node reach it.
    pub(super) fn member(&mut self, from: &mut Peer, on: &Peer) -> Result<Member> {
        let member = Member::connect(on.addr)?;
        let run = self.next_run();
        member.begin(run);
        for number in 0..TRIES as u64 {
            from.load(&Request::Push(Load { run, first: number, ..Load::once() }))?;
            member.wait_a_moment()?;
            if member.received() > 0 {
                let run = self.next_run();
                member.begin(run);
                from.load(&Request::Push(Load { run, count: WARM_UP, ..Load::once() }))?;
                member.wait(WARM_UP)?;
                return Ok(member);
            }
        }
        Err("pushes on one node do not reach a member on the other; set RIPPLECAST_LOG=ripplecast=debug for details"
            .to_owned())
    }
}

/// Summarizes a series of messages as its reader saw it.
pub(super) fn judged(seen: &Seen, sent: u64) -> Series {
    Series {
        messages: sent,
        received: seen.received,
        lost: seen.lost(sent),
        order_errors: seen.order_errors,
        clock_errors: seen.clock_errors,
        latency_us: seen.latency(),
    }
}
