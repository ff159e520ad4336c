//! A chat with rooms: guests join, send messages and leave.
//!
//! `cargo run -p ripplecast-examples --example chat`, then open the page in two windows.

use axum::{
    http::{StatusCode, header::CONTENT_TYPE},
    response::Html,
    routing::get,
};
use ripplecast::{Accept, App, Close, Connection, Hub, Message, Request, Result, ws};
use serde::{Deserialize, Serialize};

/// The query of the page's request: `/rooms/lobby?name=ada`.
#[derive(Deserialize)]
struct Query {
    name: String,
}

/// Who has joined, and which room; stored with the connection.
struct Guest {
    name: String,
    room: String,
}

/// The message that everyone in the room receives.
#[derive(Serialize)]
struct Line<'a> {
    from: &'a str,
    text: &'a str,
}

/// Decides who may join, before the WebSocket opens. A real chat would check a session here instead of trusting a name.
async fn enter(request: Request) -> Result<Accept, (StatusCode, &'static str)> {
    let Ok(Query { name }) = request.query() else {
        return Err((StatusCode::BAD_REQUEST, "missing name: add ?name="));
    };
    if name.trim().is_empty() || name.len() > 40 {
        return Err((StatusCode::BAD_REQUEST, "a name must have 1 to 40 bytes"));
    }
    let room = request.param("room").unwrap_or("lobby");
    if room.len() > 40 {
        return Err((StatusCode::BAD_REQUEST, "a room name must have at most 40 bytes"));
    }
    let room = format!("chat:{room}");
    Ok(Accept::new().state(Guest { name, room }))
}

/// The three callbacks of a guest's WebSocket.
struct Chat {
    hub: Hub,
}

impl Chat {
    /// Sends a message to the room. A guest who has disconnected is not an error, and a slow reader delays no one.
    fn say(&self, conn: &Connection, text: &str) -> Result<()> {
        if let Some(guest) = conn.state::<Guest>() {
            self.hub.room(&guest.room).push(Message::json(&Line { from: &guest.name, text })?).ignore();
        }
        Ok(())
    }
}

impl ws::Handler for Chat {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        if let Some(guest) = conn.state::<Guest>() {
            conn.join(&guest.room)?;
        }
        self.say(&conn, "joined")
    }

    async fn on_message(&self, conn: Connection, message: Message) -> Result<()> {
        match message.as_text().map(str::trim) {
            None | Some("") => Ok(()),
            Some(text) => self.say(&conn, text),
        }
    }

    async fn on_close(&self, conn: Connection, _close: Close) -> Result<()> {
        self.say(&conn, "left") // the connection has left its rooms, but its state is still available
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().init();
    let port = std::env::args().nth(1).unwrap_or("8080".into());
    let app = App::from_env().await?;
    let chat = ws::endpoint(Chat { hub: app.hub() }).on_upgrade(enter).text_only().max_message(4096);

    println!("open http://127.0.0.1:{port} in two windows");
    app.ws("/rooms/{room}", chat)
        .route("/", get(async || Html(include_str!("page.html"))))
        .route("/page.js", get(async || ([(CONTENT_TYPE, "text/javascript")], include_str!("page.js"))))
        .route("/style.css", get(async || ([(CONTENT_TYPE, "text/css")], include_str!("../style.css"))))
        .run(format!("127.0.0.1:{port}"))
        .await
}
