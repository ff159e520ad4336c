//! The app that the binary serves: the counter, the demos, the lesson, the inspector, and the pages.

use ripplecast::{AppBuilder, Result};

use crate::{
    counter,
    demos::{self, Demos},
    inspect::{self, Gate},
    learn, metrics, sample,
};

/// What the app has to know beside the builder's settings.
pub(crate) struct Options {
    /// Whether the demos' limits hold for loopback too.
    pub(crate) demo_limits: bool,
    /// Whether nodes share a backend.
    pub(crate) is_shared: bool,
    /// Who may look at the inspector and the metrics.
    pub(crate) gate: Gate,
}

/// Builds the app.
pub(crate) async fn build(builder: AppBuilder, options: Options) -> Result<ripplecast::App> {
    sample::begin();
    let app = builder.build().await?;
    let demos = Demos::new(app.hub(), options.demo_limits);
    let app = counter::add(app, &demos)?;
    let app = demos::add(app, &demos)?;
    let app = learn::add(app, &demos, options.is_shared)?;
    let app = inspect::add(app, &demos, &options.gate);
    let app = metrics::add(app, &options.gate);
    Ok(app.merge(ripplecast_site::router()))
}
