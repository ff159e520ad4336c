//! What a run tells its nodes, and what they answer: a line of JSON each.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::load::measure::Times;

/// What a node is to do. It answers one after the other.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) enum Order {
    /// Listen on the bus for the messages of that run.
    Listen {
        /// The run.
        run: u32,
    },
    /// Say what was heard on the bus.
    Heard,
    /// Publish on the bus.
    Publish(Load),
    /// Push to the room.
    Push(Load),
    /// Say what was counted.
    Counts,
}

/// Messages to be sent.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Load {
    /// The run that they belong to.
    pub(super) run: u32,
    /// The number of the first.
    pub(super) first: u64,
    /// How many.
    pub(super) count: u64,
    /// Bytes of each.
    pub(super) size: usize,
    /// Messages a second; none for as fast as it goes.
    pub(super) rate: Option<f64>,
}

impl Load {
    /// One message.
    pub(super) const fn once() -> Self {
        Self { run: 0, first: 0, count: 1, size: 64, rate: None }
    }
}

/// What a node says.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Answer {
    /// It is there, and serves WebSockets.
    Ready {
        /// Where.
        addr: SocketAddr,
    },
    /// It is done.
    Done {
        /// Messages that were taken.
        taken: u64,
    },
    /// What was heard on the bus so far.
    Heard(Heard),
    /// What was counted.
    Counts(Counts),
    /// It can't be done.
    Failed(String),
}

/// What was heard on the bus so far.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Heard {
    /// Messages.
    pub(super) received: u64,
    /// The number after the last.
    pub(super) next: u64,
    /// Messages that were left out before that.
    pub(super) gaps: u64,
    /// Messages that came late or twice.
    pub(super) order_errors: u64,
    /// Messages that came before they were sent.
    pub(super) clock_errors: u64,
    /// From when each was sent, in microseconds.
    pub(super) latency: Option<Times>,
}

/// What a node has counted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Counts {
    /// Messages that came from other nodes.
    pub(super) received: u64,
    /// Messages that went to Redis.
    pub(super) sent: u64,
    /// Messages that did not.
    pub(super) unsent: u64,
}
