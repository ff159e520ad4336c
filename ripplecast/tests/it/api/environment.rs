//! Settings from the environment. The environment belongs to the whole process, so each case runs this test
//! again in a child process.

use std::{
    ffi::OsStr,
    process::{Command, Stdio},
};

use ripplecast::{App, AppBuilder};

use super::super::clients::{Script, Tab, TestServer, wait_until};

/// Set in a child process.
const CHILD: &str = "RIPPLECAST_TEST_CHILD";
/// No variables.
const NOTHING: [(&str, &str); 0] = [];

#[test]
fn settings_come_from_the_environment() {
    if std::env::var_os(CHILD).is_some() {
        println!("child: {}", be_the_child());
        return;
    }
    // The number of shards, the limit of connections, and the limit of connections from one forwarded
    // address; up to eight are tried.
    let cores = std::thread::available_parallelism().unwrap().get().min(8);
    let default = format!("{cores} shards, 8 in all, 8 of one address");
    assert_eq!(child(&NOTHING), default);
    assert_eq!(child(&[("RIPPLECAST_BACKEND", "memory"), ("RIPPLECAST_SHARDS", "0")]), default);
    let empty = [
        ("RIPPLECAST_BACKEND", ""),
        ("RIPPLECAST_SHARDS", ""),
        ("RIPPLECAST_MAX_CONNECTIONS", ""),
        ("RIPPLECAST_MAX_CONNECTIONS_PER_ADDRESS", ""),
        ("RIPPLECAST_TRUSTED_PROXIES", ""),
    ];
    assert_eq!(child(&empty), default, "an empty variable counts as unset");
    assert_eq!(child(&[("RIPPLECAST_SHARDS", "3")]), "3 shards, 8 in all, 8 of one address");
    assert_eq!(
        child(&[("RIPPLECAST_SHARDS", "1"), ("RIPPLECAST_MAX_CONNECTIONS", "2")]),
        "1 shards, 2 in all, 2 of one address"
    );
    let per_address = ("RIPPLECAST_MAX_CONNECTIONS_PER_ADDRESS", "3");
    assert_eq!(child(&[("RIPPLECAST_SHARDS", "2"), per_address]), "2 shards, 8 in all, 8 of one address");
    assert_eq!(
        child(&[
            ("RIPPLECAST_SHARDS", "2"),
            per_address,
            ("RIPPLECAST_TRUSTED_PROXIES", "10.0.0.0/8, 127.0.0.1")
        ]),
        "2 shards, 8 in all, 3 of one address"
    );
    let one_hop = ("RIPPLECAST_TRUSTED_PROXIES", "hops:1");
    assert_eq!(
        child(&[("RIPPLECAST_SHARDS", "2"), per_address, one_hop]),
        "2 shards, 8 in all, 3 of one address"
    );
}

#[test]
fn a_setting_that_cannot_be_used_is_named_with_its_value() {
    for (name, value) in [
        ("RIPPLECAST_BACKEND", "redis://localhost"),
        ("RIPPLECAST_SHARDS", "many"),
        ("RIPPLECAST_SHARDS", "-1"),
        ("RIPPLECAST_SHARDS", "300"),
        ("RIPPLECAST_MAX_CONNECTIONS", "1e5"),
        ("RIPPLECAST_MAX_CONNECTIONS_PER_ADDRESS", "99999999999999999999999"),
        ("RIPPLECAST_IPV6_PREFIX", "0"),
        ("RIPPLECAST_IPV6_PREFIX", "129"),
        ("RIPPLECAST_IPV6_PREFIX", "/64"),
        ("RIPPLECAST_BODY_TIMEOUT", "30s"),
        ("RIPPLECAST_BODY_TIMEOUT", "86401"),
        ("RIPPLECAST_WRITE_TIMEOUT", "-1"),
        ("RIPPLECAST_WRITE_TIMEOUT", "99999999999"),
        ("RIPPLECAST_MIN_RATE", "fast"),
        ("RIPPLECAST_MIN_RATE", "4294967296"),
        ("RIPPLECAST_TRUSTED_PROXIES", "everybody"),
        ("RIPPLECAST_HSTS", "a year"),
        ("RIPPLECAST_HSTS", "-1"),
        ("RIPPLECAST_HSTS", "3600"), // without a certificate
        ("RIPPLECAST_TRUSTED_PROXIES", "hops:0"),
    ] {
        let says = child(&[(name, value)]);
        assert!(says.starts_with("error: "), "{name}={value}: {says}");
        assert!(says.contains(value), "the error does not contain the value of {name}={value}: {says}");
        assert!(says.contains(name), "the error does not contain the name of {name}={value}: {says}");
    }
    {
        use std::os::unix::ffi::OsStrExt as _;
        let says = child(&[("RIPPLECAST_SHARDS", OsStr::from_bytes(b"2\xff"))]);
        assert!(says.contains("RIPPLECAST_SHARDS") && says.contains("UTF-8"), "{says}");
    }
}

/// Runs the child with only these variables of ours and returns its output.
fn child(variables: &[(&str, impl AsRef<OsStr>)]) -> String {
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("{module}::settings_come_from_the_environment"), "--nocapture"]);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RIPPLECAST_") {
            command.env_remove(name);
        }
    }
    for (name, value) in variables {
        command.env(name, value);
    }
    let output = command.env(CHILD, "1").stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text.split_once("child: ")
        .unwrap_or_else(|| panic!("no output: {text}"))
        .1
        .lines()
        .next()
        .unwrap()
        .to_owned()
}

/// Builds an app from the environment and reports its settings.
fn be_the_child() -> String {
    let built = tokio::runtime::Runtime::new().unwrap().block_on(App::from_env());
    if let Err(error) = built {
        return format!("error: {error}");
    }
    let server = TestServer::start(AppBuilder::from_env().unwrap(), |app| {
        let hub = app.hub();
        app.ws("/ws", Script(hub))
    });
    let open_eight = |headers: &[(&str, &str)]| -> Vec<Tab> {
        (0..8)
            .map_while(|_| match Tab::open(server.addr, "/ws", headers) {
                Ok(mut tab) => {
                    tab.run("join r");
                    Some(tab)
                }
                Err(refused) => {
                    assert!(matches!(refused.status().as_u16(), 503 | 429), "{refused:?}");
                    None
                }
            })
            .collect()
    };
    let mut tabs = open_eight(&[]);
    let in_all = tabs.len();
    // A message is encoded once for each shard with members, and connections are assigned to shards in turn.
    tabs[0].run("room r x; own y");
    for tab in &mut tabs[1..] {
        assert_eq!(tab.text(), "x");
    }
    // A shard updates its counts at the end of a turn, and so before it answers this.
    tabs.iter_mut().for_each(|tab| tab.run("own z"));
    let shards = server.hub.stats().encoded_frames;
    drop(tabs);
    wait_until("all are gone", || server.hub.stats().connections == 0);
    let of_one_address = open_eight(&[("x-forwarded-for", "203.0.113.7")]).len();
    format!("{shards} shards, {in_all} in all, {of_one_address} of one address")
}
