//! The server under test: its process, and its figures as reported by itself and by the system.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{endpoints::Counts, judge::Footprint};
use crate::result::Result;

/// The time limit for the exit after SIGTERM, as a supervisor would set it.
pub(super) const END_LIMIT: Duration = Duration::from_secs(10);
/// The time limit for a response.
const ANSWER: Duration = Duration::from_secs(10);

/// A running server. It is killed on drop, and stops by itself when its standard input closes.
pub(super) struct Server {
    process: Child,
    pub(super) addr: SocketAddr,
    /// Kept open, so that the server can always print.
    _out: BufReader<ChildStdout>,
}

impl Server {
    /// Starts a server; port 0 picks a free one.
    pub(super) fn start(port: u16, ping: Duration) -> Result<Self> {
        let failed = |error: io::Error| format!("failed to start the server: {error}");
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(["bench", "serve", "--soak", "--port", &port.to_string()]);
        command.args(["--ping", &ping.as_secs().to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        if std::env::var_os("RIPPLECAST_LOG").is_none() {
            // On a fully loaded machine, callbacks are slow from time to time.
            command.env("RIPPLECAST_LOG", "warn,ripplecast::engine::shard::calls=error");
        }
        // Memory that the allocator caches must not look like a leak: return it when it is freed. (With the GNU C
        // library; setting the threshold also keeps it from growing.)
        command.envs([
            ("MALLOC_ARENA_MAX", "1"),
            ("MALLOC_MMAP_THRESHOLD_", "65536"),
            ("MALLOC_TRIM_THRESHOLD_", "65536"),
        ]);
        // A separate process group: the terminal's Ctrl-C is for the test, which then stops the server.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command.spawn().map_err(failed)?;
        let mut line = String::new();
        let mut out = process.stdout.take().map(BufReader::new).ok_or("the server has no standard output")?;
        out.read_line(&mut line).map_err(failed)?;
        let addr = line.trim_end().rsplit("http://").next().and_then(|addr| addr.parse().ok());
        let Some(addr) = addr else {
            let _ = process.kill();
            let _ = process.wait();
            return Err(format!("expected the server's address, got {line:?}"));
        };
        Ok(Self { process, addr, _out: out })
    }

    /// Returns its exit status, if it has exited.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Asks it to stop.
    pub(super) fn terminate(&self) -> Result<()> {
        let pid = self.process.id().to_string();
        match Command::new("kill").args(["-s", "TERM", &pid]).status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("failed to stop the server: `kill` returned {status}")),
            Err(error) => Err(format!("failed to run `kill`: {error}")),
        }
    }

    /// Kills it.
    pub(super) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Returns its counts.
    pub(super) fn counts(&self) -> Result<Counts> {
        let failed = |error: io::Error| format!("failed to read the server's counts: {error}");
        let mut stream = TcpStream::connect_timeout(&self.addr, ANSWER).map_err(failed)?;
        stream.set_read_timeout(Some(ANSWER)).map_err(failed)?;
        let request = format!("GET /stats HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.addr);
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(failed)?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).map_err(|error| format!("the server's counts are not valid JSON: {error}"))
    }

    /// Returns its resource usage, once its descriptors have decreased to `descriptors` or some time has passed.
    pub(super) fn footprint(&self, descriptors: Option<usize>, rooms: u64) -> Result<Footprint> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            // The descriptors of `/stats` and of the last peers close a moment after their peers notice.
            thread::sleep(Duration::from_millis(200));
            let now = Footprint {
                kib: self.private_kib()?,
                descriptors: self.entries("fd")?,
                threads: self.entries("task")?,
                rooms,
            };
            if descriptors.is_none_or(|most| now.descriptors <= most) || Instant::now() > deadline {
                return Ok(now);
            }
        }
    }

    /// Returns its private dirty memory in KiB. Unlike `VmRSS`, the kernel counts it exactly.
    pub(super) fn private_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.process.id());
        let text = fs::read_to_string(&path).map_err(|error| format!("failed to read {path}: {error}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
        let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        value.ok_or_else(|| format!("{path} has no Private_Dirty"))
    }

    fn entries(&self, of: &str) -> Result<usize> {
        let path = format!("/proc/{}/{of}", self.process.id());
        let entries = fs::read_dir(&path).map_err(|error| format!("failed to read {path}: {error}"))?;
        Ok(entries.count())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
