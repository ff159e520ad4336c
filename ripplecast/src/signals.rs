//! Handles Ctrl-C and SIGTERM: the first starts an orderly shutdown, the second ends the process at once.
//!
//! One thread serves the whole process from the first call on and notifies every waiting future. The system's
//! default handling can't be restored once a signal has been caught, so the thread also does what the default
//! did: if nothing waits, a signal ends the process.

use std::{io, mem, process, sync::mpsc, thread};

use parking_lot::Mutex;
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

/// A shell reports 128 plus the signal's number for a program ended by a signal.
const SIGNALLED: i32 = 128;

static SUBSCRIBERS: Mutex<Subscribers> = Mutex::new(Subscribers { is_served: false, senders: Vec::new() });

/// The futures that wait for a signal, shared with the thread that notifies them.
struct Subscribers {
    /// Whether the thread is running.
    is_served: bool,
    /// The next call removes senders whose futures were dropped.
    senders: Vec<oneshot::Sender<()>>,
}

/// Starts watching for Ctrl-C and SIGTERM. The future completes at the first one; the next one ends the
/// process at once, with 128 plus the signal's number.
///
/// Several futures may wait, one for each server of a process; the same signal completes all of them. If none
/// is waiting, because all were dropped or have completed, a signal ends the process, as it does without this
/// function. An application that handles these signals itself should not call it:
/// [`Bound::serve_with_shutdown`](crate::Bound::serve_with_shutdown) takes any future.
///
/// All calls share one thread with its own runtime, so the second signal works even while handlers block all
/// of the server's threads.
///
/// # Errors
/// When the first call can't create a thread or a file descriptor.
pub fn shutdown_signal() -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let (sender, signalled) = oneshot::channel();
    let mut subscribers = SUBSCRIBERS.lock();
    if !subscribers.is_served {
        start()?;
        subscribers.is_served = true;
    }
    subscribers.senders.retain(|sender| !sender.is_closed());
    subscribers.senders.push(sender);
    Ok(async {
        let _ = signalled.await;
    })
}

/// Starts the thread, which runs as long as the process, and waits until it has registered for the signals:
/// without it, nothing would receive them.
fn start() -> io::Result<()> {
    let (sender, registration) = mpsc::sync_channel(1);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let registered = runtime::Builder::new_current_thread().enable_io().build().and_then(|runtime| {
            let signals = Signals::register(&runtime)?;
            Ok((runtime, signals))
        });
        let (runtime, mut signals) = match registered {
            Ok(registered) => registered,
            Err(error) => return drop(sender.send(Err(error))),
        };
        let _ = sender.send(Ok(())); // the caller is waiting for it
        loop {
            let signal = runtime.block_on(signals.next());
            let senders = mem::take(&mut SUBSCRIBERS.lock().senders);
            let notified = senders.into_iter().filter_map(|sender| sender.send(()).ok()).count();
            if notified == 0 {
                process::exit(SIGNALLED + signal);
            }
        }
    })?;
    registration.recv().unwrap_or_else(|_| Err(io::Error::other("the thread that watches signals has ended")))
}

/// The signals that end the program.
struct Signals {
    /// Ctrl-C in a terminal.
    interrupt: Signal,
    /// What service managers and `kill` send.
    terminate: Signal,
}

impl Signals {
    /// Registers for the signals. None is lost from here on.
    fn register(runtime: &runtime::Runtime) -> io::Result<Self> {
        let _entered = runtime.enter();
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Completes at the next signal, with its number.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
        }
    }
}

#[cfg(all(test, target_os = "linux", feature = "server"))]
mod tests {
    use std::{
        fs,
        future::Future,
        io::{BufRead as _, BufReader, Write as _},
        os::unix::process::ExitStatusExt as _,
        pin::pin,
        process::{Child, ChildStdout, Command, ExitStatus, Stdio},
        time::{Duration, Instant},
    };

    use crate::{App, shutdown_signal};

    /// Set in a child process that runs a test again: its role.
    const ROLE: &str = "RIPPLECAST_TEST_SIGNALS";
    /// Rounds after which the counts must not grow any more.
    const WARM: usize = 20;

    /// This test running again in a child process.
    struct Process {
        child: Child,
        lines: std::io::Lines<BufReader<ChildStdout>>,
    }

    impl Process {
        fn start(test: &str, role: &str) -> Self {
            let test = format!("signals::tests::{test}");
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", &test, "--nocapture"])
                .env(ROLE, role)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            Self { child, lines }
        }

        /// Waits for the process to print a line.
        fn prints(&mut self, wanted: &str) {
            // The harness writes the test's name on the same line.
            let found = self.lines.by_ref().any(|line| line.unwrap().ends_with(wanted));
            assert!(found, "the process ended before it printed {wanted:?}");
        }

        /// Sends the process a signal, by name.
        fn signal(&self, signal: &str) {
            let status = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status();
            assert!(status.unwrap().success());
        }

        /// Returns the exit code.
        fn code(&mut self) -> Option<i32> {
            self.status().code()
        }

        /// Waits for the process to end.
        fn status(&mut self) -> ExitStatus {
            let deadline = Instant::now() + Duration::from_secs(60);
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                assert!(Instant::now() < deadline, "the process did not end");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    impl Drop for Process {
        fn drop(&mut self) {
            let _ = self.child.kill(); // fails if it has ended
            let _ = self.child.wait();
        }
    }

    fn say(line: &str) {
        let mut out = std::io::stdout();
        writeln!(out, "{line}").unwrap();
        out.flush().unwrap();
    }

    /// Returns the numbers of threads and file descriptors of this process.
    fn counts() -> (usize, usize) {
        let count = |what: &str| fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
        (count("task"), count("fd"))
    }

    /// Serves for a moment and shuts down. The server's future is dropped or ends.
    async fn round(is_dropped: bool) {
        let app = App::builder().hub(|hub| hub.shards(1)).build().await.unwrap();
        let bound = app.bind("127.0.0.1:0").await.unwrap();
        let (hub, addr) = (bound.hub(), bound.local_addr());
        if is_dropped {
            let mut serving = pin!(bound.serve());
            tokio::select! {
                ended = &mut serving => panic!("{ended:?}"),
                stream = tokio::net::TcpStream::connect(addr) => drop(stream.unwrap()),
            }
        } else {
            let signal = shutdown_signal().unwrap();
            bound.serve_with_shutdown(async {}).await.unwrap();
            drop(signal);
        }
        hub.shutdown().await;
    }

    /// Runs 300 rounds with 128 file descriptors, none of which may leak.
    async fn rounds() {
        rlimit::setrlimit(rlimit::Resource::NOFILE, 128, 128).unwrap();
        let mut before = (0, 0);
        for number in 0..300 {
            round(number % 2 == 0).await;
            if number == WARM {
                before = counts();
            }
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let now = counts();
            if now.0 <= before.0 && now.1 <= before.1 {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{now:?} threads and descriptors, {before:?} after {WARM} rounds"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn many_rounds_leak_nothing_and_a_signal_then_ends_the_process() {
        if std::env::var_os(ROLE).is_some() {
            block_on(async {
                rounds().await;
                say("ready");
                std::future::pending::<()>().await;
            });
        }
        let mut process =
            Process::start("many_rounds_leak_nothing_and_a_signal_then_ends_the_process", "rounds");
        process.prints("ready");
        process.signal("TERM");
        assert_eq!(process.code(), Some(143));
    }

    /// Runs `call` with a resource limit, and restores the old limit.
    fn limited<T>(resource: rlimit::Resource, limit: u64, call: impl FnOnce() -> T) -> T {
        let (soft, hard) = resource.get().unwrap();
        resource.set(limit, hard).unwrap();
        let called = call();
        resource.set(soft, hard).unwrap();
        called
    }

    #[test]
    fn a_failed_call_keeps_the_default_signal_handling() {
        const NAME: &str = "a_failed_call_keeps_the_default_signal_handling";
        if std::env::var_os(ROLE).is_some() {
            let before = counts();
            let pages: u64 =
                fs::read_to_string("/proc/self/statm").unwrap().split(' ').next().unwrap().parse().unwrap();
            // Enough memory for errors, not enough for a thread's stack.
            let memory = pages * 4096 + (1 << 20);
            assert!(
                limited(rlimit::Resource::AS, memory, || shutdown_signal().is_err()),
                "it needs a thread"
            );
            assert_eq!(counts(), before);
            // As many as a process starts with; whatever is open stays open.
            assert!(
                limited(rlimit::Resource::NOFILE, 3, || shutdown_signal().is_err()),
                "it needs a file descriptor"
            );
            let deadline = Instant::now() + Duration::from_secs(60);
            while counts() != before {
                assert!(
                    Instant::now() < deadline,
                    "{:?} threads and descriptors, {before:?} before",
                    counts()
                );
                std::thread::sleep(Duration::from_millis(5));
            }
            say("ready");
            loop {
                std::thread::park();
            }
        }
        let mut process = Process::start(NAME, "fails");
        process.prints("ready");
        process.signal("TERM");
        assert_eq!(process.status().signal(), Some(15), "the system itself ends the process");
    }

    #[test]
    fn the_first_signal_notifies_all_and_the_second_ends_the_process() {
        if std::env::var_os(ROLE).is_some() {
            block_on(async {
                drop(shutdown_signal().unwrap());
                let (first, second) = (shutdown_signal().unwrap(), shutdown_signal().unwrap());
                say("ready");
                first.await;
                second.await;
                // Another server may start meanwhile and is notified at the next signal.
                let third = shutdown_signal().unwrap();
                say("notified");
                third.await;
                say("notified again");
                std::future::pending::<()>().await;
            });
        }
        let mut process =
            Process::start("the_first_signal_notifies_all_and_the_second_ends_the_process", "twice");
        process.prints("ready");
        process.signal("TERM");
        process.prints("notified");
        process.signal("INT");
        process.prints("notified again");
        process.signal("INT");
        assert_eq!(process.code(), Some(130));
    }
}
