//! A network that can fail.

use std::{
    future::pending,
    io::{self, ErrorKind},
    net::{Shutdown, SocketAddr},
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc as async_mpsc, watch},
    task::JoinSet,
};

use super::server::{Server, free_port};
use crate::support::PATIENCE;

/// A proxy in front of a server. It passes bytes in both directions until told otherwise.
///
/// It runs on its own thread. Each method returns after it has taken effect.
pub(crate) struct Proxy {
    /// The address on which it listens.
    addr: SocketAddr,
    /// The backend through this proxy, as the server's default user.
    url: String,
    /// Orders, each of which is answered; `None` once the proxy must end.
    orders: Option<async_mpsc::UnboundedSender<(Order, mpsc::Sender<usize>)>>,
    /// Ends after the orders.
    thread: Option<JoinHandle<()>>,
}

/// An order to a proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Order {
    /// Hold back what a client sends, from the first occurrence of these bytes on.
    Hold(Vec<u8>),
    /// Delay everything.
    Delay(Duration),
    /// Reset every connection and refuse new ones.
    Cut,
    /// Keep the connections, but pass nothing.
    Stall,
    /// Pass bytes and accept connections again.
    Heal,
    /// Connect new connections to another server.
    Lead(SocketAddr),
    /// Return the number of connections.
    Count,
}

impl Proxy {
    /// Creates a proxy in front of a server.
    pub(crate) fn before(server: &Server) -> Self {
        let (upstream, addr) = (server.addr(), SocketAddr::from(([127, 0, 0, 1], free_port())));
        let (orders, receiver) = async_mpsc::unbounded_channel();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(addr, upstream, receiver, ready));
        });
        is_ready.recv_timeout(PATIENCE).expect("the proxy starts");
        Self { addr, url: server.url_at(addr), orders: Some(orders), thread: Some(thread) }
    }

    /// Returns the address on which it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the URL of the backend through this proxy, as the server's default user.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Resets every connection and refuses new ones.
    pub(crate) fn cut(&self) {
        self.order(Order::Cut);
    }

    /// Stops passing bytes without notifying anybody, like a failed network. Connections stay open and new
    /// ones are accepted, but data and ends of connections are neither passed nor refused. They pass once the
    /// proxy is healed.
    pub(crate) fn stall(&self) {
        self.order(Order::Stall);
    }

    /// Holds back what a client sends from the first occurrence of these bytes on, until the proxy is healed.
    /// The server sees none of it. Other connections are not affected.
    pub(crate) fn hold(&self, bytes: impl Into<Vec<u8>>) {
        self.order(Order::Hold(bytes.into()));
    }

    /// Delays everything by that time, in both directions.
    pub(crate) fn delay(&self, time: Duration) {
        self.order(Order::Delay(time));
    }

    /// Passes bytes and accepts connections again.
    pub(crate) fn heal(&self) {
        self.order(Order::Heal);
    }

    /// Connects new connections to another server.
    pub(crate) fn lead_to(&self, server: &Server) {
        self.order(Order::Lead(server.addr()));
    }

    /// Returns the number of connections through the proxy.
    pub(crate) fn connections(&self) -> usize {
        self.order(Order::Count)
    }

    fn order(&self, order: Order) -> usize {
        let (answer, answered) = mpsc::channel();
        self.orders
            .as_ref()
            .expect("the proxy is running")
            .send((order, answer))
            .expect("the proxy is running");
        answered.recv_timeout(PATIENCE).expect("the proxy answers")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the proxy has failed");
        }
    }
}

/// Runs the proxy until its owner is dropped.
async fn run(
    addr: SocketAddr,
    mut upstream: SocketAddr,
    mut orders: async_mpsc::UnboundedReceiver<(Order, mpsc::Sender<usize>)>,
    ready: mpsc::Sender<()>,
) {
    let mut listener = Some(TcpListener::bind(addr).await.unwrap());
    let flows = watch::Sender::new(Flows::default());
    let mut connections = JoinSet::new();
    ready.send(()).unwrap();
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => {
                let Some((order, answer)) = order else { return };
                match order {
                    Order::Count => {}
                    Order::Lead(to) => upstream = to,
                    Order::Stall => flows.send_modify(|flows| flows.stalls = true),
                    Order::Hold(bytes) => flows.send_modify(|flows| flows.held = Some(bytes)),
                    Order::Delay(time) => flows.send_modify(|flows| flows.delay = time),
                    Order::Cut => {
                        listener = None;
                        connections.shutdown().await;
                    }
                    Order::Heal => {
                        flows.send_replace(Flows::default());
                        if listener.is_none() {
                            listener = Some(TcpListener::bind(addr).await.unwrap());
                        }
                    }
                }
                while connections.try_join_next().is_some() {}
                // A caller that no longer waits for the answer has already failed.
                let _ = answer.send(connections.len());
            }
            stream = accept(listener.as_ref()) => {
                connections.spawn(pass(stream, upstream, flows.subscribe()));
            }
        }
    }
}

/// How bytes pass.
#[derive(Clone, Default, PartialEq, Eq)]
struct Flows {
    /// Whether nothing passes.
    stalls: bool,
    delay: Duration,
    /// Bytes from which on nothing passes to the server.
    held: Option<Vec<u8>>,
}

/// Accepts the next connection; waits forever without a listener.
async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    match listener {
        Some(listener) => listener.accept().await.unwrap().0,
        None => pending().await,
    }
}

/// Runs one connection. If it is cut or the server is not reachable, the client sees a reset.
async fn pass(client: TcpStream, upstream: SocketAddr, flows: watch::Receiver<Flows>) {
    linger(&client, Some(Duration::ZERO));
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    linger(&server, Some(Duration::ZERO));
    let to_server = pump(&client, &server, flows.clone(), true);
    let to_client = pump(&server, &client, flows, false);
    if tokio::try_join!(to_server, to_client).is_ok() {
        // Both sides have closed. A reset must not lose data still in transit to them.
        linger(&client, None);
        linger(&server, None);
    }
}

/// Sets what happens on drop: a reset after no time, or an ordinary end.
fn linger(stream: &TcpStream, time: Option<Duration>) {
    // This fails if the connection has already ended.
    let _ = SockRef::from(stream).set_linger(time);
}

/// Passes data from one side to the other, up to its end.
async fn pump(
    from: &TcpStream,
    to: &TcpStream,
    mut flows: watch::Receiver<Flows>,
    to_server: bool,
) -> io::Result<()> {
    let (mut buffer, mut before) = (vec![0; 16 << 10], Vec::new());
    loop {
        open(&mut flows, from.readable()).await?;
        let read = match from.try_read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            read => read?,
        };
        let delay = flows.borrow().delay;
        if delay > Duration::ZERO {
            tokio::time::sleep(delay).await;
        }
        if to_server {
            before.extend_from_slice(&buffer[..read]);
            let passes = |flows: &Flows| {
                let Some(held) = flows.held.as_deref() else { return true };
                let new = before.len().saturating_sub(read + held.len() - 1);
                !before[new..].windows(held.len()).any(|bytes| bytes == held)
            };
            flows.wait_for(passes).await.map_err(io::Error::other)?;
            // The bytes to hold back may start in one read and end in the next.
            before.drain(..before.len().saturating_sub(1 << 10));
        }
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            open(&mut flows, to.writable()).await?;
            match to.try_write(rest) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => rest = &rest[written?..],
            }
        }
        if read == 0 {
            open(&mut flows, to.writable()).await?;
            return SockRef::from(to).shutdown(Shutdown::Write);
        }
    }
}

/// Waits until a socket is ready while bytes may pass. All of this runs on one thread, so that no order takes
/// effect before the caller's next wait.
async fn open(
    flows: &mut watch::Receiver<Flows>,
    ready: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    ready.await?;
    // This fails when the proxy has ended.
    flows.wait_for(|flows| !flows.stalls).await.map(|_| ()).map_err(io::Error::other)
}
