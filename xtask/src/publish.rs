//! The dry run of a release: checks the contents and metadata of each published package, and compiles it as a user
//! would.

use serde_json::Value;

use crate::command::Command;
use crate::files::read;
use crate::links::links;
use crate::metadata::{self, text};
use crate::steps::target_directory;
use crate::{Result, Workspace};

/// Files that each package contains in addition to its code.
const FILES: [&str; 3] = ["LICENSE-APACHE", "LICENSE-MIT", "README.md"];

/// Directories that users of a package do not need.
const NOT_PACKAGED: [&str; 4] = ["benches/", "examples/", "fuzz/", "tests/"];

/// The manifest fields that contain a public address.
const ADDRESSES: [&str; 3] = ["repository", "homepage", "documentation"];

/// Checks each package that may be published, and runs the dry run. Returns a short summary.
pub(crate) fn check(workspace: &Workspace) -> Result<String> {
    let metadata = metadata::read(workspace, "--no-deps")?;
    let packages = metadata::published(&metadata);
    let changelog = read(&workspace.at("CHANGELOG.md"))?;
    let mut faults = Vec::new();
    for package in &packages {
        let (name, version) = (text(package, "name"), text(package, "version"));
        faults.extend(faults_of_files(name, &files(workspace, name)?));
        let readme = workspace.at(name).join(text(package, "readme"));
        faults.extend(faults_of_readme(name, version, &read(&readme)?));
        if !has_section(&changelog, version) {
            faults.push(format!("CHANGELOG.md has no section `## {version}`"));
        }
    }
    if !faults.is_empty() {
        return Err(format!("the packages are not ready:\n   {}", faults.join("\n   ")));
    }
    dry_run(workspace, &packages).run(&workspace.root)?;
    let named: Vec<String> = packages
        .iter()
        .map(|package| format!("{} {}", text(package, "name"), text(package, "version")))
        .collect();
    let missing = packages.iter().find_map(|package| missing_addresses(package));
    Ok(format!("{}{}", named.join(", "), missing.map(|missing| format!("; {missing}")).unwrap_or_default()))
}

/// Returns the dry run of all packages together, so that one may depend on a version of another that is not yet published.
fn dry_run(workspace: &Workspace, packages: &[&Value]) -> Command {
    let mut command = Command::line("cargo publish --dry-run --locked");
    for package in packages {
        command = command.arg("--package").arg(text(package, "name"));
    }
    // In CI, everything is committed. Locally, uncommitted changes can be tried.
    if std::env::var_os("CI").is_none() {
        command = command.arg("--allow-dirty");
    }
    // Shares compiled dependencies with the other steps.
    command.arg("--target-dir").arg(target_directory(workspace).display().to_string())
}

/// Returns the files of a package.
fn files(workspace: &Workspace, name: &str) -> Result<Vec<String>> {
    let command = Command::line("cargo package --list --locked --allow-dirty --package").arg(name);
    let said = command.listen(&workspace.root)?;
    if said.status.success() {
        Ok(said.output.lines().map(str::to_owned).collect())
    } else {
        Err(format!("command failed ({}):\n   $ {command}\n{}", said.status, said.text))
    }
}

/// Returns what is wrong with the list of a package's files.
fn faults_of_files(name: &str, files: &[String]) -> Vec<String> {
    let missing = FILES.iter().filter(|wanted| !files.iter().any(|file| file == *wanted));
    let missing =
        missing.map(|file| format!("{name} does not contain {file}; see `include` in its Cargo.toml"));
    let is_surplus = |file: &&String| NOT_PACKAGED.iter().any(|folder| file.starts_with(folder));
    let surplus = files.iter().find(is_surplus);
    let surplus = surplus.map(|file| format!("{name} contains {file}; see `include` in its Cargo.toml"));
    missing.chain(surplus).collect()
}

/// Returns what is wrong with a package's README: links that do not work on crates.io, and an outdated version.
fn faults_of_readme(name: &str, version: &str, readme: &str) -> Vec<String> {
    let relative = links(readme).into_iter().filter(|link| !link.target.starts_with('#'));
    let relative = relative.map(|link| {
        let (line, target) = (link.line, link.target);
        format!("{name}: line {line} of its README links to {target}, which does not work on crates.io; use a full URL or remove the link")
    });
    let wanted = format!("{name} = \"");
    let requirement = readme.lines().find_map(|line| line.strip_prefix(&wanted)?.split('"').next());
    let stale = requirement.filter(|requirement| !is_prefix(requirement, version));
    let stale = stale.map(|old| format!("{name}: its README shows version {old} instead of {version}"));
    relative.chain(stale).collect()
}

/// Returns whether a version starts with these numbers, such as 1.2.3 with 1.2.
fn is_prefix(numbers: &str, version: &str) -> bool {
    version.strip_prefix(numbers).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Returns whether the changelog describes a version.
fn has_section(changelog: &str, version: &str) -> bool {
    let titles = changelog.lines().filter_map(|line| line.strip_prefix("## "));
    titles.filter_map(|title| title.split_whitespace().next()).any(|title| title == version)
}

/// Returns the addresses that a package lacks, and where to set them.
fn missing_addresses(package: &Value) -> Option<String> {
    let missing: Vec<&str> = ADDRESSES.into_iter().filter(|field| text(package, field).is_empty()).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "no public address yet: set {} in [workspace.package] of Cargo.toml, and inherit it in {}/Cargo.toml",
            missing.join(", "),
            text(package, "name")
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_package_has_its_licences_and_no_tests() {
        let list = |files: &[&str]| files.iter().map(ToString::to_string).collect::<Vec<_>>();
        let good = list(&[
            "Cargo.toml",
            "LICENSE-APACHE",
            "LICENSE-MIT",
            "README.md",
            "src/lib.rs",
            "src/tests/a.rs",
        ]);
        assert!(faults_of_files("a", &good).is_empty());
        let faults = faults_of_files("a", &list(&["LICENSE-MIT", "README.md", "fuzz/Cargo.toml"]));
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("LICENSE-APACHE") && faults[1].contains("fuzz/Cargo.toml"), "{faults:?}");
    }

    #[test]
    fn a_readme_on_crates_io_has_no_relative_links() {
        let good = "[axum](https://docs.rs/axum) [below](#below)\n```toml\na = \"0.2\"\n```\n";
        assert_eq!(faults_of_readme("a", "0.2.0", good), Vec::<String>::new());
        for bad in ["[rooms](docs/rooms.md)", "![picture](docs/a.png)", "[rooms]\n\n[rooms]: /docs/rooms.md"]
        {
            let faults = faults_of_readme("a", "0.2.0", bad);
            assert!(faults.len() == 1 && faults[0].contains("docs/"), "{bad}: {faults:?}");
        }
    }

    #[test]
    fn a_readme_names_the_version_that_is_released() {
        assert!(faults_of_readme("a", "0.3.0", "a = \"0.2\"")[0].contains("0.2"));
        assert!(!is_prefix("0.2", "0.20.0") && is_prefix("0.2", "0.2.1") && is_prefix("0.2.1", "0.2.1"));
    }

    #[test]
    fn a_section_of_the_changelog_is_found_by_its_version() {
        let changelog = "# Changelog\n\n## 0.2.0 (2026-12-01)\n\n## 0.1.0\n\n### 0.0.1\n";
        assert!(has_section(changelog, "0.2.0") && has_section(changelog, "0.1.0"));
        assert!(!has_section(changelog, "0.2.1") && !has_section(changelog, "0.0.1"));
    }

    #[test]
    fn missing_addresses_are_named_with_the_place_to_set_them() {
        let address = "https://a.example/b";
        let package = json!({ "name": "a", "repository": address, "homepage": null, "documentation": null });
        let missing = missing_addresses(&package).unwrap();
        assert!(missing.contains("homepage, documentation") && !missing.contains("repository"), "{missing}");
        let package = json!({ "repository": address, "homepage": address, "documentation": address });
        assert_eq!(missing_addresses(&package), None);
    }
}
