//! `ripplecast bench load`: opens many WebSockets to a server, sends messages, checks and measures what arrives.
//!
//! One thread, one poller, and only a socket and a few numbers per connection: the generator has to cost less than the
//! server, or it measures itself.
//!
//! `options` defines the settings, and each mode has its own module. `session` holds what the modes share. `pool` owns
//! the connections (`target`, `conn`, `handshake`, `frames`), `broadcasts` and `echo` check what arrives, `pace` schedules
//! messages, and `report` holds the results (`measure`, `table`).

mod broadcasts;
mod conn;
pub(super) mod descriptors;
mod echo;
mod fanout;
pub(super) mod frames;
pub(super) mod handshake;
mod idle;
mod jitter;
pub(super) mod measure;
mod options;
mod pace;
mod pool;
mod progress;
pub(super) mod random;
mod report;
mod session;
mod storm;
pub(super) mod table;
mod target;

use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crate::result::Result;
pub use options::BenchLoad;

use measure::Process;
use options::Mode;
use pool::Pool;
use random::Random;
use report::Report;
use session::Session;
use target::Target;

/// Runs to its end, or until Ctrl-C, and prints the results. An error is one line.
pub(crate) fn run(options: BenchLoad) -> Result<()> {
    let stop = stop_button()?;
    let mut session = prepare(options, stop)?;
    let mode = session.options.mode;
    let outcome = match mode {
        Mode::Idle => idle::run(&mut session),
        Mode::Fanout | Mode::Slow => fanout::run(&mut session),
        Mode::Echo => echo::run(&mut session),
        Mode::Jitter => jitter::run(&mut session),
        Mode::Storm => storm::run(&mut session),
    };
    session.finish();
    outcome?;
    print(&session.report, session.options.json, table::table)?;
    session.report.checks.complaint().map_or(Ok(()), Err)
}

/// Does everything that can fail before the first connection.
fn prepare(options: BenchLoad, stop: Arc<AtomicBool>) -> Result<Session> {
    descriptors::allow(options.connections)?;
    let server = options.server_pid.map(Process::of_server).transpose()?;
    let target = Target::new(&options.url, &options.source, options.connections)?;
    let seed = options.seed.unwrap_or_else(Random::fresh_seed);
    let pool = Pool::new(target, options.url.clone(), options.size, options.ramp, Random::new(seed))?;
    let sends = matches!(options.mode, Mode::Fanout | Mode::Slow | Mode::Echo | Mode::Jitter);
    let report = Report {
        url: options.url.as_str().to_owned(),
        mode: options.mode.name(),
        connections: options.connections,
        size: options.size,
        window: (sends && options.pace().is_none()).then_some(options.window),
        rate: options.pace().filter(|_| sends),
        seed,
        ..Report::default()
    };
    Ok(Session::new(options, pool, report, server, stop))
}

/// Returns a flag that the first Ctrl-C sets. The second ends the process.
pub(super) fn stop_button() -> Result<Arc<AtomicBool>> {
    let failed = |error: std::io::Error| format!("failed to handle Ctrl-C: {error}");
    let signal = ripplecast::shutdown_signal().map_err(failed)?;
    let stop = Arc::new(AtomicBool::new(false));
    let button = Arc::clone(&stop);
    let waiter = move || {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() {
            runtime.block_on(signal);
            button.store(true, Ordering::Relaxed);
        }
    };
    thread::Builder::new().name("ctrl-c".to_owned()).spawn(waiter).map_err(failed)?;
    Ok(stop)
}

/// Prints a report as one line of JSON, or as a table. Errors of standard output are ignored: there is no one to report
/// them to.
pub(crate) fn print<R: serde::Serialize>(
    report: &R,
    json: bool,
    table: impl FnOnce(&R) -> String,
) -> Result<()> {
    let text = if json {
        serde_json::to_string(report).map_err(|error| format!("failed to encode the report: {error}"))? + "\n"
    } else {
        table(report)
    };
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
    Ok(())
}
