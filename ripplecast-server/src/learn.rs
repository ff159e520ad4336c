//! What moves on the lesson's page beside the counter.

mod job;
pub(crate) mod life;
mod nodes;
mod poll;
mod words;

use ripplecast::{App, Result};

use crate::{demos::Demos, inspect::Gate};

/// Puts all of it on the app; whether the nodes share a backend.
pub(crate) fn add(app: App, demos: &Demos, is_shared: bool, gate: &Gate) -> Result<App> {
    let app = life::add(app, demos);
    let app = poll::add(app, demos);
    let app = job::add(app, demos)?;
    let app = words::add(app, demos);
    Ok(nodes::add(app, demos, is_shared, gate))
}
