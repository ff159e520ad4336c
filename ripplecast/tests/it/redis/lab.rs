//! Tests of the helpers: a server that is reported as killed, paused or cut off must be so.

use std::{
    collections::HashMap,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};

use redis::{Client, TlsCertificates};

use super::{Cluster, FLAVOURS, Flavour, Proxy, Sentinels, Server};
use crate::support::{PATIENCE, dial, eventually};

/// Long enough to see that no answer arrives. Where one is expected, [`PATIENCE`] applies.
const NOTHING_COMES: Duration = Duration::from_millis(300);

/// Sends a ping and reads the answer.
fn ping(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"PING\r\n")?;
    pong(stream)
}

/// Reads the answer to a ping.
fn pong(stream: &mut TcpStream) -> io::Result<()> {
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"+PONG\r\n");
    Ok(())
}

/// Checks that neither an answer nor an end of the connection arrives for a while.
#[track_caller]
fn check_silence(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(NOTHING_COMES)).unwrap();
    let error = pong(stream).expect_err("expected no answer");
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
}

/// Checks that nobody listens.
#[track_caller]
fn check_refused(addr: SocketAddr) {
    let error = TcpStream::connect(addr).expect_err("expected no listener");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
}

/// Returns a field of a server's `INFO`.
fn info(server: &Server, field: &str) -> Option<String> {
    let info: String = server.ask("INFO server");
    info.lines().find_map(|line| Some(line.strip_prefix(field)?.strip_prefix(':')?.to_owned()))
}

/// Returns a value as a new client reads it.
fn get(client: &Client, key: &str) -> redis::RedisResult<Option<String>> {
    let mut connection = client.get_connection_with_timeout(PATIENCE)?;
    redis::cmd("GET").arg(key).query(&mut connection)
}

#[test]
fn each_flavour_reports_its_version() {
    for flavour in FLAVOURS {
        let server = Server::shared(flavour);
        assert!(std::ptr::eq(server, Server::shared(flavour)), "all tests share one server");
        ping(&mut dial(server.addr())).unwrap();
        let valkey = info(server, "valkey_version");
        match flavour {
            Flavour::Redis => {
                let version = info(server, "redis_version").unwrap();
                let major: u32 = version.split('.').next().unwrap().parse().unwrap();
                assert!(valkey.is_none() && major >= 7, "{version}");
            }
            Flavour::Valkey8 => assert!(valkey.unwrap().starts_with("8.")),
            Flavour::Valkey9 => assert!(valkey.unwrap().starts_with("9.")),
        }
    }
}

#[test]
fn a_stopped_or_killed_server_is_unavailable_until_restarted() {
    for (end, durable) in [
        (Server::stop as fn(&Server), false),
        (Server::kill, false),
        (Server::stop, true),
        (Server::kill, true),
    ] {
        let setup = Server::setup(Flavour::Redis);
        let server = if durable { setup.durable() } else { setup }.start();
        let mut stream = dial(server.addr());
        ping(&mut stream).unwrap();
        server.ask::<()>("SET key value");
        end(&server);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the server closes its connections");
        check_refused(server.addr());
        assert!(server.try_ask::<String>("PING").is_err());
        server.restart();
        ping(&mut dial(server.addr())).unwrap();
        let kept = durable.then(|| "value".to_owned());
        assert_eq!(server.ask::<Option<String>>("GET key"), kept);
        assert_eq!(get(&Client::open(server.url()).unwrap(), "key").unwrap(), kept);
    }
}

#[test]
fn a_running_server_can_be_restarted() {
    let server = Server::start();
    let before = server.pid();
    server.restart();
    assert_ne!(server.pid(), before);
    ping(&mut dial(server.addr())).unwrap();
}

#[test]
fn a_paused_server_is_silent_until_resumed() {
    let server = Server::start();
    let mut before = dial(server.addr());
    ping(&mut before).unwrap();
    server.pause();
    before.write_all(b"PING\r\n").unwrap();
    let mut during = dial(server.addr());
    during.write_all(b"PING\r\n").unwrap();
    check_silence(&mut before);
    check_silence(&mut during);
    server.resume();
    pong(&mut before).unwrap();
    pong(&mut during).unwrap();
    server.pause();
    server.kill();
    check_refused(server.addr());
}

#[test]
fn a_proxy_passes_everything_by_default() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let client = Client::open(proxy.url()).unwrap();
    let mut connection = client.get_connection_with_timeout(PATIENCE).unwrap();
    let long = "x".repeat(4 << 20);
    redis::cmd("SET").arg("key").arg(&long).exec(&mut connection).unwrap();
    assert_eq!(redis::cmd("GET").arg("key").query::<String>(&mut connection).unwrap(), long);
    assert_eq!(proxy.connections(), 1);
    drop(connection);
    eventually("the end to pass", || proxy.connections() == 0);
    let mut stream = dial(proxy.addr());
    stream.write_all(b"QUIT\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "+OK\r\n");
}

#[test]
fn a_stalled_proxy_passes_nothing() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let (mut asks, mut leaves) = (dial(proxy.addr()), dial(proxy.addr()));
    ping(&mut asks).unwrap();
    ping(&mut leaves).unwrap();
    let connected =
        || server.ask::<String>("CLIENT LIST").lines().filter(|line| !line.contains("user=lab")).count();
    assert_eq!(connected(), 2);
    proxy.stall();
    asks.write_all(b"PING\r\n").unwrap();
    drop(leaves);
    let mut during = dial(proxy.addr());
    during.write_all(b"PING\r\n").unwrap();
    check_silence(&mut asks);
    check_silence(&mut during);
    assert!(connected() >= 2, "the server is not notified of the end");
    server.kill();
    check_silence(&mut asks);
    server.restart();
    proxy.heal();
    // Data in transit to the killed server is lost, and now the client notices.
    assert!(pong(&mut asks).is_err());
    ping(&mut dial(proxy.addr())).unwrap();
}

#[test]
fn a_stalled_proxy_passes_its_data_once_healed() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let mut stream = dial(proxy.addr());
    ping(&mut stream).unwrap();
    proxy.stall();
    stream.write_all(b"PING\r\n").unwrap();
    check_silence(&mut stream);
    proxy.heal();
    pong(&mut stream).unwrap();
}

#[test]
fn a_cut_proxy_resets_and_refuses() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let mut stream = dial(proxy.addr());
    ping(&mut stream).unwrap();
    for stalled_before in [false, true] {
        if stalled_before {
            proxy.stall();
        }
        proxy.cut();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        check_refused(proxy.addr());
        assert_eq!(proxy.connections(), 0);
        ping(&mut dial(server.addr())).unwrap();
        proxy.heal();
        stream = dial(proxy.addr());
        ping(&mut stream).unwrap();
    }
    server.kill();
    let ended = stream.read(&mut [0]);
    assert!(ended.is_ok_and(|read| read == 0), "the proxy passes the end of a killed server's connection");
    let refused = dial(proxy.addr()).read(&mut [0]);
    assert_eq!(
        refused.unwrap_err().kind(),
        ErrorKind::ConnectionReset,
        "the server behind the proxy is stopped"
    );
    let addr = proxy.addr();
    drop(proxy);
    check_refused(addr);
}

#[test]
fn passwords_and_users_are_required() {
    let server = Server::setup(Flavour::Redis)
        .password("secret")
        .user("reader", "reads", "~public:* +get +ping +client")
        .start();
    server.ask::<()>("SET public:key value");
    let get = |url: String, key: &str| get(&Client::open(url).unwrap(), key);
    assert!(get(format!("redis://{}", server.addr()), "public:key").is_err());
    assert!(get(server.url_as("default", "wrong"), "public:key").is_err());
    let value = Some("value".to_owned());
    assert_eq!(get(server.url(), "public:key").unwrap(), value);
    assert_eq!(get(server.url_as("reader", "reads"), "public:key").unwrap(), value);
    let error = get(server.url_as("reader", "reads"), "private:key").unwrap_err();
    assert_eq!(error.code(), Some("NOPERM"), "{error}");
    let proxy = Proxy::before(&server);
    assert_eq!(get(proxy.url(), "public:key").unwrap(), value);
}

#[test]
fn a_server_listens_on_a_unix_socket_too() {
    let server = Server::setup(Flavour::Redis).start();
    server.ask::<()>("SET key value");
    let client = Client::open(server.unix_url()).unwrap();
    assert_eq!(get(&client, "key").unwrap().unwrap(), "value");
}

#[test]
fn a_server_uses_tls_with_clients_that_trust_it() {
    let server = Server::setup(Flavour::Redis).tls().password("secret").start();
    server.ask::<()>("SET key value");
    let url = server.url();
    assert!(url.starts_with("rediss://:secret@127.0.0.1:"), "{url}");
    let root_cert = Some(server.certificate().into_bytes());
    let client =
        Client::build_with_tls(url.as_str(), TlsCertificates { client_tls: None, root_cert }).unwrap();
    assert_eq!(get(&client, "key").unwrap().unwrap(), "value");
    assert!(
        get(&Client::open(url.as_str()).unwrap(), "key").is_err(),
        "the certificate is not trusted by default"
    );
    assert!(get(&Client::open(url.replace("rediss", "redis")).unwrap(), "key").is_err());
}

#[test]
fn a_cluster_accepts_keys_of_all_slots() {
    for flavour in FLAVOURS {
        let cluster = Cluster::start(flavour);
        let urls = cluster.url().replace("redis-cluster://", "");
        let nodes: Vec<String> = urls.split(',').map(|addr| format!("redis://{addr}")).collect();
        assert_eq!(nodes.len(), 3);
        let client = redis::cluster::ClusterClient::new(nodes).unwrap();
        let mut connection = client.get_connection().unwrap();
        for key in 0..300 {
            redis::cmd("SET").arg(key).arg(key).exec(&mut connection).unwrap();
        }
        let sizes: Vec<u64> = cluster.masters().iter().map(|master| master.ask("DBSIZE")).collect();
        assert_eq!(sizes.iter().sum::<u64>(), 300);
        assert!(sizes.iter().all(|size| *size > 50), "{sizes:?}");
        assert_eq!(cluster.master_of("7").ask::<u64>("GET 7"), 7);
    }
}

#[test]
fn a_cluster_without_one_master_refuses_every_key_until_it_returns() {
    let cluster = Cluster::start(Flavour::Redis);
    let home = cluster.master_of("key");
    let gone = cluster.masters().iter().find(|master| master.addr() != home.addr()).unwrap();
    home.ask::<()>("SET key value");
    gone.kill();
    eventually("the others to notice", || {
        home.try_ask::<String>("GET key").is_err_and(|error| error.code() == Some("CLUSTERDOWN"))
    });
    gone.restart();
    cluster.wait_until_ok();
    assert_eq!(home.ask::<String>("GET key"), "value");
}

#[test]
fn sentinels_make_the_replica_the_master() {
    for flavour in [Flavour::Redis, Flavour::Valkey9] {
        let sentinels = Sentinels::start(flavour);
        assert_eq!(sentinels.url().matches(',').count(), 2, "{}", sentinels.url());
        let (first, second) = sentinels.master_and_other();
        first.ask::<()>("SET key value");
        assert_eq!(first.ask::<u32>("WAIT 1 10000"), 1, "the replica has it");
        assert!(second.try_ask::<()>("SET key other").is_err(), "a replica rejects writes");
        sentinels.failover();
        assert_eq!(sentinels.master_and_other().0.addr(), second.addr());
        assert_eq!(second.ask::<String>("GET key"), "value");
        second.ask::<()>("SET key new");
        first.restart();
        eventually("the old master to be a replica", || {
            first.try_ask::<Option<String>>("GET key").is_ok_and(|value| value.as_deref() == Some("new"))
        });
        let names: HashMap<String, String> = sentinels.sentinels()[1].ask("SENTINEL MASTER lab");
        assert_eq!(names["port"], second.addr().port().to_string());
    }
}

// ----- lifetimes -----

/// Set in a child process: what it must do.
const CHILD: &str = "RIPPLECAST_TEST_REDIS_CHILD";

#[test]
fn a_server_ends_with_the_test_and_with_the_process() {
    if let Ok(order) = std::env::var(CHILD) {
        return be_the_child(&order);
    }
    let addr = std::panic::catch_unwind(|| {
        let server = Server::start();
        let addr = server.addr();
        std::panic::panic_any(addr)
    });
    check_refused(*addr.unwrap_err().downcast::<SocketAddr>().unwrap());

    for order in ["end", "abort"] {
        let said = child(&[(CHILD, order)]);
        let addr: SocketAddr = said
            .split_once("listens at ")
            .and_then(|(_, rest)| rest.lines().next())
            .unwrap_or_else(|| panic!("{said}"))
            .parse()
            .unwrap();
        eventually("the server to end after the process", || TcpStream::connect(addr).is_err());
    }
}

#[test]
fn a_missing_program_is_named_with_how_to_install_it() {
    for (order, variable, way) in [
        ("redis", "RIPPLECAST_TEST_REDIS", "apt-get install redis-server"),
        ("valkey 8", "RIPPLECAST_TEST_VALKEY_8", "cargo xtask test"),
        ("valkey 9", "RIPPLECAST_TEST_VALKEY_9", "cargo xtask test"),
    ] {
        let says = child(&[(CHILD, order), (variable, "/nowhere/redis")]);
        assert!(says.contains("/nowhere/redis") && says.contains(way) && says.contains(variable), "{says}");
    }
}

/// Returns the output of the child process with these variables.
fn child(variables: &[(&str, &str)]) -> String {
    let (_, module) = module_path!().split_once("::").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("{module}::a_server_ends_with_the_test_and_with_the_process"),
            "--nocapture",
        ])
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn be_the_child(order: &str) {
    let flavour = match order {
        "valkey 8" => Flavour::Valkey8,
        "valkey 9" => Flavour::Valkey9,
        _ => Flavour::Redis,
    };
    // Nothing drops it before the process ends.
    let server = Server::shared(flavour);
    ping(&mut dial(server.addr())).unwrap();
    println!("listens at {}", server.addr());
    if order == "abort" {
        std::process::abort();
    }
}
