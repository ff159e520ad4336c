//! The starter, copied as its README describes: it builds, its own tests pass, its pages are notified of file changes,
//! and a restart loses nothing.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::{
    program::{Program, agent},
    project::{Project, workspace},
};

/// The copy. It is kept between runs, so that little has to be rebuilt.
struct Copy(Project);

impl Copy {
    fn make() -> Self {
        let copy = Self(Project::at("starter"));
        let starter = workspace().join("examples/starter");
        for part in ["rustfmt.toml", "src", "templates", "assets"] {
            copy_all(&starter.join(part), &copy.0.dir.join(part));
        }
        copy.point_at(&starter.join("Cargo.toml"));
        let _ = fs::remove_dir_all(copy.0.dir.join("data"));
        copy.0.lock();
        copy
    }

    /// Writes a manifest with the path to Ripplecast, as described in the README.
    fn point_at(&self, manifest: &Path) {
        let (path, here) = ("\"../../ripplecast\"", workspace().join("ripplecast"));
        let manifest = fs::read_to_string(manifest).expect("the starter's manifest");
        assert_eq!(manifest.matches(path).count(), 1, "{manifest}");
        let manifest = manifest.replace(path, &format!("{here:?}"));
        fs::write(self.0.dir.join("Cargo.toml"), manifest).expect("target is writable");
    }

    /// Starts the program; port 0 picks a free one.
    fn start(&self, port: &str) -> Program {
        let mut command = Command::new(self.0.target.join("debug/starter"));
        command.current_dir(&self.0.dir).env("LISTEN", format!("127.0.0.1:{port}")).env_remove("DATA");
        Program::run(command, 1)
    }

    /// Appends to a file, and returns its previous contents.
    fn append(&self, path: &str, text: &str) -> String {
        let path = self.0.dir.join(path);
        let former = fs::read_to_string(&path).expect("a file of the copy");
        self.replace(&path, &format!("{former}{text}"));
        former
    }

    /// Replaces a file atomically: a reader must never find it empty.
    fn replace(&self, path: &Path, text: &str) {
        let new = self.0.dir.join("new"); // not a watched path
        fs::write(&new, text).expect("target is writable");
        fs::rename(new, path).expect("target is writable");
    }
}

/// Makes `to` a copy of `from`. Leaves identical files untouched, so that cargo does not rebuild them.
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

/// Returns the two versions that pages compare: of everything, and of the styles.
fn version(event: &str) -> (String, String) {
    let mut version: Value = serde_json::from_str(event).expect("JSON");
    let mut part = |name: &str| version[name].take().as_str().expect("a string").to_owned();
    (part("page"), part("styles"))
}

#[test]
fn a_copy_builds_passes_its_tests_and_reloads_its_pages() {
    let copy = Copy::make();
    copy.0.cargo(&["fmt", "--check"]);
    copy.0.cargo(&["test", "--quiet"]);
    copy.0.cargo(&["build", "--quiet"]);
    let program = copy.start("0");

    // It reads Ripplecast's own settings, so it reports an invalid one.
    let mut wrong = Command::new(copy.0.target.join("debug/starter"));
    wrong.current_dir(&copy.0.dir).env("LISTEN", "127.0.0.1:0").env("RIPPLECAST_TRUSTED_PROXIES", "nonsense");
    let output = wrong.output().expect("the copy was built");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("RIPPLECAST_TRUSTED_PROXIES"), "{said}");

    // A changed stylesheet does not reload the page.
    let mut events = program.events("/dev/events");
    let (page, styles) = version(&events.next());
    copy.append("assets/style.css", "/* changed */");
    let (same_page, new_styles) = version(&events.next());
    assert_eq!(same_page, page);
    assert_ne!(new_styles, styles);
    assert!(program.get("/assets/style.css").ends_with("/* changed */"));

    // A changed template reloads the page. An error in it is shown, and fixed without a restart.
    let template = copy.append("templates/board.html", "{% block none %}{% end");
    let (broken_page, _) = version(&events.next());
    assert_ne!(broken_page, page);
    let mut answer = agent().get(program.url("/")).call().expect("an answer");
    assert_eq!(answer.status(), 500);
    let shown = answer.body_mut().read_to_string().expect("text");
    assert!(shown.contains("board.html") && shown.contains("/assets/dev.js"), "{shown}");
    copy.replace(&copy.0.dir.join("templates/board.html"), &template);
    let (mended_page, _) = version(&events.next());
    assert_eq!(mended_page, page);
    assert!(program.get("/").contains("<h1>Board</h1>"));

    // A restart reloads the page, and the notes are still there.
    assert_eq!(program.post("/notes", &[("text", "remember")], "").status(), 204);
    let port = program.addrs[0].rsplit(':').next().expect("a port").to_owned();
    drop(program);
    let program = copy.start(&port);
    let (new_page, _) = version(&program.events("/dev/events").next());
    assert_ne!(new_page, page);
    let mut socket = program.socket("/live");
    assert!(socket.next().contains(r#""snapshot":"begin""#));
    let row = socket.next();
    assert!(row.contains(r#""text":"remember""#), "{row}");
}
