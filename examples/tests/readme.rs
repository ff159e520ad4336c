//! Checks that the READMEs of the repository and of the crate contain the counter example unchanged.

#[test]
fn the_readmes_contain_the_counter_example() {
    let example = include_str!("../counter.rs");
    let code = &example[example.find("use axum::{").expect("the example starts with its imports")..];
    for (path, readme) in [
        ("README.md", include_str!("../../README.md")),
        ("ripplecast/README.md", include_str!("../../ripplecast/README.md")),
    ] {
        assert!(readme.contains(code.trim()), "copy examples/counter.rs into {path}");
    }
}
