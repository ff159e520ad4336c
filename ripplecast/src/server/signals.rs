//! Ctrl-C and SIGTERM: the first asks for an orderly end, the second ends the process at once.

use std::{io, process, thread};

use tokio::{runtime, sync::oneshot};

/// What a shell reports for a program that Ctrl-C has ended.
const INTERRUPTED: i32 = 130;

/// Starts to watch for signals. The future resolves at the first one; the second ends the process.
///
/// The watch has a thread and a runtime of its own, so that the second signal works even while handlers block every
/// thread of the server's.
pub fn shutdown_signal() -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let (tell, told) = oneshot::channel();
    let (ready, started) = std::sync::mpsc::channel();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let outcome = runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .and_then(|runtime| Ok((Signals::register(&runtime)?, runtime)));
        match outcome {
            Ok((mut signals, runtime)) => {
                let _ = ready.send(Ok(()));
                runtime.block_on(signals.next());
                let _ = tell.send(());
                runtime.block_on(signals.next());
                process::exit(INTERRUPTED);
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    })?;
    started.recv().map_err(io::Error::other)??;
    Ok(async {
        let _ = told.await;
    })
}

/// The signals that end the program.
#[cfg(unix)]
struct Signals {
    /// Ctrl-C in a terminal.
    interrupt: tokio::signal::unix::Signal,
    /// What service managers and `kill` send.
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// Takes the signals over from the system. None is lost from here on.
    fn register(runtime: &runtime::Runtime) -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let _entered = runtime.enter();
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Resolves at the next signal.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The signals that end the program.
#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    /// Takes the signals over from the system. None is lost from here on.
    fn register(runtime: &runtime::Runtime) -> io::Result<Self> {
        let _entered = runtime.enter();
        tokio::signal::windows::ctrl_c().map(Self)
    }

    /// Resolves at the next signal.
    async fn next(&mut self) {
        self.0.recv().await;
    }
}
