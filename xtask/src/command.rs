//! One command line: shown, run, and named in the error when it fails.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, ExitStatus, Stdio};

use crate::Result;
use crate::totals::Totals;

/// A command with its environment and directory. Its `Display` is what a person would type to run it alone.
#[derive(Clone)]
pub(crate) struct Command {
    /// The program's name or path.
    program: String,
    /// What follows it.
    arguments: Vec<String>,
    /// Variables set for this command alone.
    environment: Vec<(String, String)>,
    /// The directory inside the workspace where it runs, if that isn't the root.
    directory: Option<String>,
}

/// What a command said, for those whose output is looked into rather than shown.
pub(crate) struct Said {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Standard output, then standard error.
    pub(crate) text: String,
}

impl Command {
    /// A command line without quotes: the words are split at white space.
    pub(crate) fn line(line: &str) -> Self {
        let mut words = line.split_whitespace().map(String::from);
        Self {
            program: words.next().unwrap_or_default(),
            arguments: words.collect(),
            environment: Vec::new(),
            directory: None,
        }
    }

    /// A program alone, whose path may hold white space.
    pub(crate) fn program(program: impl Into<String>) -> Self {
        Self { program: program.into(), ..Self::line("") }
    }

    /// Adds one argument, as it is.
    pub(crate) fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Sets a variable unless the person who runs us has set it already.
    pub(crate) fn default_env(self, name: &str, value: &str) -> Self {
        if std::env::var_os(name).is_some() { self } else { self.env(name, value) }
    }

    /// Runs it in this directory of the workspace.
    pub(crate) fn within(mut self, directory: &str) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Runs it with its output going straight to ours.
    pub(crate) fn run(&self, root: &Path) -> Result<()> {
        self.announce();
        let status = self.process(root).status().map_err(|error| self.not_started(&error))?;
        self.check(status)
    }

    /// Runs it with its output going to ours, and counts the tests that it reports.
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

    /// Runs it without showing what it says.
    pub(crate) fn listen(&self, root: &Path) -> Result<Said> {
        let output = self.process(root).output().map_err(|error| self.not_started(&error))?;
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ok(Said { status: output.status, text })
    }

    /// Starts it and leaves it running.
    pub(crate) fn start(&self, root: &Path, output: Stdio, errors: Stdio) -> Result<Child> {
        self.process(root).stdout(output).stderr(errors).spawn().map_err(|error| self.not_started(&error))
    }

    /// Whether it runs and succeeds; it says nothing to anybody.
    pub(crate) fn succeeds(&self, root: &Path) -> bool {
        self.process(root)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Prints the line that a person would type.
    pub(crate) fn announce(&self) {
        println!("   $ {self}");
        let _ = std::io::stdout().flush();
    }

    fn process(&self, root: &Path) -> Process {
        let mut process = Process::new(&self.program);
        let directory = self.directory.as_ref().map_or_else(|| root.to_path_buf(), |inner| root.join(inner));
        process.args(&self.arguments).current_dir(directory).stdin(Stdio::null());
        // Cargo describes *this* package to us in variables that mean something else to the cargo we start.
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
        if status.success() { Ok(()) } else { Err(format!("this command failed ({status}):\n   $ {self}")) }
    }

    fn not_started(&self, error: &std::io::Error) -> String {
        format!("`{}` could not be started ({error}):\n   $ {self}", self.program)
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

/// Hands on what a test runner says, line by line as it comes, and counts the tests in it.
fn tee(from: impl Read, mut to: impl Write) -> Totals {
    let mut from = BufReader::new(from);
    let mut totals = Totals::default();
    let mut line = Vec::new();
    // Bytes rather than strings: a test may print what is not UTF-8.
    while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        // Our own output may be gone (`cargo xtask test | head`); the checks go on all the same.
        let _ = to.write_all(&line).and_then(|()| to.flush());
        totals.read(&String::from_utf8_lossy(&line));
        line.clear();
    }
    totals
}

/// A word as a shell wants it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Where a program lies among the directories of `PATH`.
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
    fn a_command_prints_as_a_person_would_type_it() {
        let command = Command::line("npm test").within("e2e").env("RUSTFLAGS", "--cfg a").arg("it's");
        assert_eq!(command.to_string(), r"cd e2e && RUSTFLAGS='--cfg a' npm test 'it'\''s'");
    }

    #[test]
    fn a_failure_names_the_command() {
        let error = Command::line("false").run(Path::new("/")).unwrap_err();
        assert!(error.contains("$ false"), "{error}");
        let error = Command::line("no-such-program-here --x").run(Path::new("/")).unwrap_err();
        assert!(error.contains("`no-such-program-here` could not be started"), "{error}");
    }

    #[test]
    fn tests_are_counted_while_they_are_shown() {
        let said: &[u8] = b"\xff\ntest result: ok. 2 passed; 0 failed; 1 ignored; 0 measured\nno line end";
        let mut shown = Vec::new();
        let totals = tee(said, &mut shown);
        assert_eq!((totals.passed, totals.ignored), (2, 1));
        assert_eq!(shown, said);
    }
}
