//! A client of the site behind a proxy.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
};

use socket2::{Domain, Socket, Type};
use tungstenite::{
    HandshakeError, WebSocket,
    client::IntoClientRequest as _,
    http::{HeaderName, HeaderValue},
};

use crate::{program::PATIENCE, proxy::SITE};

pub(crate) struct Client {
    /// The address of the proxy.
    proxy: SocketAddr,
    /// The `Host` header: the site, with the proxy's port as a browser writes it.
    pub(crate) host: String,
    /// The client's own address.
    pub(crate) from: Ipv4Addr,
}

impl Client {
    /// Creates a client with the proxy's own address.
    pub(crate) fn of(proxy: &str) -> Self {
        let proxy: SocketAddr = proxy.parse().unwrap();
        Self { proxy, host: format!("{SITE}:{}", proxy.port()), from: Ipv4Addr::LOCALHOST }
    }

    /// Connects from the client's address to the proxy.
    fn connect(&self) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((self.from, 0)).into())?;
        socket.connect(&self.proxy.into())?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket.into())
    }

    /// Sends a request, and leaves the response to be read.
    fn send(&self, request: &str, connection: &str) -> io::Result<TcpStream> {
        let mut stream = self.connect()?;
        let host = &self.host;
        write!(
            stream,
            "{request} HTTP/1.1\r\nhost: {host}\r\nconnection: {connection}\r\ncontent-length: 0\r\n\r\n"
        )?;
        Ok(stream)
    }

    /// Returns the whole response to a request.
    fn answer(&self, request: &str) -> io::Result<String> {
        let mut answer = String::new();
        self.send(request, "close")?.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Returns the whole response to a GET request.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> String {
        self.try_get(path).unwrap()
    }

    /// Like `get`, but returns an error if nothing is listening.
    pub(crate) fn try_get(&self, path: &str) -> io::Result<String> {
        self.answer(&format!("GET {path}"))
    }

    /// Returns the whole response to a POST request without a body.
    #[track_caller]
    pub(crate) fn post(&self, path: &str) -> String {
        self.answer(&format!("POST {path}")).unwrap()
    }

    /// Returns the whole response to a form submission with one additional header.
    #[track_caller]
    pub(crate) fn form(&self, path: &str, form: &str, header: &str) -> String {
        let mut stream = self.connect().unwrap();
        let (host, length) = (&self.host, form.len());
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n\
             content-type: application/x-www-form-urlencoded\r\n{header}\r\n\r\n{form}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Opens an event stream.
    #[track_caller]
    pub(crate) fn events(&self, path: &str) -> Events {
        Events { stream: self.send(&format!("GET {path}"), "keep-alive").unwrap(), read: String::new() }
    }

    /// Opens a WebSocket with these headers, or returns the status of the rejection.
    #[track_caller]
    pub(crate) fn open(&self, path: &str, headers: &[(&str, &str)]) -> Result<WebSocket<TcpStream>, u16> {
        let mut request = format!("ws://{}{path}", self.host).into_client_request().unwrap();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        }
        match tungstenite::client(request, self.connect().unwrap()) {
            Ok((socket, _)) => Ok(socket),
            Err(HandshakeError::Failure(tungstenite::Error::Http(response))) => Err(response.status().into()),
            Err(error) => panic!("{path}: {error}"),
        }
    }
}

/// An event stream and the text read so far.
pub(crate) struct Events {
    stream: TcpStream,
    read: String,
}

impl Events {
    /// Reads until this text arrives, skipping everything else, such as chunk sizes.
    #[track_caller]
    pub(crate) fn until(&mut self, text: &str) {
        let mut piece = [0; 4096];
        while !self.read.contains(text) {
            let length =
                self.stream.read(&mut piece).unwrap_or_else(|error| panic!("{error}: {}", self.read));
            assert!(length > 0, "the stream has ended: {}", self.read);
            self.read += &String::from_utf8_lossy(&piece[..length]);
        }
    }
}
