//! A server and its process.

use std::{
    ffi::OsString,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU16, Ordering},
    },
};

use redis::{
    Connection, ConnectionAddr, FromRedisValue, IntoConnectionInfo as _, RedisConnectionInfo, RedisResult,
};

use crate::{
    support::{Dir, PATIENCE, eventually},
    tls::CertAuthority,
};

/// The implementation and version of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flavour {
    /// Debian's Redis.
    Redis,
    /// The oldest supported Valkey.
    Valkey8,
    /// The newest Valkey.
    Valkey9,
}

/// All of them, for tests of every flavour.
pub(crate) const FLAVOURS: [Flavour; 3] = [Flavour::Redis, Flavour::Valkey8, Flavour::Valkey9];

impl Flavour {
    /// Returns the program, from a variable or its usual place.
    fn program(self) -> OsString {
        let (variable, usual) = match self {
            Self::Redis => ("RIPPLECAST_TEST_REDIS", "redis-server"),
            Self::Valkey8 => (
                "RIPPLECAST_TEST_VALKEY_8",
                concat!(env!("CARGO_MANIFEST_DIR"), "/../target/valkey/8/valkey-server"),
            ),
            Self::Valkey9 => (
                "RIPPLECAST_TEST_VALKEY_9",
                concat!(env!("CARGO_MANIFEST_DIR"), "/../target/valkey/9/valkey-server"),
            ),
        };
        std::env::var_os(variable).filter(|path| !path.is_empty()).unwrap_or_else(|| usual.into())
    }

    /// Returns how to install a missing program.
    fn how_to_get_it(self) -> &'static str {
        match self {
            Self::Redis => {
                "install it with `apt-get install redis-server`, or let `cargo xtask test --only test` do that, \
                 or set RIPPLECAST_TEST_REDIS to its path"
            }
            Self::Valkey8 => {
                "`cargo xtask test --only test` installs it, or set RIPPLECAST_TEST_VALKEY_8 to the path of a \
                 valkey-server 8"
            }
            Self::Valkey9 => {
                "`cargo xtask test --only test` installs it, or set RIPPLECAST_TEST_VALKEY_9 to the path of a \
                 valkey-server 9"
            }
        }
    }
}

// ----- settings -----

/// Attempts with another port if somebody else took the first.
const TRIES: usize = 20;

/// The user of [`Server::ask`], who may do everything, whatever a test configures.
const LAB: (&str, &str) = ("lab", "of-the-laboratory");

/// A server to be started.
pub(crate) struct Setup {
    flavour: Flavour,
    /// Configuration lines in addition to those of every server.
    lines: Vec<String>,
    /// The password of the default user.
    password: Option<String>,
    /// The authority that signs the server's certificate.
    tls: Option<Arc<CertAuthority>>,
    /// Whether its clock can be set.
    has_own_clock: bool,
    kind: Kind,
}

/// The role of a server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Stores all keys.
    Standalone,
    /// Stores a part of the keys.
    Cluster,
    /// Monitors other servers.
    Sentinel,
}

impl Setup {
    /// Adds a line to the configuration.
    pub(crate) fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Requires this password.
    pub(crate) fn password(mut self, password: &str) -> Self {
        self.password = Some(password.into());
        self.line(format!("requirepass {password}"))
    }

    /// Adds a user with rules of `ACL SETUSER`.
    pub(crate) fn user(self, name: &str, password: &str, rules: &str) -> Self {
        self.line(format!("user {name} on >{password} {rules}"))
    }

    /// Keeps the data even if the server is killed. By default nothing outlives the process.
    pub(crate) fn durable(self) -> Self {
        self.line("appendonly yes").line("appendfsync always")
    }

    /// Accepts only TLS.
    pub(crate) fn tls(self) -> Self {
        self.tls_of(&Arc::new(CertAuthority::new()))
    }

    /// Accepts only TLS, with a certificate of a shared authority, so that the servers trust each other.
    pub(super) fn tls_of(mut self, authority: &Arc<CertAuthority>) -> Self {
        self.tls = Some(authority.clone());
        self
    }

    /// Gives the server its own clock, for [`Server::set_clock`]. Only for Valkey: Debian's Redis hangs at
    /// its start.
    pub(crate) fn own_clock(mut self) -> Self {
        self.has_own_clock = true;
        self
    }

    /// Makes the server a node of a Cluster.
    pub(super) fn cluster(mut self) -> Self {
        self.kind = Kind::Cluster;
        self.line("cluster-enabled yes").line("cluster-announce-ip 127.0.0.1")
    }

    /// Makes the server a sentinel.
    pub(super) fn sentinel(mut self) -> Self {
        self.kind = Kind::Sentinel;
        self
    }

    /// Starts the server and waits until it answers.
    #[track_caller]
    pub(crate) fn start(self) -> Server {
        let mut server = Server { process: Mutex::new(None), port: 0, bus: 0, setup: self, dir: Dir::new() };
        for _ in 0..TRIES {
            (server.port, server.bus) = (free_port(), free_port());
            server.configure();
            match server.launch() {
                Ok(()) => return server,
                Err(log) if log.contains("Address already in use") => {}
                Err(log) => panic!("{:?} does not start:\n{log}", server.setup.flavour),
            }
        }
        panic!("no port is free")
    }
}

/// Returns a free loopback port outside the range that the kernel uses for outgoing connections. A server
/// that stops for a while therefore finds it free when it starts again.
pub(super) fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Concurrent test processes start at different places.
    let start = (std::process::id() % 118) as u16 * 101;
    (0..COUNT)
        .map(|_| FIRST + (NEXT.fetch_add(1, Ordering::Relaxed) % COUNT + start) % COUNT)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("no port is free")
}

// ----- the server -----

/// A server that a test may do anything with. It is in memory unless [`Setup::durable`] was set.
pub(crate) struct Server {
    /// `None` while stopped. The first field, so that it ends before its directory is removed.
    process: Mutex<Option<Process>>,
    port: u16,
    /// The port for the nodes of a Cluster.
    bus: u16,
    setup: Setup,
    /// Contains its configuration, log, data and Unix socket.
    dir: Dir,
}

impl Server {
    /// Starts Redis with default settings.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::setup(Flavour::Redis).start()
    }

    /// Returns a server to be set up.
    pub(crate) fn setup(flavour: Flavour) -> Setup {
        Setup {
            flavour,
            lines: Vec::new(),
            password: None,
            tls: None,
            has_own_clock: false,
            kind: Kind::Standalone,
        }
    }

    /// Returns the server shared by all tests that do not disturb it: they neither stop nor flush it, and use
    /// their own prefix.
    #[track_caller]
    pub(crate) fn shared(flavour: Flavour) -> &'static Self {
        static SHARED: [OnceLock<Server>; 3] = [const { OnceLock::new() }; 3];
        SHARED[flavour as usize].get_or_init(|| Self::setup(flavour).start())
    }

    /// Returns the address on which it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Returns the port for the nodes of a Cluster.
    pub(super) fn bus(&self) -> u16 {
        self.bus
    }

    /// Returns the URL of the backend, as its default user.
    pub(crate) fn url(&self) -> String {
        self.url_at(self.addr())
    }

    /// Returns the URL of the backend, as another user.
    pub(crate) fn url_as(&self, user: &str, password: &str) -> String {
        format!("{}://{user}:{password}@{}", self.scheme(), self.addr())
    }

    /// Returns the URL of the backend by its Unix socket.
    pub(crate) fn unix_url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// Returns the URL of the backend, as its default user, at the address of a proxy.
    pub(super) fn url_at(&self, addr: SocketAddr) -> String {
        let login = self.setup.password.as_ref().map_or_else(String::new, |password| format!(":{password}@"));
        format!("{}://{login}{addr}", self.scheme())
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.setup.tls.is_some() { "rediss" } else { "redis" }
    }

    /// Returns the certificate of the authority as PEM; a client must trust it.
    pub(crate) fn certificate(&self) -> String {
        self.setup.tls.as_ref().expect("the server uses TLS").certificate()
    }

    /// Runs a command, split into words at white space, on a direct connection as a user who may do
    /// everything.
    #[track_caller]
    pub(crate) fn ask<T: FromRedisValue>(&self, command: &str) -> T {
        self.try_ask(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Runs a command that may fail.
    pub(crate) fn try_ask<T: FromRedisValue>(&self, command: &str) -> RedisResult<T> {
        let (name, arguments) = command.split_once(' ').unwrap_or((command, ""));
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        redis::cmd(name).arg(arguments).query(&mut self.connect()?)
    }

    /// Opens a connection as [`Self::ask`] does, for commands that follow each other.
    pub(crate) fn connect(&self) -> RedisResult<Connection> {
        let info = ConnectionAddr::Unix(self.socket()).into_connection_info()?;
        let info =
            info.set_redis_settings(RedisConnectionInfo::default().set_username(LAB.0).set_password(LAB.1));
        let connection = redis::Client::open(info)?.get_connection_with_timeout(PATIENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        Ok(connection)
    }

    /// Sets the server's clock to that many seconds from the system's, at once.
    pub(crate) fn set_clock(&self, seconds: i64) {
        assert!(self.setup.has_own_clock);
        write_clock(self.dir.file("").as_path(), seconds);
    }

    /// Returns the id of its process, which must be running.
    pub(crate) fn pid(&self) -> u32 {
        self.process.lock().unwrap().as_ref().expect("the server is running").child.id()
    }

    /// Tells the server to stop and waits until it has. It closes its connections first.
    #[track_caller]
    pub(crate) fn stop(&self) {
        // It closes the connection instead of answering.
        let _ = self.try_ask::<()>("SHUTDOWN NOSAVE");
        let mut process = self.process.lock().unwrap();
        let child = &mut process.as_mut().expect("the server is running").child;
        eventually("the server to stop", || child.try_wait().unwrap().is_some());
        *process = None;
    }

    /// Kills the server immediately.
    pub(crate) fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        assert!(process.is_some(), "the server is not running");
        *process = None;
    }

    /// Suspends the server. Its connections stay open, and the kernel still accepts new ones for it.
    #[track_caller]
    pub(crate) fn pause(&self) {
        self.signal("STOP");
        let stat = format!("/proc/{}/stat", self.pid());
        eventually("the server to be paused", || {
            // Where this file does not exist, assume that the signal has taken effect.
            std::fs::read_to_string(&stat)
                .map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
        });
    }

    /// Resumes the server.
    #[track_caller]
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    /// Starts the server again on its port. Stops it first if it is running.
    #[track_caller]
    pub(crate) fn restart(&self) {
        if self.process.lock().unwrap().is_some() {
            self.stop();
        }
        self.launch().unwrap_or_else(|log| panic!("the server does not start again:\n{log}"));
    }

    /// Returns the log so far.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read(self.dir.file("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn socket(&self) -> PathBuf {
        self.dir.file("socket")
    }

    fn signal(&self, signal: &str) {
        // A shell has `kill` built in even where no such program is installed.
        let done = Command::new("sh")
            .args(["-c", "kill -$0 $1", signal, &self.pid().to_string()])
            .status()
            .expect("sh can be started");
        assert!(done.success(), "the signal could not be sent");
    }

    /// Writes the configuration.
    fn configure(&self) {
        let (port, dir) = (self.port, self.dir.file(""));
        let mut lines = vec![
            "bind 127.0.0.1".to_owned(),
            "daemonize no".to_owned(),
            format!("dir {}", dir.display()),
            format!("unixsocket {}", self.socket().display()),
        ];
        match &self.setup.tls {
            None => lines.push(format!("port {port}")),
            Some(authority) => {
                let pair = authority.issue();
                lines.extend([
                    "port 0".to_owned(),
                    format!("tls-port {port}"),
                    format!("tls-cert-file {}", self.dir.put("cert.pem", pair.cert).display()),
                    format!("tls-key-file {}", self.dir.put("key.pem", pair.key).display()),
                    format!("tls-ca-cert-file {}", self.dir.put("ca.pem", authority.certificate()).display()),
                    "tls-auth-clients no".to_owned(),
                    "tls-replication yes".to_owned(),
                ]);
                if self.setup.kind == Kind::Cluster {
                    lines.push("tls-cluster yes".to_owned());
                }
            }
        }
        if self.setup.kind == Kind::Cluster {
            lines.push(format!("cluster-port {}", self.bus));
        }
        let (user, password) = LAB;
        lines.push(format!("user {user} on >{password} ~* &* +@all"));
        if self.setup.kind != Kind::Sentinel {
            lines.push("save \"\"".to_owned());
        }
        lines.extend(self.setup.lines.iter().cloned());
        // Left over from an attempt with another port.
        let _ = std::fs::remove_file(self.dir.file("log"));
        self.dir.put("conf", lines.join("\n") + "\n");
    }

    /// Starts the process and waits until it answers. Returns the log if it ends instead.
    #[track_caller]
    fn launch(&self) -> Result<(), String> {
        // The socket of a killed server would look like a late answer.
        let _ = std::fs::remove_file(self.socket());
        *self.process.lock().unwrap() = Some(Process::start(&self.setup, self.dir.file("").as_path()));
        let mut outcome = None;
        eventually("the server to answer", || {
            // The socket is in our own directory, so the answer is from our server.
            if self.try_ask::<String>("PING").is_ok_and(|pong| pong == "PONG") {
                outcome = Some(Ok(()));
            } else if self.process.lock().unwrap().as_mut().is_some_and(Process::has_ended) {
                *self.process.lock().unwrap() = None;
                outcome = Some(Err(self.log()));
            }
            outcome.is_some()
        });
        outcome.unwrap_or(Ok(()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(15)..];
            eprintln!("----- {:?} at {}:\n{}", self.setup.flavour, self.addr(), last.join("\n"));
        }
    }
}

// ----- the clock -----

/// Returns the path of the library that changes a process's time, from Debian's package.
fn libfaketime() -> PathBuf {
    let libraries = std::fs::read_dir("/usr/lib").expect("/usr/lib can be read");
    let found = libraries
        .filter_map(|dir| Some(dir.ok()?.path().join("faketime/libfaketime.so.1")))
        .find(|path| path.exists());
    found.expect("the tests need libfaketime: install it with `apt-get install faketime`, or let `cargo xtask test --only test` do that")
}

/// Writes the offset of a server's clock to the file that the library reads.
fn write_clock(dir: &Path, seconds: i64) {
    std::fs::write(dir.join("clock.new"), format!("{seconds:+}\n")).unwrap();
    std::fs::rename(dir.join("clock.new"), dir.join("clock")).unwrap();
}

// ----- the process -----

/// The process of a server. It ends when this value is dropped, and when our own process ends in any way.
struct Process {
    child: Child,
    /// A shell that waits for the end of its input, which is the end of our process. It then kills the server
    /// and removes its directory.
    guard: Child,
}

impl Process {
    fn start(setup: &Setup, dir: &Path) -> Self {
        let log = || {
            let log = std::fs::File::options().create(true).append(true).open(dir.join("log"));
            Stdio::from(log.expect("a log can be written"))
        };
        let mut command = Command::new(setup.flavour.program());
        command.arg(dir.join("conf")).current_dir(dir).stdin(Stdio::null()).stdout(log()).stderr(log());
        if setup.kind == Kind::Sentinel {
            command.arg("--sentinel");
        }
        if setup.has_own_clock {
            write_clock(dir, 0);
            command.env("LD_PRELOAD", libfaketime()).env("FAKETIME_TIMESTAMP_FILE", dir.join("clock"));
            // The file is read whenever the clock is. Monotonic time is not changed.
            command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let child = command.spawn().unwrap_or_else(|error| {
            let (flavour, how) = (setup.flavour, setup.flavour.how_to_get_it());
            let program = setup.flavour.program();
            match error.kind() {
                ErrorKind::NotFound => panic!("the tests need {flavour:?} ({}): {how}", program.display()),
                _ => panic!("{} can't be started ({error}): {how}", program.display()),
            }
        });
        let guard = Command::new("sh")
            .args(["-c", "read end; kill -KILL $0; rm -rf \"$1\"", &child.id().to_string()])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh can be started");
        Self { child, guard }
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The guard must end first, or it would kill whichever process gets the server's id next.
        for child in [&mut self.guard, &mut self.child] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
