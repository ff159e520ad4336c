//! A command line that is printed, run, and named in the error if it fails.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, ExitStatus, Stdio};

use crate::Result;
use crate::totals::Totals;

/// A command with its environment and directory. `Display` prints it as a person would type it.
#[derive(Clone)]
pub(crate) struct Command {
    program: String,
    arguments: Vec<String>,
    /// Variables set for this command only.
    environment: Vec<(String, String)>,
    /// The directory in the workspace to run in, if not the root.
    directory: Option<String>,
}

/// The captured result of a command.
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    /// Standard output, followed by standard error.
    pub(crate) text: String,
    /// Standard output alone.
    pub(crate) output: String,
}

impl Command {
    /// Creates a command from a line without quotes, split at white space.
    pub(crate) fn line(line: &str) -> Self {
        let mut words = line.split_whitespace().map(String::from);
        Self {
            program: words.next().unwrap_or_default(),
            arguments: words.collect(),
            environment: Vec::new(),
            directory: None,
        }
    }

    /// Creates a command from a program path, which may contain white space.
    pub(crate) fn program(program: impl Into<String>) -> Self {
        Self { program: program.into(), ..Self::line("") }
    }

    /// Adds one argument, unchanged.
    pub(crate) fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Sets a variable unless it is already set in our environment.
    pub(crate) fn default_env(self, name: &str, value: &str) -> Self {
        if std::env::var_os(name).is_some() { self } else { self.env(name, value) }
    }

    /// Runs the command in this directory of the workspace.
    pub(crate) fn within(mut self, directory: &str) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Runs the command with inherited output.
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        self.announce();
        let status = self.process(root).status().map_err(|error| self.not_started(&error))?;
        self.check(status)
    }

    /// Runs the command, forwards its output, and counts the tests that it reports.
    pub(crate) fn run_tests(&self, root: &Path) -> Result<Totals> {
        self.announce();
        let mut child =
            self.process(root).stdout(Stdio::piped()).spawn().map_err(|error| self.not_started(&error))?;
        let totals =
            child.stdout.take().map_or_else(Totals::default, |output| tee(output, std::io::stdout()));
        let status = child.wait().map_err(|error| self.not_started(&error))?;
        self.check(status)?;
        Ok(totals)
    }

    /// Runs the command and captures its output.
    pub(crate) fn listen(&self, root: &Path) -> Result<Said> {
        let output = self.process(root).output().map_err(|error| self.not_started(&error))?;
        let status = output.status;
        let errors = String::from_utf8_lossy(&output.stderr);
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(Said { status, text: format!("{output}{errors}"), output })
    }

    /// Starts the command in the background.
    pub(crate) fn start(&self, root: &Path, output: Stdio, errors: Stdio) -> Result<Child> {
        self.process(root).stdout(output).stderr(errors).spawn().map_err(|error| self.not_started(&error))
    }

    /// Returns whether the command runs successfully. Its output is discarded.
    pub(crate) fn succeeds(&self, root: &Path) -> bool {
        self.process(root)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Prints the command line.
    pub(crate) fn announce(&self) {
        println!("   $ {self}");
        let _ = std::io::stdout().flush();
    }

    fn process(&self, root: &Path) -> Process {
        let mut process = Process::new(&self.program);
        let directory = self.directory.as_ref().map_or_else(|| root.to_path_buf(), |inner| root.join(inner));
        process.args(&self.arguments).current_dir(directory).stdin(Stdio::null());
        // Cargo describes *this* package in variables that would mislead the cargo we start.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                process.env_remove(name.as_ref());
            }
        }
        process.envs(self.environment.iter().map(|(name, value)| (name, value)));
        process
    }

    fn check(&self, status: ExitStatus) -> Result<()> {
        if status.success() { Ok(()) } else { Err(format!("command failed ({status}):\n   $ {self}")) }
    }

    fn not_started(&self, error: &std::io::Error) -> String {
        format!("failed to start `{}` ({error}):\n   $ {self}", self.program)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(directory) = &self.directory {
            write!(f, "cd {} && ", quoted(directory))?;
        }
        for (name, value) in &self.environment {
            write!(f, "{name}={} ", quoted(value))?;
        }
        f.write_str(&quoted(&self.program))?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {}", quoted(argument)))
    }
}

/// Forwards a test runner's output line by line, and counts the tests in it.
fn tee(from: impl Read, mut to: impl Write) -> Totals {
    let mut from = BufReader::new(from);
    let mut totals = Totals::default();
    let mut line = Vec::new();
    // Bytes, not strings: a test may print invalid UTF-8.
    while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        // Our own output may be closed (`cargo xtask test | head`). Continue anyway.
        let _ = to.write_all(&line).and_then(|()| to.flush());
        totals.read(&String::from_utf8_lossy(&line));
        line.clear();
    }
    totals
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Finds a program in the directories of `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_printed_as_typed() {
        let command = Command::line("npm test").within("e2e").env("RUSTFLAGS", "--cfg a").arg("it's");
        assert_eq!(command.to_string(), r"cd e2e && RUSTFLAGS='--cfg a' npm test 'it'\''s'");
    }

    #[test]
    fn a_failure_names_the_command() {
        let error = Command::line("false").run(Path::new("/")).unwrap_err();
        assert!(error.contains("$ false"), "{error}");
        let error = Command::line("no-such-program-here --x").run(Path::new("/")).unwrap_err();
        assert!(error.contains("failed to start `no-such-program-here`"), "{error}");
    }

    #[test]
    fn output_is_forwarded_and_tests_are_counted() {
        let said: &[u8] = b"\xff\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured\nno line end";
        let mut shown = Vec::new();
        let totals = tee(said, &mut shown);
        assert_eq!((totals.passed, totals.ignored), (2, 1));
        assert_eq!(shown, said);
    }
}
