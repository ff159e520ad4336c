//! Compares the documentation with the program: the settings with the binary's help, and the threats with their tests.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const SETTINGS: &str = include_str!("../../docs/settings.md");
const SECURITY: &str = include_str!("../../SECURITY.md");

/// Returns the words in a text with a prefix: flags, or variables.
fn words(text: &str, prefix: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let words = text
        .split(|c: char| !is_part(c))
        .filter(|word| word.starts_with(prefix) && !word.trim_end_matches('-').is_empty());
    words.map(|word| word.trim_end_matches('-').to_owned()).collect()
}

#[test]
fn the_documented_settings_match_the_help() {
    let output = Command::new(env!("CARGO_BIN_EXE_ripplecast")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let table = SETTINGS.split("### Addresses").next().unwrap();
    assert_eq!(words(table, "--"), words(&help, "--"), "flags");
    assert_eq!(words(table, "RIPPLECAST_"), words(&help, "RIPPLECAST_"), "variables");
}

#[test]
fn words_are_found() {
    let found: Vec<String> = words("`--port` or --tls-cert, see --", "--").into_iter().collect();
    assert_eq!(found, ["--port", "--tls-cert"]);
}

/// Collects the Rust files under a directory.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Returns the names of all test functions.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for dir in ["ripplecast", "ripplecast-server", "ripplecast-bench", "ripplecast-demo", "xtask"] {
        for part in ["src", "tests"] {
            let dir = root.join(dir).join(part);
            if dir.exists() {
                sources(&dir, &mut files);
            }
        }
    }
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for after in ["#[test]", "#[tokio::test"].iter().flat_map(|attribute| text.split(attribute).skip(1)) {
            // More attributes and comments may follow.
            let name = after.split_once("fn ").and_then(|(_, rest)| rest.split_once('('));
            names.extend(name.map(|(name, _)| name.trim().to_owned()));
        }
    }
    names
}

/// The threat model names the tests that guard against each threat. This catches tests that were renamed.
#[test]
fn each_threat_names_tests_that_exist() {
    let tests = tests();
    let section = SECURITY.split("## Threats").nth(1).expect("the section").split("\n## ").next().unwrap();
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        let column = row.trim_end_matches(['|', ' ']).rsplit(" | ").next().unwrap();
        let names: Vec<_> = column.split('`').skip(1).step_by(2).filter(|name| name.contains('_')).collect();
        assert!(!names.is_empty(), "no test named in {row}");
        for name in names {
            assert!(tests.contains(name), "SECURITY.md names the test {name:?}, which does not exist");
        }
    }
}
