//! Runs the application as a reader would, and talks to it with independent clients.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tungstenite::{Message, WebSocket};

/// Far longer than anything here takes, so that a hang fails the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// The running application, killed on drop.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Opens a WebSocket as a tab does.
fn tab(addr: &str) -> WebSocket<TcpStream> {
    let socket = TcpStream::connect(addr).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    tungstenite::client(format!("ws://{addr}/ws/counter-demo"), socket).unwrap().0
}

fn next(tab: &mut WebSocket<TcpStream>) -> Message {
    tab.read().expect("the tab receives a message")
}

#[test]
fn two_tabs_stay_in_step_until_the_application_stops() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_ripplecast-lean"));
    let mut program = Running(program.arg("0").stdout(Stdio::piped()).spawn().unwrap());
    let mut output = BufReader::new(program.0.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let addr = line.split(['/', ' ']).find(|word| word.starts_with("127.0.0.1:")).expect(&line);

    let mut tabs = [tab(addr), tab(addr)];
    for tab in &mut tabs {
        assert_eq!(next(tab), Message::text(r#"{"value":0}"#));
    }
    for value in 1..=3 {
        let config = ureq::config::Config::builder().timeout_global(Some(PATIENCE)).build();
        let response = config.new_agent().post(format!("http://{addr}/api/counter/bump")).send_empty();
        assert_eq!(response.unwrap().body_mut().read_to_string().unwrap(), value.to_string());
        for tab in &mut tabs {
            assert_eq!(next(tab), Message::text(format!(r#"{{"value":{value}}}"#)));
        }
    }
    tabs[0].send(Message::text("echo")).unwrap();
    assert_eq!(next(&mut tabs[0]), Message::text("echo"));

    let id = program.0.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let Message::Close(Some(close)) = next(&mut tabs[1]) else { panic!("a shutdown closes the socket") };
    assert_eq!(u16::from(close.code), 1001);
    drop(tabs);
    output.read_to_string(&mut line).unwrap(); // until the program ends
    assert!(program.0.wait().unwrap().success());
}
