//! The live parts of the lesson other than the counter.

mod job;
pub(crate) mod life;
mod nodes;
mod poll;
mod words;

use ripplecast::{App, Result};

use crate::shared::Demos;

/// Adds the lesson's endpoints and routes to the app. `is_shared`: whether nodes share
/// a backend.
pub(crate) fn add(app: App, demos: &Demos, is_shared: bool) -> Result<App> {
    let app = life::add(app, demos);
    let app = poll::add(app, demos);
    let app = job::add(app, demos)?;
    let app = words::add(app, demos);
    Ok(nodes::add(app, demos, is_shared))
}
