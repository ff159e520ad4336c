//! Tests of the whole app over real sockets: each test runs it on a free port.

use std::{net::SocketAddr, path::Path, time::Duration};

use ripplecast::App;
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinHandle};
use tungstenite::{Message, WebSocket, stream::MaybeTlsStream};
use ureq::{Agent, Body, http::Response};

/// Far longer than anything here takes, so that a hang fails the test.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running app.
struct Server {
    addr: SocketAddr,
    agent: Agent,
    runtime: Runtime,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Server {
    fn start(data: &Path) -> Self {
        let runtime = Runtime::new().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (addr, ended) = runtime.block_on(async {
            let app = crate::build(App::builder(), data.to_owned()).await.unwrap();
            let bound = app.bind("127.0.0.1:0").await.unwrap();
            let addr = bound.local_addr();
            let serve = async {
                bound
                    .serve_with_shutdown(async { drop(stopped.await) })
                    .await
                    .unwrap()
            };
            (addr, tokio::spawn(serve))
        });
        let settings = Agent::config_builder().http_status_as_error(false);
        let agent = settings.timeout_global(Some(PATIENCE)).build().into();
        Self {
            addr,
            agent,
            runtime,
            stop,
            ended,
        }
    }

    /// Stops the app as a signal would.
    fn stop(self) {
        self.stop.send(()).unwrap();
        self.runtime.block_on(self.ended).unwrap();
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    fn get(&self, path: &str) -> Response<Body> {
        self.agent.get(self.url(path)).call().unwrap()
    }

    fn add(&self, text: &str) -> u16 {
        let sent = self
            .agent
            .post(self.url("/notes"))
            .send_form([("text", text)]);
        sent.unwrap().status().as_u16()
    }

    fn like(&self, id: u32) -> u16 {
        let sent = self
            .agent
            .post(self.url(&format!("/notes/{id}/like")))
            .send_empty();
        sent.unwrap().status().as_u16()
    }

    fn remove(&self, id: u32) -> u16 {
        let sent = self.agent.delete(self.url(&format!("/notes/{id}"))).call();
        sent.unwrap().status().as_u16()
    }

    fn open_page(&self) -> Page {
        let (socket, _) = tungstenite::connect(format!("ws://{}/live", self.addr)).unwrap();
        let MaybeTlsStream::Plain(stream) = socket.get_ref() else {
            unreachable!("the connection uses no TLS")
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Page(socket)
    }
}

/// An open page.
struct Page(WebSocket<MaybeTlsStream<std::net::TcpStream>>);

impl Page {
    fn next(&mut self) -> Value {
        match self.0.read().unwrap() {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Returns the next change: the id of the note, and the note.
    fn change(&mut self) -> (Value, Value) {
        let mut change = self.next();
        (change["key"].take(), change["row"].take())
    }
}

/// The mark at one end of a page's first notes.
fn mark(snapshot: &str) -> Value {
    json!({ "table": "notes", "snapshot": snapshot })
}

#[test]
fn a_change_by_one_page_reaches_all() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut pages = [server.open_page(), server.open_page()];
    for page in &mut pages {
        assert_eq!([page.next(), page.next()], ["begin", "end"].map(mark));
    }
    assert_eq!(server.add(" hello "), 204);
    assert_eq!(server.like(1), 204);
    assert_eq!(server.remove(1), 204);
    for page in &mut pages {
        assert_eq!(
            page.change(),
            (json!("1"), json!({ "text": "hello", "likes": 0 }))
        );
        assert_eq!(
            page.change(),
            (json!("1"), json!({ "text": "hello", "likes": 1 }))
        );
        assert_eq!(page.change(), (json!("1"), Value::Null));
    }
    assert_eq!(server.like(1), 404);
    server.stop();
}

#[test]
fn notes_survive_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    assert_eq!(
        (server.add("first"), server.add("second"), server.like(2)),
        (204, 204, 204)
    );
    assert_eq!(server.remove(1), 204);
    server.stop();

    let server = Server::start(data.path());
    let mut page = server.open_page();
    assert_eq!(page.next(), mark("begin"));
    assert_eq!(
        page.change(),
        (json!("2"), json!({ "text": "second", "likes": 1 }))
    );
    assert_eq!(page.next(), mark("end"));
    assert_eq!(server.add("third"), 204);
    assert_eq!(page.change().0, json!("3"), "ids are not reused");
    server.stop();
}

#[test]
fn a_broken_file_is_reported_and_left_unchanged() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("notes.json");
    std::fs::write(&file, "{").unwrap();
    let runtime = Runtime::new().unwrap();
    let built = runtime.block_on(crate::build(App::builder(), data.path().to_owned()));
    assert!(
        built
            .unwrap_err()
            .to_string()
            .contains("notes.json can't be read")
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{");
}

#[test]
fn invalid_notes_are_rejected_and_the_board_is_bounded() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    assert_eq!((server.add("  "), server.add(&"x".repeat(501))), (422, 422));
    let statuses: Vec<_> = (0..501).map(|_| server.add("again")).collect();
    assert!(statuses[..500].iter().all(|&status| status == 204));
    assert_eq!(statuses[500], 409);
    server.stop();
}

#[test]
fn every_file_named_in_the_page_exists() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut page = server.get("/");
    assert_eq!(page.status(), 200);
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'self'"), "{policy}");

    let html = page.body_mut().read_to_string().unwrap();
    let named: Vec<_> = html
        .split('"')
        .filter(|text| text.starts_with("/assets/"))
        .collect();
    assert!(named.contains(&"/assets/board.js"));
    assert_eq!(named.contains(&"/assets/dev.js"), cfg!(debug_assertions));
    for path in named {
        let asset = server.get(path);
        assert_eq!(asset.status(), 200, "{path}");
        let version = asset.headers()["etag"].to_str().unwrap();
        let again = server
            .agent
            .get(server.url(path))
            .header("if-none-match", version);
        assert_eq!(again.call().unwrap().status(), 304, "{path}");
    }
    assert_eq!(server.get("/assets/none.css").status(), 404);
    assert_eq!(server.get("/assets/../Cargo.toml").status(), 404);
    server.stop();
}
