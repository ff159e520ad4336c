//! The command lines of a shell's block, held against the programs that they call.

use clap::{Parser as _, error::ErrorKind};

use super::Tools;
use crate::{Arguments, Result, command::Command};

/// What stands between two commands of a line.
const BETWEEN: [&str; 5] = ["&&", "||", "|", ";", "&"];

/// Programs whose flags are not looked at: common tools, which a test runs as they stand in the page where they do more than
/// prepare something; and the reader's own.
const OTHERS: [&str; 9] =
    ["cd", "cp", "curl", "my-app", "npm", "openssl", "redis-cli", "redis-server", "sed"];

/// Checks the commands of a block.
pub(super) fn check(tools: &Tools<'_>, text: &str) -> Result<()> {
    commands(text)?
        .iter()
        .try_for_each(|words| one(tools, words).map_err(|why| format!("`{}`: {why}", words.join(" "))))
}

/// Checks one command.
fn one(tools: &Tools<'_>, words: &[String]) -> Result<()> {
    let [program, arguments @ ..] = words else { return Ok(()) };
    match program.as_str() {
        "ripplecast" => ripplecast(tools, arguments),
        "cargo" => cargo(tools, arguments),
        "bench/compare" => compare(tools, arguments),
        other if OTHERS.contains(&other) => Ok(()),
        _ => Err("no check knows this program; see xtask/src/blocks/commands.rs".into()),
    }
}

/// The server reads its arguments to the last, which asks for help: so it knows all before that.
fn ripplecast(tools: &Tools<'_>, arguments: &[String]) -> Result<()> {
    let server = Command::program(tools.server.display().to_string());
    // A number stands for what only a shell knows: the process that it has started.
    let arguments = arguments.iter().map(|word| if word == "$!" { "1" } else { word });
    let command = arguments.fold(server, Command::arg);
    tools.accepts(&command.arg("--help"))
}

/// Cargo's own flags, those of our chores, and those of the server that it runs.
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
    // What `cargo run` runs at the root.
    if own == ["run"] { ripplecast(tools, passed) } else { Ok(()) }
}

/// Whether the help of the comparison names each flag. It reads flags that it doesn't know after it has shown its help.
fn compare(tools: &Tools<'_>, arguments: &[String]) -> Result<()> {
    let said = Command::program(tools.workspace.at("bench/compare").display().to_string())
        .arg("--help")
        .listen(&tools.workspace.root)?;
    if !said.status.success() {
        return Err(said.text);
    }
    let known: Vec<&str> = said.text.split([' ', ',', '[', ']', '\n']).collect();
    let unknown = arguments.iter().find(|word| word.starts_with('-') && !known.contains(&word.as_str()));
    unknown.map_or(Ok(()), |flag| Err(format!("it has no {flag}")))
}

/// The commands of a text, each in its words, without what is set for it and without remarks.
fn commands(text: &str) -> Result<Vec<Vec<String>>> {
    let text = text.replace("\\\n", " ");
    let mut found = Vec::new();
    for line in text.lines() {
        let words = shlex::split(line).ok_or_else(|| format!("no shell can read `{line}`"))?;
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

/// Whether a word is `NAME=value`.
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
    fn a_line_is_its_commands() {
        let text = "A=1 B=2 run 'a b' \\\n  --c=d   # a remark\n# none\ncd x && ls & echo \"#no\"\n";
        let expected: [&[&str]; 4] = [&["run", "a b", "--c=d"], &["cd", "x"], &["ls"], &["echo", "#no"]];
        assert_eq!(commands(text).unwrap(), expected);
        assert!(commands("say 'it").is_err());
    }

    #[test]
    fn unknown_flags_and_programs_are_found() {
        let workspace = Workspace::find();
        // A server that takes everything: what it knows is looked at when the real one is there.
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
        assert!(check(&tools, "cargo run -- --port 8081").is_err(), "what the server refuses");
    }
}
