//! Flags and environment variables. Each error is one line that names the setting.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr},
};

use clap::{
    Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, error::ErrorKind, parser::ValueSource,
};
use ripplecast::TrustedProxies;
use ripplecast_bench::{Bench, address};
use tracing_subscriber::EnvFilter;

/// The default listen address: reachable from this machine only.
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The default port.
const PORT: u16 = 8080;
/// The default log filter.
const LOG: &str = "warn";

/// Help for the environment variables that the library reads, and for the operators' endpoints.
const MORE: &str = "\
Also read from the environment: RIPPLECAST_SHARDS, RIPPLECAST_MAX_CONNECTIONS,
RIPPLECAST_MAX_CONNECTIONS_PER_ADDRESS, RIPPLECAST_IPV6_PREFIX, RIPPLECAST_BODY_TIMEOUT, RIPPLECAST_WRITE_TIMEOUT,
RIPPLECAST_MIN_RATE, RIPPLECAST_NODE_SECRET and RIPPLECAST_HSTS; and RIPPLECAST_BACKEND_OPTIONAL=1, which is
--backend-optional.

Endpoints for operators: /health returns {\"status\":\"ok\"}, or \"degraded\" while the backend is unavailable;
/metrics serves metrics for Prometheus, and /inspect shows live traffic. /metrics and /inspect are available from
this machine only, when the server listens on loopback, has no --trusted-proxies and is reached directly; and
from anywhere with the token set by --inspect-token.";

/// Keeps every open tab in step. Without a command, serves the demo pages.
///
/// Flags override environment variables; an empty variable counts as unset.
#[derive(Parser)]
#[command(name = "ripplecast", version, after_help = MORE, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

/// The settings as written; `resolve` parses them.
#[derive(Args)]
struct Settings {
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS", env = "RIPPLECAST_HOST", hide_env_values = true)]
    host: Option<String>,
    /// Port to listen on; 0 picks a free one [default: 8080]
    #[arg(long, value_name = "PORT", env = "RIPPLECAST_PORT", hide_env_values = true)]
    port: Option<String>,
    /// Proxies whose X-Forwarded-* headers are trusted: addresses, networks, `loopback`, `private`; or `hops:N` alone,
    /// for the last N proxies of each request [default: none]
    #[arg(long, value_name = "LIST", env = "RIPPLECAST_TRUSTED_PROXIES", hide_env_values = true)]
    trusted_proxies: Option<String>,
    /// PEM file with the certificate chain; enables TLS (https, wss), needs --tls-key [default: no TLS]
    #[arg(long, value_name = "FILE", env = "RIPPLECAST_TLS_CERT", hide_env_values = true)]
    tls_cert: Option<String>,
    /// PEM file with the certificate's private key; needs --tls-cert
    #[arg(long, value_name = "FILE", env = "RIPPLECAST_TLS_KEY", hide_env_values = true)]
    tls_key: Option<String>,
    /// Backend for shared state: `memory`, or a Redis that several nodes share, such as redis://127.0.0.1:6379
    /// [default: memory]
    #[arg(long, value_name = "URL", env = "RIPPLECAST_BACKEND", hide_env_values = true)]
    backend: Option<String>,
    /// Start even if the backend is unavailable, and join the other nodes when it becomes available
    #[arg(long)]
    backend_optional: bool,
    /// Path prefix under which everything is also served, such as /rt, for a proxy that does not strip it [default:
    /// none]
    #[arg(long, value_name = "PATH", env = "RIPPLECAST_BASE_PATH", hide_env_values = true)]
    base_path: Option<String>,
    /// Token that grants access to /inspect and /metrics, also from other machines [default: this machine only]
    #[arg(long, value_name = "TOKEN", env = "RIPPLECAST_INSPECT_TOKEN", hide_env_values = true)]
    inspect_token: Option<String>,
    /// File with the token for --inspect-token on one line; a flag is visible in the process list
    #[arg(long, value_name = "FILE", env = "RIPPLECAST_INSPECT_TOKEN_FILE", hide_env_values = true)]
    inspect_token_file: Option<String>,
    /// Apply the demos' limits to this machine too, as happens with --trusted-proxies; others are always limited
    #[arg(long)]
    demo_limits: bool,
    /// Log filter for standard error, such as `info` or `ripplecast=debug` [default: warn]
    #[arg(long, value_name = "FILTER", env = "RIPPLECAST_LOG", hide_env_values = true)]
    log: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Measure: a bare server, a load generator for any server, a soak test, attacks, and the cost of Redis
    #[command(subcommand, arg_required_else_help = false)]
    Bench(Bench),
}

/// The parsed command.
#[derive(Debug)]
pub(crate) enum Action {
    Serve(Serve),
    Bench(Bench),
}

/// The parsed settings of the server.
#[derive(Debug)]
pub(crate) struct Serve {
    pub(crate) host: IpAddr,
    pub(crate) port: u16,
    pub(crate) trusted_proxies: TrustedProxies,
    /// Certificate and key files, if TLS is enabled.
    pub(crate) tls: Option<(String, String)>,
    /// The name of the setting, and the backend.
    pub(crate) backend: Option<(String, String)>,
    /// Whether the server may start without its backend.
    pub(crate) backend_optional: bool,
    /// The name of the setting, and the path prefix.
    pub(crate) base_path: Option<(String, String)>,
    /// The token for the inspector and the metrics.
    pub(crate) inspect_token: Option<String>,
    /// Whether the demos' limits also apply to loopback.
    pub(crate) demo_limits: bool,
}

/// Why the program stops before it has started.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The help or the version was requested, and has been printed.
    Shown,
    /// A usage error, described in one line.
    Wrong(String),
}

/// Parses the command line and the environment. Returns the action and the log filter.
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
        Some(Command::Bench(bench)) => {
            bench.check().map_err(Stop::Wrong)?;
            Action::Bench(bench)
        }
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

/// Returns the certificate and its key: both or neither.
fn tls(cert: Option<String>, key: Option<String>) -> Result<Option<(String, String)>, Stop> {
    let missing = |missing: &str, given: &str| {
        let flag = |name: &str| format!("--{name} (or RIPPLECAST_{})", name.replace('-', "_").to_uppercase());
        Err(Stop::Wrong(format!("{} is missing; {} requires it", flag(missing), flag(given))))
    };
    match (cert, key) {
        (None, None) => Ok(None),
        (Some(cert), Some(key)) => Ok(Some((cert, key))),
        (Some(_), None) => missing("tls-key", "tls-cert"),
        (None, Some(_)) => missing("tls-cert", "tls-key"),
    }
}

/// Returns the inspector's token, from at most one of its two settings.
fn one_token(given: Setting, file: Setting) -> Result<Option<String>, Stop> {
    if given.written.is_some() && file.written.is_some() {
        let line = format!("{} and {} are both set; set only one of them", given.name, file.name);
        return Err(Stop::Wrong(line));
    }
    Ok(given.read_secret(token)?.or(file.read(token_file)?))
}

/// Reads a token from a file with one line.
fn token_file(path: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    token(text.trim_end_matches(['\r', '\n']))
}

/// Checks that a token is hard to guess, and valid in a header and a cookie.
fn token(written: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    if (16..=128).contains(&written.len()) && written.bytes().all(fits) {
        return Ok(written.to_owned());
    }
    Err("expected 16 to 128 letters, digits, and - _ . ~; create one with `openssl rand -hex 16`".to_owned())
}

/// Accepts any text.
fn text(written: &str) -> Result<String, String> {
    Ok(written.to_owned())
}

/// A setting as written.
struct Setting {
    /// The name of the flag or the variable that set it.
    name: String,
    /// The value, or `None` if the setting is unset.
    written: Option<String>,
}

impl Setting {
    /// Creates the setting for the field `id`.
    fn new(id: &str, written: Option<String>, from_env: bool) -> Self {
        if from_env {
            let written = written.filter(|value| !value.is_empty());
            return Self { name: format!("RIPPLECAST_{}", id.to_uppercase()), written };
        }
        Self { name: format!("--{}", id.replace('_', "-")), written }
    }

    /// Returns the setting's name and value, if it is set.
    fn named(self) -> Option<(String, String)> {
        let Self { name, written } = self;
        written.map(|written| (name, written))
    }

    /// Parses the value. An error names the setting, the value, and what is expected.
    fn read<T>(self, reader: fn(&str) -> Result<T, String>) -> Result<Option<T>, Stop> {
        self.read_shown(reader, |written| format!("{written:?}"))
    }

    /// Like `read`, for values that must not appear in a log.
    fn read_secret<T>(self, reader: fn(&str) -> Result<T, String>) -> Result<Option<T>, Stop> {
        self.read_shown(reader, |written| format!("this value of {} bytes", written.len()))
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

fn port_number(written: &str) -> Result<u16, String> {
    written.parse().map_err(|_| "not a valid port; use a number from 0 (any free one) to 65535".to_owned())
}

/// Parses a list of proxies. An error names the invalid entry.
fn proxies(written: &str) -> Result<TrustedProxies, String> {
    written.parse().map_err(|error| match error {
        ripplecast::Error::Setting { reason, .. } => reason,
        other => other.to_string(),
    })
}

fn filter(written: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(written)
        .map_err(|error| format!("{error}; use error, warn, info, debug, trace, or TARGET=LEVEL with commas"))
}

/// Prints the help or the version, or converts clap's error to one line.
fn stop(error: &clap::Error) -> Stop {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // If standard output is closed, there is no one to report to.
        let _ = error.print();
        return Stop::Shown;
    }
    let text = error.render().to_string();
    // The message ends at the first empty line. Tips and usage follow it.
    let complaint = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect::<Vec<_>>();
    let complaint = complaint.join(" ");
    let complaint = complaint.strip_prefix("error: ").unwrap_or(&complaint);
    Stop::Wrong(format!("{complaint}; `ripplecast --help` lists all options"))
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
    fn the_command_definition_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_are_parsed() {
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
    fn errors_are_one_line_and_name_the_setting() {
        let cases: &[(&[&str], &[&str])] = &[
            (&["--port", "abc"], &["--port", "\"abc\"", "0", "65535"]),
            (&["--port", "65536"], &["--port", "65536"]),
            (&["--port", "-1"], &["-1"]),
            (&["--port="], &["--port"]),
            (&["--host", "example.com"], &["--host", "example.com", "127.0.0.1"]),
            (&["--trusted-proxies", "10.0.0.0/8, x"], &["--trusted-proxies", "\"x\""]),
            (&["--trusted-proxies", "hops:0"], &["--trusted-proxies", "\"hops:0\"", "hops:N"]),
            (&["--trusted-proxies", "hops:2,loopback"], &["--trusted-proxies", "nothing else"]),
            (&["--log", "ripplecast=loud"], &["--log", "loud", "warn"]),
            (&["--inspect-token", "secret"], &["--inspect-token", "6 bytes", "16"]),
            (&["--inspect-token", "0123456789abcdef;"], &["--inspect-token", "letters"]),
            (
                &["--inspect-token-file", "/nowhere/token"],
                &["--inspect-token-file", "/nowhere/token", "No such file"],
            ),
            (
                &["--inspect-token", "0123456789abcdef", "--inspect-token-file", "/nowhere/token"],
                &["--inspect-token", "--inspect-token-file", "only one"],
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
    fn a_token_can_be_read_from_a_file() {
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
    fn a_rejected_token_is_not_printed() {
        for token in ["hush", "hush-hush-hush-hush; hush"] {
            let line = wrong(&["--inspect-token", token]);
            assert!(!line.contains("hush"), "{line}");
        }
    }
}
