//! Starts each example as a reader would, and talks to it with independent clients.

mod chat;
mod counter;
mod dashboard;
mod embed_in_axum;
mod htmx_todo;
mod pages;
mod program;
mod project;
mod sse_progress;
mod starter;
mod two_nodes;
