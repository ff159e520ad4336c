//! What the `ripplecast` binary serves by default: the counter, the lesson's live parts and the demos. Their pages are in
//! `ripplecast-site`.
//!
//! [`Demos`] is what they share. The inspector and the metrics of the server use the same visitors, limits and figures.

mod alias;
mod counter;
mod demos;
mod learn;
pub mod limit;
pub mod sample;
mod seen;
mod shared;
mod tabs;
pub mod visitor;
mod watched;

use ripplecast::{App, Result};

pub use seen::Seen;
pub use shared::{Demos, Operators, limit_actions};

/// Adds the counter, the demos and the lesson to an app. `is_shared`: whether nodes share a backend.
///
/// # Errors
/// A counter, a table or a room of the demos cannot be set up on this hub.
pub fn add(app: App, demos: &Demos, is_shared: bool) -> Result<App> {
    let app = counter::add(app, demos)?;
    let app = demos::add(app, demos)?;
    learn::add(app, demos, is_shared)
}
