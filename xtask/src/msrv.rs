//! Checks the packages' oldest supported Rust: compiles them with that version if it is installed, and otherwise uses
//! clippy's lint. In both cases, checks the versions that the dependencies require.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::command::Command;
use crate::metadata::{self, text};
use crate::{Result, Workspace};

/// The platform whose dependencies count.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// Checks the packages. Returns a short summary.
pub(crate) fn check(workspace: &Workspace) -> Result<String> {
    let metadata = metadata::read(workspace, &format!("--all-features --filter-platform {PLATFORM}"))?;
    let oldest = oldest(&metadata)?;
    let packages = metadata::published(&metadata);
    let newer = newer_dependencies(&metadata, &packages, oldest);
    if !newer.is_empty() {
        return Err(format!(
            "Rust {oldest} must be supported, but these dependencies need a newer version:\n   {}",
            newer.join("\n   ")
        ));
    }
    let packages = packages.iter().fold(String::new(), |list, package| list + " -p " + text(package, "name"));
    if is_installed(workspace, oldest) {
        // In a separate target directory, so that the two toolchains do not discard each other's builds.
        let check =
            format!("cargo +{oldest} check{packages} --all-features --locked --target-dir target/msrv");
        Command::line(&check).run(&workspace.root)?;
        Ok(format!("compiled with Rust {oldest}"))
    } else {
        let clippy = format!("cargo clippy{packages} --all-features --locked");
        Command::line(&clippy).arg("--").arg("-D").arg("clippy::incompatible_msrv").run(&workspace.root)?;
        Ok(format!(
            "by clippy's lint and the dependencies' rust-version: Rust {oldest} is not installed \
             (`rustup toolchain install {oldest} --profile minimal`)"
        ))
    }
}

/// Installs the oldest supported Rust if rustup can. Returns what was installed.
pub(crate) fn install(workspace: &Workspace) -> Result<Option<String>> {
    let metadata = metadata::read(workspace, "--no-deps")?;
    let oldest = oldest(&metadata)?;
    let rustup = Command::line("rustup toolchain install --profile minimal --no-self-update").arg(oldest);
    if is_installed(workspace, oldest) || !Command::line("rustup --version").succeeds(&workspace.root) {
        return Ok(None);
    }
    println!("   installing Rust {oldest}, the oldest supported version");
    rustup.announce();
    if rustup.succeeds(&workspace.root) {
        Ok(Some(format!("Rust {oldest}")))
    } else {
        println!("   installation failed; using clippy's lint instead");
        Ok(None)
    }
}

/// Returns the oldest Rust that all published packages support.
fn oldest(metadata: &Value) -> Result<&str> {
    let packages = metadata::published(metadata);
    let versions: BTreeSet<&str> = packages.iter().map(|package| text(package, "rust_version")).collect();
    match versions.into_iter().collect::<Vec<_>>()[..] {
        [version] if !version.is_empty() => Ok(version),
        ref several => {
            Err(format!("the published packages must have the same `rust-version`, but have {several:?}"))
        }
    }
}

/// Returns whether rustup has that toolchain.
fn is_installed(workspace: &Workspace, version: &str) -> bool {
    Command::line(&format!("cargo +{version} --version")).succeeds(&workspace.root)
}

/// Returns the direct and indirect dependencies that require a newer Rust.
fn newer_dependencies(metadata: &Value, packages: &[&Value], oldest: &str) -> Vec<String> {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let nodes = list(&metadata["resolve"]["nodes"]);
    let nodes: BTreeMap<&str, &Value> = nodes.iter().map(|node| (text(node, "id"), node)).collect();
    let mut reached = BTreeSet::new();
    let mut todo: Vec<String> = packages.iter().map(|package| text(package, "id").to_owned()).collect();
    while let Some(id) = todo.pop() {
        let Some(node) = nodes.get(id.as_str()) else { continue };
        if reached.insert(id) {
            // Users do not compile dependencies that only tests need.
            let is_needed =
                |needed: &Value| list(&needed["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev");
            let needed = list(&node["deps"]).into_iter().filter(is_needed);
            todo.extend(needed.map(|needed| text(&needed, "pkg").to_owned()));
        }
    }
    let packages = list(&metadata["packages"]);
    let packages = packages.iter().filter(|package| reached.contains(text(package, "id")));
    let newer = packages.filter(|package| numbers(text(package, "rust_version")) > numbers(oldest));
    let line = |package: &Value| {
        let field = |field| text(package, field);
        format!("{} {} needs Rust {}", field("name"), field("version"), field("rust_version"))
    };
    newer.map(line).collect()
}

/// Returns the numbers of a version, without trailing zeros, so that 1.90 equals 1.90.0.
fn numbers(version: &str) -> Vec<u32> {
    let mut numbers: Vec<u32> = version.split('.').filter_map(|number| number.parse().ok()).collect();
    while numbers.last() == Some(&0) {
        numbers.pop();
    }
    numbers
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(numbers("1.100") > numbers("1.90"));
        assert!(numbers("1.90.1") > numbers("1.90"));
        assert_eq!(numbers("1.90.0"), numbers("1.90"));
        assert!(numbers("") < numbers("1.90"));
    }

    #[test]
    fn packages_agree_on_one_version() {
        let metadata = |second: Value| {
            json!({ "packages": [
                { "name": "a", "rust_version": "1.90" },
                { "name": "b", "rust_version": second },
            ] })
        };
        assert_eq!(oldest(&metadata(json!("1.90"))), Ok("1.90"));
        assert!(oldest(&metadata(json!("1.88"))).unwrap_err().contains("1.88"));
        assert!(oldest(&metadata(Value::Null)).is_err());
    }

    #[test]
    fn a_dependency_that_needs_a_newer_rust_is_found_but_not_that_of_a_test() {
        let package =
            |id: &str, rust: &str| json!({ "id": id, "name": id, "version": "1.0.0", "rust_version": rust });
        let edge = |to: &str, kind: Value| json!({ "pkg": to, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [
                package("ours", "1.90"), package("old", "1.60"), package("deep", "1.91"),
                package("for_build", "1.92.0"), package("for_tests", "1.95"), package("unrelated", "1.95"),
            ],
            "resolve": { "nodes": [
                { "id": "ours", "deps": [edge("old", Value::Null), edge("for_tests", json!("dev"))] },
                { "id": "old", "deps": [edge("deep", Value::Null), edge("for_build", json!("build"))] },
                { "id": "deep", "deps": [edge("ours", Value::Null)] },
                { "id": "for_build", "deps": [] }, { "id": "for_tests", "deps": [] }, { "id": "unrelated", "deps": [] },
            ] },
        });
        let ours = [&metadata["packages"][0]];
        let newer = newer_dependencies(&metadata, &ours, "1.90");
        assert_eq!(newer, ["deep 1.0.0 needs Rust 1.91", "for_build 1.0.0 needs Rust 1.92.0"]);
        assert!(newer_dependencies(&metadata, &ours, "1.92").is_empty());
    }
}
