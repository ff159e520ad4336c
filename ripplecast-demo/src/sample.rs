//! The figures of this node at one moment, for the dashboard and the inspector.

use std::{
    sync::LazyLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use ripplecast::{Hub, stats::Stats};
use serde::Serialize;

/// When the program started. `begin` initializes it.
static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Records the start time of the program.
pub fn begin() {
    LazyLock::force(&BEGUN);
}

/// The public figures. Totals count from startup.
#[derive(Serialize)]
pub(crate) struct Traffic {
    /// Milliseconds since 1970.
    at: u64,
    /// Seconds since startup.
    uptime: u64,
    connections: usize,
    /// Rooms that have members or handles.
    rooms: usize,
    opened: u64,
    closed: u64,
    messages: u64,
    /// Messages encoded for rooms.
    encoded: u64,
}

/// All figures of this node at one moment, for clients that may see `/metrics`.
#[derive(Serialize)]
pub struct Sample {
    #[serde(flatten)]
    traffic: Traffic,
    node: String,
    /// The resident memory of the process in bytes, if known.
    memory: Option<u64>,
    /// Bytes queued for slow readers.
    queued_bytes: usize,
    dropped: Dropped,
    remote: Remote,
    /// Connections closed for reading too slowly.
    slow_consumers: u64,
    slow_callbacks: u64,
    failed_callbacks: u64,
    /// Connections closed for protocol violations.
    protocol_errors: u64,
}

/// The figures that the dashboard draws, at one moment, named as in [`Sample`].
#[derive(Clone, Serialize)]
pub(crate) struct Point {
    at: u64,
    connections: usize,
    rooms: usize,
    messages: u64,
    encoded: u64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    private: Option<Private>,
}

/// The part of a [`Point`] that only clients that may see `/metrics` receive.
#[derive(Clone, Serialize)]
struct Private {
    memory: Option<u64>,
    queued_bytes: usize,
}

/// Messages dropped, by reason.
#[derive(Serialize)]
struct Dropped {
    overloaded: u64,
    replaced: u64,
    outbox_full: u64,
    slow_consumer: u64,
    shed: u64,
}

/// Traffic with other nodes.
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

impl Point {
    /// Takes the current figures.
    pub(crate) fn take(hub: &Hub) -> Self {
        let stats = hub.stats();
        let Traffic { at, connections, rooms, messages, encoded, .. } = Traffic::of(&stats);
        let private = Some(Private { memory: memory(), queued_bytes: stats.queued_bytes });
        Self { at, connections, rooms, messages, encoded, private }
    }

    /// Returns the figures that everybody may see.
    pub(crate) fn public(self) -> Self {
        Self { private: None, ..self }
    }
}

impl Traffic {
    /// Takes the current figures.
    pub(crate) fn take(hub: &Hub) -> Self {
        Self::of(&hub.stats())
    }

    fn of(stats: &Stats) -> Self {
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
    /// Takes the current figures.
    pub fn take(hub: &Hub) -> Self {
        let stats = hub.stats();
        let traffic = Traffic::of(&stats);
        let (drops, remote) = (stats.drops, stats.remote);
        Self {
            traffic,
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

/// Returns the seconds since startup.
pub fn uptime() -> f64 {
    BEGUN.elapsed().as_secs_f64()
}

/// Returns the resident memory of this process in bytes, on Linux.
pub fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
