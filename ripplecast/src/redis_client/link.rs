//! The connection for commands. A task maintains it, so that nobody waits for a server that is known to be
//! unavailable.

use std::{future::pending, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use super::{
    address::{Address, ServerHosts},
    backoff::Backoff,
    connect::{Conn, ConnectError, check, connect, master},
};

/// Interval between pings. Together with [`PING_LIMIT`], the time within which a dead server is detected.
pub(super) const PING_EVERY: Duration = Duration::from_secs(1);
/// Time that the server has to answer. A script or a fork that blocks it for longer looks like a failure.
pub(super) const PING_LIMIT: Duration = Duration::from_secs(2);
/// Interval between queries to the sentinels for the current master.
const SENTINELS_EVERY: Duration = Duration::from_secs(3);

/// Time limit for a command. Far more than a command takes, and less than a person waits.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(2);

/// Whether Redis is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    Up {
        /// Connections so far.
        connects: u64,
    },
    /// Unreachable; reconnection continues in the background.
    Down,
}

/// Wakes the task that maintains all servers.
#[derive(Default)]
pub(super) struct ServerChanges {
    /// A server, or its subscriptions, became available or unavailable.
    pub(super) servers: Notify,
    /// A server answered that a slot is elsewhere.
    pub(super) slots: Notify,
}

/// Maintains the connection for commands.
pub(super) struct Keeper {
    address: Address,
    /// `None` while Redis is unavailable.
    current: Mutex<Option<Conn>>,
    /// Whether Redis is connected.
    link: watch::Sender<Link>,
    /// Notified when a caller waited too long or saw the connection break.
    suspicion: Notify,
    /// Notified when the server becomes available or unavailable.
    changes: Arc<ServerChanges>,
}

impl Keeper {
    /// Creates a keeper, with a connection if one exists already.
    pub(super) fn new(address: Address, conn: Option<Conn>, changes: Arc<ServerChanges>) -> Arc<Self> {
        let link = if conn.is_some() { Link::Up { connects: 1 } } else { Link::Down };
        Arc::new(Self {
            address,
            current: Mutex::new(conn),
            link: watch::Sender::new(link),
            suspicion: Notify::new(),
            changes,
        })
    }

    /// Returns the connection; `None` while Redis is unavailable.
    pub(super) fn conn(&self) -> Option<Conn> {
        self.current.lock().clone()
    }

    /// Returns a receiver that changes when Redis becomes available or unavailable.
    pub(super) fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// Reports a suspected failure. The keeper checks at once.
    pub(super) fn suspect(&self) {
        self.suspicion.notify_one();
    }

    /// Maintains the connection until aborted.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut connects = u64::from(self.conn().is_some());
        loop {
            if let Some(conn) = self.conn() {
                let reason = self.watch(conn).await;
                tracing::warn!(redis = %self.address, reason, "Redis is unavailable; this node continues without it and keeps trying to connect");
                *self.current.lock() = None;
                self.link.send_replace(Link::Down);
                self.changes.servers.notify_one();
            }
            let conn = self.connected().await;
            connects += 1;
            *self.current.lock() = Some(conn);
            self.link.send_replace(Link::Up { connects });
            self.changes.servers.notify_one();
            tracing::info!(redis = %self.address, "Redis is available again");
        }
    }

    /// Returns, with the reason, when the server no longer answers or is no longer the right one. Slow
    /// sentinels do not delay the pings.
    async fn watch(&self, conn: Conn) -> String {
        tokio::select! {
            reason = self.ping(conn.clone()) => reason,
            reason = self.follow(conn) => reason,
        }
    }

    /// Returns the last error when the server no longer answers.
    async fn ping(&self, mut conn: Conn) -> String {
        loop {
            tokio::select! {
                () = sleep(PING_EVERY) => {}
                () = self.suspicion.notified() => {}
            }
            match timeout(PING_LIMIT, self.look(&mut conn)).await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(reason))) => return reason,
                // The server answers but lacks memory or disk space for a write. Commands that need neither
                // still work.
                Ok(Err(error)) if matches!(error.code(), Some("OOM" | "MISCONF")) => {}
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return format!("it did not answer for {} s", PING_LIMIT.as_secs()),
            }
        }
    }

    /// Checks that the server answers and is a master. Otherwise returns why it is not usable.
    async fn look(&self, conn: &mut Conn) -> redis::RedisResult<Option<String>> {
        if self.address.is_cluster() {
            // The keys of a Cluster master may change, so none is written.
            return match is_master(conn).await {
                Ok(false) => Ok(Some("it is no longer a master".into())),
                Err(error) if error.code() != Some("NOPERM") => Err(error),
                _ => Ok(None),
            };
        }
        // Use a write, which also detects a server that lost its role.
        let mut look = redis::cmd("SET");
        look.arg(format!("{}:alive", self.address.prefix())).arg("1").arg("PX").arg(10_000);
        look.query_async::<()>(&mut conn.0).await.map(|()| None)
    }

    /// Returns when the connected server is no longer the master. The sentinels decide, because a server cut
    /// off from them still considers itself the master; otherwise its own role decides. Never returns without
    /// sentinels.
    async fn follow(&self, mut conn: Conn) -> String {
        let ServerHosts::Sentinels { hosts, service } = &self.address.servers else { return pending().await };
        loop {
            sleep(SENTINELS_EVERY).await;
            // Unavailable sentinels must not make an available master unavailable.
            let Ok(now) = master(&self.address, hosts, service).await else { continue };
            if Some(&now) != conn.named() {
                return format!("the sentinels name another master, {}:{}", now.0, now.1);
            }
            // The pings detect any other answer, or none.
            if let Ok(Ok(false)) = timeout(PING_LIMIT, is_master(&mut conn)).await {
                return "it is no longer a master".into();
            }
        }
    }

    /// Returns a connection, however long it takes.
    async fn connected(&self) -> Conn {
        let mut backoff = Backoff::default();
        loop {
            match attempt(&self.address).await {
                Ok(conn) => return conn,
                Err(ConnectError::Away(reason)) => {
                    tracing::debug!(redis = %self.address, reason, "Redis is still unavailable");
                }
                Err(ConnectError::Wrong(reason)) => {
                    if backoff.is_first() {
                        tracing::error!(redis = %self.address, reason, "Redis answers but is not usable");
                    }
                }
            }
            sleep(backoff.next()).await;
        }
    }
}

/// Returns whether a server reports that it is a master.
async fn is_master(conn: &mut Conn) -> redis::RedisResult<bool> {
    let role = redis::cmd("ROLE").query_async::<Vec<redis::Value>>(&mut conn.0).await?;
    Ok(matches!(role.first(), Some(redis::Value::BulkString(text)) if text == b"master"))
}

/// Connects and checks the server, once.
pub(super) async fn attempt(address: &Address) -> Result<Conn, ConnectError> {
    let mut conn = connect(address, None).await?;
    check(&mut conn, address).await?;
    Ok(conn)
}
