//! What callbacks and refused upgrades write to the log.

use axum::Router;
use ripplecast::{Accept, Connection, Error, Message, Request, Result, error::BackendError, ws};

use crate::{
    clients::{Tab, TestServer, wait_until},
    support::Log,
};

/// An error with a cause of ours.
#[derive(Debug, thiserror::Error)]
#[error("the order can't be saved")]
struct NotSaved(#[source] Error);

/// Starts a server with an endpoint in a nested router. The endpoint logs a line before and after it waits, fails when told
/// to, and rejects visitors.
fn nested() -> TestServer {
    TestServer::under_axum(|hub| {
        let handlers = ws::handlers().on_message(async |_: Connection, message: Message| -> Result<()> {
            if let Some(text) = message.as_text().filter(|text| text.starts_with("fail")) {
                return Err(Error::other(text.to_owned()));
            }
            if message.as_text() == Some("save") {
                let backend = BackendError::Unavailable { reason: "it restarts".into() };
                return Err(Error::other(NotSaved(backend.into())));
            }
            tracing::info!("a callback began");
            tokio::task::yield_now().await;
            tracing::info!("a callback has waited");
            Ok(())
        });
        let endpoint = ws::endpoint(handlers).on_upgrade(async |request: Request| {
            if request.uri().query().is_some() {
                Err(http::StatusCode::UNAUTHORIZED)
            } else {
                Ok(Accept::new())
            }
        });
        Router::new().nest("/app", Router::new().route("/live/{id}", hub.ws(endpoint)))
    })
}

#[test]
fn callbacks_run_in_a_span_that_names_their_path() {
    let log = Log::keep();
    let server = nested();
    let mut tab = server.tab("/app/live/7");
    wait_until("the connection is open", || server.hub.connections().next().is_some());
    let id = server.hub.connections().next().unwrap().id();
    tab.say("hello");
    for what in ["a callback began", "a callback has waited"] {
        let what = format!("connection={id}}}: it::api::logs: {what}");
        wait_until("the line is there", || !log.lines(&what).is_empty());
        let lines = log.lines(&what);
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].contains(r#"callback{name="on_message" path=/app/live/{id} connection="#),
            "{lines:?}"
        );
    }
}

#[test]
fn a_failed_callback_is_logged_with_its_path() {
    let log = Log::keep();
    let server = nested();
    // Lines of this kind are limited, so another test may take the place of one.
    wait_until("a line names the error", || {
        server.tab("/app/live/7").say("fail: the order is already paid");
        !log.lines("fail: the order is already paid").is_empty()
    });
    let lines = log.lines("fail: the order is already paid");
    assert!(lines[0].contains(" path=/app/live/{id} "), "{lines:?}");
    assert!(!lines[0].contains("Handlers<"), "{lines:?}");
}

#[test]
fn a_failure_of_the_backend_is_logged_with_what_the_application_added() {
    let log = Log::keep();
    let server = nested();
    wait_until("a line shows both errors", || {
        let mut tab = server.tab("/app/live/7");
        tab.say("save");
        assert_eq!(tab.next(), None);
        assert_eq!(tab.close.unwrap().0, 1013);
        let line = "path=/app/live/{id} ";
        let both = "error=the order can't be saved: the backend is unavailable (it restarts)";
        log.lines(both).iter().any(|found| found.contains(line))
    });
}

#[test]
fn a_refused_upgrade_is_logged_with_its_status_and_reason() {
    let log = Log::keep();
    let server = nested();
    wait_until("a line names the path", || {
        assert!(Tab::open(server.addr, "/app/live/8?visitor=1", &[]).is_err());
        log.lines("an upgrade was refused").iter().any(|line| line.contains("/app/live/8"))
    });
    let lines = log.lines("an upgrade was refused");
    let line = lines.iter().find(|line| line.contains("/app/live/8")).unwrap();
    assert!(
        line.contains("DEBUG") && line.contains("status=401") && line.contains("on_upgrade rejected it"),
        "{line}"
    );
}

/// The error's type follows from the crate, even where no value does.
#[test]
fn a_callback_that_only_fails_needs_no_annotation() {
    let server = TestServer::under_axum(|hub| {
        let closed = ws::handlers().on_open(async |_: Connection| Err(Error::other("closed today")));
        Router::new().route("/closed", hub.ws(closed))
    });
    let mut tab = server.tab("/closed");
    assert_eq!(tab.next(), None);
    assert_eq!(tab.close.unwrap().0, 1011);
}
