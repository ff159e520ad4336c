//! axum's WebSockets, structured like its chat example: a broadcast channel, a split socket, two tasks per
//! connection.

use axum::{
    Router,
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, Utf8Bytes, WebSocket},
    },
    routing::any,
    serve::ListenerExt as _,
};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{net::TcpListener, sync::broadcast};

type Everyone = broadcast::Sender<Utf8Bytes>;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", peers::port()?)).await?;
    let listener = listener.tap_io(|socket| {
        let _ = socket.set_nodelay(true);
    });
    let app = Router::new()
        .route(
            "/bc",
            any(async |ws: WebSocketUpgrade, State(everyone): State<Everyone>| {
                ws.on_upgrade(|socket| chat(socket, everyone))
            }),
        )
        .route("/echo", any(async |ws: WebSocketUpgrade| ws.on_upgrade(echo)))
        .with_state(broadcast::channel(peers::BEHIND).0);
    axum::serve(listener, app).await
}

async fn chat(socket: WebSocket, everyone: Everyone) {
    let (mut sink, mut stream) = socket.split();
    let mut messages = everyone.subscribe();
    let mut sends = tokio::spawn(async move {
        while let Ok(text) = messages.recv().await {
            if sink.send(Message::Text(text)).await.is_err() {
                break;
            }
        }
    });
    let mut receives = tokio::spawn(async move {
        while let Some(Ok(Message::Text(text))) = stream.next().await {
            let _ = everyone.send(text);
        }
    });
    tokio::select! {
        _ = &mut sends => receives.abort(),
        _ = &mut receives => sends.abort(),
    }
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let wanted = matches!(message, Message::Text(_) | Message::Binary(_));
        if wanted && socket.send(message).await.is_err() {
            break;
        }
    }
}
