//! Commands to a run's nodes and their responses, one line of JSON each.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::load::measure::Times;

/// A command to a node. Commands are answered in order.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) enum Request {
    /// Subscribe on the bus to the messages of a run.
    Listen {
        run: u32,
    },
    /// Report what was received on the bus.
    Received,
    Publish(Load),
    Push(Load),
    /// Report the node's counters.
    Counts,
}

/// A series of messages to send.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Load {
    pub(super) run: u32,
    /// The number of the first message.
    pub(super) first: u64,
    /// The number of messages.
    pub(super) count: u64,
    /// Bytes per message.
    pub(super) size: usize,
    /// Messages per second, or `None` for as fast as possible.
    pub(super) rate: Option<f64>,
}

impl Load {
    /// Returns a single message.
    pub(super) const fn once() -> Self {
        Self { run: 0, first: 0, count: 1, size: 64, rate: None }
    }
}

/// A response of a node.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Response {
    /// The node has started, and serves WebSockets.
    Ready {
        addr: SocketAddr,
    },
    /// The command was executed.
    Done {
        /// The number of messages accepted.
        taken: u64,
    },
    /// What was received on the bus so far.
    Received(BusReport),
    Counts(Counts),
    /// The command failed.
    Failed(String),
}

/// What was received on the bus so far.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct BusReport {
    pub(super) received: u64,
    /// One more than the highest number received.
    pub(super) next: u64,
    /// Messages skipped before `next`.
    pub(super) gaps: u64,
    /// Messages that arrived late or twice.
    pub(super) order_errors: u64,
    /// Messages that arrived before they were sent.
    pub(super) clock_errors: u64,
    /// Time from sending to receiving, in microseconds.
    pub(super) latency: Option<Times>,
}

/// A node's counters.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Counts {
    /// Messages received from other nodes.
    pub(super) received: u64,
    /// Messages sent to Redis.
    pub(super) sent: u64,
    /// Messages that could not be sent.
    pub(super) unsent: u64,
}
