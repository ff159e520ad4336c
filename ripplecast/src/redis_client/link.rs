//! The connection for commands: kept by a task, so that nobody waits for a server that is known to be away.

use std::{future::pending, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use super::{
    address::{Address, Servers},
    backoff::Backoff,
    connect::{Conn, Fault, check, connect, master},
};

/// Time between two looks at whether the server still answers. With [`PING_LIMIT`] it bounds for how long a dead one is
/// believed in.
pub(super) const PING_EVERY: Duration = Duration::from_secs(1);
/// Time that the server has for an answer. A script or a fork that holds it for longer looks like its end.
pub(super) const PING_LIMIT: Duration = Duration::from_secs(2);
/// Time between two questions to the sentinels about who is the master.
const SENTINELS_EVERY: Duration = Duration::from_secs(3);

/// Time in which Redis must answer a command. Far above what one takes, and below what a person waits for.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(2);

/// Whether Redis is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    /// Connected.
    Up {
        /// Connections so far.
        connects: u64,
    },
    /// Unreachable; reconnection continues in the background.
    Down,
}

/// Wakes the task that looks after all servers.
#[derive(Default)]
pub(super) struct Changes {
    /// A server came or went, or subscriptions to it did.
    pub(super) servers: Notify,
    /// A server answered that a slot is elsewhere.
    pub(super) slots: Notify,
}

/// The connection, and those who look after it.
pub(super) struct Keeper {
    /// Where Redis is.
    address: Address,
    /// The connection; none while Redis is away.
    current: Mutex<Option<Conn>>,
    /// Tells whether Redis is there.
    link: watch::Sender<Link>,
    /// Somebody had to wait too long, or saw the connection break.
    suspicion: Notify,
    /// Told when the server comes or goes.
    changes: Arc<Changes>,
}

impl Keeper {
    /// A keeper of a connection that is there already, or not yet.
    pub(super) fn new(address: Address, conn: Option<Conn>, changes: Arc<Changes>) -> Arc<Self> {
        let link = if conn.is_some() { Link::Up { connects: 1 } } else { Link::Down };
        Arc::new(Self {
            address,
            current: Mutex::new(conn),
            link: watch::Sender::new(link),
            suspicion: Notify::new(),
            changes,
        })
    }

    /// The connection; none while Redis is away.
    pub(super) fn conn(&self) -> Option<Conn> {
        self.current.lock().clone()
    }

    /// Changes when Redis goes or comes back.
    pub(super) fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// Says that something is wrong; the keeper looks at once.
    pub(super) fn suspect(&self) {
        self.suspicion.notify_one();
    }

    /// Looks after the connection, until it is aborted.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut connects = u64::from(self.conn().is_some());
        loop {
            if let Some(conn) = self.conn() {
                let reason = self.watch(conn).await;
                tracing::warn!(redis = %self.address, reason, "Redis is unavailable: this node continues without it, and keeps trying to connect");
                *self.current.lock() = None;
                self.link.send_replace(Link::Down);
                self.changes.servers.notify_one();
            }
            let conn = self.connected().await;
            connects += 1;
            *self.current.lock() = Some(conn);
            self.link.send_replace(Link::Up { connects });
            self.changes.servers.notify_one();
            tracing::info!(redis = %self.address, "Redis is back");
        }
    }

    /// Returns when the server no longer answers or is no longer the one, with the reason. Sentinels that take their time hold
    /// up no look at the server.
    async fn watch(&self, conn: Conn) -> String {
        tokio::select! {
            reason = self.ping(conn.clone()) => reason,
            reason = self.follow(conn) => reason,
        }
    }

    /// Returns when the server no longer answers, with what it said last.
    async fn ping(&self, mut conn: Conn) -> String {
        loop {
            tokio::select! {
                () = sleep(PING_EVERY) => {}
                () = self.suspicion.notified() => {}
            }
            match timeout(PING_LIMIT, self.look(&mut conn)).await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(reason))) => return reason,
                // It is there, and has no memory or disk left for a write: what needs none goes on.
                Ok(Err(error)) if matches!(error.code(), Some("OOM" | "MISCONF")) => {}
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return format!("it did not answer for {} s", PING_LIMIT.as_secs()),
            }
        }
    }

    /// Looks whether the server answers and is a master; if it is none, why it can't be used.
    async fn look(&self, conn: &mut Conn) -> redis::RedisResult<Option<String>> {
        if self.address.is_cluster() {
            // Which keys it has may change, so none is written.
            return match is_master(conn).await {
                Ok(false) => Ok(Some("it is a master no more".into())),
                Err(error) if error.code() != Some("NOPERM") => Err(error),
                _ => Ok(None),
            };
        }
        // A write, so that a server which lost its role is found out too.
        let mut look = redis::cmd("SET");
        look.arg(format!("{}:alive", self.address.prefix())).arg("1").arg("PX").arg(10_000);
        look.query_async::<()>(&mut conn.0).await.map(|()| None)
    }

    /// Returns when the server that we speak to is no longer the master: by the word of the sentinels, since one that is cut
    /// off from them still thinks that it is, or by its own. Never without sentinels.
    async fn follow(&self, mut conn: Conn) -> String {
        let Servers::Sentinels { hosts, service } = &self.address.servers else { return pending().await };
        loop {
            sleep(SENTINELS_EVERY).await;
            // Sentinels that are away don't make a master that is there go away.
            let Ok(now) = master(&self.address, hosts, service).await else { continue };
            if Some(&now) != conn.named() {
                return format!("the sentinels name another master, {}:{}", now.0, now.1);
            }
            // Whatever else it answers, or if it does not, is for the pings to find.
            if let Ok(Ok(false)) = timeout(PING_LIMIT, is_master(&mut conn)).await {
                return "it is a master no more".into();
            }
        }
    }

    /// A connection, however long it takes.
    async fn connected(&self) -> Conn {
        let mut backoff = Backoff::default();
        loop {
            match attempt(&self.address).await {
                Ok(conn) => return conn,
                Err(Fault::Away(reason)) => {
                    tracing::debug!(redis = %self.address, reason, "Redis is still unavailable");
                }
                Err(Fault::Wrong(reason)) => {
                    if backoff.is_first() {
                        tracing::error!(redis = %self.address, reason, "Redis answers, but can't be used");
                    }
                }
            }
            sleep(backoff.next()).await;
        }
    }
}

/// Whether a server says that it is a master.
async fn is_master(conn: &mut Conn) -> redis::RedisResult<bool> {
    let role = redis::cmd("ROLE").query_async::<Vec<redis::Value>>(&mut conn.0).await?;
    Ok(matches!(role.first(), Some(redis::Value::BulkString(text)) if text == b"master"))
}

/// Connects and looks at the server, once.
pub(super) async fn attempt(address: &Address) -> Result<Conn, Fault> {
    let mut conn = connect(address, None).await?;
    check(&mut conn, address).await?;
    Ok(conn)
}
