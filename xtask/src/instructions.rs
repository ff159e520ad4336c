//! How many instructions the server takes for a delivery, an echo and an upgrade, held against what was committed.
//!
//! Time tells little on a machine that others use as well; the number of instructions is the same today and tomorrow. So
//! the server runs under callgrind, which counts those of the program itself, not of the kernel. Every figure is the
//! difference of two runs, divided by how much more the longer one did: what it takes to start, and to open and close the
//! connections, is in both and goes away.
//!
//! The same shows that no header costs more than in proportion to its length: see [`headers`].

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

/// The figures that were committed.
const BASELINE: &str = "bench/instructions.json";

/// Where the profiles go, beside what the server says.
const PROFILES: &str = "target/instructions";

/// By how many percent a figure may differ from the committed one. Repeated runs differ by less than 1.
const TOLERANCE: f64 = 5.0;

/// How long the server may take to start, to let go of its connections, or to end: far beyond what it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Something whose instructions are counted.
struct Metric {
    /// Its name in the committed file.
    name: &'static str,
    /// What one of it is.
    about: &'static str,
    /// What `ripplecast bench load` does to the server.
    mode: &'static str,
    /// The server's path.
    path: &'static str,
    /// The shorter run.
    short: Load,
    /// The longer run.
    long: Load,
}

/// How much load a run makes.
#[derive(Clone, Copy)]
struct Load {
    /// Connections to open.
    connections: u32,
    /// Messages to send over all of them; `None` sends none and closes the connections again.
    messages: Option<u32>,
}

/// What is counted.
///
/// Bursts (a window of 64) are not among it: how many frames leave in one call depends on when the load reads, and five
/// runs differed by 9 %.
const METRICS: [Metric; 3] = [
    Metric {
        name: "delivery",
        about: "one frame to one of 200 members of a room",
        mode: "fanout",
        path: "/bc",
        short: Load { connections: 200, messages: Some(20) },
        long: Load { connections: 200, messages: Some(1520) },
    },
    Metric {
        name: "echo",
        about: "a message of one of 100 connections that goes back",
        mode: "echo",
        path: "/echo",
        short: Load { connections: 100, messages: Some(500) },
        long: Load { connections: 100, messages: Some(10_500) },
    },
    Metric {
        name: "upgrade",
        about: "a connection from its request to its end",
        mode: "idle",
        path: "/bc",
        short: Load { connections: 50, messages: None },
        long: Load { connections: 850, messages: None },
    },
];

/// What was counted, or committed: instructions by metric.
type Figures = BTreeMap<String, f64>;

/// The committed figures.
struct Baseline {
    /// The compiler that built what was measured, as `rustc --version` says it.
    rustc: String,
    /// Instructions by metric.
    instructions: Figures,
}

/// `cargo xtask instructions`: prints the table; with `accept` it commits to the figures that were found.
pub(crate) fn show(workspace: &Workspace, accept: bool) -> Result<()> {
    setup::install(workspace, &[Need::Valgrind])?;
    let now = measure(workspace)?;
    if accept {
        let file = workspace.at(BASELINE);
        let text = write(&rustc(workspace)?, &now);
        std::fs::write(&file, text).map_err(|error| format!("{BASELINE} can't be written: {error}"))?;
        println!("   {BASELINE} has these figures now; commit it, and say why they changed");
    }
    let baseline = Baseline::read(workspace)?;
    print!("{}", table(&baseline.instructions, &now));
    Ok(())
}

/// The step: counts, and compares with what was committed. Says in a few words how it went.
pub(crate) fn check(workspace: &Workspace) -> Result<String> {
    // Before the work: a file that can't be read is said at once.
    let baseline = Baseline::read(workspace)?;
    let now = measure(workspace)?;
    print!("{}", table(&baseline.instructions, &now));
    let rustc = rustc(workspace)?;
    if rustc != baseline.rustc {
        println!("   {BASELINE} was measured with {}, and this is {rustc}", baseline.rustc);
    }
    let renewable = compare(&baseline.instructions, &now)?;
    headers::check(workspace)?;
    Ok(if renewable.is_empty() {
        format!("{} figures within {TOLERANCE} %", now.len())
    } else {
        println!(
            "   cheaper by more than {TOLERANCE} %: {}. Renew the figures, so that the gain is kept: cargo xtask instructions --accept",
            renewable.join(", ")
        );
        format!("{} cheaper: renew {BASELINE}", renewable.join(", "))
    })
}

/// Holds the figures against the committed ones. Returns the metrics that became cheaper by more than the tolerance; fails
/// when one became dearer by more, or when the two don't name the same metrics.
fn compare(baseline: &Figures, now: &Figures) -> Result<Vec<String>> {
    let renew = "`cargo xtask instructions --accept` writes the file anew";
    if let Some(missing) = now.keys().find(|name| !baseline.contains_key(*name)) {
        return Err(format!("{BASELINE} has no figure for {missing:?}; {renew}"));
    }
    if let Some(unknown) = baseline.keys().find(|name| !now.contains_key(*name)) {
        return Err(format!("{BASELINE} has a figure for {unknown:?}, which nothing measures; {renew}"));
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
        "the server takes more instructions than it did, beyond the {TOLERANCE} % that are allowed:\n   {}\n\
         To look for the cause: callgrind_annotate {PROFILES}/METRIC.long lists the functions by what they cost; the same \
         before the change shows which grew.\n\
         If it is worth it, accept it and say why in the commit: cargo xtask instructions --accept",
        dearer.join("\n   ")
    ))
}

/// By how many percent a figure grew.
fn growth(before: f64, now: f64) -> f64 {
    (now / before - 1.0) * 100.0
}

/// The figures beside the committed ones, as Markdown, which reads well in a terminal too.
fn table(baseline: &Figures, now: &Figures) -> String {
    let mut table =
        String::from("\n| metric | committed | now | change | one is |\n|---|---:|---:|---:|---|\n");
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

/// The compiler's name and version.
fn rustc(workspace: &Workspace) -> Result<String> {
    let said = Command::line("rustc --version").listen(&workspace.root)?;
    Ok(said.text.trim().to_owned())
}

impl Baseline {
    /// Reads the committed file.
    fn read(workspace: &Workspace) -> Result<Self> {
        let text = std::fs::read_to_string(workspace.at(BASELINE))
            .map_err(|error| format!("{BASELINE} can't be read: {error}"))?;
        Self::parse(&text)
    }

    /// Reads the text of the committed file.
    fn parse(text: &str) -> Result<Self> {
        let wrong =
            |what: &str| format!("{BASELINE} {what}; `cargo xtask instructions --accept` writes it anew");
        let value: Value =
            serde_json::from_str(text).map_err(|error| wrong(&format!("is no JSON ({error})")))?;
        let rustc = value["rustc"].as_str().ok_or_else(|| wrong("does not say which \"rustc\" it is of"))?;
        let figures = value["instructions"].as_object().ok_or_else(|| wrong("has no \"instructions\""))?;
        let figure = |(name, figure): (&String, &Value)| {
            let figure = figure.as_f64().filter(|figure| *figure > 0.0);
            let figure = figure.ok_or_else(|| wrong(&format!("has no number above 0 for {name:?}")))?;
            Ok((name.clone(), figure))
        };
        Ok(Self { rustc: rustc.to_owned(), instructions: figures.iter().map(figure).collect::<Result<_>>()? })
    }
}

/// The text of the committed file: one decimal, since more would be noise.
fn write(rustc: &str, figures: &Figures) -> String {
    let rounded = figures.iter().map(|(name, figure)| (name.clone(), json!((figure * 10.0).round() / 10.0)));
    let value = json!({ "rustc": rustc, "instructions": rounded.collect::<serde_json::Map<_, _>>() });
    format!("{value:#}\n")
}

/// Builds the server and counts everything.
fn measure(workspace: &Workspace) -> Result<Figures> {
    Command::line("cargo build --release -p ripplecast-server --locked").run(&workspace.root)?;
    let profiles = workspace.at(PROFILES);
    std::fs::create_dir_all(&profiles)
        .map_err(|error| format!("{} can't be made: {error}", profiles.display()))?;
    METRICS.iter().map(|metric| Ok((metric.name.to_owned(), metric.measure(workspace)?))).collect()
}

impl Metric {
    /// Counts it: two runs, and what the longer took for what it did more.
    fn measure(&self, workspace: &Workspace) -> Result<f64> {
        let short = self.run(workspace, "short", self.short)?;
        let long = self.run(workspace, "long", self.long)?;
        per_one(short, long).ok_or_else(|| {
            format!(
                "the longer run for {:?} did no more than the shorter one: {short:?}, {long:?}",
                self.name
            )
        })
    }

    /// One run: a fresh server under callgrind, and the load.
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
        let work = work(&said.text).filter(|_| said.status.success()).ok_or_else(|| {
            format!("the load did not come through ({}):\n   $ {command}\n{}", said.status, said.text)
        })?;
        // The load is gone; the server has yet to notice that on every connection.
        server.wait("let go of its connections", |server| Ok(server.descriptors()? <= idle))?;
        server.end()?;
        Ok(Run { instructions: instructions(&profile)?, work })
    }
}

/// What a run came to.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Instructions of the whole process.
    instructions: u64,
    /// Deliveries, or connections where nothing was sent.
    work: u64,
}

/// The instructions for one more delivery or connection.
fn per_one(short: Run, long: Run) -> Option<f64> {
    let work = long.work.checked_sub(short.work).filter(|work| *work > 0)?;
    let instructions = long.instructions.checked_sub(short.instructions)?;
    Some(instructions as f64 / work as f64)
}

/// What the load says that it did: deliveries, or connections where it sent nothing.
fn work(said: &str) -> Option<u64> {
    let report: Value = serde_json::from_str(said.lines().next()?).ok()?;
    report["traffic"]["deliveries"].as_u64().or_else(|| report["connect"]["opened"].as_u64())
}

/// Reads a profile for the instructions in it.
fn instructions(profile: &Path) -> Result<u64> {
    let wrong = |why: &str| format!("callgrind's profile {} {why}", profile.display());
    let text = std::fs::read_to_string(profile).map_err(|error| wrong(&format!("can't be read: {error}")))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals:"));
    total.and_then(|total| total.trim().parse().ok()).ok_or_else(|| wrong("has no line of totals"))
}

/// The measuring server under callgrind. It ends with this value at the latest.
struct Server {
    /// The process: callgrind runs the program inside itself.
    process: Child,
    /// Where it listens.
    address: String,
    /// The command line, for who wants to repeat it.
    command: String,
    /// What it and callgrind said.
    log: PathBuf,
}

impl Server {
    /// Starts it on a port that is free. It has one shard on one thread, or threads would share the work anew in every run.
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
        let said = File::create(&log).map_err(|error| format!("{} can't be made: {error}", log.display()))?;
        let mut process = command.start(&workspace.root, Stdio::piped(), Stdio::from(said))?;
        let output = process.stdout.take();
        let mut server = Self { process, address: String::new(), command: command_line, log };
        let mut line = String::new();
        if let Some(output) = output {
            // The line, or the end of the output if it can't start.
            let _ = BufReader::new(output).read_line(&mut line);
        }
        match line.trim().rsplit_once("http://") {
            Some((_, address)) => server.address = address.to_owned(),
            None => return Err(server.complaint("did not say where it listens")),
        }
        Ok(server)
    }

    /// How many descriptors it has open.
    fn descriptors(&mut self) -> Result<usize> {
        let directory = format!("/proc/{}/fd", self.process.id());
        let entries = std::fs::read_dir(&directory);
        entries
            .map(Iterator::count)
            .map_err(|error| self.complaint(&format!("is gone ({directory}: {error})")))
    }

    /// Waits until `done`.
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

    /// Ends it by the signal at which callgrind writes its profile.
    fn end(mut self) -> Result<()> {
        // Every shell has `kill`; as a program of its own it may be missing.
        let kill = Command::line("sh -c").arg(format!("kill -TERM {}", self.process.id()));
        if !kill.succeeds(Path::new("/")) {
            return Err(self.complaint("could not be told to end"));
        }
        self.wait("end", |server| Ok(server.process.try_wait().is_ok_and(|status| status.is_some())))
    }

    /// What went wrong, with all that it said.
    fn complaint(&mut self, what: &str) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        format!("the measuring server {what}:\n   $ {}\n{log}", self.command)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail when it has ended already, as it should have.
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
    fn growth_beyond_the_tolerance_fails_and_says_what_to_do() {
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
    fn a_gain_beyond_the_tolerance_asks_for_new_figures_without_failing() {
        let baseline = figures(&[("delivery", 1000.0), ("echo", 1000.0)]);
        let now = figures(&[("delivery", 949.0), ("echo", 951.0)]);
        assert_eq!(compare(&baseline, &now), Ok(vec!["delivery".to_owned()]));
    }

    #[test]
    fn both_sides_name_the_same_metrics() {
        let (one, two) = (figures(&[("delivery", 1.0)]), figures(&[("delivery", 1.0), ("echo", 1.0)]));
        let missing = compare(&one, &two).unwrap_err();
        assert!(missing.contains("no figure for \"echo\"") && missing.contains("--accept"), "{missing}");
        let unknown = compare(&two, &one).unwrap_err();
        assert!(unknown.contains("figure for \"echo\", which nothing measures"), "{unknown}");
    }

    #[test]
    fn the_file_is_read_as_it_was_written() {
        let text = write("rustc 1.2.3", &figures(&[("echo", 12.34), ("delivery", 5.0)]));
        let read = Baseline::parse(&text).unwrap();
        assert_eq!(
            (read.rustc.as_str(), read.instructions),
            ("rustc 1.2.3", figures(&[("delivery", 5.0), ("echo", 12.3)]))
        );
        for (text, part) in [
            ("", "no JSON"),
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
    fn start_and_connecting_cancel_out() {
        let run = |instructions, work| Run { instructions, work };
        assert_eq!(per_one(run(1_000, 10), run(3_000, 20)), Some(200.0));
        assert_eq!(per_one(run(1_000, 10), run(3_000, 10)), None);
        assert_eq!(per_one(run(3_000, 10), run(1_000, 20)), None);
    }

    #[test]
    fn the_load_says_what_it_did() {
        assert_eq!(work(r#"{"connect":{"opened":5},"traffic":{"deliveries":50}}"#), Some(50));
        assert_eq!(work("{\"connect\":{\"opened\":5}}\n"), Some(5));
        assert_eq!(work("error: nobody listens"), None);
    }
}
