//! Two nodes on one Redis, which this test starts on a private Unix socket.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::program::{PATIENCE, Program, Socket};

/// A Redis without persistence, killed on drop.
struct Redis {
    child: Child,
    /// The directory of its socket.
    dir: PathBuf,
}

impl Redis {
    fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("ripplecast-examples-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(dir.join("redis.sock"))
            .current_dir(&dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "failed to start redis-server ({error}); install it with `apt-get install redis-server`"
                )
            });
        let redis = Self { child, dir };
        let deadline = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(redis.dir.join("redis.sock")).is_err() {
            assert!(Instant::now() < deadline, "redis-server is not listening");
            thread::sleep(Duration::from_millis(10));
        }
        redis
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.dir.join("redis.sock").display())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn a_message_to_one_node_reaches_the_pages_of_both() {
    let redis = Redis::start();
    let program = Program::start("two-nodes", &[&redis.url()], 2);
    program.check_page();
    assert_ne!(program.addrs[0], program.addrs[1]);
    let mut pages: Vec<_> = program.addrs.iter().map(|addr| Socket::open(addr, "/ws", "").unwrap()).collect();
    // Each page has seen its own arrival, so both are in the room.
    for page in &mut pages {
        page.until(&["a page has opened", r#""nodes":2"#]);
    }
    for from in [0, 1] {
        let text = format!("from {from}");
        pages[from].send(&text);
        let seen: Vec<_> = pages.iter_mut().map(|page| page.until(&[&text, r#""pages":2"#])).collect();
        assert_eq!(seen[0], seen[1]);
    }
    drop(pages.pop());
    pages[0].until(&["a page has closed", r#""pages":1"#]);
}
