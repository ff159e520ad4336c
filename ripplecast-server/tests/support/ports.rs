//! Ports for programs that cannot pick one themselves.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

/// How many ports are tried if other programs take them first.
pub(crate) const TRIES: usize = 20;

/// Returns a loopback port that nothing listens on, outside the kernel's range for outgoing connections: a connection
/// attempt before something listens there cannot connect to itself.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run in parallel start at different ports.
    let start = (std::process::id() % 118) as u16 * 101;
    (0..COUNT)
        .map(|_| FIRST + (NEXT.fetch_add(1, Ordering::Relaxed) % COUNT + start) % COUNT)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("no port is free")
}
