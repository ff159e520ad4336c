//! A bare server for benchmarks: `/bc` broadcasts each text frame to all connections there, `/echo` echoes each frame.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use clap::Args;
use ripplecast::{App, Connection, Message, Result, Room, ws};
use tokio::runtime::Runtime;

use crate::soak::endpoints;

/// The default listen address: reachable from this machine only.
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The longest message, and the size of an outbox, in bytes: a measurement must not end because of a limit.
const LARGE: usize = 64 << 20;

/// The node-wide limit of queued bytes: a measurement on a busy machine must not end because of it either.
const QUEUED: usize = 1 << 30;

/// The settings of `ripplecast bench serve`.
#[derive(Args, Debug)]
pub struct BenchServe {
    /// Port to listen on; 0 picks a free one
    #[arg(long)]
    port: u16,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value_t = HOST, value_parser = address)]
    host: IpAddr,
    /// Seconds of silence after which a ping is sent; 0 disables pings
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    ping: Duration,
    /// Shards of the hub [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    shards: Option<u8>,
    /// Compress messages longer than this, for clients that offer compression [default: never]
    #[arg(long, value_name = "BYTES")]
    compress_above: Option<usize>,
    /// Adds the endpoints of the soak test, and exits when standard input closes
    #[arg(long, hide = true)]
    soak: bool,
}

/// Runs the server until a signal arrives.
pub(crate) fn run(options: BenchServe) -> Result<()> {
    let runtime = Runtime::new()?;
    let outcome = runtime.block_on(async { serve(options, ripplecast::shutdown_signal()?).await });
    // Does not wait for background tasks that handlers have started.
    runtime.shutdown_background();
    outcome
}

/// Serves until `stop`. Then closes every connection with 1001, like any server.
async fn serve(options: BenchServe, stop: impl Future<Output = ()>) -> Result<()> {
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
    // Serve even if standard output is closed.
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

/// Creates an endpoint with the settings for benchmarks.
fn endpoint<H: ws::Handler>(options: &BenchServe, handler: H) -> ws::Endpoint<H> {
    let compression = options.compress_above.map_or(ws::Compression::Off, ws::Compression::Above);
    ws::endpoint(handler)
        .compression(compression)
        .max_message(LARGE)
        .outbox(LARGE)
        .ping_interval(options.ping)
        .origins(ws::OriginPolicy::Any)
}

/// Broadcasts each text frame to everyone on the path, including the sender.
struct Everyone {
    room: Room,
}

impl ws::Handler for Everyone {
    async fn on_open(&self, conn: Connection) -> Result<()> {
        conn.join(self.room.name())
    }

    async fn on_message(&self, _conn: Connection, message: Message) -> Result<()> {
        if message.is_text() {
            self.room.push(message).ignore();
        }
        Ok(())
    }
}

/// Echoes each frame.
struct Echo;

impl ws::Handler for Echo {
    async fn on_message(&self, conn: Connection, message: Message) -> Result<()> {
        conn.push(message).ignore();
        Ok(())
    }
}

/// Parses an IP address, with or without brackets. Of the host names, only `localhost` is accepted: others need a resolver,
/// and can have several addresses.
///
/// # Errors
/// One line that says what to write instead.
pub fn address(written: &str) -> Result<IpAddr, String> {
    if written.eq_ignore_ascii_case("localhost") {
        return Ok(HOST);
    }
    let bare = written.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(written);
    bare.parse().map_err(|_| {
        "not an IP address; use 127.0.0.1 for this machine only, 0.0.0.0 or :: for all networks".to_owned()
    })
}

fn seconds(written: &str) -> Result<Duration, String> {
    written.parse().map(Duration::from_secs).map_err(|_| "expected a whole number of seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        bench: BenchServe,
    }

    #[test]
    fn bench_serve_is_parsed() {
        let read = |args: &[&str]| Program::try_parse_from(["ripplecast"].iter().chain(args)).unwrap().bench;
        let bench = read(&["--port", "0"]);
        assert_eq!((bench.port, bench.host, bench.ping, bench.shards), (0, HOST, Duration::ZERO, None));
        let bench = read(&["--port", "9000", "--host", "::", "--ping", "25", "--shards", "2"]);
        assert_eq!((bench.ping, bench.shards), (Duration::from_secs(25), Some(2)));
    }
}
