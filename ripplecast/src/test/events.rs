//! An event stream at the client's side.

use std::{fmt, time::Duration};

use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::{Error, Result, client::part, error::within, socket::parse};

/// An open event stream, at the client's side. Dropping it closes the connection.
pub struct Events {
    body: Incoming,
    /// Received, not yet parsed.
    bytes: Vec<u8>,
    deadline: Duration,
}

/// An event, as a browser's `EventSource` receives it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Event {
    /// The name; `message` unless the server set one.
    pub name: String,
    /// The data: lines joined by line feeds.
    pub data: String,
    /// The id; empty if the event has none.
    pub id: String,
}

impl Events {
    pub(super) fn new(body: Incoming, deadline: Duration) -> Self {
        Self { body, bytes: Vec::new(), deadline }
    }

    /// Receives the next event. Comments, which keep the connection alive, are skipped.
    ///
    /// # Errors
    /// [`Error::Unexpected`] if the stream ends instead; [`Error::TimedOut`] if nothing arrives.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use ripplecast::{Hub, test::Server};
    ///
    /// let hub = Hub::builder().build()?;
    /// let router = axum::Router::new().route("/events", hub.sse("news"));
    /// let server = Server::start_router(router, &hub).await?;
    /// let mut events = server.sse("/events").await?;
    /// server.members("news", 1).await?;
    /// hub.room("news").push("hello").ignore();
    /// assert_eq!(events.expect_event().await?.data, "hello");
    /// # server.stop().await; Ok(()) }
    /// ```
    pub async fn expect_event(&mut self) -> Result<Event> {
        const EXPECTED: &str = "an event";
        within(self.deadline, EXPECTED, async {
            match self.next().await? {
                Some(event) => Ok(event),
                None => Err(Error::unexpected(EXPECTED, "the end of the stream")),
            }
        })
        .await
    }

    /// Receives the next event, whose data must be JSON of this type.
    ///
    /// # Errors
    /// Same as [`expect_event`](Self::expect_event). Data that does not parse is in the error, with the
    /// reason.
    pub async fn expect_json<T: DeserializeOwned>(&mut self) -> Result<T> {
        parse(&self.expect_event().await?.data)
    }

    /// Waits for the server to end the stream.
    ///
    /// # Errors
    /// [`Error::Unexpected`] if an event arrives instead; [`Error::TimedOut`] if nothing arrives.
    pub async fn expect_end(&mut self) -> Result<()> {
        const EXPECTED: &str = "the end of the stream";
        within(self.deadline, EXPECTED, async {
            match self.next().await {
                Ok(Some(event)) => Err(Error::unexpected(EXPECTED, format!("{event:?}"))),
                Ok(None) | Err(_) => Ok(()),
            }
        })
        .await
    }

    /// Receives the next event; `None` at the end.
    async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            while let Some(end) = self.bytes.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.bytes.drain(..end + 2).collect();
                if let Some(event) = event(&String::from_utf8_lossy(&block)) {
                    return Ok(Some(event));
                }
            }
            match part(&mut self.body).await? {
                Some(part) => self.bytes.extend_from_slice(&part),
                None => return Ok(None),
            }
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// Parses the lines of one event, as section 9.2 of the HTML standard does; `None` if they have no data.
fn event(block: &str) -> Option<Event> {
    let (mut name, mut id, mut data) = ("message", "", Vec::new());
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" if !value.is_empty() => name = value,
            "id" => id = value,
            "data" => data.push(value),
            _ => {}
        }
    }
    let event = || Event { name: name.to_owned(), data: data.join("\n"), id: id.to_owned() };
    (!data.is_empty()).then(event)
}
