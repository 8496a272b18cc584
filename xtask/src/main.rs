//! The project's own commands.

mod ci;
mod datasets;
mod doctor;
mod experiment;
mod golden;
mod libtorch;
mod networks;
mod pickle;
mod process;
mod root;
mod setup;
mod test;
mod tidy;
mod tools;
mod wheels;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The project's own commands; the first that needs libtorch installs it.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put libtorch 2.13.0 into the user's cache folder and link it into this clone; fetch the network that tests need
    Setup {
        /// What libtorch computes on
        #[arg(long, value_enum, default_value_t = setup::Device::Cpu)]
        device: setup::Device,
    },
    /// Say what is there and what is missing
    Doctor,
    /// Run a recipe: train, measure, report (quickstart by default; --help for its options)
    #[command(disable_help_flag = true)]
    Experiment {
        /// Handed on to the binary `heldout experiment`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run every test: nextest, then the examples in the docs
    Test {
        /// Handed on to nextest
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run the benches
    Bench {
        /// Handed on to cargo bench
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run all checks, cheapest first
    Ci,
    /// Check the house rules
    Tidy,
    /// List, fetch or describe data sets, and fetch feature networks
    Datasets {
        #[command(subcommand)]
        command: Option<datasets::Command>,
    },
    /// Make the golden files of a crate again, with the peer
    Golden {
        /// Folder below crates/
        name: String,
        /// A Python that has the peer's packages
        #[arg(long, default_value = "python3")]
        python: String,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Setup { device } => setup::run(device),
        Command::Doctor => doctor::run(),
        Command::Experiment { args } => experiment::run("experiment", &args),
        Command::Test { args } => test::test(&args),
        Command::Bench { args } => test::bench(&args),
        Command::Ci => ci::run(),
        Command::Tidy => tidy::run(),
        Command::Datasets { command } => datasets::run(command.unwrap_or(datasets::Command::List)),
        Command::Golden { name, python } => golden::run(&name, &python),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
