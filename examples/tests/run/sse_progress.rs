//! The long job: its progress never decreases, and a late viewer sees the current value.

use crate::program::{Program, agent};

fn percent(event: &str) -> u32 {
    let value = event.strip_prefix(r#"{"value":"#).and_then(|rest| rest.strip_suffix('}'));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("not a progress event: {event}"))
}

#[test]
fn all_viewers_follow_a_job_to_its_end() {
    let program = Program::start("sse-progress", &[], 1);
    program.check_page();
    let start = || {
        let mut response = agent().post(program.url("/jobs")).send_empty().unwrap();
        assert_eq!(response.status(), 202);
        response.body_mut().read_to_string().unwrap().trim_matches('"').to_owned()
    };
    let (path, other) = (start(), start());
    assert_ne!(path, other);

    let mut events = program.events(&path);
    let mut seen = percent(&events.next());
    while seen < 100 {
        let now = percent(&events.next());
        assert_eq!(now, seen + 1);
        seen = now;
    }
    let mut late = program.events(&path);
    assert_eq!(percent(&late.next()), 100);
    let mut other = program.events(&other);
    other.until("the end of the other job", |event| percent(event) == 100);
}

#[test]
fn an_unknown_job_has_no_stream() {
    let program = Program::start("sse-progress", &[], 1);
    assert_eq!(agent().get(program.url("/jobs/7/events")).call().unwrap().status(), 404);
}

#[test]
fn the_number_of_jobs_is_bounded() {
    let program = Program::start("sse-progress", &[], 1);
    let start = || agent().post(program.url("/jobs")).send_empty().unwrap().status().as_u16();
    let statuses: Vec<_> = (0..40).map(|_| start()).collect();
    assert!(statuses.iter().take(32).all(|&status| status == 202));
    assert!(statuses.iter().skip(32).all(|&status| status == 429));
}
