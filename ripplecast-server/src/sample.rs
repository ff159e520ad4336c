//! The figures of this node at one moment, for the dashboard and the inspector.

use std::{
    sync::LazyLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use ripplecast::Hub;
use serde::Serialize;

/// When the program began; forced at the start.
static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Notes when the program began.
pub(crate) fn begin() {
    LazyLock::force(&BEGUN);
}

/// What goes on, for everybody to see. Figures that only grow are counted from the start.
#[derive(Serialize)]
pub(crate) struct Traffic {
    /// Milliseconds since 1970.
    at: u64,
    /// Seconds that the server has been up.
    uptime: u64,
    /// Open connections.
    connections: usize,
    /// Rooms that have members or handles.
    rooms: usize,
    /// Connections opened so far.
    opened: u64,
    /// Connections closed so far.
    closed: u64,
    /// Messages received so far.
    messages: u64,
    /// Frames encoded for rooms so far.
    encoded: u64,
}

/// All figures of this node at one moment, for those who may see `/metrics`.
#[derive(Serialize)]
pub(crate) struct Sample {
    #[serde(flatten)]
    traffic: Traffic,
    /// This node.
    node: String,
    /// The memory of the process, in bytes, where the system says.
    memory: Option<u64>,
    /// Bytes that wait.
    queued_bytes: usize,
    /// Frames dropped so far.
    dropped: Dropped,
    /// The way to other nodes.
    remote: Remote,
    /// Connections closed as too slow so far.
    slow_consumers: u64,
    /// Callbacks that were slow, and that failed, so far.
    slow_callbacks: u64,
    failed_callbacks: u64,
    /// Peers that broke the protocol so far.
    protocol_errors: u64,
}

/// Frames that were dropped, by reason.
#[derive(Serialize)]
struct Dropped {
    overloaded: u64,
    replaced: u64,
    outbox_full: u64,
    slow_consumer: u64,
    shed: u64,
}

/// The way to other nodes.
#[derive(Serialize)]
struct Remote {
    degraded: bool,
    sent: u64,
    unsent: u64,
    received: u64,
    missed: u64,
    gaps: u64,
    unconfirmed: usize,
    refused: u64,
    queued_bytes: usize,
}

impl Traffic {
    /// The figures now.
    pub(crate) fn take(hub: &Hub) -> Self {
        let stats = hub.stats();
        Self {
            at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64),
            uptime: BEGUN.elapsed().as_secs(),
            connections: stats.connections,
            rooms: stats.rooms,
            opened: stats.opened,
            closed: stats.closed,
            messages: stats.messages,
            encoded: stats.encoded_frames,
        }
    }
}

impl Sample {
    /// The figures now.
    pub(crate) fn take(hub: &Hub) -> Self {
        let stats = hub.stats();
        let (drops, remote) = (stats.drops, stats.remote);
        Self {
            traffic: Traffic::take(hub),
            node: hub.node().to_string(),
            memory: memory(),
            queued_bytes: stats.queued_bytes,
            dropped: Dropped {
                overloaded: drops.overloaded,
                replaced: drops.replaced,
                outbox_full: drops.outbox_full,
                slow_consumer: drops.slow_consumer,
                shed: drops.shed,
            },
            remote: Remote {
                degraded: remote.degraded,
                sent: remote.sent,
                unsent: remote.unsent,
                received: remote.received,
                missed: remote.missed,
                gaps: remote.gaps,
                unconfirmed: remote.unconfirmed,
                refused: remote.refused,
                queued_bytes: remote.queued_bytes,
            },
            slow_consumers: stats.slow_consumers,
            slow_callbacks: stats.slow_callbacks,
            failed_callbacks: stats.failed_callbacks,
            protocol_errors: stats.protocol_errors,
        }
    }
}

/// Seconds that the server has been up.
pub(crate) fn uptime() -> f64 {
    BEGUN.elapsed().as_secs_f64()
}

/// The resident memory of this process, in bytes; known on Linux.
pub(crate) fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
