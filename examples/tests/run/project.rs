//! A project outside the workspace, like a reader's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// The time limit of each cargo call. The first one has to build everything.
const BUILD: Duration = Duration::from_secs(20 * 60);

/// A directory with one or several projects. It is kept between runs, so that little has to be rebuilt.
pub(crate) struct Project {
    pub(crate) dir: PathBuf,
    /// Cargo's target directory, shared with the workspace's tests to reuse their builds.
    pub(crate) target: PathBuf,
}

impl Project {
    /// Creates the project named `name`, if it does not exist yet.
    pub(crate) fn at(name: &str) -> Self {
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let project = Self { dir: tmp.join(name), target: tmp.parent().expect("target").to_owned() };
        fs::create_dir_all(&project.dir).expect("target is writable");
        project
    }

    /// Uses the workspace's dependency versions where it has them.
    pub(crate) fn lock(&self) {
        let (known, lock) = (self.dir.join("workspace.lock"), self.dir.join("Cargo.lock"));
        let versions = fs::read(workspace().join("Cargo.lock")).expect("the workspace's Cargo.lock");
        if !lock.exists() || fs::read(&known).ok().as_ref() != Some(&versions) {
            fs::write(&lock, &versions).expect("target is writable");
            fs::write(&known, &versions).expect("target is writable");
        }
    }

    /// Runs cargo in the project. It must succeed in time.
    pub(crate) fn cargo(&self, args: &[&str]) {
        let mut command = Command::new(env!("CARGO"));
        command.args(args).current_dir(&self.dir).env("CARGO_TARGET_DIR", &self.target);
        // Variables that cargo has set for this test's package. They would make ring's build script run again, and
        // everything that depends on it.
        let of_test = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        for (name, _) in std::env::vars().filter(|(name, _)| of_test(name)) {
            command.env_remove(name);
        }
        let mut child = command.spawn().expect("cargo is installed");
        let deadline = Instant::now() + BUILD;
        let status = loop {
            if let Some(status) = child.try_wait().expect("it is a child process") {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("{command:?} took more than {BUILD:?}");
            }
            thread::sleep(Duration::from_millis(50));
        };
        assert!(status.success(), "{command:?} failed in {}: {status}", self.dir.display());
    }
}

/// Returns the root of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("examples/ is in the workspace")
}
