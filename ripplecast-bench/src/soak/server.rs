//! The server under test: its process, what it says of itself, and what the system says of it.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{Result, endpoints::Counts, judge::Footprint};

/// Time in which the server must have ended after SIGTERM: a supervisor's.
pub(super) const END_LIMIT: Duration = Duration::from_secs(10);
/// Time in which it must answer.
const ANSWER: Duration = Duration::from_secs(10);

/// A running server. Dropping it kills it; it also ends by itself when its standard input does.
pub(super) struct Server {
    process: Child,
    pub(super) addr: SocketAddr,
    /// Kept open, so that printing can't fail.
    _out: BufReader<ChildStdout>,
}

impl Server {
    /// Starts one; port 0 takes any.
    pub(super) fn start(port: u16, ping: Duration) -> Result<Self> {
        let told = |error: io::Error| format!("the server could not be started: {error}");
        let program = std::env::current_exe().map_err(told)?;
        let mut command = Command::new(program);
        command.args(["bench", "serve", "--soak", "--port", &port.to_string()]);
        command.args(["--ping", &ping.as_secs().to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        if std::env::var_os("RIPPLECAST_LOG").is_none() {
            // On a machine that is full, every callback is slow now and then.
            command.env("RIPPLECAST_LOG", "warn,ripplecast::hub::shard::calls=error");
        }
        // What the allocator keeps for later is not to look like a leak: memory goes back when it is freed. (With the GNU C
        // library; setting a threshold also keeps it from being raised.)
        command.envs([
            ("MALLOC_ARENA_MAX", "1"),
            ("MALLOC_MMAP_THRESHOLD_", "65536"),
            ("MALLOC_TRIM_THRESHOLD_", "65536"),
        ]);
        // A group of its own: the terminal's Ctrl-C is for the test, which then ends the server.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command.spawn().map_err(told)?;
        let mut line = String::new();
        let mut out = process.stdout.take().map(BufReader::new).ok_or("the server has no output")?;
        out.read_line(&mut line).map_err(told)?;
        let addr = line.trim_end().rsplit("http://").next().and_then(|addr| addr.parse().ok());
        let Some(addr) = addr else {
            let _ = process.kill();
            let _ = process.wait();
            return Err(format!("the server did not say where it listens, but {line:?}"));
        };
        Ok(Self { process, addr, _out: out })
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) -> Result<()> {
        let pid = self.process.id().to_string();
        match Command::new("kill").args(["-s", "TERM", &pid]).status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("`kill` could not stop the server ({status})")),
            Err(error) => Err(format!("`kill` could not be started: {error}")),
        }
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// What it has counted.
    pub(super) fn counts(&self) -> Result<Counts> {
        let told = |error: io::Error| format!("the server did not tell its counts: {error}");
        let mut stream = TcpStream::connect_timeout(&self.addr, ANSWER).map_err(told)?;
        stream.set_read_timeout(Some(ANSWER)).map_err(told)?;
        let request = format!("GET /stats HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.addr);
        stream.write_all(request.as_bytes()).map_err(told)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(told)?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).map_err(|error| format!("the server's counts are no JSON: {error}"))
    }

    /// What it holds of the system, when its descriptors have come down to `descriptors` or some time has passed.
    pub(super) fn footprint(&self, descriptors: Option<usize>, rooms: u64) -> Result<Footprint> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            // The one of `/stats` and those of the last peers close a moment after their peers see it.
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

    /// Memory that is its own and written to, in KiB. Unlike `VmRSS`, the kernel counts it afresh, to the page.
    pub(super) fn private_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.process.id());
        let text = fs::read_to_string(&path).map_err(|error| format!("{path} can't be read: {error}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
        let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        value.ok_or_else(|| format!("{path} tells no Private_Dirty"))
    }

    fn entries(&self, of: &str) -> Result<usize> {
        let path = format!("/proc/{}/{of}", self.process.id());
        let entries = fs::read_dir(&path).map_err(|error| format!("{path} can't be read: {error}"))?;
        Ok(entries.count())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
