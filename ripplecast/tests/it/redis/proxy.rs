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

/// Stands in front of a server and passes bytes in both directions, as long as it is told nothing else.
///
/// It runs on a thread of its own; each of its methods returns when what it is for has happened.
pub(crate) struct Proxy {
    /// Where it listens.
    addr: SocketAddr,
    /// The backend, as its default user, by way of this proxy.
    url: String,
    /// What it is told; each is answered. Gone once it is to end.
    orders: Option<async_mpsc::UnboundedSender<(Order, mpsc::Sender<usize>)>>,
    /// Ends after the orders.
    thread: Option<JoinHandle<()>>,
}

/// What a proxy can be told.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Order {
    /// Hold back what a client sends, from the first of these bytes on.
    Hold(Vec<u8>),
    /// Pass everything so much later.
    Delay(Duration),
    /// Reset every connection, and let none in.
    Cut,
    /// Keep the connections, and let them pass nothing.
    Stall,
    /// Do what a proxy does.
    Heal,
    /// Lead new connections to another server.
    Lead(SocketAddr),
    /// Say how many connections there are.
    Count,
}

impl Proxy {
    /// A proxy in front of a server.
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

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The backend, as its default user, by way of this proxy.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Resets every connection, and refuses new ones.
    pub(crate) fn cut(&self) {
        self.order(Order::Cut);
    }

    /// Passes no byte any more and tells nobody, as a network does that is gone: connections stand, and new ones are taken, but
    /// what is sent is neither passed nor refused, nor is the end of a connection. It comes through once the proxy is healed.
    pub(crate) fn stall(&self) {
        self.order(Order::Stall);
    }

    /// Holds back what a client sends from the first time on that it sends these bytes: the server has seen none of what comes
    /// from there on, until the proxy is healed. Other connections go on.
    pub(crate) fn hold(&self, bytes: impl Into<Vec<u8>>) {
        self.order(Order::Hold(bytes.into()));
    }

    /// Passes everything so much later, in both directions.
    pub(crate) fn delay(&self, time: Duration) {
        self.order(Order::Delay(time));
    }

    /// Passes bytes and lets connections in, after it was told otherwise.
    pub(crate) fn heal(&self) {
        self.order(Order::Heal);
    }

    /// Leads new connections to another server.
    pub(crate) fn lead_to(&self, server: &Server) {
        self.order(Order::Lead(server.addr()));
    }

    /// How many connections go through it.
    pub(crate) fn connections(&self) -> usize {
        self.order(Order::Count)
    }

    fn order(&self, order: Order) -> usize {
        let (answer, answered) = mpsc::channel();
        self.orders.as_ref().expect("it runs").send((order, answer)).expect("the proxy runs");
        answered.recv_timeout(PATIENCE).expect("the proxy does as it is told")
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

/// The proxy, until there is nobody to tell it anything.
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
                // Somebody who no longer waits for the answer has failed already.
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
    /// Not at all.
    stalls: bool,
    /// So much later.
    delay: Duration,
    /// Not from there on, towards the server.
    held: Option<Vec<u8>>,
}

/// The next connection; none ever comes where nobody listens.
async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    match listener {
        Some(listener) => listener.accept().await.unwrap().0,
        None => pending().await,
    }
}

/// One connection. When it is cut off, or the server can't be reached, the client sees a reset.
async fn pass(client: TcpStream, upstream: SocketAddr, flows: watch::Receiver<Flows>) {
    linger(&client, Some(Duration::ZERO));
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    linger(&server, Some(Duration::ZERO));
    let to_server = pump(&client, &server, flows.clone(), true);
    let to_client = pump(&server, &client, flows, false);
    if tokio::try_join!(to_server, to_client).is_ok() {
        // Both have said their last; what is still on its way to them must not be lost to a reset.
        linger(&client, None);
        linger(&server, None);
    }
}

/// What happens when it is dropped: a reset after no time, or an ordinary end.
fn linger(stream: &TcpStream, time: Option<Duration>) {
    // It fails when the connection has ended already.
    let _ = SockRef::from(stream).set_linger(time);
}

/// Passes what comes from one side to the other, up to its end.
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
            // What is held back may begin in one read and end in the next.
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

/// Waits until a socket is ready while bytes may pass. All is on one thread, so that no order can come before the caller's next
/// wait.
async fn open(
    flows: &mut watch::Receiver<Flows>,
    ready: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    ready.await?;
    // The proxy has ended when nobody can change it any more.
    flows.wait_for(|flows| !flows.stalls).await.map(|_| ()).map_err(io::Error::other)
}
