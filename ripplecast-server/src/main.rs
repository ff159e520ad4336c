//! The `ripplecast` binary: by default the lesson and the demos; also a bare benchmark server, load generators and a
//! soak test.

mod app;
mod cli;
mod inspect;
mod metrics;

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    sync::OnceLock,
};

use ripplecast::{AppBuilder, Error, Result, TrustedProxies};
use ripplecast_bench::Failure;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use cli::{Action, Serve};
use inspect::Gate;

/// Exit code for a usage error.
const USAGE: u8 = 2;
/// Exit code for a runtime error.
const RUNTIME: u8 = 1;

fn main() -> ExitCode {
    let (action, log) = match cli::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(cli::Stop::Shown) => return ExitCode::SUCCESS,
        Err(cli::Stop::Wrong(line)) => return fail(&line, USAGE),
    };
    // Flushes the log when dropped.
    let _log = start_log(log);
    let outcome = match action {
        Action::Serve(options) => run(serve(options)),
        Action::Bench(bench) => match bench.run() {
            Ok(()) => Ok(()),
            Err(Failure::Server(error)) => Err(error),
            Err(Failure::Other(line)) => return fail(&line, RUNTIME),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ Error::Setting { .. }) => fail(&error.to_string(), USAGE),
        Err(error @ Error::Listen { .. }) => {
            let settings = "set by --host or RIPPLECAST_HOST, --port or RIPPLECAST_PORT";
            fail(&format!("{} ({settings})", with_sources(&error)), RUNTIME)
        }
        Err(error) => fail(&with_sources(&error), RUNTIME),
    }
}

/// Returns the message of an error and those of its sources.
fn with_sources(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// Runs the server until it ends. Does not wait for background tasks that handlers have started.
fn run(server: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let outcome = runtime.block_on(server);
    runtime.shutdown_background();
    outcome
}

/// Serves the demo pages until a signal arrives.
async fn serve(options: Serve) -> Result<()> {
    // Before the address is printed: whoever reads it may send a signal immediately.
    let stop = ripplecast::shutdown_signal()?;
    // With a proxy, a peer on this machine can be anyone, because some proxies add no forwarding header.
    let behind_proxy = options.trusted_proxies != TrustedProxies::default();
    let mut builder = AppBuilder::from_env()?.trusted_proxies(options.trusted_proxies);
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let is_here = options.host.is_loopback() && !behind_proxy;
    let gate = Gate::new(is_here, options.inspect_token.as_deref(), options.tls.is_some());
    let is_shared = options.backend.as_ref().is_some_and(|(_, backend)| backend != "memory");
    let app = app::Options { demo_limits: options.demo_limits || behind_proxy, is_shared, gate };
    if let Some((cert, key)) = options.tls {
        builder = builder.tls(cert, key);
    }
    let (name, backend) = options.backend.unzip();
    let name = name.unwrap_or_default();
    if let Some(backend) = backend {
        builder = builder.backend(backend);
    }
    if options.backend_optional {
        builder = builder.backend_optional(true);
    }
    let app = app::build(builder, app).await.map_err(|error| match error {
        // The backend is unreachable or unusable.
        Error::Setting { name: ref which, .. } if which == "backend" => renamed(error, name),
        error => error,
    })?;
    let app = match options.base_path {
        Some((name, path)) => app.base_path(&path).map_err(|error| renamed(error, name))?,
        None => app,
    };
    let bound = app.bind((options.host, options.port)).await?;
    let mut out = io::stdout();
    // Serve even if standard output is closed.
    let _ = writeln!(out, "Ripplecast listens on {scheme}://{}", bound.local_addr());
    let _ = out.flush();
    bound.serve_with_shutdown(stop).await
}

/// Renames the setting in an error to the flag or variable that set it.
fn renamed(error: Error, name: String) -> Error {
    match error {
        Error::Setting { value, reason, .. } => Error::Setting { name: name.into(), value, reason },
        other => other,
    }
}

/// The most log lines queued for a slow reader, at a few hundred bytes each. Further lines are dropped and counted: a
/// server with thousands of connections must not wait for the reader of its log.
const LOG_LINES: usize = 8_192;

/// Counts dropped log lines.
static LOG_DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Returns the number of log lines dropped so far.
fn log_dropped() -> u64 {
    LOG_DROPPED.get().map_or(0, |dropped| dropped.dropped_lines() as u64)
}

/// Logs to standard error from a separate thread; standard output is reserved for the address. Dropping the guard
/// flushes the log.
fn start_log(filter: EnvFilter) -> WorkerGuard {
    let colours = io::stderr().is_terminal();
    let (log, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LOG_LINES).finish(io::stderr());
    let _ = LOG_DROPPED.set(log.error_counter());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(log).with_ansi(colours).init();
    guard
}

/// Prints why the program ends, in one line.
fn fail(line: &str, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "ripplecast: {line}");
    ExitCode::from(code)
}
