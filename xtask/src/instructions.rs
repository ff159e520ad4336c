//! Instructions that the server spends on a delivery, an echo and an upgrade, counted by callgrind and held against what
//! `bench/instructions.json` says. Counts, unlike times, are the same on a busy machine: a change that costs is seen at once.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::command::Command;
use crate::{Result, Workspace};

/// What is committed: instructions by measure.
const BASELINE: &str = "bench/instructions.json";

/// How much more than the baseline is too much, in percent. Two runs of one build differ by less than one.
const TOLERANCE: f64 = 5.0;

/// Something that is counted: the difference between a long run and a short one, so that what both have (the start, the
/// first connections) is not in it.
struct Measure {
    /// Its name in the baseline.
    name: &'static str,
    /// What `ripplecast bench load` is told, but for the count that differs.
    load: &'static str,
    /// The option that differs.
    count: &'static str,
    /// The short run and the long one.
    counts: [u32; 2],
    /// How many deliveries, echoes or upgrades one of the count is.
    each: u32,
}

/// Bursts are left out: how many frames are joined depends on timing, and counts of two runs differed by 4 %.
const MEASURES: [Measure; 3] = [
    Measure {
        name: "delivery",
        load: "bc --mode fanout --connections 100 --window 1",
        count: "--messages",
        counts: [1000, 5000],
        each: 100,
    },
    Measure {
        name: "echo",
        load: "echo --mode echo --connections 100 --window 1",
        count: "--messages",
        counts: [10_000, 50_000],
        each: 1,
    },
    Measure {
        name: "upgrade",
        load: "bc --mode idle --duration 1",
        count: "--connections",
        counts: [200, 2200],
        each: 1,
    },
];

/// Counts everything. With `accept`, writes the baseline anew; else fails if something costs too much more than it says.
pub(crate) fn run(workspace: &Workspace, accept: bool) -> Result<String> {
    Command::line("cargo build --release -p ripplecast-server --locked").run(&workspace.root)?;
    let counted: Result<Counts> = MEASURES
        .iter()
        .map(|measure| {
            let [short, long] = measure.counts.map(|count| measure.run(workspace, count));
            let per = f64::from((measure.counts[1] - measure.counts[0]) * measure.each);
            let instructions = (long? as f64 - short? as f64) / per;
            println!("   {:<10} {instructions:>9.0} instructions", measure.name);
            Ok((measure.name.to_owned(), instructions.round() as u64))
        })
        .collect();
    let counted = counted?;
    let path = workspace.at(BASELINE);
    if accept {
        std::fs::write(&path, written(&counted))
            .map_err(|error| format!("{BASELINE} can't be written: {error}"))?;
        return Ok(format!("{BASELINE} written"));
    }
    let baseline =
        std::fs::read_to_string(&path).map_err(|error| format!("{BASELINE} can't be read: {error}"))?;
    compare(&read(&baseline)?, &counted)
}

/// Instructions by measure.
type Counts = BTreeMap<String, u64>;

/// The baseline's text.
fn written(counts: &Counts) -> String {
    let lines: Vec<_> = counts.iter().map(|(name, count)| format!("  \"{name}\": {count}")).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

/// Reads what [`written`] wrote: one measure a line.
fn read(text: &str) -> Result<Counts> {
    let lines = text.lines().map(|line| line.trim().trim_end_matches(','));
    lines
        .filter(|line| !matches!(*line, "" | "{" | "}"))
        .map(|line| {
            let (name, count) =
                line.split_once(':').ok_or(format!("{BASELINE}: \"{line}\" is no measure"))?;
            let count = count.trim().parse().map_err(|_| format!("{BASELINE}: \"{line}\" has no count"))?;
            Ok((name.trim().trim_matches('"').to_owned(), count))
        })
        .collect()
}

/// Holds counts against the baseline. A few words when all is well.
fn compare(baseline: &Counts, now: &Counts) -> Result<String> {
    let names: Vec<_> = baseline.keys().collect();
    if names != now.keys().collect::<Vec<_>>() {
        let counted: Vec<_> = now.keys().collect();
        return Err(format!(
            "{BASELINE} has {names:?}, and {counted:?} were counted. `cargo xtask instructions --accept` writes it anew"
        ));
    }
    let mut grown = Vec::new();
    let mut shrunk = false;
    for (name, &before) in baseline {
        let percent = (now[name] as f64 / before as f64 - 1.0) * 100.0;
        if percent > TOLERANCE {
            grown.push(format!(
                "{name}: {} instructions, {before} in the baseline: {percent:+.1} %",
                now[name]
            ));
        }
        shrunk |= percent < -TOLERANCE;
    }
    if !grown.is_empty() {
        return Err(format!(
            "more instructions than {BASELINE} allows, which is {TOLERANCE} % more than it says:\n   {}\nTo see where they go: \
             callgrind_annotate target/instructions/NAME.out. If the cost is meant: cargo xtask instructions --accept",
            grown.join("\n   ")
        ));
    }
    let note = if shrunk {
        "fewer than before: renew the baseline with cargo xtask instructions --accept"
    } else {
        "as before"
    };
    Ok(note.into())
}

impl Measure {
    /// The instructions of one run.
    fn run(&self, workspace: &Workspace, count: u32) -> Result<u64> {
        let directory = workspace.at("target/instructions");
        std::fs::create_dir_all(&directory)
            .map_err(|error| format!("{} can't be made: {error}", directory.display()))?;
        let profile = directory.join(format!("{}.out", self.name));
        let log = directory.join(format!("{}.log", self.name));
        let binary = workspace.at("target/release/ripplecast");
        let (server, addr) = start(&binary, &profile, &log)?;
        let (path, options) = self.load.split_once(' ').unwrap_or((self.load, ""));
        let load = Command::program(binary.display().to_string())
            .args(&format!("bench load ws://{addr}/{path} {options} {} {count} --json", self.count));
        let said = load.listen(&workspace.root);
        let ended = stop(server);
        let said = said?;
        if !said.status.success() {
            return Err(format!("this load failed ({}):\n   $ {load}\n{}", said.status, said.text));
        }
        ended?;
        let log = std::fs::read_to_string(&log)
            .map_err(|error| format!("{} can't be read: {error}", log.display()))?;
        let collected = log.lines().find_map(|line| line.split_once("Collected :"));
        let collected = collected.and_then(|(_, count)| count.trim().parse().ok());
        collected.ok_or(format!("callgrind did not say what it has counted:\n{log}"))
    }
}

/// Starts the server under callgrind, and waits for its address.
fn start(binary: &Path, profile: &Path, log: &PathBuf) -> Result<(Child, String)> {
    let mut server = std::process::Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(format!("--log-file={}", log.display()))
        .arg(binary)
        .args(["bench", "serve", "--port", "0", "--shards", "1"])
        .env("RIPPLECAST_LOG", "error") // everything is slow here, and need not be told so
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("valgrind can't be started: {error}"))?;
    let mut line = String::new();
    if let Some(stdout) = server.stdout.take() {
        // What it says later is not read, and is a line at the most.
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    match line.trim().rsplit_once("http://") {
        Some((_, addr)) => Ok((server, addr.to_owned())),
        None => {
            let _ = server.kill();
            let _ = server.wait();
            Err(format!("the server under callgrind did not start; {} says why", log.display()))
        }
    }
}

/// Tells the server to end, so that callgrind writes what it has counted.
fn stop(mut server: Child) -> Result<()> {
    let pid = server.id().to_string();
    let told = std::process::Command::new("kill").args(["-TERM", &pid]).status();
    told.map_err(|error| format!("the server can't be told to end: {error}"))?;
    let status = server.wait().map_err(|error| format!("the server did not end: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("the server under callgrind ended with {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(delivery: u64, echo: u64) -> Counts {
        [("delivery".to_owned(), delivery), ("echo".to_owned(), echo)].into()
    }

    #[test]
    fn growth_beyond_the_tolerance_fails_and_names_the_measure() {
        let baseline = counts(1000, 2000);
        assert_eq!(compare(&baseline, &counts(1049, 2000)), Ok("as before".into()));
        let why = compare(&baseline, &counts(1000, 2102)).unwrap_err();
        assert!(why.contains("echo: 2102 instructions, 2000 in the baseline: +5.1 %"), "{why}");
        assert!(!why.contains("delivery"), "{why}");
    }

    #[test]
    fn what_costs_less_is_said() {
        assert!(compare(&counts(1000, 2000), &counts(900, 2000)).unwrap().contains("--accept"));
    }

    #[test]
    fn other_measures_than_the_baseline_s_fail() {
        let mut fewer = counts(1, 2);
        fewer.remove("echo");
        assert!(compare(&fewer, &counts(1, 2)).is_err());
        assert!(compare(&counts(1, 2), &fewer).is_err());
    }

    #[test]
    fn a_baseline_reads_back() {
        assert_eq!(read(&written(&counts(7, 8))), Ok(counts(7, 8)));
        assert!(read("{\n  \"echo\": many\n}").is_err());
    }
}
