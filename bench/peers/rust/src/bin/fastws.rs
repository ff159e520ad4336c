//! fastwebsockets on hyper: a broadcast channel, a split socket, two tasks per
//! connection.

use bytes::Bytes;
use fastwebsockets::{
    FragmentCollector, FragmentCollectorRead, Message, OpCode, Payload, WebSocketError,
    upgrade::{self, UpgradeFut},
};
use http_body_util::Empty;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::broadcast};

type Everyone = broadcast::Sender<Bytes>;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", peers::port()?)).await?;
    let (everyone, _) = broadcast::channel(peers::BEHIND);
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let everyone: Everyone = everyone.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| open(request, everyone.clone()));
            // A finished load resets its connections.
            let _ =
                http1::Builder::new().serve_connection(TokioIo::new(socket), service).with_upgrades().await;
        });
    }
}

async fn open(
    mut request: Request<Incoming>,
    everyone: Everyone,
) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    let wants_echo = request.uri().path() == "/echo";
    let (response, socket) = upgrade::upgrade(&mut request)?;
    tokio::spawn(async move {
        let _ = if wants_echo { echo(socket).await } else { chat(socket, everyone).await };
    });
    Ok(response)
}

async fn chat(socket: UpgradeFut, everyone: Everyone) -> Result<(), WebSocketError> {
    let (reads, mut writes) = socket.await?.split(tokio::io::split);
    let mut reads = FragmentCollectorRead::new(reads);
    let mut messages = everyone.subscribe();
    let sends = tokio::spawn(async move {
        while let Ok(text) = messages.recv().await {
            if writes.write_frame(Message::text(Payload::Borrowed(&text))).await.is_err() {
                break;
            }
        }
    });
    let no_answers = &mut |_| async { Ok::<_, WebSocketError>(()) };
    while let Ok(frame) = reads.read_frame(no_answers).await {
        match frame.opcode {
            OpCode::Text => {
                let _ = everyone.send(Bytes::copy_from_slice(&frame.payload));
            }
            OpCode::Close => break,
            _ => {}
        }
    }
    sends.abort();
    Ok(())
}

async fn echo(socket: UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(socket.await?);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}
