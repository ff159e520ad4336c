//! The documentation of the settings beside what the binary says of itself.

use std::{collections::BTreeSet, process::Command};

const SETTINGS: &str = include_str!("../../docs/settings.md");

/// The words of a text that begin so: flags, or variables.
fn words(text: &str, prefix: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let words = text
        .split(|c: char| !is_part(c))
        .filter(|word| word.starts_with(prefix) && !word.trim_end_matches('-').is_empty());
    words.map(|word| word.trim_end_matches('-').to_owned()).collect()
}

#[test]
fn the_settings_in_the_documentation_are_those_of_the_help() {
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
