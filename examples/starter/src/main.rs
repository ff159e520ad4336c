//! A board of notes shared by all open pages. Copy this project as a start for your own.

mod board;
mod dev;
mod saved;
mod web;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use axum::routing::get;
use ripplecast::{App, AppBuilder, Result, SameOrigin};

/// Reads the settings, and serves until Ctrl-C or SIGTERM.
#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().init();
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let listen = setting("LISTEN", "127.0.0.1:8080");
    let data = PathBuf::from(setting("DATA", "data"));

    // Reads the variables in docs/settings.md, except the backend: the notes are in this program and its file.
    let builder = AppBuilder::from_env()?.backend("memory");
    let bound = build(builder, data).await?.bind(listen).await?;
    println!("open http://{} in two tabs", bound.local_addr());
    bound.serve().await
}

/// Builds the app: pages, board, and page reloading in a debug build. The tests use it too.
async fn build(builder: AppBuilder, data: PathBuf) -> Result<App> {
    let app = builder.build().await?;
    let hub = app.hub();
    let board = board::Board::open(&hub, data.join("notes.json")).await?;

    let app = app
        .ws("/live", board.live())
        .merge(board.routes())
        .route("/", get(async || web::page("board.html")))
        .route("/assets/{*name}", get(web::asset));
    let app = if cfg!(debug_assertions) {
        app.merge(dev::routes(&hub))
    } else {
        app
    };
    // Other sites' pages must not post on behalf of a user.
    let app = app.layer(SameOrigin::new(&hub));
    Ok(app.layer(axum::middleware::map_response(web::secure)))
}
