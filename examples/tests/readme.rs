//! Checks that the README contains the counter example unchanged.

#[test]
fn the_readme_contains_the_counter_example() {
    let example = include_str!("../counter.rs");
    let code = &example[example.find("use axum::{").expect("the example starts with its imports")..];
    assert!(include_str!("../../README.md").contains(code.trim()), "copy examples/counter.rs into README.md");
}
