//! The steps of `cargo xtask test`, in order, and the summary at their end.

use std::io::Write;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::command::Command;
use crate::setup::{self, Need};
use crate::totals::Totals;
use crate::{Result, Workspace, blocks, deny, instructions, links, valkey};

/// How long each fuzz target runs.
const FUZZ_SECONDS: u32 = 30;

/// How long one model may search, in seconds, unless `LOOM_MAX_DURATION` says otherwise.
const MODEL_SECONDS: u64 = 240;

/// One step, by the name that `--only` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// The code is formatted
    Format,
    /// Links in Markdown files lead somewhere
    Links,
    /// Licences, sources and versions of what we depend on keep to deny.toml
    Deny,
    /// Clippy has nothing to say
    Clippy,
    /// Unit, integration and documentation tests
    Test,
    /// Code blocks in Markdown files are known to the programs that they are for
    Blocks,
    /// The documentation builds without a warning
    Docs,
    /// The concurrent core is model-checked
    Models,
    /// A delivery, an echo and an upgrade take no more instructions than bench/instructions.json says, and no header costs more than in proportion
    Instructions,
    /// Every fuzz target runs for 30 seconds (takes a nightly toolchain)
    Fuzz,
    /// Two tabs of a real browser follow each other, on the lesson, in each demo and example, and in the starter
    Browser,
}

/// How a step came out.
#[derive(Default)]
struct Outcome {
    /// The tests that it ran.
    totals: Totals,
    /// A few words for the summary.
    note: Option<String>,
}

/// One line of the summary.
struct Done {
    /// The step's name.
    name: String,
    /// How long it took.
    time: Duration,
    /// What is said after the time.
    note: String,
}

/// Prints the names of the steps.
pub(crate) fn list() {
    println!(
        "setup        Install what the steps below need and this machine lacks (not with --fast; not a step for --only)"
    );
    for step in Step::value_variants() {
        println!("{:<12} {}", step.name(), step.about());
    }
}

/// Runs the steps in order and stops at the first that fails.
pub(crate) fn test(workspace: &Workspace, fast: bool, only: &[Step]) -> Result<()> {
    let chosen = |step: &Step| if only.is_empty() { !fast || !step.is_slow() } else { only.contains(step) };
    let steps: Vec<Step> = Step::value_variants().iter().copied().filter(chosen).collect();
    let needs: Vec<Need> =
        if fast { Vec::new() } else { steps.iter().flat_map(|step| step.needs()).copied().collect() };
    let mut run = Run {
        done: Vec::new(),
        totals: Totals::default(),
        count: steps.len() + usize::from(!needs.is_empty()),
    };
    let result = run.all(workspace, &steps, &needs);
    run.print_summary(result.is_err());
    result
}

/// Takes the documentation's pictures.
pub(crate) fn screenshots(workspace: &Workspace) -> Result<()> {
    setup::install(workspace, &[Need::Browser])?;
    let pictures = workspace.at("docs/images").display().to_string();
    build_server().run(&workspace.root)?;
    with_browser(workspace, Command::line("node screenshot.mjs").arg(pictures))?.run(&workspace.root)
}

/// Builds the server as users have it, and soaks it.
pub(crate) fn soak(workspace: &Workspace, minutes: f64, seed: Option<u64>) -> Result<()> {
    build_server().arg("--release").run(&workspace.root)?;
    let server = server(workspace, "release").display().to_string();
    let mut soak =
        Command::program(server).arg("bench").arg("soak").arg("--minutes").arg(minutes.to_string());
    if let Some(seed) = seed {
        soak = soak.arg("--seed").arg(seed.to_string());
    }
    soak.run(&workspace.root)
}

/// What is known while the steps run.
struct Run {
    /// The steps that are over.
    done: Vec<Done>,
    /// All tests so far.
    totals: Totals,
    /// How many steps there are.
    count: usize,
}

impl Run {
    fn all(&mut self, workspace: &Workspace, steps: &[Step], needs: &[Need]) -> Result<()> {
        if !needs.is_empty() {
            self.one("setup", "Install what is missing", || {
                Ok(Outcome { note: Some(setup::install(workspace, needs)?), ..Outcome::default() })
            })?;
        }
        for step in steps {
            self.one(&step.name(), &step.about(), || step.run(workspace))?;
        }
        Ok(())
    }

    fn one(&mut self, name: &str, about: &str, work: impl FnOnce() -> Result<Outcome>) -> Result<()> {
        println!("\n== {}/{} {name}: {about}", self.done.len() + 1, self.count);
        let _ = std::io::stdout().flush();
        let start = Instant::now();
        let result = work();
        let time = start.elapsed();
        let note = match &result {
            Ok(outcome) => outcome.note.clone().unwrap_or_default(),
            Err(_) => "FAILED".into(),
        };
        println!("   {name} took {:.1} s{}", time.as_secs_f64(), after_comma(&note));
        self.done.push(Done { name: name.into(), time, note });
        let again = if name == "setup" {
            String::new()
        } else {
            format!("\nTo run this step alone: cargo xtask test --only {name}")
        };
        self.totals += result.map_err(|why| format!("{name}: {why}{again}"))?.totals;
        Ok(())
    }

    fn print_summary(&self, failed: bool) {
        println!("\n== Summary");
        for Done { name, time, note } in &self.done {
            println!("   {:<12}{:>7.1} s{}", name, time.as_secs_f64(), after_comma(note));
        }
        let all: Duration = self.done.iter().map(|done| done.time).sum();
        println!("   {:<12}{:>7.1} s", "all", all.as_secs_f64());
        let rest = self.count - self.done.len();
        if failed && rest > 0 {
            println!("   {rest} of {} steps were not reached", self.count);
        } else if !failed && self.totals.passed > 0 {
            // Alone on its line, for whoever reads the output for what was tested.
            println!("{} passed, {} failed", self.totals.passed, self.totals.failed);
        }
        let _ = std::io::stdout().flush();
    }
}

fn after_comma(note: &str) -> String {
    if note.is_empty() { String::new() } else { format!(", {note}") }
}

impl Step {
    /// Its name, as `--only` takes it.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
    }

    /// What it shows.
    fn about(self) -> String {
        let value = self.to_possible_value();
        value.as_ref().and_then(|value| value.get_help()).map_or_else(String::new, ToString::to_string)
    }

    /// Whether `--fast` leaves it out.
    fn is_slow(self) -> bool {
        matches!(self, Self::Blocks | Self::Instructions | Self::Fuzz | Self::Browser)
    }

    /// What it needs beyond a Rust toolchain.
    fn needs(self) -> &'static [Need] {
        match self {
            Self::Test => &[Need::Redis, Need::Proxies],
            Self::Blocks => &[Need::Blocks],
            Self::Instructions => &[Need::Valgrind],
            Self::Fuzz => &[Need::Fuzzer],
            Self::Browser => &[Need::Browser, Need::Redis],
            _ => &[],
        }
    }

    fn run(self, workspace: &Workspace) -> Result<Outcome> {
        let root = &workspace.root;
        match self {
            Self::Format => {
                Command::line("cargo fmt --all -- --check").run(root)?;
                // The fuzz targets are a workspace of their own, since only a nightly toolchain builds them.
                plain(
                    &Command::line("cargo fmt --manifest-path ripplecast/fuzz/Cargo.toml -- --check"),
                    workspace,
                )
            }
            Self::Links => Ok(Outcome { note: Some(links::check(workspace)?), ..Outcome::default() }),
            Self::Deny => Ok(Outcome { note: Some(deny::check(workspace)?), ..Outcome::default() }),
            Self::Clippy => plain(
                &Command::line("cargo clippy --workspace --all-targets --locked -- -D warnings"),
                workspace,
            ),
            Self::Test => {
                // Two for each core: the tests wait for servers and deadlines for more than half of their time.
                let threads = 2 * std::thread::available_parallelism().map_or(1, NonZero::get);
                let tests = Command::line("cargo test --workspace --locked")
                    .default_env("RUST_TEST_THREADS", &threads.to_string());
                let tests = valkey::SERVERS.iter().fold(tests, |tests, server| server.tell(workspace, tests));
                counted(tests.run_tests(root)?)
            }
            Self::Blocks => {
                build_server().run(root)?;
                Ok(Outcome { note: Some(blocks::check(workspace)?), ..Outcome::default() })
            }
            Self::Docs => {
                let doc = Command::line("cargo doc --workspace --no-deps --locked")
                    .env("RUSTDOCFLAGS", "-D warnings");
                plain(&doc, workspace)
            }
            Self::Models => models(workspace),
            Self::Instructions => {
                Ok(Outcome { note: Some(instructions::check(workspace)?), ..Outcome::default() })
            }
            Self::Fuzz => fuzz(workspace),
            Self::Browser => {
                build_server().run(root)?;
                Command::line("cargo build -p ripplecast-examples --examples --locked").run(root)?;
                counted(with_browser(workspace, Command::line("npm test"))?.run_tests(root)?)
            }
        }
    }
}

fn plain(command: &Command, workspace: &Workspace) -> Result<Outcome> {
    command.run(&workspace.root).map(|()| Outcome::default())
}

/// A step's outcome by the tests that it ran; it fails if there were none, or if any was left out.
fn counted(totals: Totals) -> Result<Outcome> {
    if totals.passed == 0 {
        return Err("no test ran, so nothing was shown".into());
    }
    if totals.ignored > 0 {
        let count = totals.ignored;
        return Err(format!(
            "tests marked as ignored: {count}. Here every test runs: mend them, or take them out"
        ));
    }
    Ok(Outcome { totals, note: Some(format!("{} passed", totals.passed)) })
}

/// Runs the models of the concurrent core.
fn models(workspace: &Workspace) -> Result<Outcome> {
    // In a target directory of its own, so that the ordinary build is kept. Not optimized: building for speed takes four times as
    // long as the search itself.
    let models = Command::line("cargo test -p ripplecast --lib --locked --target-dir target/loom -- loom")
        .env("RUSTFLAGS", "--cfg ripplecast_loom")
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .default_env("LOOM_MAX_PREEMPTIONS", "3")
        .default_env("LOOM_MAX_DURATION", &MODEL_SECONDS.to_string());
    let start = Instant::now();
    let mut outcome = counted(models.run_tests(&workspace.root)?)?;
    if std::env::var_os("LOOM_MAX_DURATION").is_none()
        && start.elapsed() >= Duration::from_secs(MODEL_SECONDS)
    {
        outcome.note =
            Some(format!("some model may have been cut short after {MODEL_SECONDS} s: make it smaller"));
    }
    Ok(outcome)
}

fn fuzz(workspace: &Workspace) -> Result<Outcome> {
    let left_out = |why: &str| {
        println!("   left out: {why}");
        Ok(Outcome { note: Some(format!("left out: {why}")), ..Outcome::default() })
    };
    if !setup::has_nightly(workspace) {
        return left_out("no nightly toolchain is installed; `rustup toolchain install nightly` brings it");
    }
    if !setup::has_cargo_fuzz(workspace) {
        return left_out("cargo-fuzz is not installed; `cargo install cargo-fuzz` brings it");
    }
    let targets = fuzz_targets(workspace)?;
    for target in &targets {
        let mut fuzz = Command::line("cargo +nightly fuzz run").within("ripplecast").arg(target);
        let seeds = format!("fuzz/seeds/{target}");
        if workspace.at("ripplecast").join(&seeds).is_dir() {
            // What the fuzzer finds goes to the first directory; the seeds stay as they are.
            let corpus = format!("fuzz/corpus/{target}");
            let directory = workspace.at("ripplecast").join(&corpus);
            std::fs::create_dir_all(&directory)
                .map_err(|error| format!("{} can't be made: {error}", directory.display()))?;
            fuzz = fuzz.arg(corpus).arg(seeds);
        }
        fuzz.arg("--").arg(format!("-max_total_time={FUZZ_SECONDS}")).run(&workspace.root)?;
    }
    Ok(Outcome { note: Some(targets.join(", ")), ..Outcome::default() })
}

/// The names of the fuzz targets: a target is a file.
fn fuzz_targets(workspace: &Workspace) -> Result<Vec<String>> {
    let directory = workspace.at("ripplecast/fuzz/fuzz_targets");
    let files = std::fs::read_dir(&directory)
        .map_err(|error| format!("{} can't be read: {error}", directory.display()))?;
    let paths = files
        .flatten()
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "rs"));
    let mut targets: Vec<String> =
        paths.filter_map(|path| path.file_stem().map(|name| name.to_string_lossy().into_owned())).collect();
    targets.sort();
    if targets.is_empty() {
        Err(format!("{} holds no fuzz target", directory.display()))
    } else {
        Ok(targets)
    }
}

pub(crate) fn build_server() -> Command {
    Command::line("cargo build -p ripplecast-server --locked")
}

/// A command in `e2e/` that is told where the server and the browser are.
fn with_browser(workspace: &Workspace, command: Command) -> Result<Command> {
    let server = server(workspace, "debug");
    let browser = setup::browser().ok_or("no Chromium was found; install it, or set CHROMIUM to its path")?;
    let command = command
        .within("e2e")
        .env("RIPPLECAST_BIN", server.display().to_string())
        .env("CHROMIUM", browser.display().to_string());
    setup::with_node(workspace, command)
}

/// The server, as it was built in that profile.
pub(crate) fn server(workspace: &Workspace, profile: &str) -> PathBuf {
    target_directory(workspace).join(profile).join(format!("ripplecast{}", std::env::consts::EXE_SUFFIX))
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory(workspace: &Workspace) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.at("target"), |path| workspace.root.join(path))
}
