//! The engine inside an existing axum application: its routes, its state, its login and its `axum::serve` stay as they
//! are. Additions are marked with NEW: users are notified in every tab when their order is ready.
//!
//! `cargo run -p ripplecast-examples --example embed-in-axum`, then log in, in two tabs.

use axum::{
    Form, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use ripplecast::{Accept, Connection, Hub, Request, Result, SameOrigin, ws};
use serde::Deserialize;
use tokio::{net::TcpListener, time::Duration};

/// The application's state.
#[derive(Clone)]
struct Shop {
    hub: Hub, // NEW
}

#[derive(Deserialize)]
struct Login {
    user: String,
}

fn is_name(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

async fn log_in(Form(Login { user }): Form<Login>) -> Response {
    if !is_name(&user) {
        return (StatusCode::BAD_REQUEST, "a name must have 1 to 40 letters and digits").into_response();
    }
    let cookie = format!("user={user}; HttpOnly; SameSite=Strict; Path=/");
    ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response()
}

/// Returns the logged-in user, from the cookie. A real application stores a random session id there, and looks up the
/// user.
fn user_of(headers: &HeaderMap) -> Option<&str> {
    ripplecast::request::cookie(headers, "user").filter(|name| is_name(name))
}

/// Returns the name of the logged-in user, or nothing.
async fn me(headers: HeaderMap) -> String {
    user_of(&headers).unwrap_or_default().to_owned()
}

async fn order(State(shop): State<Shop>, headers: HeaderMap) -> Result<Response> {
    let Some(user) = user_of(&headers) else {
        return Ok((StatusCode::UNAUTHORIZED, "log in first").into_response());
    };
    let client = shop.hub.user(user); // NEW: all tabs of that user
    client.push("We have your order.").await?;
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(2)).await; // someone packs it
        client.push("Your order is ready.").await
    });
    Ok(StatusCode::ACCEPTED.into_response())
}

/// NEW: checks the login before the WebSocket opens. From then on, the connection can be reached by the user's name.
fn news() -> impl ws::IntoEndpoint {
    struct User(String);
    let handlers = ws::handlers().on_open(async |conn: Connection| {
        if let Some(user) = conn.state::<User>() {
            conn.identify(&user.0).await?;
        }
        Ok(())
    });
    ws::endpoint(handlers).max_message(64).on_upgrade(async |request: Request| {
        match request.cookie("user").filter(|name| is_name(name)) {
            Some(user) => Ok(Accept::new().state(User(user.to_owned()))),
            None => Err((StatusCode::UNAUTHORIZED, "log in first")),
        }
    })
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().init();
    let port = std::env::args().nth(1).unwrap_or("8080".into());

    let hub = Hub::builder().build()?; // NEW
    let router = Router::new()
        .route("/", get(async || Html(include_str!("page.html"))))
        .route("/login", post(log_in))
        .route("/me", get(me))
        .route("/orders", post(order))
        .route("/news", hub.ws(news())) // NEW
        .route(
            "/page.js",
            get(async || ([(header::CONTENT_TYPE, "text/javascript")], include_str!("page.js"))),
        )
        .route(
            "/style.css",
            get(async || ([(header::CONTENT_TYPE, "text/css")], include_str!("../style.css"))),
        )
        .layer(SameOrigin::new(&hub)) // NEW: rejects other sites' POSTs
        .with_state(Shop { hub: hub.clone() });

    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("open http://{} in two tabs", listener.local_addr()?);
    ripplecast::serve(listener, router, &hub).await?; // NEW: instead of axum::serve, which would not close connections
    Ok(())
}
