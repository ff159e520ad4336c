//! How a connection is made, and what must be true of the server before it is used.

use std::{sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, FromRedisValue, RedisError, RedisResult,
    Value,
    aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection},
};
use tokio::time::timeout;

use super::{
    address::{Address, Host, Servers},
    slot,
};

/// Time in which a connection must be there.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Time in which one of several hosts must answer, before the next is asked.
pub(super) const HOST_LIMIT: Duration = Duration::from_secs(1);
/// Commands that wait for the connection's task to take them: it takes them as fast as the socket does.
const BUFFERED_COMMANDS: usize = 1024;
/// Names among which one is looked for whose slot a master has.
const PROBES: u32 = 1000;
/// The oldest server: sharded publish and subscribe, and functions that pass their effects on, came with it.
const OLDEST_REDIS: (u32, u32) = (7, 0);

/// Why there is no connection.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// Nobody answers; trying again may help.
    Away(String),
    /// The server is there and can't be used; somebody has to do something.
    Wrong(String),
}

/// A connection to a server, shared by all who hold a clone; and the server, where sentinels named it.
#[derive(Clone)]
pub(super) struct Conn(pub(super) MultiplexedConnection, Option<Arc<Host>>);

/// Hears what a server sends unasked.
pub(super) type Push = Arc<dyn AsyncPushSender>;

/// A connection to the server that the address names. What it sends unasked goes to `push`.
pub(super) async fn connect(address: &Address, push: Option<Push>) -> Result<Conn, Fault> {
    let named = match &address.servers {
        Servers::Sentinels { hosts, service } => Some(Arc::new(master(address, hosts, service).await?)),
        _ => None,
    };
    open_one(address, named.as_deref(), push).await.map(|conn| Conn(conn, named))
}

impl Conn {
    /// The master that the sentinels named, to which it was made; none without sentinels.
    pub(super) fn named(&self) -> Option<&Host> {
        self.1.as_deref()
    }

    /// Subscribes to channels; `sharded` are those of a Cluster, which are subscribed to one by one, as each may have a slot of
    /// its own.
    pub(super) async fn subscribe(&mut self, channels: &[String], sharded: bool) -> RedisResult<()> {
        if sharded { self.each("SSUBSCRIBE", channels).await } else { self.0.subscribe(channels).await }
    }

    /// The reverse.
    pub(super) async fn unsubscribe(&mut self, channels: &[String], sharded: bool) -> RedisResult<()> {
        if sharded { self.each("SUNSUBSCRIBE", channels).await } else { self.0.unsubscribe(channels).await }
    }

    /// One command for each channel, in one round trip.
    async fn each(&mut self, command: &str, channels: &[String]) -> RedisResult<()> {
        let mut pipeline = redis::Pipeline::new();
        for channel in channels {
            pipeline.cmd(command).arg(channel).ignore();
        }
        pipeline.query_async(&mut self.0).await
    }
}

/// Some slots of a Cluster, and who has them.
pub(super) struct Range {
    /// The last of them; the first is behind the last of the range before.
    pub(super) last: u16,
    /// The master.
    pub(super) host: Host,
}

/// Asks a server of a Cluster who has which slots.
pub(super) async fn ranges(conn: &mut MultiplexedConnection, asked: &Host) -> Result<Vec<Range>, Fault> {
    let mut slots = redis::cmd("CLUSTER");
    slots.arg("SLOTS");
    let said: Vec<Vec<Value>> = slots.query_async(conn).await.map_err(|error| {
        let text = error.to_string();
        if text.contains("cluster support disabled") {
            return Fault::Wrong("it is none of a Cluster; name it as redis://host".into());
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
        // A server that does not know its own name says nothing, or so.
        let name = if matches!(name, "" | "?") { &asked.0 } else { name };
        Some(Range { last: u16::try_from(*last).ok()?, host: (name.to_owned(), u16::try_from(*port).ok()?) })
    };
    Ok(said.iter().filter_map(range).collect())
}

/// A connection to the one server that the address names, or to the master that its sentinels `named`.
async fn open_one(
    address: &Address,
    named: Option<&Host>,
    push: Option<Push>,
) -> Result<MultiplexedConnection, Fault> {
    let info = match &address.servers {
        Servers::One(host) | Servers::Shard(host) => address.at(host),
        Servers::Unix(path) => address.at_socket(path),
        Servers::Sentinels { hosts, .. } | Servers::Cluster(hosts) => address.at(named.unwrap_or(&hosts[0])),
    };
    let info = info.map_err(|error| fault(&error, address))?;
    match timeout(CONNECT_LIMIT, open(info, push)).await {
        Ok(opened) => opened.map_err(|error| fault(&error, address)),
        // A server without TLS waits for the end of what it takes for a command.
        Err(_) => Err(Fault::Away(silent() + &tls_hint(address, address.is_tls()))),
    }
}

/// Opens a connection without limits of its own: ours are around it.
async fn open(info: ConnectionInfo, push: Option<Push>) -> RedisResult<MultiplexedConnection> {
    let mut config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(BUFFERED_COMMANDS);
    if let Some(push) = push {
        config = config.set_push_sender(move |info| push.send(info));
    }
    Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await
}

/// Where the sentinels say that the master is.
pub(super) async fn master(address: &Address, hosts: &[Host], service: &str) -> Result<Host, Fault> {
    let (mut said, mut is_wrong, mut may_be_tls) = (Vec::new(), false, false);
    for host in hosts {
        let ask = async {
            let mut sentinel = open(address.at_sentinel(host)?, None).await?;
            let mut command = redis::cmd("SENTINEL");
            command.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
            command.query_async::<Option<Host>>(&mut sentinel).await
        };
        match timeout(HOST_LIMIT, ask).await {
            Ok(Ok(Some(master))) => return Ok(master),
            Ok(Ok(None)) => said.push(format!("{}:{} watches no `{service}`", host.0, host.1)),
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
        return Err(Fault::Wrong(format!(
            "{reason}; the sentinels' own user and password stand behind the service: \
             ?sentinel_user=…&sentinel_password=…"
        )));
    }
    Err(Fault::Away(reason))
}

/// Whether the server refuses the user or the password.
fn refuses_us(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("WRONGPASS" | "NOAUTH" | "NOPERM"))
}

/// Returns what an error on the way to a connection means.
fn fault(error: &RedisError, address: &Address) -> Fault {
    if refuses_us(error) || error.code() == Some("WRONGTYPE") {
        let user = address.login().user.as_deref();
        let user = user.map_or_else(|| "the default user".to_owned(), |user| format!("user `{user}`"));
        return Fault::Wrong(format!(
            "the server refuses {user} or the password ({error}); both belong in the URL: redis://user:password@host"
        ));
    }
    match error.kind() {
        ErrorKind::RESP3NotSupported => Fault::Wrong(too_old("a server without RESP3")),
        ErrorKind::InvalidClientConfig => Fault::Wrong(error.to_string()),
        _ if error.to_string().contains("invalid peer certificate") => Fault::Away(format!(
            "{error}; the system's root certificates are trusted, or those in the file that SSL_CERT_FILE names"
        )),
        _ => Fault::Away(format!("{error}{}", tls_hint(address, is_as_of_tls(error, address)))),
    }
}

/// Whether an error is one that appears where only one of the two sides speaks TLS.
fn is_as_of_tls(error: &RedisError, address: &Address) -> bool {
    let is_end = error.is_connection_dropped() && !error.is_connection_refusal();
    let is_end = is_end || error.kind() == ErrorKind::Parse;
    // What rustls calls an answer that is not TLS.
    is_end || address.is_tls() && error.to_string().contains("InvalidContentType")
}

/// Returns the advice to try with TLS, or without it, for the end of a message; nothing if the error has another reason.
pub(super) fn tls_hint(address: &Address, may_be_tls: bool) -> String {
    let tls = address.is_tls();
    if !may_be_tls || matches!(address.servers, Servers::Unix(_)) {
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

/// The message about a server that is too old.
fn too_old(what: &str) -> String {
    format!("it is {what}; Redis {}.{} or newer is needed, or Valkey", OLDEST_REDIS.0, OLDEST_REDIS.1)
}

/// Looks whether the server can be used: new enough, writable, and with every permission that is needed.
pub(super) async fn check(conn: &mut Conn, address: &Address) -> Result<(), Fault> {
    match timeout(CONNECT_LIMIT, checked(conn, address)).await {
        Ok(checked) => checked,
        Err(_) => Err(Fault::Away(silent())),
    }
}

/// See [`check`], without its limit.
async fn checked(conn: &mut Conn, address: &Address) -> Result<(), Fault> {
    let conn = &mut conn.0;
    let mut info = redis::cmd("INFO");
    info.arg("server");
    let info: String = ask(conn, &info).await?;
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or_default();
    if version_of(version).is_some_and(|version| version < OLDEST_REDIS) {
        return Err(Fault::Wrong(too_old(&format!("Redis {version}"))));
    }
    // Everything that is done later, done once: a permission that is missing shows now, by its name.
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
        // The slot of the probe is that of another master, which has to do the same; this one would let us.
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
        // For the reads of streams that wait.
        let mut id = redis::cmd("CLIENT");
        ask::<i64>(conn, id.arg("ID")).await?;
    }
    Ok(())
}

/// The key that nobody else uses, under which everything is tried; on a Cluster in a slot of this master, so that each tries it.
async fn probe(conn: &mut MultiplexedConnection, address: &Address) -> Result<String, Fault> {
    let name = |number: u32| format!("{}:{{probe{number}}}", address.prefix());
    let Servers::Shard(host) = &address.servers else { return Ok(name(0)) };
    let mut ranges = ranges(conn, host).await?;
    ranges.sort_unstable_by_key(|range| range.last);
    let is_ours = |name: &String| {
        let at = ranges.partition_point(|range| range.last < slot::of(name.as_bytes()));
        ranges.get(at).is_some_and(|range| range.host == *host)
    };
    // A master with one slot in a thousand is found in most cases; one without any has nothing to try.
    Ok((0..PROBES).map(name).find(is_ours).unwrap_or_else(|| name(0)))
}

/// Runs a command of the check, and says what its error means.
async fn ask<T: FromRedisValue>(conn: &mut impl ConnectionLike, command: &Cmd) -> Result<T, Fault> {
    command.query_async(conn).await.map_err(|error| meaning(&error))
}

/// What an error of the check means.
fn meaning(error: &RedisError) -> Fault {
    let text = error.to_string();
    if error.is_io_error() || error.is_connection_dropped() {
        Fault::Away(text)
    } else if error.code() == Some("NOPERM")
        || text.contains("ACL")
        || text.contains("The user executing the script can't")
    {
        Fault::Wrong(format!(
            "its user lacks a permission ({text}); keys and channels begin with the prefix, so this is enough: \
                 ACL SETUSER <user> +@all ~<prefix>:* &<prefix>:*"
        ))
    } else if error.code() == Some("MOVED") {
        Fault::Wrong("it is one of a Cluster; name it as redis-cluster://host".into())
    } else if error.code() == Some("NOAUTH") {
        Fault::Wrong(format!(
            "it wants a password ({text}); it stands in the URL: redis://user:password@host"
        ))
    } else if error.code() == Some("READONLY") {
        Fault::Wrong(
            "it is a replica, which takes no writes; name its master, or use redis-sentinel://".into(),
        )
    } else {
        Fault::Away(text)
    }
}

/// The first two numbers of a version.
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
