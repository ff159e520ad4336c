//! Shared by the tests with a Redis: the binary, and a Redis for each test.

mod ports;
mod program;

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use redis::{Connection, FromRedisValue};

use ports::TRIES;
pub(crate) use ports::free_port;
pub(crate) use program::{PATIENCE, ripplecast};

/// A private Redis in memory, killed on drop.
pub(crate) struct Redis {
    process: Child,
    port: u16,
    /// Its TLS files, if it speaks TLS.
    tls: Option<Tls>,
}

impl Redis {
    /// Starts a Redis on a free port, and waits until it responds.
    #[track_caller]
    pub(crate) fn start() -> Self {
        (0..TRIES).find_map(|_| Self::start_at(free_port())).expect("no port is free for a Redis")
    }

    /// Starts a Redis on a port. Returns `None` if it exits.
    #[track_caller]
    pub(crate) fn start_at(port: u16) -> Option<Self> {
        Self::launch(port, &["--port", &port.to_string()], None)
    }

    /// Starts a Redis on a free port that accepts only TLS.
    #[allow(dead_code, reason = "only some of the tests need it")]
    #[track_caller]
    pub(crate) fn start_tls() -> Self {
        let start = |_| {
            let (tls, port) = (Tls::new(), free_port());
            let file = |name: &str| tls.dir.join(name).display().to_string();
            let (cert, key, authority) = (file("cert.pem"), file("key.pem"), file(Tls::AUTHORITY));
            let port_text = port.to_string();
            let args = ["--port", "0", "--tls-port", &port_text, "--tls-auth-clients", "no"];
            let files = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &authority];
            Self::launch(port, &[&args[..], &files[..]].concat(), Some(tls))
        };
        (0..TRIES).find_map(start).expect("no port is free for a Redis")
    }

    /// Starts a Redis with the given arguments, and waits until it responds. Returns `None` if it exits.
    #[track_caller]
    fn launch(port: u16, args: &[&str], tls: Option<Tls>) -> Option<Self> {
        let program = std::env::var_os("RIPPLECAST_TEST_REDIS").filter(|path| !path.is_empty());
        let mut command = Command::new(program.unwrap_or_else(|| "redis-server".into()));
        command.args(args).args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(std::env::temp_dir()); // it writes nothing there
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.unwrap_or_else(|error| {
            panic!(
                "redis-server does not start ({error}): install it with `apt-get install redis-server`, or set \
                 RIPPLECAST_TEST_REDIS to its path"
            )
        });
        let mut redis = Self { process, port, tls };
        let begin = Instant::now();
        // Only its own response counts: another program may have taken the port.
        while redis.process.try_wait().unwrap().is_none() {
            let info =
                redis.connect().and_then(|mut it| redis::cmd("INFO").arg("server").query::<String>(&mut it));
            if info.is_ok_and(|info| info.contains(&format!("process_id:{}\r", redis.process.id()))) {
                return Some(redis);
            }
            assert!(begin.elapsed() < PATIENCE, "redis-server does not respond");
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// Returns the URL for --backend.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The file with the certificate of the authority that signed the server's.
    #[allow(dead_code, reason = "only some of the tests need it")]
    pub(crate) fn authority(&self) -> PathBuf {
        self.tls.as_ref().expect("this Redis does not use TLS").dir.join(Tls::AUTHORITY)
    }

    #[track_caller]
    pub(crate) fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection = self.connect().unwrap();
        redis::cmd(words[0]).arg(&words[1..]).query(&mut connection).unwrap()
    }

    fn connect(&self) -> redis::RedisResult<Connection> {
        let client = match &self.tls {
            None => redis::Client::open(self.url())?,
            Some(tls) => {
                let root_cert = Some(tls.root.clone().into_bytes());
                let certificates = redis::TlsCertificates { client_tls: None, root_cert };
                redis::Client::build_with_tls(self.url(), certificates)?
            }
        };
        client.get_connection_with_timeout(PATIENCE)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A certificate for this machine, its key, and its authority's certificate, as files that are deleted on
/// drop.
struct Tls {
    /// The directory of the files.
    dir: PathBuf,
    /// The certificate of the authority, as PEM.
    root: String,
}

impl Tls {
    /// The name of the file with the authority's certificate.
    const AUTHORITY: &str = "authority.pem";

    fn new() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &authority).unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("ripplecast-tls-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let root = authority.pem();
        for (name, text) in
            [("cert.pem", cert.pem()), ("key.pem", key.serialize_pem()), (Self::AUTHORITY, root.clone())]
        {
            std::fs::write(dir.join(name), text).unwrap();
        }
        Self { dir, root }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
