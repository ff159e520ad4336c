//! A WebSocket at the client's side.

use std::{fmt, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message as WsMessage, protocol::CloseFrame},
};

use super::{Error, Result, error::within};
use crate::{Close, CloseCode};

/// An open WebSocket, at the client's side. Pings are answered while a step waits. Dropping it closes the
/// socket without a close frame.
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    deadline: Duration,
}

impl Socket {
    pub(super) fn new(stream: WebSocketStream<TcpStream>, deadline: Duration) -> Self {
        Self { stream, deadline }
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// [`Error::Connection`] if the socket is closed; [`Error::TimedOut`] if the server does not read.
    pub async fn send_text(&mut self, text: impl Into<String>) -> Result<()> {
        self.send(WsMessage::text(text.into())).await
    }

    /// Sends a binary message.
    ///
    /// # Errors
    /// Same as [`send_text`](Self::send_text).
    pub async fn send_bytes(&mut self, bytes: impl Into<Vec<u8>>) -> Result<()> {
        self.send(WsMessage::binary(bytes.into())).await
    }

    /// Sends a value as JSON, in a text message.
    ///
    /// # Errors
    /// Same as [`send_text`](Self::send_text). Also [`Error::Invalid`] if it can't be written as JSON.
    pub async fn send_json<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.send_text(serde_json::to_string(value).map_err(Error::invalid)?).await
    }

    async fn send(&mut self, message: WsMessage) -> Result<()> {
        let sending = async { self.stream.send(message).await.map_err(Error::connection) };
        within(self.deadline, "the message to be sent", sending).await
    }

    /// Receives the next message, which must be text.
    ///
    /// # Errors
    /// [`Error::Unexpected`] with what arrived instead: a binary message, a close with its code, or the end.
    /// [`Error::TimedOut`] if nothing arrives.
    pub async fn expect_text(&mut self) -> Result<String> {
        match self.next("a text message").await? {
            WsMessage::Text(text) => Ok(text.as_str().to_owned()),
            other => Err(Error::unexpected("a text message", describe(&other))),
        }
    }

    /// Receives the next message, which must be binary.
    ///
    /// # Errors
    /// Same as [`expect_text`](Self::expect_text).
    pub async fn expect_bytes(&mut self) -> Result<Vec<u8>> {
        match self.next("a binary message").await? {
            WsMessage::Binary(bytes) => Ok(bytes.into()),
            other => Err(Error::unexpected("a binary message", describe(&other))),
        }
    }

    /// Receives the next message, which must be text, and JSON of this type.
    ///
    /// # Errors
    /// Same as [`expect_text`](Self::expect_text). A text that does not parse is in the error, with the
    /// reason.
    pub async fn expect_json<T: DeserializeOwned>(&mut self) -> Result<T> {
        const EXPECTED: &str = "a JSON message";
        match self.next(EXPECTED).await? {
            WsMessage::Text(text) => parse(text.as_str()),
            other => Err(Error::unexpected(EXPECTED, describe(&other))),
        }
    }

    /// Waits for the server to close the connection, answers its close frame, and returns its code and
    /// reason: 1005 if the frame had no code, 1006 if the connection ended without a frame.
    ///
    /// # Errors
    /// [`Error::Unexpected`] if a message arrives instead; [`Error::TimedOut`] if nothing arrives.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use ripplecast::{CloseCode, Connection, Hub, test::Server, ws};
    ///
    /// let hub = Hub::builder().build()?;
    /// let once = ws::handlers().on_open(async |conn: Connection| conn.close(CloseCode::NORMAL, "enough"));
    /// let router = axum::Router::new().route("/", hub.ws(once));
    /// let server = Server::start_router(router, &hub).await?;
    /// let close = server.ws("/").await?.expect_close().await?;
    /// assert_eq!((close.code, &*close.reason), (CloseCode::NORMAL, "enough"));
    /// # server.stop().await; Ok(()) }
    /// ```
    pub async fn expect_close(&mut self) -> Result<Close> {
        const EXPECTED: &str = "a close";
        let received = within(self.deadline, EXPECTED, async {
            loop {
                match self.stream.next().await {
                    Some(Ok(WsMessage::Ping(_) | WsMessage::Pong(_) | WsMessage::Frame(_))) => {}
                    Some(Ok(message)) => return Ok(Some(message)),
                    Some(Err(_)) | None => return Ok(None),
                }
            }
        });
        match received.await? {
            None => Ok(Close::new(CloseCode::ABNORMAL, "")),
            Some(WsMessage::Close(frame)) => {
                // The answer is sent by reading on, until the server ends the connection.
                let rest = async {
                    while let Some(Ok(_)) = self.stream.next().await {}
                    Ok(())
                };
                within(self.deadline, "the end of the connection", rest).await?;
                Ok(match frame {
                    None => Close::new(CloseCode::NO_STATUS, ""),
                    Some(CloseFrame { code, reason }) => {
                        Close::new(CloseCode::from_peer(code.into()), reason.as_str().to_owned())
                    }
                })
            }
            Some(message) => Err(Error::unexpected(EXPECTED, describe(&message))),
        }
    }

    /// Closes the connection with a code, and waits until the server has answered. Messages that arrive until
    /// then are dropped.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if the server does not answer.
    pub async fn close(mut self, code: CloseCode, reason: &str) -> Result<()> {
        let frame = CloseFrame { code: code.get().into(), reason: reason.into() };
        within(self.deadline, "the server's close frame", async {
            if self.stream.send(WsMessage::Close(Some(frame))).await.is_ok() {
                while let Some(Ok(_)) = self.stream.next().await {}
            }
            Ok(())
        })
        .await
    }

    /// Receives the next message or close frame.
    async fn next(&mut self, expected: &str) -> Result<WsMessage> {
        within(self.deadline, expected, async {
            loop {
                match self.stream.next().await {
                    Some(Ok(WsMessage::Ping(_) | WsMessage::Pong(_) | WsMessage::Frame(_))) => {}
                    Some(Ok(message)) => return Ok(message),
                    Some(Err(error)) => {
                        return Err(Error::unexpected(
                            expected,
                            format!("the end of the connection: {error}"),
                        ));
                    }
                    None => return Err(Error::unexpected(expected, "the end of the connection")),
                }
            }
        })
        .await
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").finish_non_exhaustive()
    }
}

/// Parses JSON; the error shows the text.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        let expected = format!("JSON of the type {}", std::any::type_name::<T>());
        Error::unexpected(&expected, format!("{text:?} ({error})"))
    })
}

/// Describes what arrived.
fn describe(message: &WsMessage) -> String {
    match message {
        WsMessage::Text(text) => format!("the text {:?}", text.as_str()),
        WsMessage::Binary(bytes) => format!("{} bytes: {:?}", bytes.len(), bytes),
        WsMessage::Close(None) => "a close without a code".to_owned(),
        WsMessage::Close(Some(frame)) => {
            format!("a close with {} {:?}", u16::from(frame.code), frame.reason.as_str())
        }
        other => format!("{other:?}"),
    }
}
