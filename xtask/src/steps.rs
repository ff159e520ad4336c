//! The steps of `cargo xtask test`, in order, and the summary.

use std::io::Write;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::command::Command;
use crate::setup::{self, Need};
use crate::totals::Totals;
use crate::{
    Result, Workspace, api, blocks, deny, features, format, instructions, links, msrv, publish, valkey,
};

/// How long each fuzz target runs.
const FUZZ_SECONDS: u32 = 30;

/// The time limit for one model in seconds, unless `LOOM_MAX_DURATION` is set.
const MODEL_SECONDS: u64 = 240;

/// A step, named as in `--only`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// The code is formatted, in every workspace of the repository
    Format,
    /// Links in Markdown files resolve
    Links,
    /// Licences, sources and versions of dependencies comply with deny.toml
    Deny,
    /// Clippy reports nothing
    Clippy,
    /// The oldest supported Rust compiles what is published, and no dependency needs a newer one
    Msrv,
    /// Each set of features compiles, brings no more crates than it may, and the smallest serves an axum application
    Features,
    /// The public API is the one in ripplecast/public-api.txt
    Api,
    /// A dry run of the release: what each package contains, and that it compiles
    Publish,
    /// Unit, integration and documentation tests
    Test,
    /// Code blocks in Markdown files are valid for their programs
    Blocks,
    /// The documentation builds without warnings
    Docs,
    /// The concurrent core passes its model checks
    Models,
    /// A delivery, an echo and an upgrade take no more instructions than in bench/instructions.json, and the cost of
    /// headers is proportional
    Instructions,
    /// Every fuzz target runs for 30 seconds (needs a nightly toolchain)
    Fuzz,
    /// Two tabs of a real browser stay in step, in the lesson, in each demo and example, and in the starter
    Browser,
}

/// The result of a step.
#[derive(Default)]
struct Outcome {
    /// The tests that it ran.
    totals: Totals,
    /// A short note for the summary.
    note: Option<String>,
}

/// A line of the summary.
struct Done {
    name: String,
    time: Duration,
    /// Shown after the time.
    note: String,
}

pub(crate) fn list() {
    println!(
        "setup        Install the missing tools for the steps below (skipped with --fast; not selectable with --only)"
    );
    for step in Step::value_variants() {
        println!("{:<12} {}", step.name(), step.about());
    }
}

/// Runs the steps in order, and stops at the first failure.
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

/// Takes the documentation's screenshots.
pub(crate) fn screenshots(workspace: &Workspace) -> Result<()> {
    setup::install(workspace, &[Need::Browser])?;
    let pictures = workspace.at("docs/images").display().to_string();
    build_server().run(&workspace.root)?;
    with_browser(workspace, Command::line("node screenshot.mjs").arg(pictures))?.run(&workspace.root)
}

/// Builds the server in release mode, and runs the soak test.
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

/// The state while steps run.
struct Run {
    /// The finished steps.
    done: Vec<Done>,
    totals: Totals,
    /// The number of steps.
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
            println!("   {rest} of {} steps did not run", self.count);
        } else if !failed && self.totals.passed > 0 {
            // On its own line, for scripts that parse the output.
            println!("{} passed, {} failed", self.totals.passed, self.totals.failed);
        }
        let _ = std::io::stdout().flush();
    }
}

fn after_comma(note: &str) -> String {
    if note.is_empty() { String::new() } else { format!(", {note}") }
}

impl Step {
    /// Returns its name, as in `--only`.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
    }

    /// Returns its description.
    fn about(self) -> String {
        let value = self.to_possible_value();
        value.as_ref().and_then(|value| value.get_help()).map_or_else(String::new, ToString::to_string)
    }

    /// Returns whether `--fast` skips it.
    fn is_slow(self) -> bool {
        matches!(
            self,
            Self::Msrv
                | Self::Features
                | Self::Publish
                | Self::Blocks
                | Self::Instructions
                | Self::Fuzz
                | Self::Browser
        )
    }

    /// Returns its requirements beyond a Rust toolchain.
    fn needs(self) -> &'static [Need] {
        match self {
            Self::Msrv => &[Need::OldRust],
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
            Self::Format => Ok(Outcome { note: Some(format::check(workspace)?), ..Outcome::default() }),
            Self::Links => Ok(Outcome { note: Some(links::check(workspace)?), ..Outcome::default() }),
            Self::Deny => Ok(Outcome { note: Some(deny::check(workspace)?), ..Outcome::default() }),
            Self::Clippy => plain(
                &Command::line("cargo clippy --workspace --all-targets --locked -- -D warnings"),
                workspace,
            ),
            Self::Msrv => Ok(Outcome { note: Some(msrv::check(workspace)?), ..Outcome::default() }),
            Self::Features => {
                let (totals, note) = features::check(workspace)?;
                Ok(Outcome { note: Some(note), ..counted(totals)? })
            }
            Self::Api => Ok(Outcome { note: Some(api::check(workspace)?), ..Outcome::default() }),
            Self::Publish => Ok(Outcome { note: Some(publish::check(workspace)?), ..Outcome::default() }),
            Self::Test => {
                // Two threads per core: the tests spend more than half of their time waiting.
                let threads = 2 * std::thread::available_parallelism().map_or(1, NonZero::get);
                let tests = Command::line("cargo test --workspace --locked")
                    .default_env("RUST_TEST_THREADS", &threads.to_string());
                let tests =
                    valkey::SERVERS.iter().fold(tests, |tests, server| server.add_to(workspace, tests));
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

/// Returns the result of a step that ran tests. Fails if there were none, or if some were ignored.
fn counted(totals: Totals) -> Result<Outcome> {
    if totals.passed == 0 {
        return Err("no tests ran".into());
    }
    if totals.ignored > 0 {
        let count = totals.ignored;
        return Err(format!("{count} tests are ignored; fix or remove them"));
    }
    Ok(Outcome { totals, note: Some(format!("{} passed", totals.passed)) })
}

/// Runs the models of the concurrent core.
fn models(workspace: &Workspace) -> Result<Outcome> {
    // Uses its own target directory, so that the ordinary build is kept. Unoptimized: optimizing takes four times as
    // long as the search itself.
    let models =
        Command::line("cargo test -p ripplecast --lib --locked --target-dir target/loom -- engine::models::")
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
            Some(format!("a model may have been cut short after {MODEL_SECONDS} s; reduce its size"));
    }
    Ok(outcome)
}

fn fuzz(workspace: &Workspace) -> Result<Outcome> {
    let left_out = |why: &str| {
        println!("   skipped: {why}");
        Ok(Outcome { note: Some(format!("skipped: {why}")), ..Outcome::default() })
    };
    if !setup::has_nightly(workspace) {
        return left_out("no nightly toolchain is installed; run `rustup toolchain install nightly`");
    }
    if !setup::has_cargo_fuzz(workspace) {
        return left_out("cargo-fuzz is not installed; run `cargo install cargo-fuzz`");
    }
    let targets = fuzz_targets(workspace)?;
    for target in &targets {
        let mut fuzz = Command::line("cargo +nightly fuzz run").within("ripplecast").arg(target);
        let seeds = format!("fuzz/seeds/{target}");
        if workspace.at("ripplecast").join(&seeds).is_dir() {
            // New findings go to the first directory; the seeds stay unchanged.
            let corpus = format!("fuzz/corpus/{target}");
            let directory = workspace.at("ripplecast").join(&corpus);
            std::fs::create_dir_all(&directory)
                .map_err(|error| format!("failed to create {}: {error}", directory.display()))?;
            fuzz = fuzz.arg(corpus).arg(seeds);
        }
        fuzz.arg("--").arg(format!("-max_total_time={FUZZ_SECONDS}")).run(&workspace.root)?;
    }
    Ok(Outcome { note: Some(targets.join(", ")), ..Outcome::default() })
}

/// Returns the names of the fuzz targets, one per file.
fn fuzz_targets(workspace: &Workspace) -> Result<Vec<String>> {
    let directory = workspace.at("ripplecast/fuzz/fuzz_targets");
    let files = std::fs::read_dir(&directory)
        .map_err(|error| format!("failed to read {}: {error}", directory.display()))?;
    let paths = files
        .flatten()
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "rs"));
    let mut targets: Vec<String> =
        paths.filter_map(|path| path.file_stem().map(|name| name.to_string_lossy().into_owned())).collect();
    targets.sort();
    if targets.is_empty() {
        Err(format!("{} contains no fuzz target", directory.display()))
    } else {
        Ok(targets)
    }
}

pub(crate) fn build_server() -> Command {
    Command::line("cargo build -p ripplecast-server --locked")
}

/// Returns a command in `e2e/` with the paths of the server and the browser in its environment.
fn with_browser(workspace: &Workspace, command: Command) -> Result<Command> {
    let server = server(workspace, "debug");
    let browser = setup::browser().ok_or("no Chromium was found; install it, or set CHROMIUM to its path")?;
    let command = command
        .within("e2e")
        .env("RIPPLECAST_BIN", server.display().to_string())
        .env("CHROMIUM", browser.display().to_string());
    setup::with_node(workspace, command)
}

/// Returns the path of the server built in a profile.
pub(crate) fn server(workspace: &Workspace, profile: &str) -> PathBuf {
    target_directory(workspace).join(profile).join(format!("ripplecast{}", std::env::consts::EXE_SUFFIX))
}

/// Returns cargo's target directory.
pub(crate) fn target_directory(workspace: &Workspace) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.at("target"), |path| workspace.root.join(path))
}
