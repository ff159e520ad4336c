//! The live log of one connection's frames, for one who looks into it.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ripplecast::{Connection, ConnectionId, Direction, Frame, FrameKind, Hub, Tap, TappedFrame};
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use super::{INSPECTOR, Seen};

/// Time between two reports, so that a busy connection is one message and not hundreds.
const EVERY: Duration = Duration::from_millis(200);
/// Frames in one report. What comes faster than that is counted, and not shown.
const LISTED: usize = 100;

/// What the page may ask for.
#[derive(Deserialize)]
struct Asked {
    /// The connection to look into; none to look into no more.
    frames_of: Option<String>,
}

/// What is kept with the connection of one who looks: the log that it gets.
#[derive(Default)]
pub(super) struct Log(Mutex<Option<AbortHandle>>);

impl Log {
    /// Replaces the log by another one, or by none.
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

/// One report.
#[derive(Serialize)]
struct Report<'a> {
    /// The connection that is looked into.
    frames_of: &'a str,
    /// Its frames, in order.
    frames: Vec<Entry>,
    /// Frames that are not shown, since there were too many at once.
    missed: u64,
    /// Whether it has closed, so that no more will come.
    ended: bool,
    /// What is wrong with what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<&'static str>,
}

/// One frame.
#[derive(Serialize)]
struct Entry {
    /// When it was told, in milliseconds since 1970.
    at: u64,
    /// Whether the peer sent it.
    received: bool,
    kind: &'static str,
    /// Bytes of its payload.
    bytes: usize,
    compressed: bool,
    code: Option<u16>,
    /// Bytes that waited for the peer before it.
    waiting: usize,
    /// The first of it.
    head: String,
    /// Whether that is not all.
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
            cut: head.len() == ripplecast::TappedFrame::HEAD && (*compressed || *len > head.len()),
        }
    }
}

/// Text that may end in the middle of a character.
fn text(head: &[u8]) -> String {
    match std::str::from_utf8(head) {
        Ok(text) => text.to_owned(),
        Err(error) => String::from_utf8_lossy(&head[..error.valid_up_to()]).into_owned(),
    }
}

/// The page of `conn` has said something.
pub(super) fn asked(hub: &Hub, conn: &Connection, message: &Frame) {
    let Some(log) = conn.state::<Log>() else { return };
    let Some(Asked { frames_of }) = message.as_text().and_then(|text| serde_json::from_str(text).ok()) else {
        refuse(conn, "", "The message is not understood.");
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

/// Looks into a connection.
fn open(hub: &Hub, id: &str) -> Result<Tap, &'static str> {
    let id: ConnectionId = id.parse().map_err(|_| "This is not the id of a connection.")?;
    let target = hub.connection(id).ok_or("It has closed.")?;
    if target.state::<Seen>().is_some_and(|seen| seen.what == INSPECTOR) {
        return Err("An inspector can’t be looked into: each frame of its log would be one more.");
    }
    target.tap().map_err(|error| if error.is_closed() { "It has closed." } else { "The node is overloaded." })
}

fn refuse(conn: &Connection, id: &str, why: &'static str) {
    send(conn, &Report { frames_of: id, frames: Vec::new(), missed: 0, ended: true, refused: Some(why) });
}

/// Reports what a tap tells, until it ends.
async fn follow(conn: Connection, id: &str, mut tap: Tap) {
    let mut clock = tokio::time::interval(EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut frames = Vec::new();
    let (mut missed, mut told) = (0, 0);
    loop {
        tokio::select! {
            frame = tap.next() => match frame {
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
                if !frames.is_empty() || all > told {
                    let frames = std::mem::take(&mut frames);
                    told = all;
                    send(&conn, &Report { frames_of: id, frames, missed: all, ended: false, refused: None });
                }
            }
        }
    }
}

fn send(conn: &Connection, report: &Report<'_>) {
    if let Ok(frame) = Frame::json(report) {
        conn.push(frame).ignore();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_cut_in_a_character_stays_text() {
        assert_eq!(text("só".as_bytes()), "só");
        assert_eq!(text(&"só".as_bytes()[..2]), "s");
    }
}
