//! The project's own chores. `cargo xtask test` sets up what is missing on this machine, then runs every check;
//! `cargo xtask --help` lists the rest.

mod blocks;
mod cluster;
mod command;
mod deny;
mod instructions;
mod links;
mod setup;
mod steps;
mod totals;
mod valkey;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use steps::Step;

/// What goes wrong in a chore: a sentence for a person to read.
type Result<T, E = String> = std::result::Result<T, E>;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Ripplecast's own chores",
    arg_required_else_help = true
)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install what is missing, then run every check, stopping at the first that fails
    Test {
        /// Install nothing, and leave out the steps that are slow or need more: blocks, instructions, fuzz and browser
        #[arg(long)]
        fast: bool,
        /// Run this step alone (may be given several times)
        #[arg(long, value_name = "STEP", conflicts_with = "fast")]
        only: Vec<Step>,
        /// List the steps and stop
        #[arg(long)]
        list: bool,
    },
    /// Build the server in release, and let `ripplecast bench soak` restart, crowd and cut it for a while
    ///
    /// Connections come, go, read slowly, vanish and break the protocol. At the end nothing may be lost and nothing leaked;
    /// docs/soak.md says what is checked. It needs Linux.
    Soak {
        /// How long, about
        #[arg(long, value_name = "N", default_value = "10")]
        minutes: f64,
        /// Repeats the run that printed this
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
    },
    /// Count the instructions of a delivery, an echo and an upgrade, and hold them against bench/instructions.json
    Instructions {
        /// Write what was counted to bench/instructions.json
        #[arg(long)]
        accept: bool,
    },
    /// Start a Redis, nodes that share it and a balancer before them; print their addresses, and stop them all on Ctrl-C
    Cluster {
        /// How many nodes
        #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u8).range(1..=16))]
        nodes: u8,
        /// Port of the balancer; 0 picks a free one
        #[arg(long, value_name = "PORT", default_value = "8080")]
        port: u16,
    },
    /// Take the pictures in docs/images anew, from the real page in a real browser
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

/// Where the workspace lies, so that a chore works from any directory.
struct Workspace {
    /// The directory of the workspace's own `Cargo.toml`.
    root: PathBuf,
}

impl Workspace {
    /// The workspace that holds this package. Cargo says where that is when it runs us; the place where we were
    /// compiled serves when the program is started by hand.
    fn find() -> Self {
        let package =
            std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").into());
        let package = PathBuf::from(package);
        let root = package.parent().map_or_else(|| package.clone(), Path::to_path_buf);
        Self { root }
    }

    /// A file or directory by its path inside the workspace.
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}
