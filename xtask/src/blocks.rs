//! Checks every code block in the workspace's Markdown files as far as its language allows: run by a test, compiled, or
//! at least parsed by the program it is for. A block in an unknown language fails.

mod commands;
mod fences;
mod html;
mod kubernetes;

use std::{fs, path::PathBuf};

use crate::{
    Result, Workspace,
    command::Command,
    files::{self, read},
    steps::server,
};

use fences::{Block, blocks};
pub(crate) use kubernetes::Validator;

/// Blocks that the workspace's tests extract from the documentation and run.
const RUN_BY_TESTS: [(&str, &[&str]); 4] = [
    ("diff", &["docs/quick-start.md"]),            // examples/tests/run/pages.rs
    ("nginx", &["docs/deploy.md", "docs/tls.md"]), // ripplecast-server/tests/proxies
    ("haproxy", &["docs/deploy.md"]),
    ("caddy", &["docs/deploy.md"]),
];

/// Code of other projects, which is not checked: the migration guides show it next to its replacement.
const NOT_OURS: [(&str, &str); 2] = [
    ("axum", "docs/from-axum-ws.md"), // needs axum's own WebSockets, which no crate here enables
    ("elixir", "docs/from-phoenix-channels.md"), // needs Elixir and Phoenix
];

/// The front page of the crate's documentation, which the crate itself includes.
const FRONT_PAGE: &str = "ripplecast/src/docs/crate.md";

/// Variables for development of Ripplecast itself. settings.md documents all others.
const OF_TESTS: [&str; 2] = ["RIPPLECAST_TEST_", "RIPPLECAST_BIN"];

/// Everything needed to check blocks.
struct Tools<'a> {
    workspace: &'a Workspace,
    /// The built binary.
    server: PathBuf,
    /// A directory for files that other programs read.
    directory: PathBuf,
    /// The text of docs/settings.md.
    settings: String,
    /// The list of pages whose Rust code is compiled.
    compiled: String,
}

/// Checks all blocks, using the built server. Returns a short summary, or lists all failures.
pub(crate) fn check(workspace: &Workspace) -> Result<String> {
    let directory = workspace.at("target/blocks");
    fs::create_dir_all(&directory)
        .map_err(|error| format!("failed to create {}: {error}", directory.display()))?;
    let tools = Tools {
        workspace,
        server: server(workspace, "debug"),
        directory,
        settings: read(&workspace.at("docs/settings.md"))?,
        compiled: read(&workspace.at("docs-tests/src/lib.rs"))?,
    };
    let files = files::find(&workspace.root, files::is_markdown)?;
    let (mut count, mut faults) = (0, Vec::new());
    for file in &files {
        let name = file.strip_prefix(&workspace.root).unwrap_or(file).display().to_string();
        let text = read(file)?;
        faults.extend(
            unknown_variables(&text, &tools.settings)
                .map(|(line, variable)| format!("   {name}:{line}: docs/settings.md has no {variable}")),
        );
        for block in blocks(&text) {
            count += 1;
            if let Err(why) = tools.check(&name, &block) {
                faults.push(format!("   {name}:{}: {}: {why}", block.line, block.language));
            }
        }
    }
    if faults.is_empty() {
        Ok(format!("{count} blocks in {} files", files.len()))
    } else {
        Err(format!("invalid code blocks:\n{}", faults.join("\n")))
    }
}

impl Tools<'_> {
    /// Checks a block of a file.
    fn check(&self, file: &str, block: &Block) -> Result<()> {
        let is_listed = |list: &[(&str, &[&str])]| {
            list.iter().any(|(language, files)| *language == block.language && files.contains(&file))
        };
        match block.language.as_str() {
            "rust" => self.is_compiled(file),
            "sh" => self.shell(&block.text),
            "js" => self.javascript(&block.text),
            "html" => html::check(&block.text),
            "toml" => basic_toml::from_str::<serde_json::Value>(&block.text)
                .map(drop)
                .map_err(|error| error.to_string()),
            "json" => serde_json::from_str::<serde_json::Value>(&block.text)
                .map(drop)
                .map_err(|error| error.to_string()),
            "systemd" => self.unit(&block.text),
            "yaml" => Validator::check(self.workspace, &self.write("manifest.yaml", &block.text)?),
            // Diagrams, and output of programs.
            "text" => Ok(()),
            "" => Err("missing language; use `text` for plain text".into()),
            _ if is_listed(&RUN_BY_TESTS) => Ok(()),
            language if NOT_OURS.contains(&(language, file)) => Ok(()),
            _ => Err("no check for this language in this file; see xtask/src/blocks.rs".into()),
        }
    }

    /// Checks that the file's Rust code is part of the documentation tests.
    fn is_compiled(&self, file: &str) -> Result<()> {
        if self.compiled.contains(&format!("include_str!(\"../../{file}\")")) || file == FRONT_PAGE {
            Ok(())
        } else {
            Err("the Rust code is not compiled; add the file to docs-tests/src/lib.rs".into())
        }
    }

    /// Checks that a shell can parse the block, and that the programs it calls accept their arguments.
    fn shell(&self, text: &str) -> Result<()> {
        self.accepts(&Command::line("bash -n -c").arg(text))?;
        commands::check(self, text)
    }

    /// Checks that Node.js can parse the block.
    fn javascript(&self, text: &str) -> Result<()> {
        let file = self.write("script.mjs", text)?;
        self.accepts(&Command::line("node --check").arg(file.display().to_string()))
    }

    /// Checks that systemd accepts the unit without warnings. The program that it starts must exist.
    fn unit(&self, text: &str) -> Result<()> {
        let installed = "ExecStart=/usr/local/bin/ripplecast";
        if text.matches(installed).count() != 1 {
            return Err(format!("expected exactly one line `{installed}`"));
        }
        let text = text.replace(installed, &format!("ExecStart={}", self.server.display()));
        let file = self.write("ripplecast.service", &text)?;
        let verify = Command::line("systemd-analyze verify --man=no").arg(file.display().to_string());
        let said = verify.listen(&self.workspace.root)?;
        // It reports what it ignores, and still succeeds. Messages about other units that pull this one in do not
        // count.
        let against: Vec<&str> =
            said.text.lines().filter(|line| line.contains("ripplecast.service")).collect();
        if said.status.success() && against.is_empty() { Ok(()) } else { Err(said.text) }
    }

    /// Runs a command that must succeed. An error contains its output.
    fn accepts(&self, command: &Command) -> Result<()> {
        let said = command.listen(&self.workspace.root)?;
        if said.status.success() { Ok(()) } else { Err(format!("{command}\n{}", said.text.trim())) }
    }

    /// Writes a file for another program to read.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.directory.join(name);
        fs::write(&file, text).map_err(|error| format!("failed to write {}: {error}", file.display()))?;
        Ok(file)
    }
}

/// Returns Ripplecast's variables in a text that are missing from its settings, each with its line.
fn unknown_variables<'a>(text: &'a str, settings: &str) -> impl Iterator<Item = (usize, &'a str)> {
    let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let words = text
        .lines()
        .enumerate()
        .flat_map(move |(line, text)| text.split(move |c| !is_part(c)).map(move |word| (line + 1, word)));
    words.filter(move |(_, word)| {
        word.starts_with("RIPPLECAST_")
            && !OF_TESTS.iter().any(|known| word.starts_with(known))
            && !settings.contains(&format!("| `{word}` |"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_must_be_documented_settings() {
        let settings = "| `RIPPLECAST_PORT` | `--port` |";
        let text = "RIPPLECAST_PORT=1\nRIPPLECAST_PROT=2 RIPPLECAST_TEST_REDIS=x";
        let unknown: Vec<_> = unknown_variables(text, settings).collect();
        assert_eq!(unknown, [(2, "RIPPLECAST_PROT")]);
    }

    /// Returns what is wrong with a block in the file `file`.
    fn wrong(file: &str, language: &str, text: &str) -> Option<String> {
        let workspace = Workspace::find();
        let directory = std::env::temp_dir().join(format!("ripplecast-xtask-blocks-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let compiled = "include_str!(\"../../docs/a.md\")".into();
        let tools = Tools {
            workspace: &workspace,
            server: "true".into(),
            directory,
            settings: String::new(),
            compiled,
        };
        let block = Block { line: 1, language: language.into(), text: text.into() };
        tools.check(file, &block).err()
    }

    #[test]
    fn each_language_is_checked_and_an_unknown_one_fails() {
        for (file, language, text) in [
            ("docs/a.md", "rust", ""),
            ("docs/a.md", "toml", "[a]\nb = 1"),
            ("docs/a.md", "json", "{\"a\": [1]}"),
            ("docs/a.md", "html", "<p>a<br>b</p>"),
            ("docs/a.md", "sh", "ripplecast --port 1   # a remark\n"),
            ("docs/tls.md", "nginx", ""),
            ("docs/from-axum-ws.md", "axum", ""),
        ] {
            assert_eq!(wrong(file, language, text), None, "{language}");
        }
        for (file, language, text) in [
            ("docs/b.md", "rust", ""),
            ("docs/a.md", "toml", "a = "),
            ("docs/a.md", "json", "{"),
            ("docs/a.md", "html", "<p>a"),
            ("docs/a.md", "sh", "if"),
            ("docs/a.md", "nginx", ""),
            ("docs/a.md", "axum", ""),
            ("docs/a.md", "", ""),
            ("docs/a.md", "cobol", ""),
        ] {
            assert!(wrong(file, language, text).is_some(), "{language}: {text}");
        }
    }
}
