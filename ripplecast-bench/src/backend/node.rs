//! A node of a run: a hub with one room and one topic, which executes commands from standard input until it closes.

use std::{
    io::{BufRead as _, Write as _},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use ripplecast::{
    App, Connection, Hub, Message,
    bus::{BusMessage, Subscription},
    ws,
};
use tokio::runtime::Runtime;

use super::{
    mark::{Mark, Seen, now},
    options::Url,
    protocol::{Counts, Load, Request, Response},
};
use crate::result::Result;

pub(super) const ROOM: &str = "members";
/// The topic on the bus.
const TOPIC: &str = "listeners";
/// The outbox of a member: a measurement must not end because of a limit.
const OUTBOX: usize = 64 << 20;

/// Serves until standard input closes.
pub(super) fn run(backend: &Url, prefix: &str) -> Result<()> {
    let failed = |error: std::io::Error| format!("failed to start a runtime: {error}");
    let runtime = Runtime::new().map_err(failed)?;
    let url = format!("{}?prefix={prefix}", backend.as_str());
    let bound = runtime.block_on(async {
        let app = App::builder().backend(&url).build().await?;
        let member = ws::endpoint(Member).outbox(OUTBOX).ping_interval(Duration::ZERO);
        app.ws("/member", member).bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0)).await
    });
    let bound = bound.map_err(|error| error.to_string())?;
    let mut node = Node { runtime, hub: bound.hub(), received: None };
    respond(&Response::Ready { addr: bound.local_addr() })?;
    node.runtime.spawn(bound.serve_with_shutdown(std::future::pending()));
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("failed to read a command: {error}"))?;
        let request =
            serde_json::from_str(&line).map_err(|error| format!("invalid command {line:?}: {error}"))?;
        let done = node.execute(request).unwrap_or_else(Response::Failed);
        respond(&done)?;
    }
    node.runtime.block_on(node.hub.shutdown());
    node.runtime.shutdown_background();
    Ok(())
}

/// Prints a response.
fn respond(response: &Response) -> Result<()> {
    let line = serde_json::to_string(response)
        .map_err(|error| format!("failed to encode a response: {error}"))?
        + "\n";
    let mut out = std::io::stdout();
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| format!("failed to write a response: {error}"))
}

struct Node {
    runtime: Runtime,
    hub: Hub,
    /// The messages received on the bus, and the subscription that receives them.
    received: Option<(Arc<Mutex<Seen>>, Subscription)>,
}

impl Node {
    /// Executes a command.
    fn execute(&mut self, request: Request) -> Result<Response> {
        match request {
            Request::Listen { run } => {
                self.received = None;
                let seen = Arc::new(Mutex::new(Seen::new(run)));
                let received = seen.clone();
                let handler = move |message: BusMessage| {
                    received.lock().unwrap_or_else(PoisonError::into_inner).take(&message.payload);
                    std::future::ready(())
                };
                let subscription = self.runtime.block_on(self.hub.bus().subscribe(TOPIC, handler));
                self.received = Some((seen, subscription.map_err(|error| error.to_string())?));
                Ok(Response::Done { taken: 0 })
            }
            Request::Received => {
                let (seen, _) = self.received.as_ref().ok_or("not subscribed to the bus")?;
                Ok(Response::Received(seen.lock().unwrap_or_else(PoisonError::into_inner).report()))
            }
            Request::Publish(load) => send(load, |message| {
                let published = self.runtime.block_on(self.hub.bus().publish(TOPIC, message));
                published.map(|nodes| nodes > 0).map_err(|error| error.to_string())
            }),
            Request::Push(load) => {
                let room = self.hub.room(ROOM);
                send(load, |message| Ok(room.push(Message::text(message)).is_queued()))
            }
            Request::Counts => {
                let remote = self.hub.stats().remote;
                Ok(Response::Counts(Counts {
                    received: remote.received,
                    sent: remote.sent,
                    unsent: remote.unsent,
                }))
            }
        }
    }
}

/// Sends messages at their rate. Returns how many were accepted.
///
/// At a fixed rate, each message carries its time of sending, or the time at which it was due if the previous message
/// delayed it. The delay with which a sleeping thread wakes up is not part of the latency.
fn send(load: Load, mut take: impl FnMut(String) -> Result<bool>) -> Result<Response> {
    let Load { run, first, count, size, rate } = load;
    let (begin, began) = (Instant::now(), now());
    let mut taken = 0;
    for index in 0..count {
        let mut sent = None;
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(index as f64 / rate);
            match due.checked_sub(begin.elapsed()) {
                Some(rest) => thread::sleep(rest),
                None => sent = Some(began + due.as_nanos() as u64),
            }
        }
        let mark = Mark { run, number: first + index, sent: sent.unwrap_or_else(now) };
        taken += u64::from(take(mark.message(size))?);
    }
    Ok(Response::Done { taken })
}

struct Member;

impl ws::Handler for Member {
    async fn on_open(&self, conn: Connection) -> ripplecast::Result<()> {
        conn.join(ROOM)
    }
}
