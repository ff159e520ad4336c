//! A project beside the workspace, as a reader has one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// Time for each call of cargo. The first has to build everything.
const BUILD: Duration = Duration::from_secs(20 * 60);

/// A directory with a project, or with several. It stays where it is between two runs, so that little has to be built again.
pub(crate) struct Project {
    /// Where it is.
    pub(crate) dir: PathBuf,
    /// Where cargo puts what it builds: what the workspace's tests have built is used again.
    pub(crate) target: PathBuf,
}

impl Project {
    /// The one of that name.
    pub(crate) fn at(name: &str) -> Self {
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let project = Self { dir: tmp.join(name), target: tmp.parent().expect("target").to_owned() };
        fs::create_dir_all(&project.dir).expect("target is writable");
        project
    }

    /// Takes the workspace's own versions, as far as it has any.
    pub(crate) fn lock(&self) {
        let (known, lock) = (self.dir.join("workspace.lock"), self.dir.join("Cargo.lock"));
        let versions = fs::read(workspace().join("Cargo.lock")).expect("the workspace's Cargo.lock");
        if !lock.exists() || fs::read(&known).ok().as_ref() != Some(&versions) {
            fs::write(&lock, &versions).expect("target is writable");
            fs::write(&known, &versions).expect("target is writable");
        }
    }

    /// Runs cargo in it. It must succeed, and in time.
    pub(crate) fn cargo(&self, args: &[&str]) {
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
}

/// The root of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("examples/ is in the workspace")
}
