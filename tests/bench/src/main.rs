//! `votive-bench`: measures one subject where it runs, in the lab's L1 or on a host, and prints a JSON object a line.
//!
//! `cargo xtask bench` runs it for each subject and compares what it prints with `ci/budgets.toml`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use votive_bench::report::{self, Figure};
use votive_bench::subject::{Guest, Subject};
use votive_bench::{cold_boot, kvm_setup};

/// Measures cold boots of one VMM.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Which VMM
    #[arg(long, value_enum)]
    subject: Subject,
    /// Its program
    #[arg(long)]
    program: PathBuf,
    /// Runs of each figure
    #[arg(long, default_value_t = 5)]
    count: usize,
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Process start to the guest's first instruction and to PID 1, in the lab's exact clock
    ColdBoot {
        /// `same` or `own`: whose kernel and options
        #[arg(long)]
        variant: String,
        /// An uncompressed kernel
        #[arg(long)]
        kernel: PathBuf,
        /// The initial RAM file system; its PID 1 writes to port 0xf4
        #[arg(long)]
        initrd: PathBuf,
        /// Guest memory
        #[arg(long, default_value_t = 128)]
        memory_mib: u32,
    },
    /// Process start to the first instruction of a guest of six, natively
    KvmSetup,
}

fn main() -> ExitCode {
    report::end("votive-bench", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> anyhow::Result<Vec<Figure>> {
    let name = arguments.subject.name();
    match &arguments.bench {
        Bench::ColdBoot { variant, kernel, initrd, memory_mib } => {
            let guest = Guest {
                kernel: kernel.clone(),
                initrd: Some(initrd.clone()),
                memory_mib: *memory_mib,
                own_options: variant == "own",
            };
            let cost =
                cold_boot::measure(arguments.subject, &arguments.program, &guest, arguments.count)?;
            let bench = |figure: &str| format!("cold_boot.{variant}.{figure}");
            Ok([
                cost.first_instruction.figure(&bench("first_instruction"), name),
                cost.pid1.figure(&bench("pid1"), name),
                cost.exits.figure(&bench("exits"), name),
                cost.private_memory.figure(&bench("private_memory"), name),
            ]
            .into_iter()
            .flatten()
            .collect())
        }
        Bench::KvmSetup => {
            let series =
                kvm_setup::measure(arguments.subject, &arguments.program, arguments.count)?;
            Ok(series.figure("kvm_setup", name).into_iter().collect())
        }
    }
}
