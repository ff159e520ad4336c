//! The project's development tasks. `cargo xtask test` installs missing tools, then runs every check; `cargo xtask
//! --help` lists the others.

mod api;
mod blocks;
mod cluster;
mod command;
mod deny;
mod features;
mod files;
mod format;
mod instructions;
mod links;
mod metadata;
mod msrv;
mod publish;
mod setup;
mod steps;
mod totals;
mod valkey;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use steps::Step;

/// The error of a task: a human-readable sentence.
type Result<T, E = String> = std::result::Result<T, E>;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Development tasks for Ripplecast",
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install missing tools, then run every check, stopping at the first failure
    Test {
        /// Install nothing, and skip the steps that are slow or need more tools
        #[arg(long)]
        fast: bool,
        /// Run only this step (can be repeated)
        #[arg(long, value_name = "STEP", conflicts_with = "fast")]
        only: Vec<Step>,
        /// List the steps and exit
        #[arg(long)]
        list: bool,
    },
    /// Build the server in release mode, and run `ripplecast bench soak`
    ///
    /// Restarts the server while connections open, close, read slowly, disappear and violate the protocol. Afterwards,
    /// nothing may be lost or leaked; docs/soak.md describes the checks. Linux only.
    Soak {
        /// Approximate duration in minutes
        #[arg(long, value_name = "N", default_value = "10")]
        minutes: f64,
        /// Seed printed by an earlier run, to repeat it
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
    },
    /// Count the instructions of a delivery, an echo and an upgrade, and compare them with bench/instructions.json
    Instructions {
        /// Write the figures to bench/instructions.json
        #[arg(long)]
        accept: bool,
    },
    /// Print the public API of the crate, as the step `api` compares it with ripplecast/public-api.txt
    PublicApi {
        /// Write it to ripplecast/public-api.txt
        #[arg(long)]
        bless: bool,
    },
    /// Start a Redis, nodes that share it and a load balancer; print their addresses, and stop them all on Ctrl-C
    Cluster {
        /// Number of nodes
        #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u8).range(1..=16))]
        nodes: u8,
        /// Port of the load balancer; 0 picks a free one
        #[arg(long, value_name = "PORT", default_value = "8080")]
        port: u16,
    },
    /// Retake the screenshots in docs/images, from the real pages in a real browser
    Screenshots,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().chore {
        Chore::Test { list: true, .. } => {
            steps::list();
            Ok(())
        }
        Chore::Test { fast, only, .. } => steps::test(&Workspace::find(), fast, &only),
        Chore::Soak { minutes, seed } => steps::soak(&Workspace::find(), minutes, seed),
        Chore::Instructions { accept } => instructions::show(&Workspace::find(), accept),
        Chore::PublicApi { bless } => api::show(&Workspace::find(), bless),
        Chore::Cluster { nodes, port } => cluster::run(&Workspace::find(), nodes.into(), port),
        Chore::Screenshots => steps::screenshots(&Workspace::find()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("\nerror: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// The location of the workspace, so that a task can be run from any directory.
struct Workspace {
    /// The directory of the workspace's `Cargo.toml`.
    root: PathBuf,
}

impl Workspace {
    /// Finds the workspace that contains this package. Cargo sets its location when it runs us; otherwise, the location
    /// at compile time is used.
    fn find() -> Self {
        let package =
            std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").into());
        let package = PathBuf::from(package);
        let root = package.parent().map_or_else(|| package.clone(), Path::to_path_buf);
        Self { root }
    }

    /// Returns the path of a file or directory in the workspace.
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}
