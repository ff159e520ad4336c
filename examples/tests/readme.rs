//! The README shows the counter example as it is.

#[test]
fn the_readme_shows_the_counter() {
    let example = include_str!("../counter.rs");
    let code = &example[example.find("use axum::{").expect("the example begins with its imports")..];
    assert!(include_str!("../../README.md").contains(code.trim()), "copy examples/counter.rs into README.md");
}
