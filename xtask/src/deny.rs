//! Enforces deny.toml for our dependencies: with cargo-deny where it is installed, and everywhere the rules that
//! metadata is enough for.
//!
//! Building cargo-deny takes longer than most steps take to run, so `setup` does not install it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::command::Command;
use crate::{Result, Workspace, metadata};

/// The file with the rules.
const RULES: &str = "deny.toml";
/// The only allowed registry.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// The variable with cargo-deny's directory of advisory databases, for checking advisories without network access.
const DATABASE: &str = "RIPPLECAST_TEST_ADVISORY_DB";

/// Runs the step. Returns a short summary.
pub(crate) fn check(workspace: &Workspace) -> Result<String> {
    let rules = std::fs::read_to_string(workspace.at(RULES)).map_err(|error| format!("{RULES}: {error}"))?;
    let allowed = allowed(&rules)?;
    let metadata = metadata::read(workspace, "--all-features")?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let faults: Vec<String> = packages.iter().flat_map(|package| faults(package, &allowed)).collect();
    if !faults.is_empty() {
        return Err(format!("violations of {RULES}:\n   {}", faults.join("\n   ")));
    }
    let twice = duplicates(packages);
    let mut note = format!("{} crates, {} of them in several versions", packages.len(), twice.len());
    if Command::line("cargo deny --version").succeeds(&workspace.root) {
        Command::line("cargo deny --offline check licenses bans sources").run(&workspace.root)?;
        if let Some(database) = std::env::var_os(DATABASE) {
            let config = workspace.at("target/deny.toml");
            let path = format!("[advisories]\ndb-path = {:?}", database.to_string_lossy());
            std::fs::write(&config, rules.replacen("[advisories]", &path, 1))
                .map_err(|error| error.to_string())?;
            Command::line("cargo deny --offline check --disable-fetch --config")
                .arg(config.display().to_string())
                .arg("advisories")
                .run(&workspace.root)?;
        } else {
            note += &format!("; advisories not checked ({DATABASE} is not set)");
        }
    } else {
        note += "; cargo-deny is not installed (`cargo install cargo-deny --locked`)";
    }
    Ok(note)
}

/// Returns the allowed licences.
fn allowed(rules: &str) -> Result<BTreeSet<String>> {
    let rules: Value = basic_toml::from_str(rules).map_err(|error| format!("{RULES}: {error}"))?;
    let licences = rules["licenses"]["allow"]
        .as_array()
        .ok_or_else(|| format!("{RULES} has no list of allowed licences"))?;
    Ok(licences.iter().filter_map(|licence| licence.as_str().map(str::to_owned)).collect())
}

/// Returns a package's violations of the rules.
fn faults(package: &Value, allowed: &BTreeSet<String>) -> Vec<String> {
    let text = |field: &str| package[field].as_str().unwrap_or_default();
    let name = format!("{} {}", text("name"), text("version"));
    let mut faults = Vec::new();
    match package["source"].as_str() {
        None => {
            let dependencies = package["dependencies"].as_array().into_iter().flatten();
            let any = dependencies.filter(|needed| needed["req"] == "*" && needed["path"].is_null());
            faults.extend(any.map(|needed| format!("{name} accepts any version of {}", needed["name"])));
        }
        Some(CRATES_IO) if is_allowed(text("license"), allowed) => {}
        Some(CRATES_IO) => faults.push(format!("{name} has the disallowed licence {:?}", text("license"))),
        Some(other) => faults.push(format!("{name} is from a disallowed source: {other}")),
    }
    faults
}

/// Returns whether allowed licences satisfy an SPDX expression. `AND` binds tighter than `OR`, which older crates write
/// as `/`.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = expression.split_whitespace().collect();
    let mut words = &words[..];
    any(&mut words, allowed) && words.is_empty()
}

fn any(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = all(words, allowed);
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        met |= all(words, allowed);
    }
    met
}

fn all(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, allowed);
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let met = any(words, allowed);
            *words = words.strip_prefix(&[")"]).unwrap_or(&["an unclosed parenthesis"]);
            met
        }
        [licence, "WITH", exception, rest @ ..] => {
            *words = rest;
            allowed.contains(&format!("{licence} WITH {exception}")) || allowed.contains(*licence)
        }
        [licence, rest @ ..] => {
            *words = rest;
            allowed.contains(*licence)
        }
        [] => false,
    }
}

/// Returns the crates with more than one version. They cost build time, but are not a failure.
fn duplicates(packages: &[Value]) -> Vec<&str> {
    let mut count = BTreeMap::<&str, usize>::new();
    for package in packages {
        *count.entry(package["name"].as_str().unwrap_or_default()).or_default() += 1;
    }
    count.into_iter().filter(|(_, versions)| *versions > 1).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn licence_expressions_are_evaluated() {
        let allowed = ["MIT", "Apache-2.0", "ISC"].map(str::to_owned).into();
        for (expression, expected) in [
            ("MIT", true),
            ("MIT OR GPL-3.0", true),
            ("GPL-3.0/MIT", true),
            ("MIT AND GPL-3.0", false),
            ("GPL-3.0 OR MIT AND ISC", true),
            ("(MIT OR GPL-3.0) AND ISC", true),
            ("(MIT OR GPL-3.0) AND BSL-1.0", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("GPL-3.0 WITH LLVM-exception", false),
            ("GPL-3.0", false),
            ("", false),
            ("(MIT", false),
            ("MIT MIT", false),
        ] {
            assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
        }
    }

    #[test]
    fn other_sources_and_wildcard_versions_are_violations() {
        let allowed = ["MIT".to_owned()].into();
        let package = |source: Value, licence: &str| {
            let dependencies = json!([{ "name": "b", "req": "*" }, { "name": "c", "req": "*", "path": "c" }]);
            json!({ "name": "a", "version": "1.0.0", "source": source, "license": licence, "dependencies": dependencies })
        };
        assert!(faults(&package(json!(CRATES_IO), "MIT"), &allowed).is_empty());
        assert!(faults(&package(json!(CRATES_IO), "GPL-3.0"), &allowed)[0].contains("GPL-3.0"));
        assert!(faults(&package(json!("git+https://a/b"), "MIT"), &allowed)[0].contains("git+https"));
        let ours = faults(&package(Value::Null, ""), &allowed);
        assert!(ours.len() == 1 && ours[0].contains("any version of \"b\""), "{ours:?}");
    }
}
