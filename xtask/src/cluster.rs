//! `cargo xtask cluster`: starts a Redis, nodes that share it, and a load balancer, with one
//! command.

use std::{
    io::{self, BufRead as _, BufReader},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command as Process, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    Result, Workspace,
    command::find,
    setup::{self, Need},
    steps::{build_server, server},
};

/// The program of Redis. It is installed only if it is missing.
const REDIS: &str = "redis-server";
/// The time limit for a program to start.
const START: Duration = Duration::from_secs(20);
/// The time a node has for a graceful exit.
const END: Duration = Duration::from_secs(10);
/// The most connections through the balancer. Each one needs two threads, and this is meant for a
/// handful of tabs.
const CONNECTIONS: usize = 500;

/// A program that is killed on drop.
struct Running {
    /// Its name in messages.
    name: String,
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts everything, and waits for Ctrl-C.
pub(crate) fn run(workspace: &Workspace, nodes: usize, port: u16) -> Result<()> {
    // First, so that a port in use is reported before anything is installed or built.
    let balancer = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| {
        format!("failed to listen on port {port}: {error}; choose another port with --port")
    })?;
    if find(REDIS).is_none() {
        setup::install(workspace, &[Need::Redis])?;
    }
    build_server().run(&workspace.root)?;
    let stop = Arc::new(AtomicBool::new(false));
    let main = thread::current();
    let on_signal = stop.clone();
    ctrlc::set_handler(move || {
        on_signal.store(true, Ordering::Relaxed);
        main.unpark();
    })
    .map_err(|error| format!("failed to handle Ctrl-C: {error}"))?;

    let redis_port = free_port()?;
    let redis = start_redis(&workspace.root, redis_port)?;
    let url = format!("redis://127.0.0.1:{redis_port}");
    println!("Redis      {url}");
    let program = server(workspace, "debug");
    let mut running = Vec::new();
    let mut addresses = Vec::new();
    for number in 1..=nodes {
        let (node, address) = start_node(&program, &url, number)?;
        println!("node {number}     http://{address}/");
        running.push(node);
        addresses.push(address);
    }
    let all = balancer.local_addr().map_err(|error| error.to_string())?;
    println!("balancer   http://{all}/   each new connection goes to the next node");
    println!("\nOpen two of these addresses, and press +1 in one. Ctrl-C stops everything.");
    thread::spawn(move || balance(&balancer, &addresses));
    while !stop.load(Ordering::Relaxed) {
        thread::park_timeout(Duration::from_millis(500));
        for program in &mut running {
            if let Ok(Some(status)) = program.child.try_wait()
                && !stop.load(Ordering::Relaxed)
            {
                println!("{} has exited ({status}); the others keep running", program.name);
            }
        }
        running.retain_mut(|program| matches!(program.child.try_wait(), Ok(None)));
    }
    println!("\nstopping");
    end(running);
    drop(redis);
    Ok(())
}

/// Starts a Redis without persistence.
fn start_redis(root: &Path, port: u16) -> Result<Running> {
    let program =
        find(REDIS).ok_or("redis-server was not found; install it with `apt-get install redis-server`")?;
    let child = Process::new(program)
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"])
        .current_dir(root.join("target"))
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("failed to start redis-server: {error}"))?;
    let redis = Running { name: "Redis".into(), child };
    let begin = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if begin.elapsed() > START {
            return Err(format!("redis-server is not listening on port {port}"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(redis)
}

/// Starts a node on a free port, and returns it with its address.
fn start_node(program: &Path, url: &str, number: usize) -> Result<(Running, SocketAddr)> {
    let child = Process::new(program)
        .args(["--backend", url, "--port", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("failed to start node {number}: {error}"))?;
    let mut node = Running { name: format!("node {number}"), child };
    let mut line = String::new();
    if let Some(out) = node.child.stdout.take() {
        BufReader::new(out).read_line(&mut line).map_err(|error| error.to_string())?;
    }
    let address = line.trim().rsplit("http://").next().and_then(|address| address.parse().ok());
    let address =
        address.ok_or_else(|| format!("node {number} did not print its address; see its output above"))?;
    Ok((node, address))
}

/// Asks all programs to stop, and waits for them.
fn end(mut running: Vec<Running>) {
    for program in &running {
        let _ = Process::new("kill").args(["-s", "TERM", &program.child.id().to_string()]).status();
    }
    let begin = Instant::now();
    while begin.elapsed() < END
        && running.iter_mut().any(|program| matches!(program.child.try_wait(), Ok(None)))
    {
        thread::sleep(Duration::from_millis(20));
    }
}

/// Forwards each connection to the next node.
fn balance(listener: &TcpListener, nodes: &[SocketAddr]) {
    let open = Arc::new(AtomicUsize::new(0));
    for (turn, client) in listener.incoming().flatten().enumerate() {
        if open.load(Ordering::Relaxed) >= CONNECTIONS {
            continue; // the connection is closed immediately
        }
        // Skip nodes that have exited.
        let node =
            (0..nodes.len()).find_map(|next| TcpStream::connect(nodes[(turn + next) % nodes.len()]).ok());
        let Some(node) = node else { continue };
        let open = open.clone();
        open.fetch_add(1, Ordering::Relaxed);
        thread::spawn(move || {
            if let (Ok(from), Ok(to)) = (client.try_clone(), node.try_clone()) {
                let back = thread::spawn(move || pass(from, node));
                pass(to, client);
                let _ = back.join();
            }
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Copies data in one direction until it ends.
fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// Returns a port that is currently free.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    Ok(listener.local_addr().map_err(|error| error.to_string())?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_reported_before_anything_is_installed_or_built() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        // Nothing could be built here.
        let workspace = Workspace { root: "/nonexistent".into() };
        let error = run(&workspace, 1, port).unwrap_err();
        assert!(error.starts_with(&format!("failed to listen on port {port}: ")), "{error}");
    }
}
