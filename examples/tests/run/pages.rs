//! Follows the documentation literally: what a page tells its reader to type and paste does what the page promises.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStdout, Command, Stdio},
};

use crate::{
    program::Program,
    project::{Project, workspace},
};

/// Added to show where the program listens; the quick start describes this under "When it does not work".
const LOG: &str = "tracing_subscriber::fmt().init();";
/// The matching line in `Cargo.toml`.
const LOG_DEPENDENCY: &str = "tracing-subscriber = \"0.3\"";

struct Page(String);

impl Page {
    fn read(path: &str) -> Self {
        Self(fs::read_to_string(workspace().join(path)).expect("a page of the documentation"))
    }

    /// Returns the code block in a language with an index from 0, including the lines hidden from readers.
    #[track_caller]
    fn block(&self, language: &str, number: usize) -> String {
        let fence = format!("```{language}");
        let blocks = self.0.split(&fence).skip(1);
        let block = blocks.map(|rest| rest.split("```").next().unwrap_or_default()).nth(number);
        // The language may be followed by more: `rust,no_run`.
        let (_, text) = block.and_then(|block| block.split_once('\n')).expect("the block exists");
        text.lines().map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line))).collect()
    }
}

/// Returns the text with one replacement. The original must occur exactly once.
#[track_caller]
fn with(text: &str, there: &str, here: &str) -> String {
    assert_eq!(text.matches(there).count(), 1, "{there:?} is not once in\n{text}");
    text.replace(there, here)
}

/// Applies a change written as a diff: context lines, added lines (`+`), removed lines (`-`), and `...` for a gap.
#[track_caller]
fn changed(text: &str, diff: &str) -> String {
    let mut text = text.to_owned();
    let mut place = String::new();
    for line in diff.lines() {
        match (line.get(..1), line.get(1..)) {
            (Some(" " | "-"), Some(line)) => place = format!("{line}\n"),
            (Some("+"), Some(line)) => {
                let come = format!("{place}{line}\n");
                text = with(&text, &place, &come);
                place = come;
            }
            _ => {} // a gap
        }
    }
    for line in diff.lines().filter_map(|line| line.strip_prefix('-')) {
        text = with(&text, &format!("{line}\n"), "");
    }
    text
}

/// The projects share a directory with its own workspace: otherwise cargo would treat them as members of the workspace
/// around `target`.
fn projects() -> Project {
    let projects = Project::at("pages");
    fs::write(projects.dir.join("Cargo.toml"), "[workspace]\nresolver = \"3\"\n")
        .expect("target is writable");
    projects
}

/// Creates a project with `cargo new`, these dependencies and logging.
fn new_project(projects: &Project, name: &str, dependencies: &str) {
    let _ = fs::remove_dir_all(projects.dir.join(name));
    projects.cargo(&["new", "--quiet", "--vcs", "none", name]);
    let manifest = projects.dir.join(name).join("Cargo.toml");
    let made = fs::read_to_string(&manifest).expect("cargo has created it");
    assert!(made.trim_end().ends_with("[dependencies]"), "{made}");
    let here = format!("{:?}", workspace().join("ripplecast"));
    let dependencies = with(dependencies, "\"../ripplecast/ripplecast\"", &here);
    fs::write(&manifest, format!("{made}{dependencies}{LOG_DEPENDENCY}\n")).expect("target is writable");
    projects.lock();
}

/// Builds and starts a project's program, listening on a free port instead of 8080.
fn run(projects: &Project, name: &str, program: &str) -> Program {
    let program = program.replace("127.0.0.1:8080", "127.0.0.1:0");
    fs::write(projects.dir.join(name).join("src/main.rs"), program).expect("target is writable");
    projects.cargo(&["build", "--quiet", "--package", name]);
    Program::run(Command::new(projects.target.join("debug").join(name)), 1)
}

#[test]
fn pages_work_as_written() {
    let projects = projects();
    quick_start(&projects);
    event_streams(&projects);
}

/// docs/quick-start.md: the counter in two tabs, and then the button that takes a like back.
fn quick_start(projects: &Project) {
    let page = Page::read("docs/quick-start.md");
    for advice in [LOG, LOG_DEPENDENCY] {
        assert!(page.0.contains(&format!("`{advice}`")), "the page does not name {advice}");
    }
    assert!(page.0.contains("\ncargo new my-counter\n"));
    new_project(projects, "my-counter", &page.block("toml", 0));
    let main = with(&page.block("rust", 0), "-> Result<()> {\n", &format!("-> Result<()> {{\n{LOG}\n"));
    let server = run(projects, "my-counter", &main);
    assert!(server.get("/").contains(r#"data-to="/like">Like</button>"#));
    let mut tabs = [server.socket("/ws"), server.socket("/ws")];
    for tab in &mut tabs {
        assert_eq!(tab.next(), r#"{"value":0}"#);
    }
    assert_eq!(server.post("/like", &[], "").status(), 200);
    for tab in &mut tabs {
        assert_eq!(tab.next(), r#"{"value":1}"#);
    }
    drop((server, tabs));

    let server = run(projects, "my-counter", &changed(&main, &page.block("diff", 0)));
    assert!(server.get("/").contains("Take it back</button>"));
    let mut tab = server.socket("/ws");
    for (path, value) in [("/like", 1), ("/like", 2), ("/unlike", 1)] {
        assert_eq!(server.post(path, &[], "").status(), 200);
        tab.until(&[&format!("{{\"value\":{value}}}")]);
    }
}

/// docs/sse.md: one `curl` receives what another publishes.
fn event_streams(projects: &Project) {
    let page = Page::read("docs/sse.md");
    new_project(projects, "events", &Page::read("docs/quick-start.md").block("toml", 0));
    let main =
        format!("#[tokio::main]\nasync fn main() -> ripplecast::Result<()> {{ {LOG} serve().await }}\n");
    let server = run(projects, "events", &(page.block("rust", 0) + &main));
    let lines = page.block("sh", 0).replace("127.0.0.1:8080", &server.addrs[0]);
    let [listen, publish] = &lines.lines().collect::<Vec<_>>()[..] else {
        panic!("the page shows two lines")
    };

    let listen = listen.strip_suffix(" &").expect("it runs in the background");
    // With the response head, which shows when it is listening.
    let mut listener = Shell::start(&with(listen, "curl ", "exec curl -s -i "));
    listener.until("text/event-stream");
    let mut publisher = Shell::start(&with(publish, "curl ", "exec curl -s --fail "));
    assert!(publisher.process.wait().expect("it is a child process").success(), "{publish}");
    listener.until("data: hello");
}

/// A running command line, killed on drop.
struct Shell {
    process: Child,
    /// Its standard output.
    out: BufReader<ChildStdout>,
}

impl Shell {
    fn start(line: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", line]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
        let out = BufReader::new(process.stdout.take().expect("stdout is piped"));
        Self { process, out }
    }

    /// Reads its output up to a line that contains `text`.
    #[track_caller]
    fn until(&mut self, text: &str) {
        let found = self.out.by_ref().lines().any(|line| line.expect("its output").contains(text));
        assert!(found, "it exited without printing {text:?}; is curl installed? (apt-get install curl)");
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
