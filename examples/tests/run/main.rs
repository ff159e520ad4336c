//! Starts each example as its reader would, and talks to it with clients that we did not write.

mod chat;
mod counter;
mod dashboard;
mod embed_in_axum;
mod htmx_todo;
mod program;
mod sse_progress;
mod starter;
mod two_nodes;
