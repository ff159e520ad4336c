//! The app that the binary serves: the counter, the demos, the lesson, the inspector and the pages.

use std::sync::Arc;

use axum::{
    http::{
        HeaderValue, StatusCode,
        header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS},
        request::Parts,
    },
    middleware::map_response,
    response::Response,
};
use ripplecast::{AppBuilder, Hub, Result, SameOrigin};
use ripplecast_demo::{Demos, sample};

use crate::{
    inspect::{self, Gate},
    metrics,
};

/// Options other than the builder's settings.
pub(crate) struct Options {
    /// Whether the demos' limits also apply to loopback.
    pub(crate) demo_limits: bool,
    /// Whether nodes share a backend.
    pub(crate) is_shared: bool,
    /// Controls access to the inspector and the metrics.
    pub(crate) gate: Gate,
}

pub(crate) async fn build(builder: AppBuilder, options: Options) -> Result<ripplecast::App> {
    sample::begin();
    let app = builder.build().await?;
    let gate = options.gate.clone();
    let operators = Arc::new(move |hub: &Hub, parts: &Parts| gate.opens(hub, parts));
    let demos = Demos::new(app.hub(), options.demo_limits, operators);
    let app = ripplecast_demo::add(app, &demos, options.is_shared)?;
    let app = inspect::add(app, &demos, &options.gate);
    let app = metrics::add(app, &options.gate);
    // Requests that change something are rejected when they come from other sites' pages.
    let check = SameOrigin::new(&app.hub());
    let app = app.layer(map_response(guard)).layer(check);
    Ok(app.merge(ripplecast_site::router()))
}

/// Keeps browsers from sniffing types, and caches from storing live values.
async fn guard(mut response: Response) -> Response {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
    response
}
