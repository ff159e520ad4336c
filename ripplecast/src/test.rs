//! Clients for the tests of your application. Needs the feature `test`; set it under `[dev-dependencies]`.
//!
//! A [`Server`] serves your [`App`](crate::App) or router on a free port of loopback, in the test's own process. Its
//! [`Client`]s open WebSockets and event streams with the cookies and headers that you set. Every wait has a deadline,
//! and an error shows what arrived instead of what was expected.
//!
//! ```
//! use ripplecast::{App, Connection, Hub, Message, test::Server, ws};
//!
//! /// The routes, as in your `main`.
//! fn routes(app: App) -> App {
//!     let chat = ws::handlers()
//!         .with_state(app.hub())
//!         .on_open(async |_, conn: Connection| conn.join("chat"))
//!         .on_message(async |hub: Hub, _, message: Message| hub.room("chat").push(message));
//!     app.ws("/chat", chat)
//! }
//!
//! # #[derive(serde::Deserialize, PartialEq, Debug)] struct Said { text: String }
//! // #[tokio::test] in your tests
//! # #[tokio::main(flavor = "current_thread")]
//! async fn what_one_says_the_other_receives() -> Result<(), Box<dyn std::error::Error>> {
//!     let server = Server::start(routes(App::builder().build().await?)).await?;
//!     let mut ann = server.client().cookie("session", "ann").ws("/chat").await?;
//!     let mut bob = server.client().ws("/chat").await?;
//!     server.members("chat", 2).await?; // both have joined
//!
//!     ann.send_json(&serde_json::json!({ "text": "hello" })).await?;
//!     assert_eq!(bob.expect_json::<Said>().await?, Said { text: "hello".into() });
//!     server.stop().await; // at once: every on_close has returned
//!     Ok(())
//! }
//! # what_one_says_the_other_receives().unwrap();
//! ```

mod client;
mod error;
mod events;
mod socket;

pub use self::{
    client::Client,
    error::Error,
    events::{Event, Events},
    socket::Socket,
};

use std::{
    future::pending,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use axum::Router;
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};

use crate::Hub;

/// The result of a client's step.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How long a step may take: far longer than anything on loopback takes, so that only a hang fails a test.
const DEADLINE: Duration = Duration::from_secs(10);
/// Interval between checks of a value that sends no notification.
const CHECK: Duration = Duration::from_millis(2);

/// An application that is being served on loopback. Dropping it stops it without waiting;
/// [`stop`](Self::stop) waits for every `on_close`.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    hub: Hub,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves an app on a free port, with its own accept loop and settings.
    ///
    /// # Errors
    /// As [`App::bind`](crate::App::bind).
    #[cfg(feature = "server")]
    #[cfg_attr(docsrs, doc(cfg(feature = "server")))]
    pub async fn start(app: crate::App) -> crate::Result<Self> {
        let bound = app.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let (addr, hub) = (bound.local_addr(), bound.hub());
        let task = tokio::spawn(async move { drop(bound.serve_with_shutdown(pending()).await) });
        Ok(Self { addr, hub, task })
    }

    /// Serves a router on a free port, as [`serve`](crate::serve()) does.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if no port can be listened on.
    pub async fn start_router(router: Router, hub: &Hub) -> crate::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (addr, served) = (listener.local_addr()?, hub.clone());
        let task = tokio::spawn(async move {
            drop(crate::serve_with_shutdown(listener, router, &served, pending()).await);
        });
        Ok(Self { addr, hub: hub.clone(), task })
    }

    /// Returns the address, with the actual port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the hub.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Returns a client without cookies and headers.
    pub fn client(&self) -> Client {
        Client::new(self.addr)
    }

    /// Opens a WebSocket, without cookies and headers.
    ///
    /// # Errors
    /// As [`Client::ws`].
    pub async fn ws(&self, path: &str) -> Result<Socket> {
        self.client().ws(path).await
    }

    /// Opens an event stream, without cookies and headers.
    ///
    /// # Errors
    /// As [`Client::sse`].
    pub async fn sse(&self, path: &str) -> Result<Events> {
        self.client().sse(path).await
    }

    /// Waits until a room has exactly this many members on this node.
    ///
    /// # Errors
    /// [`Error::TimedOut`] after 10 s, with the last number.
    pub async fn members(&self, room: &str, members: usize) -> Result<()> {
        let room = self.hub.room(room);
        let begun = Instant::now();
        while room.len_here() != members {
            if begun.elapsed() > DEADLINE {
                let expected = format!("{members} members of {:?}, not {}", room.name(), room.len_here());
                return Err(Error::TimedOut { expected, after: DEADLINE });
            }
            tokio::time::sleep(CHECK).await;
        }
        Ok(())
    }

    /// Shuts the hub down without waiting for clients, as [`Hub::shutdown_now`] does, and stops serving.
    pub async fn stop(self) {
        self.hub.shutdown_now().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
