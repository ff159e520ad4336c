//! Flags and environment variables. Whatever is wrong with them is said in one line that names the setting.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use clap::{
    Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, error::ErrorKind, parser::ValueSource,
};
use ripplecast::TrustedProxies;
use tracing_subscriber::EnvFilter;

use crate::bench::{backend::BenchBackend, hostile::BenchHostile, load::BenchLoad, soak::BenchSoak};

/// Where the server listens unless told otherwise: reachable from this machine alone.
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The port unless told otherwise.
const PORT: u16 = 8080;
/// What is logged unless told otherwise.
const LOG: &str = "warn";

/// The settings that are read by the crate itself, and have no flag.
const MORE: &str = "\
Also read from the environment: RIPPLECAST_SHARDS, RIPPLECAST_MAX_CONNECTIONS,
RIPPLECAST_MAX_CONNECTIONS_PER_ADDRESS, RIPPLECAST_IPV6_PREFIX, RIPPLECAST_BODY_TIMEOUT, RIPPLECAST_WRITE_TIMEOUT,
RIPPLECAST_MIN_RATE, RIPPLECAST_NODE_SECRET and RIPPLECAST_HSTS; and RIPPLECAST_BACKEND_OPTIONAL=1, which is
--backend-optional.

Addresses for operators: /health says {\"status\":\"ok\"}, or \"degraded\" while the backend is away; /metrics has
figures for Prometheus, and /inspect shows what goes on. The last two are open on this machine alone while
the server listens on loopback, has no --trusted-proxies and no proxy is in between, and to whoever has the
token of --inspect-token.";

/// Keeps every open tab in step. Without a command it serves the demo page.
///
/// A flag wins over its environment variable; an empty variable counts as unset.
#[derive(Parser)]
#[command(name = "ripplecast", version, after_help = MORE, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

/// The settings as they were written; `resolve` reads them.
#[derive(Args)]
struct Settings {
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS", env = "RIPPLECAST_HOST", hide_env_values = true)]
    host: Option<String>,
    /// Port to listen on; 0 picks a free one [default: 8080]
    #[arg(long, value_name = "PORT", env = "RIPPLECAST_PORT", hide_env_values = true)]
    port: Option<String>,
    /// Proxies whose X-Forwarded-* headers are believed: addresses, networks, `loopback`, `private`; or `hops:N` alone, the last N of
    /// each request [default: none]
    #[arg(long, value_name = "LIST", env = "RIPPLECAST_TRUSTED_PROXIES", hide_env_values = true)]
    trusted_proxies: Option<String>,
    /// PEM file of the certificate and its chain: speak TLS (https, wss); needs --tls-key [default: no TLS]
    #[arg(long, value_name = "FILE", env = "RIPPLECAST_TLS_CERT", hide_env_values = true)]
    tls_cert: Option<String>,
    /// PEM file of the certificate's private key; needs --tls-cert
    #[arg(long, value_name = "FILE", env = "RIPPLECAST_TLS_KEY", hide_env_values = true)]
    tls_key: Option<String>,
    /// Where shared state lives: `memory`, or a Redis that several nodes share, such as redis://127.0.0.1:6379 [default: memory]
    #[arg(long, value_name = "URL", env = "RIPPLECAST_BACKEND", hide_env_values = true)]
    backend: Option<String>,
    /// Start also while the backend can't be reached, and join the other nodes when it can
    #[arg(long)]
    backend_optional: bool,
    /// Path below which everything is served as well, such as /rt, for a proxy that passes it on [default: none]
    #[arg(long, value_name = "PATH", env = "RIPPLECAST_BASE_PATH", hide_env_values = true)]
    base_path: Option<String>,
    /// Opens /inspect and /metrics to whoever sends this token, also from other machines [default: this machine alone]
    #[arg(long, value_name = "TOKEN", env = "RIPPLECAST_INSPECT_TOKEN", hide_env_values = true)]
    inspect_token: Option<String>,
    /// File whose one line is the token of --inspect-token, which would show in the list of processes
    #[arg(long, value_name = "FILE", env = "RIPPLECAST_INSPECT_TOKEN_FILE", hide_env_values = true)]
    inspect_token_file: Option<String>,
    /// Limits what this machine may do in the demos, too, as behind --trusted-proxies; others are always limited
    #[arg(long)]
    demo_limits: bool,
    /// What to log to standard error, such as `info` or `ripplecast=debug` [default: warn]
    #[arg(long, value_name = "FILTER", env = "RIPPLECAST_LOG", hide_env_values = true)]
    log: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Measure: a bare server, a generator of load for any server, a soak test, attacks, and what Redis behind it costs
    #[command(subcommand, arg_required_else_help = false)]
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    /// A bare server: text frames on /bc go to everyone there, every frame on /echo comes back
    Serve(BenchServe),
    /// Open many WebSockets to a server, and measure how it does
    ///
    /// It connects to the address that is given, and to nothing else. Each message carries a number, and order and loss
    /// are checked on every one: the exit code is 1 if any was lost or out of order, or a connection died. Ctrl-C shows
    /// what was measured until then. Run it on another core than the server, or another machine.
    Load(Box<BenchLoad>),
    /// Start servers, give them all that goes wrong in a day, and check that nothing is lost and nothing leaks
    ///
    /// It starts and restarts `bench serve` on loopback, while connections come, go, read slowly, vanish and break the
    /// protocol. Each message that should have come is checked, and after each cycle the server's memory, descriptors,
    /// threads and counts. The exit code is 1 if anything was wrong. Ctrl-C ends it with what was seen until then. It needs
    /// Linux.
    Soak(BenchSoak),
    /// Attack a server on this machine, and measure how long well-behaved clients wait meanwhile
    ///
    /// First it measures well-behaved clients alone: WebSockets that send a ping, new WebSockets and pages. Then it opens
    /// hostile connections, which open again as soon as the server ends them, and measures the same again; and once more
    /// after the attack. It refuses any address that is not loopback. Without an address it starts a server of its own, with
    /// a token for the inspector and --demo-limits. The attacks aim at the endpoints of this program. The exit code is 1 if a p99 grew by
    /// --max-ratio or more. A visit that fails counts as a wait of 30 seconds. Ctrl-C shows what was measured until then.
    Hostile(BenchHostile),
    /// Measure what Redis behind a hub costs, beside what that Redis does alone
    ///
    /// Four parts, one after the other: operations of counters and tables with 1, 16 and 256 tasks at once, and the plain
    /// commands by redis-benchmark beside them; the time from a publish or a push on one node to its receiver on another, at a
    /// pace; pushes as fast as they are taken; and what a push costs Redis and each node. The nodes are processes that it starts
    /// itself. All in all it takes a minute for each second of --seconds. Each message carries a number, and the exit code is 1 if
    /// any was lost or out of order, or an operation failed. Its keys have a prefix of their own, and are deleted at the end; but
    /// the load is all that this Redis can take, so don't measure one that others need. Ctrl-C ends the measurement under
    /// way and shows what there is.
    Backend(Box<BenchBackend>),
}

/// The settings of `ripplecast bench serve`.
#[derive(Args, Debug)]
pub(crate) struct BenchServe {
    /// Port to listen on; 0 picks a free one
    #[arg(long)]
    pub(crate) port: u16,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value_t = HOST, value_parser = address)]
    pub(crate) host: IpAddr,
    /// Silence in seconds after which a ping is sent; 0 sends none
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    pub(crate) ping: Duration,
    /// Shards of the hub [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) shards: Option<u8>,
    /// Compress messages longer than this, with clients that offer it [default: never]
    #[arg(long, value_name = "BYTES")]
    pub(crate) compress_above: Option<usize>,
    /// Adds the endpoints of the soak test, and ends when standard input does
    #[arg(long, hide = true)]
    pub(crate) soak: bool,
}

/// What the program was asked to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// The demo page.
    Serve(Serve),
    /// The server for measurements.
    BenchServe(BenchServe),
    /// The generator of load.
    BenchLoad(Box<BenchLoad>),
    /// The soak test.
    BenchSoak(BenchSoak),
    /// Attacks on a server.
    BenchHostile(BenchHostile),
    /// What Redis costs.
    BenchBackend(Box<BenchBackend>),
}

/// The settings of the server, read.
#[derive(Debug)]
pub(crate) struct Serve {
    /// Address to listen on.
    pub(crate) host: IpAddr,
    /// Port to listen on.
    pub(crate) port: u16,
    /// Proxies whose headers are believed.
    pub(crate) trusted_proxies: TrustedProxies,
    /// Certificate and key, where TLS is spoken.
    pub(crate) tls: Option<(String, String)>,
    /// Where shared state lives, and under which name that was set.
    pub(crate) backend: Option<(String, String)>,
    /// Whether it may be away at the start.
    pub(crate) backend_optional: bool,
    /// Below which path everything is served as well, and under which name that was set.
    pub(crate) base_path: Option<(String, String)>,
    /// What others have to know to see the inspector.
    pub(crate) inspect_token: Option<String>,
    /// Whether the demos' limits hold for loopback too.
    pub(crate) demo_limits: bool,
}

/// Why there is nothing to do.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The help or the version was asked for, and is printed.
    Shown,
    /// What was asked can't be done; one line says why.
    Wrong(String),
}

/// Reads the command line and the environment: what to do, and what to log meanwhile.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<(Action, EnvFilter), Stop> {
    let matches = Cli::command().try_get_matches_from(args).map_err(|error| stop(&error))?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| stop(&error))?;
    let from_env = |id: &str| matches.value_source(id) == Some(ValueSource::EnvVariable);
    let Settings {
        host,
        port,
        trusted_proxies,
        tls_cert,
        tls_key,
        backend,
        backend_optional,
        base_path,
        inspect_token,
        inspect_token_file,
        demo_limits,
        log,
    } = cli.settings;
    let setting = |id: &'static str, written| Setting::new(id, written, from_env(id));

    let log = setting("log", log).read(filter)?.map_or_else(|| filter(LOG), Ok).map_err(Stop::Wrong)?;
    let action = match cli.command {
        Some(Command::Bench(Bench::Serve(options))) => Action::BenchServe(options),
        Some(Command::Bench(Bench::Load(options))) => {
            options.check().map_err(Stop::Wrong)?;
            Action::BenchLoad(options)
        }
        Some(Command::Bench(Bench::Soak(options))) => Action::BenchSoak(options),
        Some(Command::Bench(Bench::Hostile(options))) => Action::BenchHostile(options),
        Some(Command::Bench(Bench::Backend(options))) => Action::BenchBackend(options),
        None => Action::Serve(Serve {
            host: setting("host", host).read(address)?.unwrap_or(HOST),
            port: setting("port", port).read(port_number)?.unwrap_or(PORT),
            trusted_proxies: setting("trusted_proxies", trusted_proxies).read(proxies)?.unwrap_or_default(),
            backend: setting("backend", backend).named(),
            backend_optional,
            base_path: setting("base_path", base_path).named(),
            inspect_token: one_token(
                setting("inspect_token", inspect_token),
                setting("inspect_token_file", inspect_token_file),
            )?,
            demo_limits,
            tls: tls(setting("tls_cert", tls_cert).read(text)?, setting("tls_key", tls_key).read(text)?)?,
        }),
    };
    Ok((action, log))
}

/// A certificate and its key: both, or neither.
fn tls(cert: Option<String>, key: Option<String>) -> Result<Option<(String, String)>, Stop> {
    let missing = |missing: &str, given: &str| {
        let flag = |name: &str| format!("--{name} (or RIPPLECAST_{})", name.replace('-', "_").to_uppercase());
        Err(Stop::Wrong(format!("{} is missing: {} is of no use without it", flag(missing), flag(given))))
    };
    match (cert, key) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => Ok(Some((cert, key))),
        (Some(_), None) => missing("tls-key", "tls-cert"),
        (None, Some(_)) => missing("tls-cert", "tls-key"),
    }
}

/// The inspector's token, from where it was given: at most one of both.
fn one_token(given: Setting, file: Setting) -> Result<Option<String>, Stop> {
    if given.written.is_some() && file.written.is_some() {
        let line = format!("{} and {} are both set; give the token once", given.name, file.name);
        return Err(Stop::Wrong(line));
    }
    Ok(given.read_secret(token)?.or(file.read(token_file)?))
}

/// A token that is the one line of a file.
fn token_file(path: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    token(text.trim_end_matches(['\r', '\n']))
}

/// A token that can't be guessed, and that fits a header and a cookie.
fn token(written: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    if (16..=128).contains(&written.len()) && written.bytes().all(fits) {
        return Ok(written.to_owned());
    }
    Err("a token has 16 to 128 letters, digits, and - _ . ~; `openssl rand -hex 16` makes one".to_owned())
}

/// A text as it is.
fn text(written: &str) -> Result<String, String> {
    Ok(written.to_owned())
}

/// One setting as it was written.
struct Setting {
    /// The flag or the variable, whichever it came from.
    name: String,
    /// Its value; `None` when it was not set.
    written: Option<String>,
}

impl Setting {
    /// The setting whose field is called `id`.
    fn new(id: &str, written: Option<String>, from_env: bool) -> Self {
        if from_env {
            let written = written.filter(|value| !value.is_empty());
            return Self { name: format!("RIPPLECAST_{}", id.to_uppercase()), written };
        }
        Self { name: format!("--{}", id.replace('_', "-")), written }
    }

    /// The setting's name and what was written, if it was set.
    fn named(self) -> Option<(String, String)> {
        let Self { name, written } = self;
        written.map(|written| (name, written))
    }

    /// The value, or a line that names the setting, what stands in it and what should.
    fn read<T>(self, reader: fn(&str) -> Result<T, String>) -> Result<Option<T>, Stop> {
        self.read_shown(reader, |written| format!("{written:?}"))
    }

    /// The same, for what may stand in no log.
    fn read_secret<T>(self, reader: fn(&str) -> Result<T, String>) -> Result<Option<T>, Stop> {
        self.read_shown(reader, |written| format!("what was given, of {} bytes", written.len()))
    }

    fn read_shown<T>(
        self,
        reader: fn(&str) -> Result<T, String>,
        shown: fn(&str) -> String,
    ) -> Result<Option<T>, Stop> {
        let Some(written) = self.written else { return Ok(None) };
        match reader(&written) {
            Ok(value) => Ok(Some(value)),
            Err(reason) => Err(Stop::Wrong(format!("{} can't be {}: {reason}", self.name, shown(&written)))),
        }
    }
}

/// An address; a name would need a resolver, and could mean several.
fn address(written: &str) -> Result<IpAddr, String> {
    if written.eq_ignore_ascii_case("localhost") {
        return Ok(HOST);
    }
    let bare = written.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(written);
    bare.parse().map_err(|_| {
        "that is no IP address; use 127.0.0.1 for this machine alone, 0.0.0.0 or :: for all networks"
            .to_owned()
    })
}

/// A port.
fn port_number(written: &str) -> Result<u16, String> {
    written.parse().map_err(|_| "that is no port; use a number from 0 (any free one) to 65535".to_owned())
}

/// A list of proxies. The error names the entry that is wrong.
fn proxies(written: &str) -> Result<TrustedProxies, String> {
    written.parse().map_err(|error| match error {
        ripplecast::Error::Setting { reason, .. } => reason,
        other => other.to_string(),
    })
}

/// What to log.
fn filter(written: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(written)
        .map_err(|error| format!("{error}; use error, warn, info, debug, trace, or TARGET=LEVEL with commas"))
}

/// Whole seconds.
fn seconds(written: &str) -> Result<Duration, String> {
    written.parse().map(Duration::from_secs).map_err(|_| "that is no number of whole seconds".to_owned())
}

/// Prints what clap has to show, or makes one line of its complaint.
fn stop(error: &clap::Error) -> Stop {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A closed standard output leaves nobody to tell.
        let _ = error.print();
        return Stop::Shown;
    }
    let text = error.render().to_string();
    // The complaint ends at the first empty line; tips and usage follow.
    let complaint = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect::<Vec<_>>();
    let complaint = complaint.join(" ");
    let complaint = complaint.strip_prefix("error: ").unwrap_or(&complaint);
    Stop::Wrong(format!("{complaint}; `ripplecast --help` lists what there is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(args: &[&str]) -> String {
        let args = ["ripplecast"].iter().chain(args).map(OsString::from);
        match parse(args) {
            Err(Stop::Wrong(line)) => line,
            other => panic!("{other:?}"),
        }
    }

    fn action(args: &[&str]) -> Action {
        parse(["ripplecast"].iter().chain(args).map(OsString::from)).unwrap().0
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_are_read() {
        let args = ["--host", "[::1]", "--port", "0", "--trusted-proxies", "loopback"];
        let Action::Serve(serve) = action(&args) else { panic!("not serve") };
        assert_eq!((serve.host.to_string().as_str(), serve.port), ("::1", 0));
        assert!(serve.trusted_proxies.contains(HOST));
        let Action::Serve(serve) = action(&["--trusted-proxies=hops:2"]) else { panic!("not serve") };
        assert_eq!(serve.trusted_proxies, TrustedProxies::hops(2));
        let Action::Serve(serve) = action(&["--host=localhost", "--port=65535"]) else { panic!("not serve") };
        assert_eq!((serve.host, serve.port), (HOST, 65535));
    }

    #[test]
    fn bench_serve_is_read() {
        let Action::BenchServe(bench) = action(&["bench", "serve", "--port", "0"]) else {
            panic!("not bench")
        };
        assert_eq!((bench.port, bench.host, bench.ping, bench.shards), (0, HOST, Duration::ZERO, None));
        let args = ["bench", "serve", "--port", "9000", "--host", "::", "--ping", "25", "--shards", "2"];
        let Action::BenchServe(bench) = action(&args) else { panic!("not bench") };
        assert_eq!((bench.ping, bench.shards), (Duration::from_secs(25), Some(2)));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line_that_names_it() {
        let cases: &[(&[&str], &[&str])] = &[
            (&["--port", "abc"], &["--port", "\"abc\"", "0", "65535"]),
            (&["--port", "65536"], &["--port", "65536"]),
            (&["--port", "-1"], &["-1"]),
            (&["--port="], &["--port"]),
            (&["--host", "example.com"], &["--host", "example.com", "127.0.0.1"]),
            (&["--trusted-proxies", "10.0.0.0/8, x"], &["--trusted-proxies", "\"x\""]),
            (&["--trusted-proxies", "hops:0"], &["--trusted-proxies", "\"hops:0\"", "hops:N"]),
            (&["--trusted-proxies", "hops:2,loopback"], &["--trusted-proxies", "nothing beside it"]),
            (&["--log", "ripplecast=loud"], &["--log", "loud", "warn"]),
            (&["--inspect-token", "secret"], &["--inspect-token", "of 6 bytes", "16"]),
            (&["--inspect-token", "0123456789abcdef;"], &["--inspect-token", "letters"]),
            (
                &["--inspect-token-file", "/nowhere/token"],
                &["--inspect-token-file", "/nowhere/token", "No such file"],
            ),
            (
                &["--inspect-token", "0123456789abcdef", "--inspect-token-file", "/nowhere/token"],
                &["--inspect-token", "--inspect-token-file", "once"],
            ),
            (&["--nonsense"], &["--nonsense", "--help"]),
            (&["--prot", "1"], &["--prot", "--help"]),
            (&["serve"], &["serve", "--help"]),
            (&["--port"], &["--port"]),
            (&["bench"], &["bench", "serve"]),
            (&["bench", "serve"], &["--port"]),
            (&["bench", "load"], &["URL"]),
            (&["bench", "load", "http://a/"], &["http://a/", "ws://HOST:PORT/PATH"]),
            (&["bench", "load", "wss://a/"], &["TLS"]),
            (&["bench", "load", "ws://a/", "--mode", "flood"], &["--mode", "flood", "fanout"]),
            (&["bench", "load", "ws://a/", "--size", "4"], &["--size", "16"]),
            (&["bench", "load", "ws://a/", "--rate", "0"], &["--rate", "0.001"]),
            (&["bench", "load", "ws://a/", "--rate", "5", "--window", "2"], &["--rate", "--window"]),
            (&["bench", "load", "ws://a/", "--slow-share", "1"], &["--slow-share", "between 0 and 1"]),
            (&["bench", "load", "ws://a/", "--connections", "2", "--publishers", "3"], &["--publishers"]),
            (&["bench", "soak", "--minutes", "0"], &["--minutes", "0.1"]),
            (&["bench", "soak", "--connections", "5"], &["--connections", "50"]),
            (&["bench", "hostile", "192.0.2.1:80"], &["ADDRESS", "192.0.2.1", "loopback"]),
            (&["bench", "hostile", "--max-ratio", "1"], &["--max-ratio", "above 1"]),
            (&["bench", "hostile", "--only", "all"], &["--only", "unfinished"]),
            (&["bench", "backend"], &["--backend"]),
            (&["bench", "backend", "--backend", "memory"], &["--backend", "redis://HOST:PORT"]),
            (&["bench", "backend", "--backend", "redis://h/?prefix=a"], &["--backend", "prefix"]),
            (&["bench", "backend", "--backend", "redis://h", "--seconds", "0"], &["--seconds", "0.05"]),
            (&["bench", "backend", "--backend", "redis://h", "--only", "all"], &["--only", "latency"]),
            (&["bench", "serve", "--port", "x"], &["--port", "x"]),
            (&["bench", "serve", "--port", "1", "--shards", "0"], &["--shards", "0"]),
            (&["bench", "serve", "--port", "1", "--ping", "soon"], &["--ping", "soon"]),
            (&["--port", "1", "bench", "serve", "--port", "2"], &["--help"]),
        ];
        for (args, names) in cases {
            let line = wrong(args);
            assert!(!line.contains('\n'), "{args:?}: {line}");
            for name in *names {
                assert!(line.contains(name), "{args:?}: {line}");
            }
        }
    }

    #[test]
    fn a_token_may_stand_in_a_file() {
        let file = std::env::temp_dir().join(format!("ripplecast-token-{}", std::process::id()));
        let path = file.display().to_string();
        std::fs::write(&file, "0123456789abcdef\r\n").unwrap();
        let Action::Serve(serve) = action(&["--inspect-token-file", &path]) else { panic!("not serve") };
        assert_eq!(serve.inspect_token.as_deref(), Some("0123456789abcdef"));
        std::fs::write(&file, "hush").unwrap();
        let line = wrong(&["--inspect-token-file", &path]);
        assert!(!line.contains("hush") && line.contains("16 to 128"), "{line}");
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn a_token_that_is_refused_is_not_printed() {
        for token in ["hush", "hush-hush-hush-hush; hush"] {
            let line = wrong(&["--inspect-token", token]);
            assert!(!line.contains("hush"), "{line}");
        }
    }
}
