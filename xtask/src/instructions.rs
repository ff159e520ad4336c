//! Counts the server's instructions for a delivery, an echo and an upgrade, and compares them with the committed
//! figures.
//!
//! Times vary on a shared machine, but the number of instructions does not. So the server runs under callgrind, which
//! counts the instructions of the program itself, not of the kernel. Each figure is the difference between two runs
//! divided by the additional work of the longer run, so that the cost of starting, and of opening and closing the
//! connections, cancels out.
//!
//! The same method shows that the cost of a header grows at most in proportion to its length: see [`headers`].

mod headers;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::command::Command;
use crate::setup::{self, Need};
use crate::steps::target_directory;
use crate::{Result, Workspace};

/// The file with the committed figures.
const BASELINE: &str = "bench/instructions.json";

/// The directory for profiles and the server's output.
const PROFILES: &str = "target/instructions";

/// The allowed difference from a committed figure, in percent. Repeated runs differ by less than 1.
const TOLERANCE: f64 = 5.0;

/// The time limit for the server to start, to close its connections, or to exit; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A kind of work whose instructions are counted.
struct Metric {
    /// The name in the committed file.
    name: &'static str,
    /// Describes one unit of work.
    about: &'static str,
    /// The mode of `ripplecast bench load`.
    mode: &'static str,
    /// The path on the server.
    path: &'static str,
    /// The load of the shorter run.
    short: Load,
    /// The load of the longer run.
    long: Load,
}

/// The amount of load in a run.
#[derive(Clone, Copy)]
struct Load {
    connections: u32,
    /// The messages to send over all connections. With `None`, the connections are only opened and closed.
    messages: Option<u32>,
}

/// The metrics.
///
/// Bursts (a window of 64) are not included: how many frames are sent per call depends on when the load reads, and five
/// runs differed by 9 %.
const METRICS: [Metric; 3] = [
    Metric {
        name: "delivery",
        about: "one message to one of the 200 members of a room",
        mode: "fanout",
        path: "/bc",
        short: Load { connections: 200, messages: Some(20) },
        long: Load { connections: 200, messages: Some(1520) },
    },
    Metric {
        name: "echo",
        about: "one message echoed to one of 100 connections",
        mode: "echo",
        path: "/echo",
        short: Load { connections: 100, messages: Some(500) },
        long: Load { connections: 100, messages: Some(10_500) },
    },
    Metric {
        name: "upgrade",
        about: "one connection, from its request to its end",
        mode: "idle",
        path: "/bc",
        short: Load { connections: 50, messages: None },
        long: Load { connections: 850, messages: None },
    },
];

/// Instructions by metric.
type Figures = BTreeMap<String, f64>;

/// The committed figures.
struct Baseline {
    /// The compiler used for the measurement, as printed by `rustc --version`.
    rustc: String,
    instructions: Figures,
}

/// `cargo xtask instructions`: prints the table. With `accept`, writes the new figures to the committed file.
pub(crate) fn show(workspace: &Workspace, accept: bool) -> Result<()> {
    setup::install(workspace, &[Need::Valgrind])?;
    let now = measure(workspace)?;
    if accept {
        let file = workspace.at(BASELINE);
        let text = write(&rustc(workspace)?, &now);
        std::fs::write(&file, text).map_err(|error| format!("failed to write {BASELINE}: {error}"))?;
        println!("   updated {BASELINE}; commit it, and explain why the figures changed");
    }
    let baseline = Baseline::read(workspace)?;
    print!("{}", table(&baseline.instructions, &now));
    Ok(())
}

/// Runs the step: counts, and compares with the committed figures. Returns a short summary.
pub(crate) fn check(workspace: &Workspace) -> Result<String> {
    // First, so that an unreadable file is reported before the measurement.
    let baseline = Baseline::read(workspace)?;
    let now = measure(workspace)?;
    print!("{}", table(&baseline.instructions, &now));
    let rustc = rustc(workspace)?;
    if rustc != baseline.rustc {
        println!("   {BASELINE} was measured with {}; this is {rustc}", baseline.rustc);
    }
    let renewable = compare(&baseline.instructions, &now)?;
    headers::check(workspace)?;
    Ok(if renewable.is_empty() {
        format!("{} figures within {TOLERANCE} %", now.len())
    } else {
        println!(
            "   improved by more than {TOLERANCE} %: {}. Update the figures to keep the gain: cargo xtask instructions --accept",
            renewable.join(", ")
        );
        format!("{} improved: update {BASELINE}", renewable.join(", "))
    })
}

/// Compares the figures with the committed ones. Returns the metrics that improved by more than the tolerance. Fails if
/// one got worse by more than that, or if the two do not contain the same metrics.
fn compare(baseline: &Figures, now: &Figures) -> Result<Vec<String>> {
    let renew = "`cargo xtask instructions --accept` rewrites the file";
    if let Some(missing) = now.keys().find(|name| !baseline.contains_key(*name)) {
        return Err(format!("{BASELINE} has no figure for {missing:?}; {renew}"));
    }
    if let Some(unknown) = baseline.keys().find(|name| !now.contains_key(*name)) {
        return Err(format!("{BASELINE} has a figure for {unknown:?}, which is not a metric; {renew}"));
    }
    let (mut dearer, mut cheaper) = (Vec::new(), Vec::new());
    for (name, &now) in now {
        let before = baseline[name];
        let percent = growth(before, now);
        if percent > TOLERANCE {
            dearer.push(format!(
                "{name}: {before:.1} instructions in {BASELINE}, {now:.1} now, {percent:+.1} %"
            ));
        } else if percent < -TOLERANCE {
            cheaper.push(name.clone());
        }
    }
    if dearer.is_empty() {
        return Ok(cheaper);
    }
    Err(format!(
        "the server takes over {TOLERANCE} % more instructions than before:\n   {}\n\
         To find the cause, run callgrind_annotate {PROFILES}/METRIC.long, which lists the functions by cost, and compare with \
         its output before the change.\n\
         If the cost is justified, accept it and explain why in the commit: cargo xtask instructions --accept",
        dearer.join("\n   ")
    ))
}

/// Returns the growth of a figure in percent.
fn growth(before: f64, now: f64) -> f64 {
    (now / before - 1.0) * 100.0
}

/// Formats the figures next to the committed ones, as Markdown, which is readable in a terminal too.
fn table(baseline: &Figures, now: &Figures) -> String {
    let mut table =
        String::from("\n| metric | committed | now | change | unit |\n|---|---:|---:|---:|---|\n");
    for (name, &now) in now {
        let before = baseline.get(name).copied();
        let (before, change) = before.map_or_else(
            || ("none".to_owned(), String::new()),
            |before| (format!("{before:.1}"), format!("{:+.1} %", growth(before, now))),
        );
        let about = METRICS.iter().find(|metric| metric.name == name).map_or("", |metric| metric.about);
        let _ = writeln!(table, "| {name} | {before} | {now:.1} | {change} | {about} |");
    }
    table + "\n"
}

/// Returns the compiler's name and version.
fn rustc(workspace: &Workspace) -> Result<String> {
    let said = Command::line("rustc --version").listen(&workspace.root)?;
    Ok(said.text.trim().to_owned())
}

impl Baseline {
    /// Reads the committed file.
    fn read(workspace: &Workspace) -> Result<Self> {
        let text = std::fs::read_to_string(workspace.at(BASELINE))
            .map_err(|error| format!("failed to read {BASELINE}: {error}"))?;
        Self::parse(&text)
    }

    /// Parses the committed file.
    fn parse(text: &str) -> Result<Self> {
        let wrong =
            |what: &str| format!("{BASELINE} {what}; `cargo xtask instructions --accept` rewrites it");
        let value: Value =
            serde_json::from_str(text).map_err(|error| wrong(&format!("is not valid JSON ({error})")))?;
        let rustc = value["rustc"].as_str().ok_or_else(|| wrong("has no \"rustc\" version"))?;
        let figures = value["instructions"].as_object().ok_or_else(|| wrong("has no \"instructions\""))?;
        let figure = |(name, figure): (&String, &Value)| {
            let figure = figure.as_f64().filter(|figure| *figure > 0.0);
            let figure = figure.ok_or_else(|| wrong(&format!("has no positive number for {name:?}")))?;
            Ok((name.clone(), figure))
        };
        Ok(Self { rustc: rustc.to_owned(), instructions: figures.iter().map(figure).collect::<Result<_>>()? })
    }
}

/// Formats the committed file, with one decimal: more would be noise.
fn write(rustc: &str, figures: &Figures) -> String {
    let rounded = figures.iter().map(|(name, figure)| (name.clone(), json!((figure * 10.0).round() / 10.0)));
    let value = json!({ "rustc": rustc, "instructions": rounded.collect::<serde_json::Map<_, _>>() });
    format!("{value:#}\n")
}

/// Builds the server and measures all metrics.
fn measure(workspace: &Workspace) -> Result<Figures> {
    Command::line("cargo build --release -p ripplecast-server --locked").run(&workspace.root)?;
    let profiles = workspace.at(PROFILES);
    std::fs::create_dir_all(&profiles)
        .map_err(|error| format!("failed to create {}: {error}", profiles.display()))?;
    METRICS.iter().map(|metric| Ok((metric.name.to_owned(), metric.measure(workspace)?))).collect()
}

impl Metric {
    /// Measures the metric: two runs, and the additional instructions per additional unit of work.
    fn measure(&self, workspace: &Workspace) -> Result<f64> {
        let short = self.run(workspace, "short", self.short)?;
        let long = self.run(workspace, "long", self.long)?;
        per_one(short, long).ok_or_else(|| {
            format!(
                "the longer run for {:?} did no more work than the shorter one: {short:?}, {long:?}",
                self.name
            )
        })
    }

    /// Executes one run: a fresh server under callgrind, and the load.
    fn run(&self, workspace: &Workspace, name: &str, load: Load) -> Result<Run> {
        let program = target_directory(workspace).join("release/ripplecast");
        let profile = workspace.at(PROFILES).join(format!("{}.{name}", self.name));
        let mut server = Server::start(workspace, &program, &profile, "bench serve --port 0 --shards 1")?;
        let idle = server.descriptors()?;
        let mut command = Command::line(&format!(
            "{} bench load ws://{}{} --mode {} --connections {} --window 1 --seed 1 --json",
            program.display(),
            server.address,
            self.path,
            self.mode,
            load.connections
        ));
        command = match load.messages {
            Some(messages) => command.arg("--messages").arg(messages.to_string()),
            None => command.arg("--duration").arg("0.1"),
        };
        command.announce();
        let said = command.listen(&workspace.root)?;
        let work = work(&said.text)
            .filter(|_| said.status.success())
            .ok_or_else(|| format!("the load failed ({}):\n   $ {command}\n{}", said.status, said.text))?;
        // The load has exited, but the server has yet to close all its connections.
        server.wait("close its connections", |server| Ok(server.descriptors()? <= idle))?;
        server.end()?;
        Ok(Run { instructions: instructions(&profile)?, work })
    }
}

/// The result of a run.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Instructions of the whole process.
    instructions: u64,
    /// Deliveries, or connections if nothing was sent.
    work: u64,
}

/// Returns the instructions per additional delivery or connection.
fn per_one(short: Run, long: Run) -> Option<f64> {
    let work = long.work.checked_sub(short.work).filter(|work| *work > 0)?;
    let instructions = long.instructions.checked_sub(short.instructions)?;
    Some(instructions as f64 / work as f64)
}

/// Reads the amount of work from the load's report: deliveries, or connections if it sent nothing.
fn work(said: &str) -> Option<u64> {
    let report: Value = serde_json::from_str(said.lines().next()?).ok()?;
    report["traffic"]["deliveries"].as_u64().or_else(|| report["connect"]["opened"].as_u64())
}

/// Reads the number of instructions from a profile.
fn instructions(profile: &Path) -> Result<u64> {
    let wrong = |why: &str| format!("callgrind's profile {} {why}", profile.display());
    let text =
        std::fs::read_to_string(profile).map_err(|error| wrong(&format!("is not readable: {error}")))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals:"));
    total.and_then(|total| total.trim().parse().ok()).ok_or_else(|| wrong("has no totals line"))
}

/// The benchmark server under callgrind. It is stopped on drop.
struct Server {
    /// The process: callgrind runs the program inside itself.
    process: Child,
    address: String,
    /// The command line, so that it can be repeated.
    command: String,
    /// The output of the server and callgrind.
    log: PathBuf,
}

impl Server {
    /// Starts the server on a free port. It has one shard on one thread; several threads would share the work
    /// differently in each run.
    fn start(workspace: &Workspace, program: &Path, profile: &Path, arguments: &str) -> Result<Self> {
        let log = profile
            .with_extension(format!("{}.log", profile.extension().unwrap_or_default().to_string_lossy()));
        let command = Command::line("valgrind --tool=callgrind")
            .arg(format!("--callgrind-out-file={}", profile.display()))
            .arg(program.display().to_string())
            .env("RIPPLECAST_SHARDS", "1")
            .env("TOKIO_WORKER_THREADS", "1");
        let command = arguments.split(' ').fold(command, Command::arg);
        command.announce();
        let command_line = command.to_string();
        let said =
            File::create(&log).map_err(|error| format!("failed to create {}: {error}", log.display()))?;
        let mut process = command.start(&workspace.root, Stdio::piped(), Stdio::from(said))?;
        let output = process.stdout.take();
        let mut server = Self { process, address: String::new(), command: command_line, log };
        let mut line = String::new();
        if let Some(output) = output {
            // The first line, or the end of the output if the server cannot start.
            let _ = BufReader::new(output).read_line(&mut line);
        }
        match line.trim().rsplit_once("http://") {
            Some((_, address)) => server.address = address.to_owned(),
            None => return Err(server.complaint("did not print its address")),
        }
        Ok(server)
    }

    /// Returns the number of open descriptors.
    fn descriptors(&mut self) -> Result<usize> {
        let directory = format!("/proc/{}/fd", self.process.id());
        let entries = std::fs::read_dir(&directory);
        entries
            .map(Iterator::count)
            .map_err(|error| self.complaint(&format!("has exited ({directory}: {error})")))
    }

    /// Waits until `done` returns true.
    fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        while !done(self)? {
            if start.elapsed() > PATIENCE {
                return Err(self.complaint(&format!("did not {what} within {} s", PATIENCE.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Stops the server with the signal on which callgrind writes its profile.
    fn end(mut self) -> Result<()> {
        // Every shell has a built-in `kill`; the separate program may be missing.
        let kill = Command::line("sh -c").arg(format!("kill -TERM {}", self.process.id()));
        if !kill.succeeds(Path::new("/")) {
            return Err(self.complaint("could not be stopped"));
        }
        self.wait("end", |server| Ok(server.process.try_wait().is_ok_and(|status| status.is_some())))
    }

    /// Returns an error with the server's output.
    fn complaint(&mut self, what: &str) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        format!("the benchmark server {what}:\n   $ {}\n{log}", self.command)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail if the server has already exited, as it should have.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(figures: &[(&str, f64)]) -> Figures {
        figures.iter().map(|(name, figure)| ((*name).to_owned(), *figure)).collect()
    }

    #[test]
    fn growth_beyond_the_tolerance_fails_with_advice() {
        let baseline = figures(&[("delivery", 1000.0), ("echo", 1000.0)]);
        let error = compare(&baseline, &figures(&[("delivery", 1051.0), ("echo", 1049.0)])).unwrap_err();
        for part in [
            "delivery: 1000.0",
            "1051.0 now",
            "+5.1 %",
            "callgrind_annotate",
            "cargo xtask instructions --accept",
        ] {
            assert!(error.contains(part), "no {part:?} in {error}");
        }
        assert!(!error.contains("echo"), "{error}");
    }

    #[test]
    fn growth_within_the_tolerance_passes() {
        let baseline = figures(&[("delivery", 1000.0)]);
        for now in [951.0, 1000.0, 1049.0] {
            assert_eq!(compare(&baseline, &figures(&[("delivery", now)])), Ok(Vec::new()), "{now}");
        }
    }

    #[test]
    fn a_gain_beyond_the_tolerance_suggests_new_figures_without_failing() {
        let baseline = figures(&[("delivery", 1000.0), ("echo", 1000.0)]);
        let now = figures(&[("delivery", 949.0), ("echo", 951.0)]);
        assert_eq!(compare(&baseline, &now), Ok(vec!["delivery".to_owned()]));
    }

    #[test]
    fn both_sides_must_have_the_same_metrics() {
        let (one, two) = (figures(&[("delivery", 1.0)]), figures(&[("delivery", 1.0), ("echo", 1.0)]));
        let missing = compare(&one, &two).unwrap_err();
        assert!(missing.contains("no figure for \"echo\"") && missing.contains("--accept"), "{missing}");
        let unknown = compare(&two, &one).unwrap_err();
        assert!(unknown.contains("figure for \"echo\", which is not a metric"), "{unknown}");
    }

    #[test]
    fn the_file_round_trips() {
        let text = write("rustc 1.2.3", &figures(&[("echo", 12.34), ("delivery", 5.0)]));
        let read = Baseline::parse(&text).unwrap();
        assert_eq!(
            (read.rustc.as_str(), read.instructions),
            ("rustc 1.2.3", figures(&[("delivery", 5.0), ("echo", 12.3)]))
        );
        for (text, part) in [
            ("", "not valid JSON"),
            ("{}", "rustc"),
            (r#"{"rustc":"1"}"#, "instructions"),
            (r#"{"rustc":"1","instructions":{"echo":"many"}}"#, "\"echo\""),
            (r#"{"rustc":"1","instructions":{"echo":0}}"#, "\"echo\""),
        ] {
            let error = Baseline::parse(text).err().unwrap();
            assert!(error.contains(part) && error.contains("--accept"), "{text}: {error}");
        }
    }

    #[test]
    fn the_committed_file_names_every_metric() {
        let baseline = Baseline::read(&Workspace::find()).unwrap();
        let names: Vec<&str> = baseline.instructions.keys().map(String::as_str).collect();
        let mut metrics = METRICS.map(|metric| metric.name);
        metrics.sort_unstable();
        assert_eq!(names, metrics);
    }

    #[test]
    fn the_cost_of_starting_and_connecting_cancels_out() {
        let run = |instructions, work| Run { instructions, work };
        assert_eq!(per_one(run(1_000, 10), run(3_000, 20)), Some(200.0));
        assert_eq!(per_one(run(1_000, 10), run(3_000, 10)), None);
        assert_eq!(per_one(run(3_000, 10), run(1_000, 20)), None);
    }

    #[test]
    fn the_loads_work_is_read_from_its_report() {
        assert_eq!(work(r#"{"connect":{"opened":5},"traffic":{"deliveries":50}}"#), Some(50));
        assert_eq!(work("{\"connect\":{\"opened\":5}}\n"), Some(5));
        assert_eq!(work("error: nobody listens"), None);
    }
}
