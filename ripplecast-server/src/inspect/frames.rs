//! The live log of a connection's frames, for an inspector that watches it.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ripplecast::{
    Connection, ConnectionId, Hub, Message,
    tap::{Direction, FrameKind, Tap, TappedFrame},
};
use ripplecast_demo::Seen;
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use super::INSPECTOR;

/// The interval between reports: a busy connection produces one message instead of
/// hundreds.
const EVERY: Duration = Duration::from_millis(200);
/// The most frames in one report. Frames beyond that are counted but not shown.
const LISTED: usize = 100;

/// A request from the page.
#[derive(Deserialize)]
struct Asked {
    /// The connection to watch, or `None` to stop watching.
    frames_of: Option<String>,
}

/// Connection state of an inspector: the log that it receives.
#[derive(Default)]
pub(super) struct Log(Mutex<Option<AbortHandle>>);

impl Log {
    /// Replaces the current log with another one, or with none.
    fn replace(&self, with: Option<AbortHandle>) {
        let former = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), with);
        if let Some(former) = former {
            former.abort();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.replace(None);
    }
}

#[derive(Serialize)]
struct Report<'a> {
    /// The watched connection.
    frames_of: &'a str,
    frames: Vec<Entry>,
    /// Frames not shown, because there were too many at once.
    missed: u64,
    /// Whether the connection has closed, so that no more reports follow.
    ended: bool,
    /// Why the request was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<&'static str>,
}

#[derive(Serialize)]
struct Entry {
    /// When the frame was observed, in milliseconds since 1970.
    at: u64,
    received: bool,
    kind: &'static str,
    /// The length of the payload.
    bytes: usize,
    compressed: bool,
    code: Option<u16>,
    /// Bytes queued for the peer before this frame.
    waiting: usize,
    /// The start of the payload.
    head: String,
    /// Whether `head` is only part of the payload.
    cut: bool,
}

impl Entry {
    fn of(frame: &TappedFrame) -> Self {
        let TappedFrame { direction, kind, len, head, compressed, code, waiting, .. } = frame;
        let (kind, is_text) = match kind {
            FrameKind::Text => ("text", true),
            FrameKind::Binary => ("binary", false),
            FrameKind::Ping => ("ping", false),
            FrameKind::Pong => ("pong", false),
            FrameKind::Close => ("close", true),
            FrameKind::Event => ("event", true),
            _ => ("other", false),
        };
        Self {
            at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64),
            received: *direction == Direction::In,
            kind,
            bytes: *len,
            compressed: *compressed,
            code: *code,
            waiting: *waiting,
            head: if is_text { text(head) } else { head.escape_ascii().to_string() },
            cut: head.len() == ripplecast::tap::TappedFrame::HEAD && (*compressed || *len > head.len()),
        }
    }
}

/// Decodes text that may end in the middle of a character.
fn text(head: &[u8]) -> String {
    match std::str::from_utf8(head) {
        Ok(text) => text.to_owned(),
        Err(error) => String::from_utf8_lossy(&head[..error.valid_up_to()]).into_owned(),
    }
}

/// Handles a message from the page of `conn`.
pub(super) fn asked(hub: &Hub, conn: &Connection, message: &Message) {
    let Some(log) = conn.state::<Log>() else { return };
    let Some(Asked { frames_of }) = message.as_text().and_then(|text| serde_json::from_str(text).ok()) else {
        refuse(conn, "", "Invalid message.");
        return;
    };
    log.replace(None);
    let Some(id) = frames_of else { return };
    match open(hub, &id) {
        Ok(tap) => {
            let conn = conn.clone();
            log.replace(Some(tokio::spawn(async move { follow(conn, &id, tap).await }).abort_handle()));
        }
        Err(why) => refuse(conn, &id, why),
    }
}

/// Starts to observe a connection.
fn open(hub: &Hub, id: &str) -> Result<Tap, &'static str> {
    let id: ConnectionId = id.parse().map_err(|_| "Not a connection id.")?;
    let target = hub.connection(id).ok_or("The connection is closed.")?;
    if target.state::<Seen>().is_some_and(|seen| seen.what == INSPECTOR) {
        return Err("An inspector can’t be watched: each frame of its log would create another.");
    }
    target.tap().map_err(|error| {
        if error.is_closed() { "The connection is closed." } else { "The node is overloaded." }
    })
}

fn refuse(conn: &Connection, id: &str, why: &'static str) {
    send(conn, &Report { frames_of: id, frames: Vec::new(), missed: 0, ended: true, refused: Some(why) });
}

/// Sends reports of a tap until it ends.
async fn follow(conn: Connection, id: &str, mut tap: Tap) {
    let mut clock = tokio::time::interval(EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut frames = Vec::new();
    let (mut missed, mut reported) = (0, 0);
    loop {
        tokio::select! {
            frame = tap.recv() => match frame {
                Some(frame) if frames.len() < LISTED => frames.push(Entry::of(&frame)),
                Some(_) => missed += 1,
                None => {
                    let missed = missed + tap.missed();
                    send(&conn, &Report { frames_of: id, frames, missed, ended: true, refused: None });
                    return;
                }
            },
            _ = clock.tick() => {
                let all = missed + tap.missed();
                if !frames.is_empty() || all > reported {
                    let frames = std::mem::take(&mut frames);
                    reported = all;
                    send(&conn, &Report { frames_of: id, frames, missed: all, ended: false, refused: None });
                }
            }
        }
    }
}

fn send(conn: &Connection, report: &Report<'_>) {
    if let Ok(frame) = Message::json(report) {
        conn.push(frame).ignore();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cut_inside_a_character_stays_text() {
        assert_eq!(text("só".as_bytes()), "só");
        assert_eq!(text(&"só".as_bytes()[..2]), "s");
    }
}
