//! A proxy that runs for as long as its test, in front of a server.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    client::Client,
    page::{DEPLOY, TLS, block, with},
    ports::{TRIES, free_port},
    program::PATIENCE,
};

/// The name in the pages, which the proxies answer to.
pub(crate) const SITE: &str = "example.com";
/// The path below which one of them serves it.
pub(crate) const BELOW: &str = "/rt";
/// Where Debian puts servers; it is not on everybody's `PATH`.
const SERVERS: &str = "/usr/sbin";

/// A configuration of the documentation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// The one of nginx in docs/deploy.md.
    Nginx,
    /// The one of nginx in docs/tls.md: a location alone.
    NginxLocation,
    /// The one of nginx below a path.
    NginxBelow,
    /// The same without the slash that removes the path.
    NginxBelowAsItIs,
    /// The one of HAProxy.
    Haproxy,
    /// The one of Caddy.
    Caddy,
}

impl Kind {
    /// The path below which it serves the site.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::NginxBelow | Self::NginxBelowAsItIs => BELOW,
            _ => "",
        }
    }

    /// The program, which is also the name of Debian's package.
    fn program(self) -> &'static str {
        match self {
            Self::Nginx | Self::NginxLocation | Self::NginxBelow | Self::NginxBelowAsItIs => "nginx",
            Self::Haproxy => "haproxy",
            Self::Caddy => "caddy",
        }
    }

    /// The page's block, with other ports, and around it what the page leaves to the system.
    fn configuration(self, dir: &Path, port: u16, server: &str) -> String {
        let listen = format!("127.0.0.1:{port}");
        match self {
            Self::Nginx => {
                let block =
                    with(&block(DEPLOY, "nginx", "upstream"), "listen 80;", &format!("listen {listen};"));
                nginx(dir, &with(&block, "server 127.0.0.1:8080;", &format!("server {server};")))
            }
            Self::NginxLocation => {
                let location = with(
                    &block(TLS, "nginx", "location"),
                    "http://127.0.0.1:8080;",
                    &format!("http://{server};"),
                );
                nginx(dir, &format!("server {{ listen {listen}; server_name {SITE};\n{location}}}"))
            }
            Self::NginxBelow | Self::NginxBelowAsItIs => {
                let slash = if let Self::NginxBelow = self { "/" } else { "" };
                let location = with(
                    &block(DEPLOY, "nginx", BELOW),
                    "http://127.0.0.1:8080/;",
                    &format!("http://{server}{slash};"),
                );
                nginx(dir, &format!("server {{ listen {listen}; server_name {SITE};\n{location}}}"))
            }
            Self::Haproxy => {
                let block =
                    with(&block(DEPLOY, "haproxy", "frontend"), "bind :80\n", &format!("bind {listen}\n"));
                with(&block, "one 127.0.0.1:8080\n", &format!("one {server}\n"))
            }
            Self::Caddy => {
                // No certificate can be had for it here, and its control socket would be a port that nobody picked.
                let site = format!("http://{SITE}:{port} {{");
                let block = with(&block(DEPLOY, "caddy", SITE), &format!("{SITE} {{"), &site);
                let block = with(&block, "127.0.0.1:8080", server);
                format!("{{\n\tadmin off\n\tauto_https off\n\tdefault_bind 127.0.0.1\n}}\n{block}")
            }
        }
    }

    /// How it is started with that configuration, so that it stays in the foreground and is one process.
    fn command(self, dir: &Path, file: &Path) -> Command {
        let mut command = Command::new(find(self.program()));
        match self {
            Self::Nginx | Self::NginxLocation | Self::NginxBelow | Self::NginxBelowAsItIs => {
                command.args(["-e", "stderr", "-p"]).arg(dir).arg("-c").arg(file)
            }
            Self::Haproxy => command.arg("-db").arg("-f").arg(file),
            Self::Caddy => command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file),
        };
        command.env("HOME", dir).env("XDG_DATA_HOME", dir).env("XDG_CONFIG_HOME", dir);
        command
    }
}

/// What stands around a server of nginx: where it may write, and that it is one process.
fn nginx(dir: &Path, servers: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {}/{what};\n", dir.display()))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{servers}}}\n",
        dir.display()
    )
}

/// A running proxy, killed at the end.
pub(crate) struct Proxy {
    /// Where it listens.
    pub(crate) addr: String,
    process: Child,
    /// Its configuration, and what it writes.
    dir: PathBuf,
}

impl Proxy {
    /// Starts one in front of a server, on a free port, and waits until it passes requests on.
    #[track_caller]
    pub(crate) fn start(kind: Kind, server: &str) -> Self {
        let mut said = String::new();
        for _ in 0..TRIES {
            match Self::start_at(kind, server, free_port()) {
                Ok(proxy) => return proxy,
                Err(why) => said = why,
            }
        }
        panic!("{kind:?} does not stay; it says:\n{said}");
    }

    /// Starts one on that port; or what it said before it ended, as when somebody else has taken the port.
    fn start_at(kind: Kind, server: &str, port: u16) -> Result<Self, String> {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("proxy-{}-{port}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (file, log) = (dir.join("configuration"), dir.join("log"));
        fs::write(&file, kind.configuration(&dir, port, server)).unwrap();
        let mut command = kind.command(&dir, &file);
        let written = fs::File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(written.try_clone().unwrap()).stderr(written);
        let process = command.spawn().unwrap_or_else(|error| {
            let program = kind.program();
            panic!("{program} does not start ({error}): install it with `apt-get install {program}`")
        });
        let mut proxy = Self { addr: format!("127.0.0.1:{port}"), process, dir };
        let client = Client::of(&proxy.addr);
        let begin = Instant::now();
        while proxy.process.try_wait().unwrap().is_none() {
            if client
                .try_get(&format!("{}/health", kind.prefix()))
                .is_ok_and(|answer| answer.ends_with(r#"{"status":"ok"}"#))
            {
                return Ok(proxy);
            }
            let said = fs::read_to_string(&log).unwrap();
            assert!(begin.elapsed() < PATIENCE, "{kind:?} passes nothing on; it says:\n{said}");
            thread::sleep(Duration::from_millis(10));
        }
        Err(fs::read_to_string(&log).unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The program among the directories of `PATH`, and where Debian puts servers. Its mere name where it is nowhere.
fn find(program: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = env::split_paths(&path).chain([SERVERS.into()]).map(|dir| dir.join(program));
    places.find(|place| place.is_file()).unwrap_or_else(|| program.into())
}
