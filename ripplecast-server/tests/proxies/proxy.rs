//! A proxy in front of a server, for the duration of a test.

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

/// The site's name in the documentation, which the proxies serve.
pub(crate) const SITE: &str = "example.com";
/// The path prefix in some configurations.
pub(crate) const BELOW: &str = "/rt";
/// Debian's directory for servers, which is not always on the `PATH`.
const SERVERS: &str = "/usr/sbin";

/// A configuration in the documentation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// nginx, from docs/deploy.md.
    Nginx,
    /// nginx, from docs/tls.md: only a location.
    NginxLocation,
    /// nginx with a path prefix.
    NginxBelow,
    /// The same, without the slash that strips the prefix.
    NginxBelowAsItIs,
    Haproxy,
    Caddy,
}

impl Kind {
    /// Returns the path prefix under which it serves the site.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::NginxBelow | Self::NginxBelowAsItIs => BELOW,
            _ => "",
        }
    }

    /// Returns the program, which is also the name of Debian's package.
    fn program(self) -> &'static str {
        match self {
            Self::Nginx | Self::NginxLocation | Self::NginxBelow | Self::NginxBelowAsItIs => "nginx",
            Self::Haproxy => "haproxy",
            Self::Caddy => "caddy",
        }
    }

    /// Returns the documented block with different ports, completed with what the page leaves to the system.
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
                // A certificate cannot be obtained here, and Caddy's admin endpoint would use a fixed port.
                let site = format!("http://{SITE}:{port} {{");
                let block = with(&block(DEPLOY, "caddy", SITE), &format!("{SITE} {{"), &site);
                let block = with(&block, "127.0.0.1:8080", server);
                format!("{{\n\tadmin off\n\tauto_https off\n\tdefault_bind 127.0.0.1\n}}\n{block}")
            }
        }
    }

    /// Returns the command that starts it in the foreground, as one process.
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

/// Wraps servers in an nginx configuration that sets writable directories and a single process.
fn nginx(dir: &Path, servers: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {}/{what};\n", dir.display()))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{servers}}}\n",
        dir.display()
    )
}

/// A running proxy, killed on drop.
pub(crate) struct Proxy {
    /// Its listen address.
    pub(crate) addr: String,
    process: Child,
    /// The directory of its configuration and output.
    dir: PathBuf,
}

impl Proxy {
    /// Starts a proxy in front of a server on a free port, and waits until it forwards requests.
    #[track_caller]
    pub(crate) fn start(kind: Kind, server: &str) -> Self {
        let mut said = String::new();
        for _ in 0..TRIES {
            match Self::start_at(kind, server, free_port()) {
                Ok(proxy) => return proxy,
                Err(why) => said = why,
            }
        }
        panic!("{kind:?} exited with:\n{said}");
    }

    /// Starts a proxy on a port. Returns its output if it exits, for instance because the port is taken.
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
            assert!(begin.elapsed() < PATIENCE, "{kind:?} forwards nothing; its output:\n{said}");
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

/// Returns the program's path in `PATH` or in Debian's directory, or only its name if it is in neither.
fn find(program: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = env::split_paths(&path).chain([SERVERS.into()]).map(|dir| dir.join(program));
    places.find(|place| place.is_file()).unwrap_or_else(|| program.into())
}
