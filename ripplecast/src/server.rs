//! The accept loop: HTTP/1.1 with the limits that `axum::serve` lacks, with or without TLS, and a bounded
//! shutdown.
//!
//! Each connection is one task while it speaks HTTP. When a WebSocket endpoint takes the socket out of hyper,
//! the task ends. This file counts and drains only the connections that hyper still holds.

mod accepting;
mod connection;
pub(crate) mod files;
mod goodbyes;
mod pace;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(not(feature = "tls"))]
#[path = "server/no_tls.rs"]
mod tls;

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
    connection::{HttpConnection, Limits, ServerStage},
    goodbyes::Goodbyes,
    pace::Pace,
};
use crate::{
    engine::{Admissions, Permit, Refused, is_loopback, tune},
    headers::TrustedProxies,
    limits::{CONNECTIONS_PER_ADDRESS, IPV6_PREFIX},
};

/// Longest request head, in bytes; a longer one gets 431. Setting: `max_header`. Large enough for cookies and
/// tokens, small enough to stop a flood.
const MAX_HEADER: usize = 16 * 1024;
/// Time for a whole request head to arrive, which is also how long an idle connection is kept for its next
/// request; the TLS handshake has the same limit. Setting: `header_timeout`. A phone on a poor connection
/// needs two or three seconds, a byte at a time would take forever.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Sockets that hyper may hold at once. Setting: `max_http_connections`. Each costs some 10 KiB; further ones
/// wait in the kernel's queue. Open event streams count, upgraded WebSockets do not.
const MAX_CONNECTIONS: usize = 65_536;
/// Time that a request's body or a response's reader may keep the server waiting; restored by [`MIN_RATE`].
/// Settings: `body_timeout`, `write_timeout`. A phone in a tunnel recovers within it, a byte at a time would
/// take forever.
const PACE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum of both timeouts: a longer one would give no protection.
pub(crate) const PACE_TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes that restore one second of that time. Setting: `min_rate`. The slowest links carry some thousand
/// bytes per second.
const MIN_RATE: u32 = 500;
/// Pause after the system had no descriptor or memory for a connection, so that others can release theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for requests in flight and the hub to finish once shutdown has begun. Together with `ABORT_LIMIT` it
/// stays below the 10 s that supervisors commonly allow before they kill a process.
const DRAIN_LIMIT: Duration = Duration::from_millis(8_500);
/// Time for the remaining tasks to be dropped.
const ABORT_LIMIT: Duration = Duration::from_millis(500);
/// Time for the last bytes of TLS connections to be sent once everything else has finished. Only peers that
/// read nothing need more than a moment.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);
/// The smallest buffer size that hyper accepts.
const MIN_BUFFER: usize = 8 * 1024;

/// The accept loop and its settings.
#[derive(Clone, Debug)]
pub(crate) struct HttpServer {
    /// The longest request head, in bytes: request line and headers together.
    pub(crate) max_header: usize,
    /// How long a request head may take to arrive, counted from the end of the previous request.
    pub(crate) header_timeout: Duration,
    /// The pace required of a request's body.
    body: Pace,
    /// The pace required of a response's reader.
    write: Pace,
    max_connections: usize,
    /// From one address, not counting loopback and trusted proxies.
    pub(crate) max_per_address: usize,
    pub(crate) ipv6_prefix: u8,
    pub(crate) trusted: TrustedProxies,
    /// Whether loopback counts like any other address; for tests, which have no other.
    counts_loopback: bool,
    drain_limit: Duration,
    /// `None` serves plain HTTP.
    pub(crate) tls: Option<Tls>,
}

impl Default for HttpServer {
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

impl HttpServer {
    /// Sets how long a request's body may keep the server waiting.
    pub(crate) fn body_timeout(mut self, time: Duration) -> Self {
        self.body.time = time.min(PACE_TIMEOUT_MAX);
        self
    }

    /// Sets how long a response's reader may keep the server waiting.
    pub(crate) fn write_timeout(mut self, time: Duration) -> Self {
        self.write.time = time.min(PACE_TIMEOUT_MAX);
        self
    }

    /// Sets how many bytes, in either direction, restore one second of these times.
    pub(crate) fn min_rate(mut self, bytes: u32) -> Self {
        self.body.min_rate = bytes;
        self.write.min_rate = bytes;
        self
    }

    /// Sets how many sockets hyper may hold at once, at least one.
    pub(crate) fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        self
    }

    /// Serves `router` until `shutdown` completes. Then it stops accepting, lets requests in flight finish
    /// while `drain` runs, and returns when both are done. After 9 s it drops whatever is left.
    ///
    /// Errors while accepting never stop it. Dropping the future stops accepting and drops every connection
    /// that hyper holds.
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
        let stage = watch::Sender::new(ServerStage::Serving);
        let goodbyes = Goodbyes::new();
        // Finalizes every route now instead of at each request.
        let router = router.with_state(());
        tokio::select! {
            () = shutdown => {}
            never = self.accept_all(&listener, &router, &places, &stage, &goodbyes) => match never {},
            never = self.watch_certificate() => match never {},
        }
        drop(listener);
        stage.send_replace(ServerStage::Draining);
        let finished = async {
            tokio::join!(drain, self.all_ended(&places));
            // The hub is done with its connections, but a task may still be sending their last bytes.
            let _ = timeout(GOODBYE_LIMIT, goodbyes.all_said()).await;
        };
        if timeout(self.drain_limit, finished).await.is_err() {
            let left = self.max_connections - places.available_permits();
            tracing::warn!(left, "shutdown took too long; dropping the remaining connections");
            stage.send_replace(ServerStage::Aborting);
            // Best effort: a task that never yields can't be ended, and must not delay the exit.
            let _ = timeout(ABORT_LIMIT, self.all_ended(&places)).await;
        }
    }

    /// Accepts connections and spawns a task for each.
    async fn accept_all(
        &self,
        listener: &TcpListener,
        router: &Router,
        places: &Arc<Semaphore>,
        stage: &watch::Sender<ServerStage>,
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
                continue; // drops the socket: answering would cost more than the request
            };
            if !cfg!(target_os = "linux") {
                tune(&stream); // other systems do not inherit the options from the listener
            }
            let connection = HttpConnection {
                stream,
                peer,
                router: router.clone(),
                stage: stage.subscribe(),
                place: ConnectionPlace { _all: place, _of_address: permit },
                limits: Arc::clone(&limits),
            };
            // Two task types, so that plain connections do not pay for the size of TLS ones.
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

    /// Reloads the certificate whenever its files change.
    async fn watch_certificate(&self) -> Infallible {
        match &self.tls {
            Some(tls) => tls.watch().await,
            None => pending().await,
        }
    }

    /// Returns a place for one more connection, waiting until one is free.
    async fn place(&self, places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return place;
        }
        log_full(self.max_connections);
        Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Creates the counts of sockets per address.
    fn admissions(&self) -> Arc<Admissions> {
        Arc::new(Admissions::new(self.max_connections, self.max_per_address, self.ipv6_prefix))
    }

    fn admit(&self, admissions: &Arc<Admissions>, address: IpAddr) -> Result<Permit, Refused> {
        let is_one = !self.trusted.contains(address) && (self.counts_loopback || !is_loopback(address));
        admissions.admit(is_one.then_some(address))
    }

    /// Completes when no connection is left. It acquires all places, so nothing else may acquire one
    /// meanwhile.
    async fn all_ended(&self, places: &Semaphore) {
        let all = u32::try_from(self.max_connections).expect("max_connections keeps within u32");
        let _all = places.acquire_many(all).await.expect("the semaphore is never closed");
    }

    /// Returns the settings of hyper for every connection.
    fn http(&self) -> http1::Builder {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_header_size(self.max_header)
            // `max_headers` stays at hyper's default of 100, which has a fast path: any other number costs
            // each request an allocation of 64 bytes per field. Browsers send some 20, proxies add some 10. A
            // test checks the limit.
            .max_buf_size(self.max_header.max(MIN_BUFFER))
            .keep_alive(true)
            // A client may close its sending side after the request and still read the response. hyper
            // doesn't read while it responds, so it detects a disconnected client only when it writes. Over
            // TLS it must read, because event streams stay with hyper there and may have nothing to write for
            // a long time.
            .half_close(self.tls.is_none());
        http
    }
}

/// A connection's place in the total limit and in the limit of its address; released when hyper lets go of
/// the socket.
pub(crate) struct ConnectionPlace {
    _all: OwnedSemaphorePermit,
    _of_address: Permit,
}

/// Raises the soft limit on open files to the hard limit: each connection needs one, and the usual soft limit
/// of 1,024 exists for programs that use `select`.
fn raise_file_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => tracing::debug!(limit, "open files allowed"),
        Err(error) => tracing::debug!(%error, "can't raise the limit on open files"),
    }
}

#[cfg(test)]
mod tests;

pub use self::files::FileOptions;
#[cfg(feature = "tls")]
pub use self::tls::Tls;
#[cfg(not(feature = "tls"))]
pub(crate) use self::tls::Tls;
pub(crate) use self::{
    files::files,
    tls::{TlsFile, TlsFiles},
};
