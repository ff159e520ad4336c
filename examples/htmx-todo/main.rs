//! A to-do list shared by all open pages: htmx sends the forms, and an event stream pushes the new list.
//!
//! `cargo run -p ripplecast-examples --example htmx-todo`, then open the page in two tabs. It contains no JavaScript of
//! its own.

use std::sync::{Arc, Mutex, PoisonError};

use askama::Template;
use axum::{
    extract::{self, Path, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::Html,
    routing::{get, post},
};
use ripplecast::{App, Connection, Error, Message, Result, Room, SameOrigin, sse};
use serde::Deserialize;

/// The most items in the list.
const MAX_ITEMS: usize = 100;

struct Item {
    id: u64,
    text: String,
    done: bool,
}

/// The whole page. Askama escapes its contents.
#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    items: &'a [Item],
    form: Form<'a>,
}

/// Only the list, which is pushed to all pages when it changes.
#[derive(Template)]
#[template(path = "list.html")]
struct List<'a> {
    items: &'a [Item],
}

/// The form, which replaces the one that was sent: empty, or unchanged with an error message.
#[derive(Template, Default)]
#[template(path = "form.html")]
struct Form<'a> {
    text: &'a str,
    problem: &'a str,
}

/// The submitted form.
#[derive(Deserialize)]
struct Wish {
    text: String,
}

/// The list, and the room of all pages that show it.
struct Todo {
    items: Mutex<Vec<Item>>,
    room: Room,
}

impl Todo {
    fn with<R>(&self, look: impl FnOnce(&mut Vec<Item>) -> R) -> R {
        look(&mut self.items.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the list and pushes it, under one lock: no page receives an older list after a newer one. A push never
    /// waits.
    fn change(&self, change: impl FnOnce(&mut Vec<Item>)) -> Result<StatusCode> {
        self.with(|items| {
            change(items);
            self.room.push(list(items)?).ignore();
            Ok(StatusCode::NO_CONTENT) // htmx leaves the page as it is; the stream brings the list
        })
    }
}

/// Encodes the list as a message. For a page that reads slowly, a newer list replaces one that is still queued.
fn list(items: &[Item]) -> Result<Message> {
    let html = List { items }.render().map_err(Error::other)?;
    Ok(Message::text(html).with_key("list"))
}

async fn page(State(todo): State<Arc<Todo>>) -> Result<Html<String>> {
    todo.with(|items| Page { items, form: Form::default() }.render()).map(Html).map_err(Error::other)
}

async fn add(
    State(todo): State<Arc<Todo>>,
    extract::Form(Wish { text }): extract::Form<Wish>,
) -> Result<Html<String>> {
    let text = text.trim();
    let problem = if todo.with(|items| items.len() >= MAX_ITEMS) {
        "The list is full. Remove something first."
    } else if text.is_empty() || text.len() > 400 {
        "Enter 1 to 400 bytes."
    } else {
        ""
    };
    if problem.is_empty() {
        todo.change(|items| {
            let id = items.last().map_or(1, |last| last.id + 1);
            items.push(Item { id, text: text.to_owned(), done: false });
        })?;
    }
    // htmx shows only successful responses, so a rejection is one too.
    let text = if problem.is_empty() { "" } else { text };
    Form { text, problem }.render().map(Html).map_err(Error::other)
}

async fn toggle(State(todo): State<Arc<Todo>>, Path(id): Path<u64>) -> Result<StatusCode> {
    todo.change(|items| items.iter_mut().filter(|item| item.id == id).for_each(|item| item.done = !item.done))
}

async fn remove(State(todo): State<Arc<Todo>>, Path(id): Path<u64>) -> Result<StatusCode> {
    todo.change(|items| items.retain(|item| item.id != id))
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().init();
    let port = std::env::args().nth(1).unwrap_or("8080".into());
    let app = App::from_env().await?;
    let todo = Arc::new(Todo { items: Mutex::default(), room: app.hub().room("todo") });

    // A page that reconnects, or opens while the list changes, first receives the current list.
    let for_stream = todo.clone();
    let events = sse::room("todo").on_open(move |conn: Connection| {
        let pushed = for_stream.with(|items| list(items).map(|list| conn.push(list).ignore()));
        async move { pushed }
    });
    let pages = axum::Router::new()
        .route("/", get(page))
        .route("/items", post(add))
        .route("/items/{id}", post(toggle).delete(remove))
        .layer(SameOrigin::new(&app.hub())) // rejects other sites' POSTs
        .with_state(todo);

    let bound = app
        .sse("/events", events)
        .merge(pages)
        .route("/htmx.js", script(include_str!("../htmx/htmx.min.js")))
        .route("/sse.js", script(include_str!("../htmx/sse.js")))
        .route("/style.css", get(async || ([(CONTENT_TYPE, "text/css")], include_str!("../style.css"))))
        .bind(format!("127.0.0.1:{port}"))
        .await?;
    println!("open http://{} in two tabs", bound.local_addr());
    bound.serve().await
}

/// Serves a script that is part of the program.
fn script(source: &'static str) -> axum::routing::MethodRouter {
    get(async move || ([(CONTENT_TYPE, "text/javascript")], source))
}
