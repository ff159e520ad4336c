//! The starter, copied as its README says: it builds, its own tests pass, its pages hear of every change of a file, and a
//! restart loses nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::program::{Program, agent};

/// Time for each call of cargo. The first has to build everything.
const BUILD: Duration = Duration::from_secs(20 * 60);

/// The copy. It stays where it is between two runs, so that little has to be built again.
struct Copy {
    /// Where it is.
    dir: PathBuf,
    /// Where cargo puts what it builds: what the workspace's tests have built is used again.
    target: PathBuf,
}

impl Copy {
    fn make() -> Self {
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let copy = Self { dir: tmp.join("starter"), target: tmp.parent().expect("target").to_owned() };
        let starter = workspace().join("examples/starter");
        fs::create_dir_all(&copy.dir).expect("target is writable");
        for part in ["rustfmt.toml", "src", "templates", "assets"] {
            copy_all(&starter.join(part), &copy.dir.join(part));
        }
        copy.point_at(&starter.join("Cargo.toml"));
        let _ = fs::remove_dir_all(copy.dir.join("data"));
        copy.lock();
        copy
    }

    /// Writes a manifest that says where Ripplecast is, as the README tells.
    fn point_at(&self, manifest: &Path) {
        let (told, here) = ("\"../../ripplecast\"", workspace().join("ripplecast"));
        let manifest = fs::read_to_string(manifest).expect("the starter's manifest");
        assert_eq!(manifest.matches(told).count(), 1, "{manifest}");
        let manifest = manifest.replace(told, &format!("{here:?}"));
        fs::write(self.dir.join("Cargo.toml"), manifest).expect("target is writable");
    }

    /// The workspace's own versions, as far as it has any.
    fn lock(&self) {
        let (known, lock) = (self.dir.join("workspace.lock"), self.dir.join("Cargo.lock"));
        let versions = fs::read(workspace().join("Cargo.lock")).expect("the workspace's Cargo.lock");
        if !lock.exists() || fs::read(&known).ok().as_ref() != Some(&versions) {
            fs::write(&lock, &versions).expect("target is writable");
            fs::write(&known, &versions).expect("target is writable");
        }
    }

    /// Runs cargo in the copy. It must succeed, and in time.
    fn cargo(&self, args: &[&str]) {
        let mut command = Command::new(env!("CARGO"));
        command.args(args).current_dir(&self.dir).env("CARGO_TARGET_DIR", &self.target);
        // What cargo has told this test of its own package; ring's build script would run again for it, and all after it.
        let of_test = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        for (name, _) in std::env::vars().filter(|(name, _)| of_test(name)) {
            command.env_remove(name);
        }
        let mut child = command.spawn().expect("cargo, which runs this test, can be run");
        let deadline = Instant::now() + BUILD;
        let status = loop {
            if let Some(status) = child.try_wait().expect("it is our child") {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("{command:?} takes more than {BUILD:?}");
            }
            thread::sleep(Duration::from_millis(50));
        };
        assert!(status.success(), "{command:?} fails in {}: {status}", self.dir.display());
    }

    /// Starts the program; port 0 picks a free one.
    fn start(&self, port: &str) -> Program {
        let mut command = Command::new(self.target.join("debug/starter"));
        command.current_dir(&self.dir).env("LISTEN", format!("127.0.0.1:{port}")).env_remove("DATA");
        Program::run(command, 1)
    }

    /// Changes a file, and returns what was in it.
    fn append(&self, path: &str, text: &str) -> String {
        let path = self.dir.join(path);
        let former = fs::read_to_string(&path).expect("a file of the copy");
        fs::write(&path, format!("{former}{text}")).expect("target is writable");
        former
    }
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("examples/ is in the workspace")
}

/// Makes `to` what `from` is. A file that is the same already is left alone, so that cargo does not build it again.
fn copy_all(from: &Path, to: &Path) {
    if !from.is_dir() {
        let text = fs::read(from).expect("a file of the starter");
        if fs::read(to).ok().as_ref() != Some(&text) {
            fs::write(to, text).expect("target is writable");
        }
        return;
    }
    fs::create_dir_all(to).expect("target is writable");
    let names = |dir: &Path| {
        let entries =
            fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").file_name());
        entries.collect::<Vec<_>>()
    };
    let wanted = names(from);
    for name in names(to).iter().filter(|name| !wanted.contains(name)) {
        fs::remove_file(to.join(name)).expect("target is writable");
    }
    for name in wanted {
        copy_all(&from.join(&name), &to.join(&name));
    }
}

/// What the pages compare: the version of all, and that of the styles.
fn version(event: &str) -> (String, String) {
    let mut version: Value = serde_json::from_str(event).expect("JSON");
    let mut part = |name: &str| version[name].take().as_str().expect("a string").to_owned();
    (part("page"), part("styles"))
}

#[test]
fn a_copy_builds_passes_its_tests_and_reloads_its_pages() {
    let copy = Copy::make();
    copy.cargo(&["fmt", "--check"]);
    copy.cargo(&["test", "--quiet"]);
    copy.cargo(&["build", "--quiet"]);
    let program = copy.start("0");

    // A stylesheet: the page stays.
    let mut events = program.events("/dev/events");
    let (page, styles) = version(&events.next());
    copy.append("assets/style.css", "/* changed */");
    let (same_page, new_styles) = version(&events.next());
    assert_eq!(same_page, page);
    assert_ne!(new_styles, styles);
    assert!(program.get("/assets/style.css").ends_with("/* changed */"));

    // A template: the page is loaded anew. A mistake in it is shown, and mended without a restart.
    let template = copy.append("templates/board.html", "{% block none %}{% end");
    let (broken_page, _) = version(&events.next());
    assert_ne!(broken_page, page);
    let mut answer = agent().get(program.url("/")).call().expect("an answer");
    assert_eq!(answer.status(), 500);
    let shown = answer.body_mut().read_to_string().expect("text");
    assert!(shown.contains("board.html") && shown.contains("/assets/dev.js"), "{shown}");
    fs::write(copy.dir.join("templates/board.html"), template).expect("target is writable");
    let (mended_page, _) = version(&events.next());
    assert_eq!(mended_page, page);
    assert!(program.get("/").contains("<h1>Board</h1>"));

    // A restart: the page is loaded anew, and what was on the board is still there.
    assert_eq!(program.post("/notes", &[("text", "remember")], "").status(), 204);
    let port = program.addrs[0].rsplit(':').next().expect("a port").to_owned();
    drop(program);
    let program = copy.start(&port);
    let (new_page, _) = version(&program.events("/dev/events").next());
    assert_ne!(new_page, page);
    let row = program.socket("/live").next();
    assert!(row.contains(r#""text":"remember""#), "{row}");
}
