//! The accept loop: HTTP/1.1 with the limits that `axum::serve` leaves out, over TLS or not, and a shutdown that ends.
//!
//! Each connection is one task for as long as it speaks HTTP. A WebSocket endpoint takes the socket out of hyper, and
//! the task ends there: what this file counts and drains are the connections that hyper still holds.

mod accepting;
mod connection;
pub(crate) mod files;
mod pace;
pub(crate) mod signals;
pub(crate) mod tls;

use std::{convert::Infallible, future::pending, net::IpAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};

use self::{
    accepting::{is_peers_fault, log_failed, log_full, log_too_many},
    connection::{Connection, Limits, Stage},
    pace::Pace,
    tls::Goodbyes,
};
use crate::{
    engine::{Admissions, Permit, Refused, is_loopback},
    headers::TrustedProxies,
    limits::{CONNECTIONS_PER_ADDRESS, IPV6_PREFIX},
    ws::tune,
};

/// Longest request head, in bytes; a longer one gets 431. Setting: `max_header`. Cookies and tokens fit, a flood does not.
const MAX_HEADER: usize = 16 * 1024;
/// Time in which a whole request head must come, and so the time that an idle connection is kept for its next
/// request; before it, the same for a TLS handshake. Setting: `header_timeout`. A phone on a poor link needs two or
/// three, a drip of bytes would take for ever.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Sockets that hyper may hold at once. Setting: `max_http_connections`. Each costs some 10 KiB; more wait in the
/// kernel's queue until one ends. Open event streams count, upgraded WebSockets do not.
const MAX_CONNECTIONS: usize = 65_536;
/// Time that a request's body may keep the server waiting, and a response's reader; refilled by [`MIN_RATE`]. Settings:
/// `body_timeout`, `write_timeout`. A phone in a tunnel comes back within it, a drip of bytes would take for ever.
const PACE_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest that these may be: beyond it they protect nothing.
pub(crate) const PACE_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes that give a second of that time back. Setting: `min_rate`. The poorest link has some thousand a second.
const MIN_RATE: u32 = 500;
/// Pause after the system had no descriptor or memory for a connection: time for others to give theirs back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time in which requests in flight and the hub must finish once shutdown has begun. With `ABORT_LIMIT` it stays below
/// the 10 s that supervisors commonly allow before they kill.
const DRAIN_LIMIT: Duration = Duration::from_millis(8_500);
/// Time in which the tasks that did not finish must have been dropped.
const ABORT_LIMIT: Duration = Duration::from_millis(500);
/// Time in which the last bytes of TLS connections must have left once all else has finished: a moment's work, except
/// for peers that take nothing.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);
/// The least that hyper takes as the size of its buffer.
const MIN_BUFFER: usize = 8 * 1024;

/// The settings of the accept loop.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Longest request head, in bytes.
    max_header: usize,
    /// Time in which a whole request head must come.
    header_timeout: Duration,
    /// How a request's body must come.
    body: Pace,
    /// How a response must be taken.
    write: Pace,
    /// Sockets that hyper may hold at once.
    max_connections: usize,
    /// The same of one address, save loopback and the trusted proxies.
    max_per_address: usize,
    /// Leading bits of an IPv6 address that count for it.
    ipv6_prefix: u8,
    /// Proxies, whose clients are many.
    trusted: TrustedProxies,
    /// Whether loopback is one address like others; only in tests, which have no other.
    counts_loopback: bool,
    /// Time in which everything must finish once shutdown has begun.
    drain_limit: Duration,
    /// The certificate, where TLS is spoken.
    tls: Option<Tls>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            max_header: MAX_HEADER,
            header_timeout: HEADER_TIMEOUT,
            body: Pace { time: PACE_TIMEOUT, min_rate: MIN_RATE },
            write: Pace { time: PACE_TIMEOUT, min_rate: MIN_RATE },
            max_connections: MAX_CONNECTIONS,
            max_per_address: CONNECTIONS_PER_ADDRESS,
            ipv6_prefix: IPV6_PREFIX,
            trusted: TrustedProxies::default(),
            counts_loopback: false,
            drain_limit: DRAIN_LIMIT,
            tls: None,
        }
    }
}

impl Server {
    /// Longest request head, in bytes: request line and headers together.
    pub(crate) fn max_header(mut self, bytes: usize) -> Self {
        self.max_header = bytes;
        self
    }

    /// Time in which a whole request head must come, counted from the end of the request before it.
    pub(crate) fn header_timeout(mut self, time: Duration) -> Self {
        self.header_timeout = time;
        self
    }

    /// Time that a request's body may keep the server waiting.
    pub(crate) fn body_timeout(mut self, time: Duration) -> Self {
        self.body.time = time.min(PACE_TIMEOUT_MAX);
        self
    }

    /// Time that a response's reader may keep the server waiting.
    pub(crate) fn write_timeout(mut self, time: Duration) -> Self {
        self.write.time = time.min(PACE_TIMEOUT_MAX);
        self
    }

    /// Bytes, either way, that give a second of these times back.
    pub(crate) fn min_rate(mut self, bytes: u32) -> Self {
        self.body.min_rate = bytes;
        self.write.min_rate = bytes;
        self
    }

    /// Sockets that hyper may hold at once, at least one.
    pub(crate) fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        self
    }

    /// Sockets that hyper may hold at once from one address, save loopback and [trusted](Self::trusted) proxies.
    pub(crate) fn max_per_address(mut self, connections: usize) -> Self {
        self.max_per_address = connections;
        self
    }

    /// Leading bits of an IPv6 address that count for it.
    pub(crate) fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.ipv6_prefix = bits;
        self
    }

    /// The proxies that may have more.
    pub(crate) fn trusted(mut self, proxies: TrustedProxies) -> Self {
        self.trusted = proxies;
        self
    }

    /// Speaks TLS with this certificate.
    pub(crate) fn tls(mut self, tls: Option<Tls>) -> Self {
        self.tls = tls;
        self
    }

    /// The certificate, where TLS is spoken.
    pub(crate) fn certificate(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Serves `router` until `shutdown` resolves, then stops accepting, lets requests in flight finish while `drain`
    /// runs, and returns when both are done, or after 9 s with what is left cut off.
    ///
    /// Trouble with accepting never ends it. Dropping the future stops accepting and drops every connection that
    /// hyper holds.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        router: Router,
        shutdown: impl Future<Output = ()>,
        drain: impl Future<Output = ()>,
    ) {
        raise_file_limit();
        tune(&listener);
        let places = Arc::new(Semaphore::new(self.max_connections));
        let stage = watch::Sender::new(Stage::Serving);
        let goodbyes = Goodbyes::new();
        // Turns every route into its final form now, not at each request.
        let router = router.with_state(());
        tokio::select! {
            () = shutdown => {}
            never = self.accept_all(&listener, &router, &places, &stage, &goodbyes) => match never {},
            never = self.watch_certificate() => match never {},
        }
        drop(listener);
        stage.send_replace(Stage::Draining);
        let finished = async {
            tokio::join!(drain, self.all_ended(&places));
            // The hub is done with its connections; a task may still be carrying their last bytes.
            let _ = timeout(GOODBYE_LIMIT, goodbyes.all_said()).await;
        };
        if timeout(self.drain_limit, finished).await.is_err() {
            let left = self.max_connections - places.available_permits();
            tracing::warn!(left, "shutdown took too long; what is left is cut off");
            stage.send_replace(Stage::Aborting);
            // Not more than a courtesy: a task that never yields can't be ended, and must not hold the process up.
            let _ = timeout(ABORT_LIMIT, self.all_ended(&places)).await;
        }
    }

    /// Accepts connections, each into a task of its own.
    async fn accept_all(
        &self,
        listener: &TcpListener,
        router: &Router,
        places: &Arc<Semaphore>,
        stage: &watch::Sender<Stage>,
        goodbyes: &Goodbyes,
    ) -> Infallible {
        let http = self.http();
        let admissions = self.admissions();
        let limits = Arc::new(Limits {
            body: self.body,
            write: self.write,
            trusted: self.trusted.clone(),
            forwarded: Arc::new(Admissions::new(usize::MAX, self.max_per_address, self.ipv6_prefix)),
        });
        loop {
            let place = self.place(places).await;
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_peers_fault(&error) => continue,
                Err(error) => {
                    log_failed(&error);
                    drop(place);
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = self.admit(&admissions, peer.ip()) else {
                log_too_many(peer.ip(), self.max_per_address);
                continue; // the socket is closed: to answer would cost more than the request
            };
            if !cfg!(target_os = "linux") {
                tune(&stream); // elsewhere it is not handed down
            }
            let connection = Connection {
                stream,
                peer,
                router: router.clone(),
                stage: stage.subscribe(),
                place: Place { _all: place, _of_address: permit },
                limits: Arc::clone(&limits),
            };
            // Two kinds of tasks, so that plain ones do not have the size of those that hold a TLS connection.
            match &self.tls {
                None => tokio::spawn(connection.run_plain(http.clone())),
                Some(tls) => {
                    let run = connection.run_tls(
                        tls.clone(),
                        goodbyes.one_more(),
                        self.header_timeout,
                        http.clone(),
                    );
                    tokio::spawn(run)
                }
            };
        }
    }

    /// Has a new certificate loaded whenever there is one.
    async fn watch_certificate(&self) -> Infallible {
        match &self.tls {
            Some(tls) => tls.watch().await,
            None => pending().await,
        }
    }

    /// A place for one more connection, waiting for one when all are taken.
    async fn place(&self, places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return place;
        }
        log_full(self.max_connections);
        Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Counts of sockets; none yet.
    fn admissions(&self) -> Arc<Admissions> {
        Arc::new(Admissions::new(self.max_connections, self.max_per_address, self.ipv6_prefix))
    }

    /// Counts a socket for its address.
    fn admit(&self, admissions: &Arc<Admissions>, address: IpAddr) -> Result<Permit, Refused> {
        let is_one = !self.trusted.contains(address) && (self.counts_loopback || !is_loopback(address));
        admissions.admit(is_one.then_some(address))
    }

    /// Resolves when no connection is left. Nobody else may be asking for places.
    async fn all_ended(&self, places: &Semaphore) {
        let all = u32::try_from(self.max_connections).expect("max_connections keeps within u32");
        let _all = places.acquire_many(all).await.expect("the semaphore is never closed");
    }

    /// What hyper is told about every connection.
    fn http(&self) -> http1::Builder {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_header_size(self.max_header)
            // `max_headers` stays at hyper's 100, which has a fast path: any other number costs each request an allocation of
            // 64 bytes a field. Browsers send some 20, proxies add some 10. A test holds it at that.
            .max_buf_size(self.max_header.max(MIN_BUFFER))
            .keep_alive(true)
            // A client may close its side behind its request, and still reads the answer. hyper doesn't read while it
            // answers, so it notices a disconnected client when it writes. Over TLS it does read, since event streams
            // stay with hyper there, and may have nothing to write for a long time.
            .half_close(self.tls.is_none());
        http
    }
}

/// Among the extensions of a request that our own server has read from a TLS connection.
#[derive(Clone, Copy)]
pub(crate) struct OverTls;

/// A connection's place among all, and among those of its address; given back when hyper lets the socket go.
pub(crate) struct Place {
    _all: OwnedSemaphorePermit,
    _of_address: Permit,
}

/// Takes all the open files that the system allows this process: each connection is one, and the usual soft limit of
/// 1,024 is meant for programs that use `select`.
fn raise_file_limit() {
    #[cfg(unix)]
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => tracing::debug!(limit, "open files allowed"),
        Err(error) => tracing::debug!(%error, "can't raise the limit on open files"),
    }
}

#[cfg(test)]
mod tests;

pub use self::{files::FileOptions, signals::shutdown_signal, tls::Tls};
pub(crate) use self::{
    files::files,
    tls::{TlsFile, TlsFiles},
};
