//! The counter: two tabs, and a push for each increment.

use crate::program::{Program, agent};

#[test]
fn two_tabs_stay_in_step() {
    let program = Program::start("counter", &[], 1);
    assert!(program.get("/").contains("<h1 role=\"status\">"));
    let mut tabs = [program.socket("/ws/counter-demo"), program.socket("/ws/counter-demo")];
    for tab in &mut tabs {
        assert_eq!(tab.next(), r#"{"value":0}"#);
    }
    for value in 1..=3 {
        let mut response = agent().post(program.url("/api/counter/bump")).send_empty().unwrap();
        assert_eq!(response.body_mut().read_to_string().unwrap(), value.to_string());
        for tab in &mut tabs {
            assert_eq!(tab.next(), format!(r#"{{"value":{value}}}"#));
        }
    }
    tabs[0].send("echo");
    assert_eq!(tabs[0].next(), "echo");
    assert_eq!(program.socket("/ws/counter-demo").next(), r#"{"value":3}"#);
}
