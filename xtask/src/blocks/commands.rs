//! Checks the command lines in shell blocks against the programs that they call.

use clap::{Parser as _, error::ErrorKind};

use super::Tools;
use crate::{Arguments, Result, command::Command};

/// Separators between the commands of a line.
const BETWEEN: [&str; 5] = ["&&", "||", "|", ";", "&"];

/// Programs whose flags are not checked: common tools, which a test runs as documented where they do more than prepare
/// something, and the reader's own programs.
const OTHERS: [&str; 9] =
    ["cd", "cp", "curl", "my-app", "npm", "openssl", "redis-cli", "redis-server", "sed"];

pub(super) fn check(tools: &Tools<'_>, text: &str) -> Result<()> {
    commands(text)?
        .iter()
        .try_for_each(|words| one(tools, words).map_err(|why| format!("`{}`: {why}", words.join(" "))))
}

fn one(tools: &Tools<'_>, words: &[String]) -> Result<()> {
    let [program, arguments @ ..] = words else { return Ok(()) };
    match program.as_str() {
        "ripplecast" => ripplecast(tools, arguments),
        "cargo" => cargo(tools, arguments),
        "bench/compare" => compare(tools, arguments),
        other if OTHERS.contains(&other) => Ok(()),
        _ => Err("no check for this program; see xtask/src/blocks/commands.rs".into()),
    }
}

/// The server parses its arguments up to the last one, which requests the help. So it accepts all arguments before
/// that.
fn ripplecast(tools: &Tools<'_>, arguments: &[String]) -> Result<()> {
    let server = Command::program(tools.server.display().to_string());
    // A number stands in for the id of a background process, which only a shell knows.
    let arguments = arguments.iter().map(|word| if word == "$!" { "1" } else { word });
    let command = arguments.fold(server, Command::arg);
    tools.accepts(&command.arg("--help"))
}

/// Checks Cargo's own flags, those of our tasks, and those of the server that it runs.
fn cargo(tools: &Tools<'_>, arguments: &[String]) -> Result<()> {
    if let [xtask, chore @ ..] = arguments
        && xtask == "xtask"
    {
        let words = std::iter::once("cargo xtask").chain(chore.iter().map(String::as_str));
        return match Arguments::try_parse_from(words) {
            Err(error) if error.kind() != ErrorKind::DisplayHelp => Err(error.to_string()),
            _ => Ok(()),
        };
    }
    let (own, passed) = arguments
        .iter()
        .position(|word| word == "--")
        .map_or((arguments, &[][..]), |at| (&arguments[..at], &arguments[at + 1..]));
    let command = own.iter().cloned().fold(Command::line("cargo"), Command::arg);
    tools.accepts(&command.arg("-h"))?;
    // `cargo run` at the root runs the server.
    if own == ["run"] { ripplecast(tools, passed) } else { Ok(()) }
}

/// Checks that the help of bench/compare lists each flag. Parsing the flags would not find unknown ones, because help
/// is printed first.
fn compare(tools: &Tools<'_>, arguments: &[String]) -> Result<()> {
    let said = Command::program(tools.workspace.at("bench/compare").display().to_string())
        .arg("--help")
        .listen(&tools.workspace.root)?;
    if !said.status.success() {
        return Err(said.text);
    }
    let known: Vec<&str> = said.text.split([' ', ',', '[', ']', '\n']).collect();
    let unknown = arguments.iter().find(|word| word.starts_with('-') && !known.contains(&word.as_str()));
    unknown.map_or(Ok(()), |flag| Err(format!("unknown flag {flag}")))
}

/// Returns the commands in a text as words, without variable assignments and comments.
fn commands(text: &str) -> Result<Vec<Vec<String>>> {
    let text = text.replace("\\\n", " ");
    let mut found = Vec::new();
    for line in text.lines() {
        let words = shlex::split(line).ok_or_else(|| format!("not a valid shell command: `{line}`"))?;
        for command in words.split(|word| BETWEEN.contains(&word.as_str())) {
            let command: Vec<String> =
                command.iter().skip_while(|word| sets_variable(word)).cloned().collect();
            if !command.is_empty() {
                found.push(command);
            }
        }
    }
    Ok(found)
}

/// Returns whether a word is `NAME=value`.
fn sets_variable(word: &str) -> bool {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    word.split_once('=').is_some_and(|(name, _)| is_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Workspace;

    #[test]
    fn a_line_is_split_into_commands() {
        let text = "A=1 B=2 run 'a b' \\\n  --c=d   # a remark\n# none\ncd x && ls & echo \"#no\"\n";
        let expected: [&[&str]; 4] = [&["run", "a b", "--c=d"], &["cd", "x"], &["ls"], &["echo", "#no"]];
        assert_eq!(commands(text).unwrap(), expected);
        assert!(commands("say 'it").is_err());
    }

    #[test]
    fn unknown_flags_and_programs_are_found() {
        let workspace = Workspace::find();
        // A server that accepts all arguments: the real server's arguments are checked when it is built.
        let tools = Tools {
            workspace: &workspace,
            server: "true".into(),
            directory: "/".into(),
            settings: String::new(),
            compiled: String::new(),
        };
        for good in [
            "cargo run",
            "cargo xtask test --only links",
            "cargo xtask --help",
            "cargo build --release",
            "cargo run -- --port 8081",
            "bench/compare --rounds 3",
            "curl -N http://127.0.0.1/ &",
        ] {
            check(&tools, good).unwrap_or_else(|why| panic!("{good}: {why}"));
        }
        for bad in [
            "cargo xtask tests",
            "cargo xtask test --onyl links",
            "cargo build --realese",
            "bench/compare --round 3",
            "wget http://127.0.0.1/",
        ] {
            assert!(check(&tools, bad).is_err(), "{bad}");
        }
        let tools = Tools { server: "false".into(), ..tools };
        assert!(check(&tools, "cargo run -- --port 8081").is_err(), "arguments that the server rejects");
    }
}
