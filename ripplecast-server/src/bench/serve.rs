//! A bare server to measure: `/bc` sends each text frame to everyone there, `/echo` sends each frame back.

use std::io::Write as _;

use ripplecast::{App, Connection, Frame, Result, Room, ws};

use crate::{bench::soak::endpoints, cli::BenchServe};

/// Longest message, and the size of an outbox, in bytes: a measurement must not end because of a limit.
const LARGE: usize = 64 << 20;

/// Bytes that may wait for all connections: a measurement on a busy machine is not to end because of that, either.
const QUEUED: usize = 1 << 30;

/// Serves until `stop`; then every connection is closed with 1001, as in any server.
pub(crate) async fn serve(options: BenchServe, stop: impl Future<Output = ()>) -> Result<()> {
    let shards = usize::from(options.shards.unwrap_or(0));
    let builder = App::builder()
        .hub(|hub| hub.shards(shards).max_queued_bytes(QUEUED))
        .max_connections(usize::MAX)
        .max_connections_per_address(usize::MAX);
    let app = builder.build().await?;
    let hub = app.hub();
    let everyone = endpoint(&options, Everyone { room: hub.room("bc") });
    let echo = endpoint(&options, Echo);
    let mut app = app.ws("/bc", everyone).ws("/echo", echo);
    if options.soak {
        app = endpoints::add(app, options.ping);
    }
    let bound = app.bind((options.host, options.port)).await?;
    let mut out = std::io::stdout();
    // A closed standard output is no reason not to serve.
    let _ = writeln!(out, "Ripplecast measures on http://{}", bound.local_addr());
    let _ = out.flush();
    bound
        .serve_with_shutdown(async {
            tokio::select! {
                () = stop => {}
                () = endpoints::parent_is_gone(), if options.soak => {}
            }
        })
        .await
}

/// An endpoint with the settings of a measurement.
fn endpoint<H: ws::Handler>(options: &BenchServe, handler: H) -> ws::Endpoint<H> {
    let compression = options.compress_above.map_or(ws::Compression::Off, ws::Compression::Above);
    ws::endpoint(handler)
        .compression(compression)
        .max_message(LARGE)
        .outbox(LARGE)
        .ping_interval(options.ping)
        .origins(ws::OriginPolicy::Any)
}

/// Sends each text frame to everyone on the path, the sender included.
struct Everyone {
    /// Everyone on the path.
    room: Room,
}

impl ws::Handler for Everyone {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        conn.join(self.room.name())
    }

    async fn on_message(&self, _conn: Connection, frame: Frame) -> Result<()> {
        if frame.is_text() {
            self.room.push(frame).ignore();
        }
        Ok(())
    }
}

/// Sends each frame back.
struct Echo;

impl ws::Handler for Echo {
    async fn on_message(&self, conn: Connection, frame: Frame) -> Result<()> {
        conn.push(frame).ignore();
        Ok(())
    }
}
