//! What the tests with a Redis share: the binary, and a Redis of their own.

mod ports;
mod program;

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::{Connection, FromRedisValue};

use ports::TRIES;
pub(crate) use ports::free_port;
pub(crate) use program::{PATIENCE, ripplecast};

/// A Redis of its own, in memory, killed at the end.
pub(crate) struct Redis {
    process: Child,
    port: u16,
}

impl Redis {
    /// Starts one on a free port, and waits until it answers.
    #[track_caller]
    pub(crate) fn start() -> Self {
        (0..TRIES).find_map(|_| Self::start_at(free_port())).expect("no port is free for a Redis")
    }

    /// Starts one on that port; none if it does not stay.
    #[track_caller]
    pub(crate) fn start_at(port: u16) -> Option<Self> {
        let program = std::env::var_os("RIPPLECAST_TEST_REDIS").filter(|path| !path.is_empty());
        let mut command = Command::new(program.unwrap_or_else(|| "redis-server".into()));
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command.arg("--dir").arg(std::env::temp_dir()); // where it writes nothing
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.unwrap_or_else(|error| {
            panic!(
                "redis-server does not start ({error}): install it with `apt-get install redis-server`, or set \
                 RIPPLECAST_TEST_REDIS to its path"
            )
        });
        let mut redis = Self { process, port };
        let begin = Instant::now();
        // Only its own answer counts: another program may have taken the port.
        while redis.process.try_wait().unwrap().is_none() {
            let info =
                redis.connect().and_then(|mut it| redis::cmd("INFO").arg("server").query::<String>(&mut it));
            if info.is_ok_and(|info| info.contains(&format!("process_id:{}\r", redis.process.id()))) {
                return Some(redis);
            }
            assert!(begin.elapsed() < PATIENCE, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// The backend.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs a command.
    #[track_caller]
    pub(crate) fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection = self.connect().unwrap();
        redis::cmd(words[0]).arg(&words[1..]).query(&mut connection).unwrap()
    }

    fn connect(&self) -> redis::RedisResult<Connection> {
        redis::Client::open(self.url())?.get_connection_with_timeout(PATIENCE)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
