//! Backends that prevent a node from starting.

use super::*;

/// Returns the error of a start with that backend.
fn refusal(url: &str) -> String {
    let begin = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let built = runtime.block_on(async { App::builder().backend(url).build().await });
    assert!(begin.elapsed() < Duration::from_secs(20), "{url}: the start took {:?}", begin.elapsed());
    match built {
        Err(error @ Error::Setting { .. }) => error.to_string(),
        Err(other) => panic!("{url}: {other}"),
        Ok(_) => panic!("{url}: the node started"),
    }
}

/// Checks the error of a start with that backend, and that it does not contain a password.
#[track_caller]
fn check_refusal(url: &str, says: &[&str]) {
    let error = refusal(url);
    for part in says {
        assert!(error.contains(part), "{url}: `{part}` is missing: {error}");
    }
    assert!(!error.contains("secret"), "{url}: the password is shown: {error}");
}

#[test]
fn an_invalid_address_is_named() {
    check_refusal("redis://localhost:secret@:port", &["backend"]);
    check_refusal("mysql://localhost", &["mysql", "redis://"]);
}

#[test]
fn a_missing_server_stops_the_start() {
    let nobody = format!("127.0.0.1:{}", free_port());
    let ways = ["can't be reached", nobody.as_str(), "Start it", "--backend-optional"];
    check_refusal(&format!("redis://:secret@{nobody}"), &ways);
    check_refusal(&format!("redis-cluster://:secret@{nobody}"), &ways);
    check_refusal(&format!("redis-sentinel://:secret@{nobody}/lab"), &ways);
    check_refusal(
        "redis+unix:///nowhere/redis.sock",
        &["can't be reached", "/nowhere/redis.sock", "Start it"],
    );
}

#[test]
fn a_silent_server_stops_the_start() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    proxy.stall();
    check_refusal(&proxy.url(), &["can't be reached", "did not answer"]);
    server.pause();
    check_refusal(&server.url(), &["can't be reached", "did not answer"]);
}

#[test]
fn a_wrong_or_missing_password_stops_the_start() {
    let server = Server::setup(Flavour::Redis).password("right").start();
    let where_it_stands = ["password", "redis://user:password@host"];
    check_refusal(&format!("redis://:secret@{}", server.addr()), &where_it_stands);
    check_refusal(&format!("redis://somebody:secret@{}", server.addr()), &where_it_stands);
    check_refusal(&format!("redis://{}", server.addr()), &where_it_stands);
    assert_starts(&server.url());
}

/// Returns the users of a server's connections, without the test helper's own.
fn users(server: &Server) -> Vec<String> {
    let list: String = server.ask("CLIENT LIST");
    let users = list.lines().filter_map(|line| line.split(' ').find_map(|word| word.strip_prefix("user=")));
    users.filter(|user| *user != "lab").map(ToOwned::to_owned).collect()
}

/// A user without a password who may do what a node needs.
const APP: &str = "app on nopass ~ripplecast:* &ripplecast:* +@all";

#[test]
fn a_user_named_without_a_password_logs_in() {
    let server =
        Server::setup(Flavour::Redis).line(format!("user {APP}")).line("user lim on nopass +ping").start();
    let (addr, socket) = (server.addr(), server.unix_url());
    for url in
        [format!("redis://lim@{addr}"), format!("redis://{addr}?user=lim"), format!("{socket}?user=lim")]
    {
        check_refusal(&url, &["its user lacks a permission"]);
    }
    for url in [format!("redis://nobody:@{addr}"), format!("{socket}?user=nobody")] {
        check_refusal(&url, &["refuses user `nobody`", "redis://user:password@host"]);
    }
    for url in
        [format!("redis://app@{addr}"), format!("redis://{addr}?user=a%70p"), format!("{socket}?user=app")]
    {
        let node = node(App::builder(), &url);
        wait_until("both connections are there", || !node.hub.stats().remote.degraded);
        assert_eq!(users(&server), ["app", "app"], "{url}");
    }
}

#[test]
fn a_missing_permission_stops_the_start() {
    for (rules, starts) in [
        ("~ripplecast:* &ripplecast:* +@all", true),
        ("~ripplecast:* &ripplecast:* +@all -eval -script", false),
        ("~ripplecast:* &ripplecast:* +@all -evalsha", false),
        ("~ripplecast:* &ripplecast:* +@all -publish", false),
        ("~ripplecast:* &ripplecast:* +@all -@stream", false),
        ("~ripplecast:* &ripplecast:* +@all -xautoclaim", false),
        ("~ripplecast:* &ripplecast:* +@all -zrangebyscore", false),
        ("~ripplecast:* &ripplecast:* +@all -hincrby", false),
        ("~ripplecast:* &ripplecast:* +@all -xinfo|consumers", false),
        ("~ripplecast:* &ripplecast:* +@all -xgroup|destroy", false),
        ("~ripplecast:* &ripplecast:* +@all -client|id", false),
        ("~ripplecast:* &ripplecast:* +@all -subscribe", false),
        ("~ripplecast:* &other:* +@all", false),
        ("~other:* &ripplecast:* +@all", false),
        ("%R~ripplecast:* &ripplecast:* +@all", false),
    ] {
        let server = Server::setup(Flavour::Redis).user("app", "secret", rules).start();
        let url = server.url_as("app", "secret");
        if starts {
            assert_starts(&url);
        } else {
            check_refusal(&url, &["permission", "ACL SETUSER"]);
        }
    }
}

#[test]
fn each_master_of_a_cluster_is_checked() {
    let cluster = Cluster::start(Flavour::Redis);
    for (number, master) in cluster.masters().iter().enumerate() {
        let rule = |allow: &str| master.ask::<()>(&format!("ACL SETUSER default {allow}xautoclaim"));
        rule("-");
        let error = refusal(&cluster.url());
        assert!(error.contains("permission"), "master {number}: {error}");
        rule("+");
    }
    assert_starts(&cluster.url());
    // A user without a password logs in to each of them.
    let url = |user: &str| cluster.url().replace("://", &format!("://{user}@"));
    check_refusal(&url("app"), &["refuses user `app`"]);
    cluster.masters().iter().for_each(|master| master.ask::<()>(&format!("ACL SETUSER {APP}")));
    let node = node(App::builder(), &url("app"));
    wait_until("all connections are there", || !node.hub.stats().remote.degraded);
    for master in cluster.masters() {
        assert_eq!(users(master), ["app", "app"]);
    }
}

#[test]
fn a_forbidden_pattern_is_a_separate_error() {
    let rules = "~ripplecast:* &ripplecast:* +@all";
    let server = Server::setup(Flavour::Redis).user("app", "secret", rules).start();
    let node = node(App::builder(), &server.url_as("app", "secret"));
    let (_subscription, received) = listen(&node, "orders.new");
    let pattern = || node.block_on(node.hub.bus().subscribe("orders.*", |_| async {}));
    for _ in 0..3 {
        let error = pattern().unwrap_err();
        assert!(!error.is_unavailable() && error.to_string().contains("allchannels"), "{error}");
    }
    assert_eq!(node.hub.stats().remote.gaps, 0, "no other subscription was lost");
    node.block_on(node.hub.bus().publish("orders.new", "4711")).unwrap();
    wait_until("the other subscription to receive the message", || *received.lock().unwrap() == ["4711"]);
    server.ask::<()>("ACL SETUSER app allchannels");
    drop(pattern().unwrap());
}

#[test]
fn a_replica_stops_the_start() {
    let sentinels = Sentinels::start(Flavour::Redis);
    let (_, replica) = sentinels.master_and_other();
    check_refusal(&replica.url(), &["it is a replica", "redis-sentinel://"]);
    check_refusal(&sentinels.url().replace("/lab", "/other"), &["no sentinel names the master", "`other`"]);
    // Neither the sentinels nor the servers require a password. Each receives the user that the URL names.
    check_refusal(
        &format!("{}?sentinel_user=nobody", sentinels.url()),
        &["no sentinel names the master", "?sentinel_user=…&sentinel_password=…"],
    );
    check_refusal(&sentinels.url().replace("://", "://nobody@"), &["refuses user `nobody`"]);
    assert_starts(&sentinels.url());
}

#[test]
fn sentinels_have_their_own_user_and_password() {
    let sentinels = Sentinels::guarded(Flavour::Redis);
    let url = sentinels.url().replace("://", &format!("://:{SERVERS_PASSWORD}@"));
    let (user, password) = WATCHER;
    let as_watcher = format!("{url}?sentinel_user={user}&sentinel_password={password}");
    assert_starts(&format!("{url}?sentinel_password={SENTINELS_PASSWORD}"));
    assert_starts(&as_watcher);
    let says = ["no sentinel names the master", "?sentinel_user=…&sentinel_password=…"];
    check_refusal(&url, &says);
    check_refusal(&format!("{url}?sentinel_password={SERVERS_PASSWORD}"), &says);
    let without = as_watcher.replace(&format!(":{SERVERS_PASSWORD}@"), "");
    check_refusal(&without, &["password", "redis://user:password@host"]);
    // A new master is authenticated to in the same way as the first.
    let node = node(App::builder(), &as_watcher);
    sentinels.failover();
    check_all_work(&node);
}

#[test]
fn a_server_of_another_kind_stops_the_start() {
    let (plain, secure) = (Server::start(), Server::setup(Flavour::Redis).tls().start());
    let (plain_at, secure_at) = (plain.addr(), secure.addr());
    for kind in ["", "-cluster", "-sentinel"] {
        let path = if kind == "-sentinel" { "/lab" } else { "" };
        check_refusal(
            &format!("rediss{kind}://{plain_at}{path}"),
            &["can't be reached", &format!("if the server does not speak TLS, use redis{kind}://")],
        );
        check_refusal(
            &format!("redis{kind}://{secure_at}{path}"),
            &["can't be reached", &format!("if the server speaks TLS, use rediss{kind}://")],
        );
    }
    // This system does not trust the test's certificate authority.
    check_refusal(&secure.url(), &["can't be reached", "certificate", "SSL_CERT_FILE"]);
    refusal(&plain.url().replace("redis://", "redis-cluster://"));
    // Nobody listens, so TLS is not the reason.
    let nobody = free_port();
    for scheme in ["redis", "rediss"] {
        let error = refusal(&format!("{scheme}://127.0.0.1:{nobody}"));
        assert!(!error.contains("TLS"), "{error}");
    }
    assert_starts(&plain.unix_url());
    assert_starts(&plain.url().replace("redis", "REDIS"));
    assert_starts(&plain.url().replace("redis", "valkey"));
}

/// Set in a child process: the backend with which it starts.
const CHILD: &str = "RIPPLECAST_TEST_REDIS_TLS_CHILD";

#[test]
fn every_form_works_over_tls() {
    if let Ok(url) = std::env::var(CHILD) {
        return assert_starts(&url);
    }
    let authority = Arc::new(CertAuthority::new());
    let setup = || Server::setup(Flavour::Redis).tls_of(&authority);
    let (server, cluster, sentinels) =
        (setup().start(), Cluster::with(setup), Sentinels::with(setup, &[], &[]));
    let dir = Dir::new();
    let trusted = dir.put("ca.pem", authority.certificate());
    let (_, module) = module_path!().split_once("::").unwrap();
    let valkeys = cluster.url().replace("rediss", "valkeys");
    for url in [server.url(), cluster.url(), valkeys, sentinels.url()] {
        assert!(url.contains("s-") || url.starts_with("rediss://"), "{url}");
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", &format!("{module}::every_form_works_over_tls"), "--nocapture"]);
        // Root certificates are read from this file when the first connection is opened.
        let output = child.env(CHILD, &url).env("SSL_CERT_FILE", &trusted).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{url}: {said}");
    }
}

#[track_caller]
fn assert_starts(url: &str) {
    let node = node(App::builder(), url);
    node.block_on(async {
        for (name, outcome) in operations(&node.hub).await {
            outcome.unwrap_or_else(|error| panic!("{url}: {name}: {error}"));
        }
    });
}

#[test]
fn a_node_may_start_before_its_optional_server() {
    let server = Server::start();
    server.stop();
    let node = node(App::builder().backend_optional(true), &server.url());
    assert!(node.hub.stats().remote.degraded);
    check_all_fail_at_once(&node);
    let mut tabs = [node.scripted("/ws", "join r"), node.scripted("/ws", "join r")];
    check_local_push(&mut tabs);
    server.restart();
    check_all_work(&node);
    wait_until("the node to report that Redis is available", || !node.hub.stats().remote.degraded);
    check_local_push(&mut tabs);
}
