//! Checks that the cost of a request grows at most in proportion to the length of its headers, for each header that the
//! server reads.
//!
//! A peer chooses the length of a header, and sends it before it is authenticated. If the work grew with the square of
//! the length, one connection could keep a core busy. So each header is sent short and 16 times as long, and the
//! instructions may grow by a factor of at most 32.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::{Result, Workspace};

use super::{PATIENCE, PROFILES, Server, instructions, target_directory};

/// Bytes in the short header.
const SHORT: usize = 960;
/// The factor of the long header. With the rest of its request, it fits in a head of 16 KiB.
const TIMES: usize = 16;
/// The allowed factor for instructions: proportional work stays far below it, and quadratic work would reach 256.
const ALLOWED: f64 = TIMES as f64 * 2.0;
/// How often each request is sent, to average out random effects.
const REPEATED: usize = 5;

/// A server with all settings that make it read headers.
const PRODUCT: &str = "--port 0 --trusted-proxies loopback --inspect-token 0123456789abcdef";
/// A server with compression, which reads extensions.
const COMPRESSING: &str = "bench serve --port 0 --shards 1 --compress-above 100";

/// Opens a WebSocket, for headers that only upgrades have.
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Creates a request with a header of `size` bytes.
type Request = fn(size: usize) -> String;

/// Each header that the server itself reads, as an attacker would write it.
const REQUESTS: [(&str, Request); 14] = [
    ("Sec-WebSocket-Protocol", |size| upgrade("Sec-WebSocket-Protocol", &names(size))),
    ("Sec-WebSocket-Key", |size| upgrade("Sec-WebSocket-Key", &"A".repeat(size))),
    ("Origin", |size| upgrade("Origin", &format!("http://{}", "a".repeat(size)))),
    ("Connection", |size| get("/ws/counter-demo", "Connection", &names(size))),
    ("Upgrade", |size| get("/ws/counter-demo", "Upgrade", &names(size))),
    ("Cookie", |size| get("/metrics", "Cookie", &"ripplecast_inspect=x; ".repeat(size / 22))),
    ("Authorization", |size| get("/metrics", "Authorization", &format!("Bearer {}", "a".repeat(size)))),
    ("X-Forwarded-For", |size| get("/api/counter", "X-Forwarded-For", &"127.0.0.1,".repeat(size / 10))),
    ("X-Forwarded-Host", |size| get("/api/counter", "X-Forwarded-Host", &names(size))),
    ("Forwarded", |size| get("/api/counter", "Forwarded", &"for=127.0.0.1,".repeat(size / 14))),
    ("Forwarded, one hop", |size| get("/api/counter", "Forwarded", &"for=1;".repeat(size / 6))),
    ("Host", |size| {
        format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", "a".repeat(size))
    }),
    ("the path", |size| get(&"/%41".repeat(size / 4), "Accept", "*/*")),
    ("the query", |size| {
        let query = "name=a&".repeat(size / 7);
        format!("GET /ws/demos/chat?{query} HTTP/1.1\r\nHost: a\r\n{UPGRADE}\r\n")
    }),
];

/// The same for the server with compression.
const EXTENSIONS: [(&str, Request); 2] = [
    ("Sec-WebSocket-Extensions, offers", |size| echo(&names(size))),
    ("Sec-WebSocket-Extensions, parameters", |size| {
        echo(&format!("permessage-deflate{}", "; client_max_window_bits=15".repeat(size / 27)))
    }),
];

fn get(path: &str, name: &str, value: &str) -> String {
    let close = if name == "Connection" { "" } else { "Connection: close\r\n" };
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n{close}{name}: {value}\r\n\r\n")
}

fn upgrade(name: &str, value: &str) -> String {
    format!("GET /ws/counter-demo HTTP/1.1\r\nHost: a\r\n{UPGRADE}{name}: {value}\r\n\r\n")
}

fn echo(extensions: &str) -> String {
    format!("GET /echo HTTP/1.1\r\nHost: a\r\n{UPGRADE}Sec-WebSocket-Extensions: {extensions}\r\n\r\n")
}

/// Returns a list of distinct names of two characters.
fn names(size: usize) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&*+-.^_|~";
    let pairs = LETTERS.iter().flat_map(|&first| LETTERS.iter().map(move |&second| [first, second]));
    let names: Vec<String> =
        pairs.take(size / 3).map(|pair| String::from_utf8_lossy(&pair).into_owned()).collect();
    names.join(",")
}

/// Sends each header short and long, and fails if the instructions of all requests together grow too fast. The sum is
/// sufficient: quadratic work for one header exceeds the work for all others by far.
pub(super) fn check(workspace: &Workspace) -> Result<()> {
    for (name, server, requests) in
        [("headers", PRODUCT, &REQUESTS[..]), ("extensions", COMPRESSING, &EXTENSIONS[..])]
    {
        let count = |size: usize| run(workspace, name, server, requests, size);
        let (least, short, long) = (count(0)?, count(SHORT)?, count(SHORT * TIMES)?);
        let (short, long) = (short.saturating_sub(least), long.saturating_sub(least));
        let growth = long as f64 / short.max(1) as f64;
        println!("   {name}: {TIMES} times as long, {growth:.1} times the instructions");
        if growth > ALLOWED {
            return Err(format!(
                "the server takes {growth:.1} times the instructions for headers that are {TIMES} times as long; at most \
                 {ALLOWED} are allowed. Some work grows faster than its header: to find it, run callgrind_annotate \
                 {PROFILES}/{name}.{}",
                SHORT * TIMES
            ));
        }
    }
    Ok(())
}

/// Executes one run: a fresh server under callgrind, and each request. Returns its instructions.
fn run(
    workspace: &Workspace,
    name: &str,
    server: &str,
    requests: &[(&str, Request)],
    size: usize,
) -> Result<u64> {
    let program = target_directory(workspace).join("release/ripplecast");
    let profile = workspace.at(PROFILES).join(format!("{name}.{size}"));
    let mut server = Server::start(workspace, &program, &profile, server)?;
    let idle = server.descriptors()?;
    for (header, request) in requests {
        for _ in 0..REPEATED {
            ask(&server.address, &request(size)).map_err(|error| format!("{header}: {error}"))?;
        }
    }
    server.wait("close its connections", |server| Ok(server.descriptors()? <= idle))?;
    server.end()?;
    instructions(&profile)
}

/// Sends a request, and reads the response up to its empty line.
fn ask(address: &str, request: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut part)? {
            0 => return Err(std::io::Error::other("the server closed the connection without a response")),
            len => answer.extend_from_slice(&part[..len]),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_fit_a_head_and_grow_with_their_size() {
        for (header, request) in REQUESTS.iter().chain(&EXTENSIONS) {
            let (least, long) = (request(0).len(), request(SHORT * TIMES).len());
            assert!(long < 16 * 1024, "{header}: {long}");
            assert!(long - least > SHORT * TIMES * 9 / 10, "{header}: {least} to {long}");
            assert!(request(SHORT).ends_with("\r\n\r\n"), "{header}");
        }
    }
}
