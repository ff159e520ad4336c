//! The binary with the certificate that docs/tls.md creates, and a client that trusts it.

#[path = "support/program.rs"]
mod program;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use program::{PATIENCE, ripplecast};

const PAGE: &str = include_str!("../../docs/tls.md");

/// Removes the directory and stops the server on drop.
struct Gone(PathBuf, Option<Child>);

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(server) = &mut self.1 {
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_documented_certificate_works_with_the_server() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tls-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let mut gone = Gone(dir.clone(), None);
    let lines = PAGE
        .split("```sh\nopenssl ")
        .nth(1)
        .expect("the page shows the command")
        .split("```")
        .next()
        .unwrap();
    let made =
        Command::new("sh").args(["-c", &format!("openssl {lines}")]).current_dir(&dir).output().unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "is openssl installed (apt-get install openssl)? {said}");

    let mut server = ripplecast();
    server.args(["--port", "0"]).current_dir(&dir).stdout(Stdio::piped());
    server.env("RIPPLECAST_TLS_CERT", "cert.pem").env("RIPPLECAST_TLS_KEY", "key.pem");
    let server = gone.1.insert(server.spawn().unwrap());
    let mut out = BufReader::new(server.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let port = line.trim_end().strip_prefix("Ripplecast listens on https://127.0.0.1:");
    let port = port.unwrap_or_else(|| panic!("the first line is {line:?}"));

    for host in ["localhost", "127.0.0.1"] {
        let mut client = Command::new("curl");
        client.args(["--silent", "--show-error", "--fail", "--cacert", "cert.pem"]);
        client.args(["--max-time", &PATIENCE.as_secs().to_string()]);
        let answer = client.arg(format!("https://{host}:{port}/health")).current_dir(&dir).output();
        let answer =
            answer.unwrap_or_else(|error| panic!("curl: {error}; install it with `apt-get install curl`"));
        assert_eq!(String::from_utf8_lossy(&answer.stdout), r#"{"status":"ok"}"#, "{answer:?}");
    }
}
