//! The options of a connection's socket.

use std::os::fd::AsFd;

use crate::limits::{PING_INTERVAL, UNSENT_BYTES};

/// Sets the options of a connection's socket. On Linux, accepted sockets inherit them from the listener,
/// which saves the system calls per connection.
///
/// `TCP_NODELAY`: frames are already coalesced, so waiting for more only adds delay.
///
/// `TCP_USER_TIMEOUT`: the kernel drops a connection whose peer acknowledges nothing for three ping
/// intervals. Our own pings detect a WebSocket's dead peer earlier. An event stream has no other way, and by
/// default the kernel would retry for a quarter of an hour.
///
/// `TCP_NOTSENT_LOWAT`: the kernel buffers no more than it can soon send. What a slow reader has to wait for
/// stays in its outbox, where it is counted and can still be replaced or dropped.
pub(crate) fn tune(socket: &impl AsFd) {
    let socket = socket2::SockRef::from(socket);
    // Errors are ignored: a socket that its peer has reset fails at its first read, and a kernel that does
    // not support an option has its own limits.
    let _ = socket.set_tcp_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        let _ = socket.set_tcp_user_timeout(Some(PING_INTERVAL * 3));
        let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn accepted_sockets_inherit_the_options_of_the_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        tune(&listener);
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = socket2::SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(PING_INTERVAL * 3));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT_BYTES);
    }
}
