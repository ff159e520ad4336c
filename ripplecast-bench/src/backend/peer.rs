//! A node in a process of its own, as the run sees it.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    Answer, Order, Result,
    options::Url,
    order::{Counts, Heard},
};
use crate::load::measure::Process;

/// Time that it has to say goodbye at the end.
const END: Duration = Duration::from_secs(5);

/// A node in a process of its own. It ends when this is dropped, or when this process ends.
pub(super) struct Peer {
    /// The process.
    process: Child,
    /// What it is told; none once it is to end.
    orders: Option<ChildStdin>,
    /// What it answers.
    answers: BufReader<ChildStdout>,
    /// Where it serves WebSockets.
    pub(super) addr: SocketAddr,
}

impl Peer {
    /// Starts one.
    pub(super) fn start(backend: &Url, prefix: &str) -> Result<Self> {
        let told = |error: io::Error| format!("a node could not be started: {error}");
        let mut command = Command::new(std::env::current_exe().map_err(told)?);
        command.args(["bench", "backend", "--backend", backend.as_str(), "--node", prefix]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // A group of its own: the terminal's Ctrl-C is for the run, which then ends the node.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command.spawn().map_err(told)?;
        let (Some(orders), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("a node has no standard input and output".to_owned());
        };
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut peer = Self { process, orders: Some(orders), answers: BufReader::new(answers), addr };
        match peer.answer()? {
            Answer::Ready { addr } => peer.addr = addr,
            other => return Err(strange(&other)),
        }
        Ok(peer)
    }

    /// Its process, to be measured.
    pub(super) fn process(&self) -> Process {
        Process::of(self.process.id())
    }

    /// Has it send messages; all of them must be taken.
    pub(super) fn load(&mut self, order: &Order) -> Result<()> {
        let wanted = match order {
            Order::Publish(load) | Order::Push(load) => load.count,
            _ => 0,
        };
        match self.ask(order)? {
            Answer::Done { taken } if taken == wanted => Ok(()),
            Answer::Done { taken } => Err(format!("a node took {taken} of {wanted} messages")),
            other => Err(strange(&other)),
        }
    }

    /// Has it listen on the bus.
    pub(super) fn listen(&mut self, run: u32) -> Result<()> {
        self.load(&Order::Listen { run })
    }

    /// What it has heard on the bus.
    pub(super) fn heard(&mut self) -> Result<Heard> {
        match self.ask(&Order::Heard)? {
            Answer::Heard(heard) => Ok(heard),
            other => Err(strange(&other)),
        }
    }

    /// What it has counted.
    pub(super) fn counts(&mut self) -> Result<Counts> {
        match self.ask(&Order::Counts)? {
            Answer::Counts(counts) => Ok(counts),
            other => Err(strange(&other)),
        }
    }

    /// Tells it something, and waits for the answer.
    fn ask(&mut self, order: &Order) -> Result<Answer> {
        let line = serde_json::to_string(order).map_err(|error| format!("no JSON: {error}"))? + "\n";
        if let Some(orders) = &mut self.orders {
            orders.write_all(line.as_bytes()).map_err(|error| format!("a node takes no orders: {error}"))?;
        }
        self.answer()
    }

    /// The next answer.
    fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => Err("a node has ended; its reason stands above, if it gave one".to_owned()),
            Ok(_) => match serde_json::from_str(&line) {
                Ok(Answer::Failed(error)) => Err(format!("a node could not do its part: {error}")),
                Ok(answer) => Ok(answer),
                Err(error) => Err(format!("a node gave no answer but {line:?}: {error}")),
            },
            Err(error) => Err(format!("a node's answer could not be read: {error}")),
        }
    }
}

/// An answer to another question.
fn strange(answer: &Answer) -> String {
    format!("a node gave an answer that was not asked for: {answer:?}")
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.orders = None;
        let until = Instant::now() + END;
        while Instant::now() < until {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
