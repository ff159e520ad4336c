//! The demos. Each is one page, one file here, and one script in `site/assets`. The page shows both files.

mod chat;
mod cursors;
mod dashboard;
mod notifications;

use ripplecast::{App, Result};

use crate::shared::Demos;

/// Adds all demos to the app.
pub(crate) fn add(app: App, demos: &Demos) -> Result<App> {
    let app = chat::add(app, demos)?;
    let app = cursors::add(app, demos);
    let app = dashboard::add(app, demos);
    notifications::add(app, demos)
}
