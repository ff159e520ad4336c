//! Opens connections with cookies and headers.

use std::{net::SocketAddr, pin::Pin, time::Duration};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error as WsError, client::IntoClientRequest as _};

use super::{DEADLINE, Error, Events, Result, Socket, error::within};

/// The longest response of which a client keeps the body: larger ones are no use in a test's messages.
const BODY: usize = 16 << 20;

/// Opens WebSockets and event streams at a server, with cookies and headers. Cheap to clone.
///
/// ```no_run
/// # async fn example(server: ripplecast::test::Server) -> ripplecast::test::Result<()> {
/// let ann = server.client().cookie("session", "ann").header("origin", "https://example.com");
/// let socket = ann.ws("/chat").await?;
/// let events = ann.sse("/events").await?;
/// # let _ = (socket, events); Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Client {
    addr: SocketAddr,
    headers: Vec<(String, String)>,
    cookies: Vec<String>,
    deadline: Duration,
}

impl Client {
    /// Creates a client of the server at an address, such as that of a [`Bound`](crate::Bound) app.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, headers: Vec::new(), cookies: Vec::new(), deadline: DEADLINE }
    }

    /// Adds a header to each request.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds a cookie to each request.
    pub fn cookie(mut self, name: &str, value: &str) -> Self {
        self.cookies.push(format!("{name}={value}"));
        self
    }

    /// Sets how long each step may take, also of the connections that it opens; default 10 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Opens a WebSocket.
    ///
    /// # Errors
    /// [`Error::Refused`] with the server's response, or [`Error::TimedOut`]; [`Error::Invalid`] if a header
    /// or the path is not valid.
    pub async fn ws(&self, path: &str) -> Result<Socket> {
        let mut request =
            format!("ws://{}{path}", self.addr).into_client_request().map_err(Error::invalid)?;
        self.add_headers(request.headers_mut())?;
        within(self.deadline, "a WebSocket", async {
            match tokio_tungstenite::client_async(request, self.connect().await?).await {
                Ok((stream, _)) => Ok(Socket::new(stream, self.deadline)),
                Err(WsError::Http(response)) => {
                    let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
                    Err(Error::Refused { status: response.status().as_u16(), body: body.into_owned() })
                }
                Err(error) => Err(Error::connection(error)),
            }
        })
        .await
    }

    /// Opens an event stream.
    ///
    /// # Errors
    /// Same as [`ws`](Self::ws).
    pub async fn sse(&self, path: &str) -> Result<Events> {
        let request = Request::get(path).header(header::ACCEPT, "text/event-stream").body(Body::empty());
        let request = request.map_err(Error::invalid)?;
        within(self.deadline, "an event stream", async {
            let (head, body) = self.ask(request).await?.into_parts();
            let kind = head.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
            if head.status.is_success() && kind.starts_with(b"text/event-stream") {
                return Ok(Events::new(body, self.deadline));
            }
            let body = String::from_utf8_lossy(&whole(body).await?).into_owned();
            Err(Error::Refused { status: head.status.as_u16(), body })
        })
        .await
    }

    /// Sends a plain HTTP request, and returns the response with its whole body, whatever its status.
    ///
    /// # Errors
    /// [`Error::Connection`], [`Error::Invalid`] or [`Error::TimedOut`].
    ///
    /// ```no_run
    /// # async fn example(server: ripplecast::test::Server) -> Result<(), Box<dyn std::error::Error>> {
    /// use axum::{body::Body, http::Request};
    ///
    /// let answer = server.client().request(Request::post("/api/bump").body(Body::empty())?).await?;
    /// assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &b"1"[..]));
    /// # Ok(()) }
    /// ```
    pub async fn request(&self, request: Request<Body>) -> Result<Response<Bytes>> {
        within(self.deadline, "a response", async {
            let (head, body) = self.ask(request).await?.into_parts();
            Ok(Response::from_parts(head, whole(body).await?))
        })
        .await
    }

    /// Sends a request, with the cookies and headers.
    async fn ask(&self, mut request: Request<Body>) -> Result<Response<Incoming>> {
        let host = HeaderValue::try_from(self.addr.to_string()).map_err(Error::invalid)?;
        request.headers_mut().entry(header::HOST).or_insert(host);
        self.add_headers(request.headers_mut())?;
        let io = TokioIo::new(self.connect().await?);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.map_err(Error::connection)?;
        tokio::spawn(connection); // ends with the response's body
        sender.send_request(request).await.map_err(Error::connection)
    }

    async fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.addr).await.map_err(Error::connection)?;
        stream.set_nodelay(true).map_err(Error::connection)?;
        Ok(stream)
    }

    fn add_headers(&self, headers: &mut HeaderMap) -> Result<()> {
        let cookies = self.cookies.join("; ");
        let cookie = (!cookies.is_empty()).then_some(("cookie", cookies.as_str()));
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(cookie) {
            let name = HeaderName::try_from(name).map_err(Error::invalid)?;
            let value = HeaderValue::try_from(value).map_err(Error::invalid)?;
            if name == header::HOST {
                headers.insert(name, value);
            } else {
                headers.append(name, value);
            }
        }
        Ok(())
    }
}

/// Reads the next part of a body; `None` at its end.
pub(super) async fn part(body: &mut Incoming) -> Result<Option<Bytes>> {
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
        match frame.transpose().map_err(Error::connection)? {
            None => return Ok(None),
            Some(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Reads a whole body.
async fn whole(mut body: Incoming) -> Result<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(part) = part(&mut body).await? {
        if whole.len() + part.len() > BODY {
            return Err(Error::unexpected("a body of at most 16 MiB", "a longer one"));
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}
