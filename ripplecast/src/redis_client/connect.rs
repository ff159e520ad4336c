//! Opens connections, and checks that a server is usable.

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, FromRedisValue, RedisError, RedisResult,
    Value,
    aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection},
};
use tokio::time::timeout;

use super::{
    address::{Address, RedisHost, ServerHosts},
    slot,
};

/// Time limit for opening a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Time that one of several hosts has to answer before the next is tried.
pub(super) const HOST_LIMIT: Duration = Duration::from_secs(1);
/// Commands that may wait for the connection's task, which takes them as fast as the socket does.
const BUFFERED_COMMANDS: usize = 1024;
/// Key names tried to find one whose slot a master has.
const PROBES: u32 = 1000;
/// The oldest supported version. It introduced sharded publish and subscribe, and functions that replicate
/// their effects.
const OLDEST_REDIS: (u32, u32) = (7, 0);

/// Why there is no connection.
#[derive(Clone, Debug)]
pub(super) enum ConnectError {
    /// No answer; a retry may help.
    Away(String),
    /// The server answers but is not usable until somebody changes something.
    Wrong(String),
}

/// A connection to a server, shared by its clones; and the server, if sentinels named it.
#[derive(Clone)]
pub(super) struct Conn(pub(super) MultiplexedConnection, Option<Arc<RedisHost>>);

/// Receives what a server pushes.
pub(super) type PushHandler = Arc<dyn AsyncPushSender>;

/// Connects to the server that the address names. What the server pushes goes to `push`.
pub(super) async fn connect(address: &Address, push: Option<PushHandler>) -> Result<Conn, ConnectError> {
    let named = match &address.servers {
        ServerHosts::Sentinels { hosts, service } => Some(Arc::new(master(address, hosts, service).await?)),
        _ => None,
    };
    open_one(address, named.as_deref(), push).await.map(|conn| Conn(conn, named))
}

impl Conn {
    /// Returns the connected master if sentinels named it.
    pub(super) fn named(&self) -> Option<&RedisHost> {
        self.1.as_deref()
    }

    /// Subscribes to channels. `sharded` channels of a Cluster need one command each, because each may have a
    /// different slot.
    pub(super) async fn subscribe(&mut self, channels: &[String], sharded: bool) -> RedisResult<()> {
        if sharded { self.each("SSUBSCRIBE", channels).await } else { self.0.subscribe(channels).await }
    }

    pub(super) async fn unsubscribe(&mut self, channels: &[String], sharded: bool) -> RedisResult<()> {
        if sharded { self.each("SUNSUBSCRIBE", channels).await } else { self.0.unsubscribe(channels).await }
    }

    /// Sends one command for each channel, in one round trip.
    async fn each(&mut self, command: &str, channels: &[String]) -> RedisResult<()> {
        let mut pipeline = redis::Pipeline::new();
        for channel in channels {
            pipeline.cmd(command).arg(channel).ignore();
        }
        pipeline.query_async(&mut self.0).await
    }
}

/// A range of slots of a Cluster, and their master.
pub(super) struct SlotRange {
    /// The last slot; the first one follows the previous range.
    pub(super) last: u16,
    pub(super) host: RedisHost,
}

/// Asks a server of a Cluster which server has which slots.
pub(super) async fn ranges(
    conn: &mut MultiplexedConnection,
    asked: &RedisHost,
) -> Result<Vec<SlotRange>, ConnectError> {
    let mut slots = redis::cmd("CLUSTER");
    slots.arg("SLOTS");
    let said: Vec<Vec<Value>> = slots.query_async(conn).await.map_err(|error| {
        let text = error.to_string();
        if text.contains("cluster support disabled") {
            return ConnectError::Wrong("it is not part of a Cluster; use redis://host".into());
        }
        meaning(&error)
    })?;
    let range = |range: &Vec<Value>| {
        let [_, Value::Int(last), Value::Array(master), ..] = &range[..] else { return None };
        let [name, Value::Int(port), ..] = &master[..] else { return None };
        let name = match name {
            Value::BulkString(name) => std::str::from_utf8(name).ok()?,
            Value::SimpleString(name) => name,
            _ => "",
        };
        // A server that does not know its own name returns an empty one or a question mark.
        let name = if matches!(name, "" | "?") { &asked.0 } else { name };
        Some(SlotRange {
            last: u16::try_from(*last).ok()?,
            host: (name.to_owned(), u16::try_from(*port).ok()?),
        })
    };
    Ok(said.iter().filter_map(range).collect())
}

/// Connects to the single server that the address names, or to the master that its sentinels `named`.
async fn open_one(
    address: &Address,
    named: Option<&RedisHost>,
    push: Option<PushHandler>,
) -> Result<MultiplexedConnection, ConnectError> {
    let info = match &address.servers {
        ServerHosts::One(host) | ServerHosts::Shard(host) => address.at(host),
        ServerHosts::Unix(path) => address.at_socket(path),
        ServerHosts::Sentinels { hosts, .. } | ServerHosts::Cluster(hosts) => {
            address.at(named.unwrap_or(&hosts[0]))
        }
    };
    let info = info.map_err(|error| fault(&error, address))?;
    match timeout(CONNECT_LIMIT, open(info, push)).await {
        Ok(opened) => opened.map_err(|error| fault(&error, address)),
        // A server without TLS waits for the rest of what it interprets as a command.
        Err(_) => Err(ConnectError::Away(silent() + &tls_hint(address, address.is_tls()))),
    }
}

/// Opens a connection without the library's time limits, because the callers apply ours.
async fn open(info: ConnectionInfo, push: Option<PushHandler>) -> RedisResult<MultiplexedConnection> {
    let mut config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(BUFFERED_COMMANDS);
    if let Some(push) = push {
        config = config.set_push_sender(move |info| push.send(info));
    }
    Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await
}

/// Asks the sentinels for the master.
pub(super) async fn master(
    address: &Address,
    hosts: &[RedisHost],
    service: &str,
) -> Result<RedisHost, ConnectError> {
    let (mut said, mut is_wrong, mut may_be_tls) = (Vec::new(), false, false);
    for host in hosts {
        let ask = async {
            let mut sentinel = open(address.at_sentinel(host)?, None).await?;
            let mut command = redis::cmd("SENTINEL");
            command.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
            command.query_async::<Option<RedisHost>>(&mut sentinel).await
        };
        match timeout(HOST_LIMIT, ask).await {
            Ok(Ok(Some(master))) => return Ok(master),
            Ok(Ok(None)) => said.push(format!("{}:{} does not monitor `{service}`", host.0, host.1)),
            Ok(Err(error)) => {
                is_wrong |= refuses_us(&error);
                may_be_tls |= is_as_of_tls(&error, address);
                said.push(format!("{}:{}: {error}", host.0, host.1));
            }
            Err(_) => {
                may_be_tls |= address.is_tls();
                said.push(format!("{}:{} does not answer", host.0, host.1));
            }
        }
    }
    let hint = tls_hint(address, may_be_tls);
    let reason = format!("no sentinel names the master ({}){hint}", said.join("; "));
    if is_wrong {
        return Err(ConnectError::Wrong(format!(
            "{reason}; set the sentinels' own user and password after the service: \
             ?sentinel_user=…&sentinel_password=…"
        )));
    }
    Err(ConnectError::Away(reason))
}

/// Returns whether the server refuses the user or the password.
fn refuses_us(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("WRONGPASS" | "NOAUTH" | "NOPERM"))
}

/// Converts an error of opening a connection.
fn fault(error: &RedisError, address: &Address) -> ConnectError {
    if refuses_us(error) || error.code() == Some("WRONGTYPE") {
        let user = address.login().user.as_deref();
        let user = user.map_or_else(|| "the default user".to_owned(), |user| format!("user `{user}`"));
        return ConnectError::Wrong(format!(
            "the server refuses {user} or the password ({error}); set both in the URL: redis://user:password@host"
        ));
    }
    match error.kind() {
        ErrorKind::RESP3NotSupported => ConnectError::Wrong(too_old("a server without RESP3")),
        ErrorKind::InvalidClientConfig => ConnectError::Wrong(error.to_string()),
        _ if error.to_string().contains("invalid peer certificate") => ConnectError::Away(format!(
            "{error}; the system's root certificates are trusted, or those in the file named by SSL_CERT_FILE"
        )),
        _ => ConnectError::Away(format!("{error}{}", tls_hint(address, is_as_of_tls(error, address)))),
    }
}

/// Returns whether an error is typical of TLS on only one side.
fn is_as_of_tls(error: &RedisError, address: &Address) -> bool {
    let is_end = error.is_connection_dropped() && !error.is_connection_refusal();
    let is_end = is_end || error.kind() == ErrorKind::Parse;
    // rustls reports this for an answer that is not TLS.
    is_end || address.is_tls() && error.to_string().contains("InvalidContentType")
}

/// Returns the advice to try with or without TLS, to append to a message. Empty if the error has another
/// reason.
pub(super) fn tls_hint(address: &Address, may_be_tls: bool) -> String {
    let tls = address.is_tls();
    if !may_be_tls || matches!(address.servers, ServerHosts::Unix(_)) {
        return String::new();
    }
    let other = address.scheme(!tls);
    if tls {
        format!("; if the server does not speak TLS, use {other}://")
    } else {
        format!("; if the server speaks TLS, use {other}://")
    }
}

/// Returns the message about a server that accepts a connection, or might, and stays silent.
fn silent() -> String {
    format!("it did not answer within {} s", CONNECT_LIMIT.as_secs())
}

/// Returns the message about a server that is too old.
fn too_old(what: &str) -> String {
    format!("it is {what}; use Redis {}.{} or newer, or Valkey", OLDEST_REDIS.0, OLDEST_REDIS.1)
}

/// Checks that the server is usable: new enough, writable, and with every permission required.
pub(super) async fn check(conn: &mut Conn, address: &Address) -> Result<(), ConnectError> {
    match timeout(CONNECT_LIMIT, checked(conn, address)).await {
        Ok(checked) => checked,
        Err(_) => Err(ConnectError::Away(silent())),
    }
}

/// See [`check`], without its time limit.
async fn checked(conn: &mut Conn, address: &Address) -> Result<(), ConnectError> {
    let conn = &mut conn.0;
    let mut info = redis::cmd("INFO");
    info.arg("server");
    let info: String = ask(conn, &info).await?;
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or_default();
    if version_of(version).is_some_and(|version| version < OLDEST_REDIS) {
        return Err(ConnectError::Wrong(too_old(&format!("Redis {version}"))));
    }
    // Run everything that is used later once, so that a missing permission is reported by name now.
    let probe = probe(conn, address).await?;
    let (publish, subscribe, unsubscribe) = if address.is_cluster() {
        ("SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE")
    } else {
        ("PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE")
    };
    let script = redis::Script::new(include_str!("check.lua"));
    let mut invocation = script.arg(publish);
    for kind in ["text", "hash", "sorted", "set", "stream"] {
        invocation.key(format!("{probe}:{kind}"));
    }
    let allowed = |done: RedisResult<()>| match done {
        // The slot of the probe belongs to another master, which is checked as well. This master has
        // permitted the command.
        Err(error) if address.is_cluster() && error.code() == Some("MOVED") => Ok(()),
        done => done.map_err(|error| meaning(&error)),
    };
    allowed(invocation.invoke_async(conn).await)?;
    for name in [subscribe, unsubscribe] {
        let mut command = redis::cmd(name);
        command.arg(&probe);
        allowed(command.query_async(conn).await)?;
    }
    if !address.is_cluster() {
        // Used for blocking reads of streams.
        let mut id = redis::cmd("CLIENT");
        ask::<i64>(conn, id.arg("ID")).await?;
    }
    Ok(())
}

/// Returns the unused key under which the check runs. On a Cluster it is in a slot of this master, so that
/// each is checked.
async fn probe(conn: &mut MultiplexedConnection, address: &Address) -> Result<String, ConnectError> {
    let name = |number: u32| format!("{}:{{probe{number}}}", address.prefix());
    let ServerHosts::Shard(host) = &address.servers else { return Ok(name(0)) };
    let mut ranges = ranges(conn, host).await?;
    ranges.sort_unstable_by_key(|range| range.last);
    let is_ours = |name: &String| {
        let at = ranges.partition_point(|range| range.last < slot::of(name.as_bytes()));
        ranges.get(at).is_some_and(|range| range.host == *host)
    };
    // A master with one slot in a thousand is usually found. A master without slots has nothing to check.
    Ok((0..PROBES).map(name).find(is_ours).unwrap_or_else(|| name(0)))
}

/// Runs a command of the check and explains its error.
async fn ask<T: FromRedisValue>(conn: &mut impl ConnectionLike, command: &Cmd) -> Result<T, ConnectError> {
    command.query_async(conn).await.map_err(|error| meaning(&error))
}

/// Explains an error of the check.
fn meaning(error: &RedisError) -> ConnectError {
    let text = error.to_string();
    if error.is_io_error() || error.is_connection_dropped() {
        ConnectError::Away(text)
    } else if error.code() == Some("NOPERM")
        || text.contains("ACL")
        || text.contains("The user executing the script can't")
    {
        ConnectError::Wrong(format!(
            "its user lacks a permission ({text}); all keys and channels start with the prefix, so this is enough: \
                 ACL SETUSER <user> +@all ~<prefix>:* &<prefix>:*"
        ))
    } else if error.code() == Some("MOVED") {
        ConnectError::Wrong("it is part of a Cluster; use redis-cluster://host".into())
    } else if error.code() == Some("NOAUTH") {
        ConnectError::Wrong(format!(
            "it requires a password ({text}); set it in the URL: redis://user:password@host"
        ))
    } else if error.code() == Some("READONLY") {
        ConnectError::Wrong(
            "it is a replica, which rejects writes; use its master, or redis-sentinel://".into(),
        )
    } else {
        ConnectError::Away(text)
    }
}

/// Returns the first two numbers of a version.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(version_of("7.2.4"), Some((7, 2)));
        assert!(version_of("6.10.1").unwrap() < OLDEST_REDIS && version_of("10.0").unwrap() > OLDEST_REDIS);
        assert_eq!(version_of("unstable"), None);
    }
}
