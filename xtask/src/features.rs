//! Checks each set of the crate's features: it must compile without warnings, and stay within its limit of crates. The
//! smallest set serves an axum application.

use std::collections::{BTreeMap, BTreeSet};

use crate::command::Command;
use crate::totals::Totals;
use crate::{Result, Workspace, metadata};

/// The crate whose features are checked.
const CRATE: &str = "ripplecast";

/// An application that uses the crate without any feature.
const LEAN: &str = "ripplecast-lean";

/// The features with which its tests run. `alone` is its own: no other package is built with it.
const TESTED: [&str; 3] = ["alone", "alone,server", "alone,redis"];

/// The most crates that a set of features may need, including `ripplecast`. An axum application already has most of
/// them.
const LIMITS: [(&str, usize); 2] = [("none", 85), ("default", 95)];

/// The features of a package, each with what it turns on.
type Features = BTreeMap<String, Vec<String>>;

/// A set of features.
#[derive(Debug, PartialEq, Eq)]
struct Set {
    /// A short name, for the summary and [`LIMITS`].
    name: String,
    /// The options of cargo that select it.
    options: String,
}

/// Checks each set, and runs the lean application's tests with several. Returns the tests, and a short summary.
pub(crate) fn check(workspace: &Workspace) -> Result<(Totals, String)> {
    let metadata = metadata::read(workspace, "--no-deps")?;
    let features = metadata::package(&metadata, CRATE)?["features"].clone();
    let features: Features = serde_json::from_value(features).map_err(|error| error.to_string())?;
    let sets = sets(&features);
    let mut counts = Vec::new();
    for set in &sets {
        let count = crates(workspace, set)?;
        counts.push(format!("{} {count}", set.name));
        // A package without features has one set, which is the whole crate.
        if let Some(limit) = limit(set).filter(|limit| !features.is_empty() && count > *limit) {
            return Err(format!(
                "the features `{}` need {count} crates, but at most {limit} are allowed. To list them:\n   $ {}",
                set.name,
                tree(set)
            ));
        }
    }
    for set in &sets {
        let clippy = format!("cargo clippy -p {CRATE} --lib --locked {} -- -D warnings", set.options);
        Command::line(&clippy).run(&workspace.root)?;
    }
    let mut totals = Totals::default();
    for features in TESTED {
        let test = format!("cargo test -p {LEAN} --features {features} --locked");
        totals += Command::line(&test).run_tests(&workspace.root)?;
    }
    let note = if features.is_empty() { ", no features, so no limit applies" } else { "" };
    Ok((totals, format!("crates: {}{note}", counts.join(", "))))
}

/// Returns all sets to check: none, each feature alone, the defaults, each other feature with the defaults, all.
fn sets(features: &Features) -> Vec<Set> {
    let set = |name: &str, options: &str| Set { name: name.into(), options: options.into() };
    let by_default = enabled("default", features);
    let names: Vec<&String> = features.keys().filter(|name| *name != "default").collect();
    let mut sets = vec![set("none", "--no-default-features")];
    sets.extend(names.iter().map(|name| set(name, &format!("--no-default-features --features {name}"))));
    if by_default.len() > 1 {
        sets.push(set("default", ""));
        let others = names.iter().filter(|name| !by_default.contains(name.as_str()));
        sets.extend(others.map(|name| set(&format!("default+{name}"), &format!("--features {name}"))));
    }
    if !names.is_empty() {
        sets.push(set("all", "--all-features"));
    }
    sets
}

/// Returns a feature and all features that it turns on.
fn enabled<'a>(feature: &'a str, features: &'a Features) -> BTreeSet<&'a str> {
    let mut enabled = BTreeSet::new();
    let mut todo = vec![feature];
    while let Some(feature) = todo.pop() {
        if let Some((name, others)) = features.get_key_value(feature)
            && enabled.insert(name.as_str())
        {
            todo.extend(others.iter().map(String::as_str));
        }
    }
    enabled
}

/// Returns the most crates that a set may need, if limited.
fn limit(set: &Set) -> Option<usize> {
    LIMITS.iter().find(|(name, _)| *name == set.name).map(|(_, limit)| *limit)
}

/// Returns the command that lists the crates of a set.
fn tree(set: &Set) -> Command {
    Command::line(&format!(
        "cargo tree -p {CRATE} -e normal,build --prefix none --target x86_64-unknown-linux-gnu --locked {}",
        set.options
    ))
}

/// Returns how many crates a set needs.
fn crates(workspace: &Workspace, set: &Set) -> Result<usize> {
    let command = tree(set);
    let said = command.listen(&workspace.root)?;
    if said.status.success() {
        Ok(count(&said.output))
    } else {
        Err(format!("command failed ({}):\n   $ {command}\n{}", said.status, said.text))
    }
}

/// Counts the distinct crates in the output of `cargo tree`, which marks repeated crates with `(*)`.
fn count(tree: &str) -> usize {
    let lines = tree.lines().map(|line| line.trim_end_matches(" (*)")).filter(|line| !line.is_empty());
    lines.collect::<BTreeSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(features: &[(&str, &[&str])]) -> Features {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        features.iter().map(|(name, list)| ((*name).to_owned(), owned(list))).collect()
    }

    fn names(features: &Features) -> Vec<String> {
        sets(features).into_iter().map(|set| set.name).collect()
    }

    #[test]
    fn each_feature_is_checked_alone_and_with_the_defaults() {
        let features = features(&[
            ("default", &["server", "deflate"]),
            ("server", &["dep:hyper", "files"]),
            ("files", &[]),
            ("deflate", &["dep:flate2"]),
            ("redis", &["dep:redis"]),
        ]);
        // `files` is on by default, through `server`.
        let expected = ["none", "deflate", "files", "redis", "server", "default", "default+redis", "all"];
        assert_eq!(names(&features), expected);
        let options: Vec<String> = sets(&features).into_iter().map(|set| set.options).collect();
        assert_eq!(options[0], "--no-default-features");
        assert_eq!(options[3], "--no-default-features --features redis");
        assert_eq!(options[5], "");
        assert_eq!(options[6], "--features redis");
        assert_eq!(options[7], "--all-features");
    }

    #[test]
    fn a_crate_without_features_or_defaults_has_fewer_sets() {
        assert_eq!(names(&features(&[])), ["none"]);
        assert_eq!(names(&features(&[("default", &[]), ("redis", &[])])), ["none", "redis", "all"]);
    }

    #[test]
    fn features_that_turn_each_other_on_are_found_once() {
        let features = features(&[("a", &["b"]), ("b", &["a", "dep:c", "d/e"])]);
        assert_eq!(enabled("a", &features), BTreeSet::from(["a", "b"]));
    }

    #[test]
    fn a_crate_counts_once_and_each_of_its_versions() {
        let tree = "ripplecast v0.2.0 (/a/b)\nbytes v1.12.0\nhttp v1.5.0\nbytes v1.12.0\nhttp v1.5.0 (*)\n\nhttp v0.2.0\n";
        assert_eq!(count(tree), 4);
    }

    #[test]
    fn each_limit_is_that_of_a_set() {
        let names = names(&features(&[("default", &["a"]), ("a", &[])]));
        for (name, _) in LIMITS {
            assert!(names.iter().any(|set| set == name), "{name}");
        }
    }
}
