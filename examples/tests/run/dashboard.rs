//! The dashboard: the history immediately, then each second.

use crate::program::Program;
use serde_json::Value;

#[test]
fn the_history_comes_first_and_then_each_second() {
    let program = Program::start("dashboard", &[], 1);
    program.check_page();
    let mut first = program.events("/figures");
    // A sample pushed between joining and sending the history arrives before it.
    first.until("the history", |event| event.starts_with('['));
    let sample: Value = serde_json::from_str(&first.next()).unwrap();
    assert_eq!(sample["connections"], 1);

    let mut second = program.events("/figures");
    let past = second.until("the history", |event| event.starts_with('['));
    let past: Vec<Value> = serde_json::from_str(&past).unwrap();
    assert!(past.contains(&sample), "{sample} is not in {past:?}");
    first.until("two connections", |event| {
        serde_json::from_str::<Value>(event).is_ok_and(|sample| sample["connections"] == 2)
    });
}
