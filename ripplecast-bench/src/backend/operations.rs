//! Counter and table operations per second with an increasing number of concurrent tasks, compared with
//! `redis-benchmark` for the most similar plain commands.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use ripplecast::{Counter, Hub, Table};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::{
    bench::Bench,
    raw::{Raw, Tool},
    report::Operation,
};
use crate::load::measure::{Times, histogram};
use crate::result::Result;

const ROWS: u64 = 1000;
/// Rows read by one `get_many`.
const MANY: u64 = 64;
/// The fraction of a measurement's time that is spent warming up.
const WARM_UP: u32 = 10;
/// The most commands in flight per connection of `redis-benchmark`: beyond that, it measures its own buffers.
const PIPELINE: u64 = 1024;
/// The commands of its first run, which determines how many fill the measurement's time.
const COMMANDS: u64 = 2000;
/// The most commands in a run.
const MOST_COMMANDS: f64 = 1e8;

/// A row with the usual kinds of columns.
#[derive(Deserialize, Serialize)]
struct Row {
    name: String,
    points: i64,
    online: bool,
}

impl Row {
    /// Creates the row that all keys hold.
    fn new() -> Self {
        Self { name: "Ada Lovelace".to_owned(), points: 4711, online: true }
    }
}

/// A kind of operation.
#[derive(Clone, Copy)]
enum Kind {
    /// A counter's `increment`.
    Counter,
    /// A table's `set`.
    Set,
    /// A table's `get`.
    Get,
    /// A table's `increment`.
    Add,
    /// A table's `get_many`.
    Many,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Counter, Self::Set, Self::Get, Self::Add, Self::Many];

    /// Returns its name in the report.
    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter increment",
            Self::Set => "table set",
            Self::Get => "table get",
            Self::Add => "table increment",
            Self::Many => "table get_many of 64",
        }
    }

    /// Returns the most similar plain command, without a script.
    const fn plain(self) -> &'static str {
        match self {
            Self::Counter => "INCR",
            Self::Set => "HSET",
            Self::Get | Self::Many => "HGETALL",
            Self::Add => "HINCRBY",
        }
    }

    /// Returns that command with its arguments.
    fn command(self, prefix: &str) -> Vec<String> {
        let rest: &[&str] = match self {
            Self::Counter => return vec!["INCR".to_owned(), format!("{prefix}:raw:counter")],
            Self::Set => &["name", "Ada Lovelace", "points", "4711", "online", "1"],
            Self::Get | Self::Many => &[],
            Self::Add => &["points", "1"],
        };
        let mut command = vec![self.plain().to_owned(), format!("{prefix}:raw:row")];
        command.extend(rest.iter().map(|&word| word.to_owned()));
        command
    }

    /// Returns the number of plain commands equivalent to one operation.
    const fn commands(self) -> u64 {
        match self {
            Self::Many => MANY,
            _ => 1,
        }
    }
}

/// The objects of the operations.
#[derive(Clone)]
struct Subject {
    counter: Counter,
    table: Table<Row>,
}

impl Subject {
    /// Executes one operation.
    async fn act(&self, kind: Kind, turn: u64) -> ripplecast::Result<()> {
        let key = turn % ROWS;
        match kind {
            Kind::Counter => self.counter.increment().await.map(drop),
            Kind::Set => self.table.set(key, &Row::new()).await,
            Kind::Get => self.table.get(key).await.map(drop),
            Kind::Add => self.table.increment(key, "points", 1).await.map(drop),
            Kind::Many => self.table.get_many((0..MANY).map(|index| (key + index) % ROWS)).await.map(drop),
        }
    }
}

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let failed = |error: ripplecast::Error| error.to_string();
    let runtime = Runtime::new().map_err(|error| format!("failed to start a runtime: {error}"))?;
    let backend = bench.backend();
    let hub = runtime.block_on(async { Hub::builder().backend(&backend).connect().await }).map_err(failed)?;
    let table = hub.table("rows", ROWS as usize * 2).map_err(failed)?;
    let subject = Subject { counter: hub.counter("counter"), table };
    let rows = (0..ROWS).map(|key| (key, Row::new()));
    runtime.block_on(subject.table.set_many(rows)).map_err(failed)?;
    let tool = Tool::find();
    bench.report.raw_tool = tool.map(Tool::name);
    for kind in Kind::ALL {
        for tasks in bench.options.tasks.clone() {
            if bench.is_over() {
                break;
            }
            bench.say(&format!("{}, {tasks} concurrent", kind.name()));
            let measured = runtime.block_on(measure(bench, &subject, kind, tasks));
            let operation = finish(bench, tool, kind, tasks, measured)?;
            bench.report.operations.push(operation);
        }
    }
    runtime.block_on(hub.shutdown());
    runtime.shutdown_background();
    Ok(())
}

/// The results of the tasks.
struct Measured {
    /// Durations of the operations, in nanoseconds.
    times: Histogram<u64>,
    failed: u64,
    /// The first failure.
    why: Option<String>,
    /// The duration of the measurement.
    time: Duration,
}

/// Runs operations in `tasks` concurrent tasks.
async fn measure(bench: &Bench, subject: &Subject, kind: Kind, tasks: u64) -> Measured {
    let begin = Instant::now() + bench.options.seconds / WARM_UP;
    let end = begin + bench.options.seconds;
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            // Each task starts at a different row, far from the others.
            let first = task.wrapping_mul(ROWS / 2 + 117);
            tokio::spawn(repeat(subject.clone(), kind, first, (begin, end), bench.stop.clone()))
        })
        .collect();
    let mut all = Measured { times: histogram(), failed: 0, why: None, time: Duration::ZERO };
    for task in tasks {
        let Ok(one) = task.await else { continue };
        // Both have the same bounds.
        let _ = all.times.add(&one.times);
        all.failed += one.failed;
        all.why = all.why.or(one.why);
        all.time = all.time.max(one.time);
    }
    all
}

/// Runs one task.
async fn repeat(
    subject: Subject,
    kind: Kind,
    first: u64,
    (begin, end): (Instant, Instant),
    stop: Arc<AtomicBool>,
) -> Measured {
    let mut found = Measured { times: histogram(), failed: 0, why: None, time: Duration::ZERO };
    let (mut turn, mut now) = (first, Instant::now());
    while now < end && !stop.load(Ordering::Relaxed) {
        let outcome = subject.act(kind, turn).await;
        let done = Instant::now();
        match outcome {
            Ok(()) if now >= begin => {
                found.times.saturating_record((done - now).as_nanos() as u64);
                found.time = done - begin;
            }
            Ok(()) => {}
            Err(error) => {
                found.failed += 1;
                found.why.get_or_insert_with(|| error.to_string());
                // Redis may be unavailable, in which case operations fail immediately.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        (turn, now) = (turn.wrapping_add(1), done);
    }
    found
}

/// Adds the result of the plain command.
fn finish(
    bench: &Bench,
    tool: Option<Tool>,
    kind: Kind,
    tasks: u64,
    measured: Measured,
) -> Result<Operation> {
    let Measured { times, failed, why, time } = measured;
    let count = times.len();
    let per_second = count as f64 / time.as_secs_f64().max(1e-9);
    let raw = |clients: u64, pipeline: u64| -> Result<Option<Raw>> {
        let Some(tool) = tool.filter(|_| !bench.is_over()) else { return Ok(None) };
        let run = |commands| {
            let command = kind.command(&bench.prefix);
            tool.run(&bench.options.backend, &command, (clients, pipeline), commands)
        };
        // redis-benchmark takes a number of commands, not a duration.
        let first = run(COMMANDS.max(clients * pipeline))?;
        let wanted = (first.per_second * bench.options.seconds.as_secs_f64()).min(MOST_COMMANDS) as u64;
        if wanted > 2 * COMMANDS { run(wanted).map(Some) } else { Ok(Some(first)) }
    };
    let piped = raw(1, (tasks * kind.commands()).min(PIPELINE))?;
    let spread = raw(tasks, kind.commands())?;
    let ratio = piped.map(|raw| per_second * kind.commands() as f64 / raw.per_second);
    Ok(Operation {
        name: kind.name(),
        tasks,
        per_second,
        latency_us: Times::of(&times),
        failed,
        first_failure: why,
        plain: kind.plain(),
        commands: kind.commands(),
        one_connection: piped,
        connection_each: spread,
        ratio,
    })
}
