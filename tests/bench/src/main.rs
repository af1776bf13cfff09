//! `votive-bench`: measures one subject where it runs, in the lab's L1 or on a host, and prints a JSON object a line.
//!
//! `cargo xtask bench` runs it for each subject and compares what it prints with `ci/budgets.toml`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use votive_bench::report::{self, Figure, Series};
use votive_bench::subject::{Guest, Subject};
use votive_bench::{cold_boot, isolation, kvm_setup};

/// Measures cold boots of one VMM.
#[derive(Parser)]
#[command(version)]
struct Arguments {
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
        #[command(flatten)]
        vmm: Vmm,
        /// `same` or `own`: whose kernel and options
        #[arg(long)]
        variant: String,
        #[command(flatten)]
        guest: GuestFiles,
    },
    /// The same with everything that isolates, and with nothing of it
    Isolation {
        /// votive-vmm
        #[arg(long)]
        vmm: PathBuf,
        /// votive-vmm without filters
        #[arg(long)]
        unfiltered: PathBuf,
        /// votive-jailer
        #[arg(long)]
        jailer: PathBuf,
        #[command(flatten)]
        guest: GuestFiles,
    },
    /// Process start to the first instruction of a guest of six, natively
    KvmSetup {
        #[command(flatten)]
        vmm: Vmm,
    },
}

/// Who is measured.
#[derive(clap::Args)]
struct Vmm {
    /// Which VMM
    #[arg(long, value_enum)]
    subject: Subject,
    /// Its program
    #[arg(long)]
    program: PathBuf,
}

#[derive(clap::Args)]
struct GuestFiles {
    /// An uncompressed kernel
    #[arg(long)]
    kernel: PathBuf,
    /// The initial RAM file system; its PID 1 writes to port 0xf4
    #[arg(long)]
    initrd: PathBuf,
    /// Guest memory
    #[arg(long, default_value_t = 128)]
    memory_mib: u32,
}

impl GuestFiles {
    fn guest(&self, own_options: bool) -> Guest {
        Guest {
            kernel: self.kernel.clone(),
            initrd: Some(self.initrd.clone()),
            memory_mib: self.memory_mib,
            own_options,
        }
    }
}

fn main() -> ExitCode {
    report::end("votive-bench", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> anyhow::Result<Vec<Figure>> {
    let count = arguments.count;
    match &arguments.bench {
        Bench::ColdBoot { vmm: Vmm { subject, program }, variant, guest } => {
            let guest = guest.guest(variant == "own");
            let cost = cold_boot::measure(*subject, program, &guest, count)?;
            let figure = |series: Series, figure: &str| {
                series.figure(&format!("cold_boot.{variant}.{figure}"), subject.name())
            };
            Ok([
                figure(cost.first_instruction, "first_instruction"),
                figure(cost.pid1, "pid1"),
                figure(cost.exits, "exits"),
                figure(cost.private_memory, "private_memory"),
            ]
            .into_iter()
            .flatten()
            .collect())
        }
        Bench::Isolation { vmm, unfiltered, jailer, guest } => {
            let programs = isolation::Programs {
                vmm: vmm.clone(),
                unfiltered: unfiltered.clone(),
                jailer: jailer.clone(),
            };
            isolation::measure(&programs, &guest.guest(false), count)
        }
        Bench::KvmSetup { vmm: Vmm { subject, program } } => {
            let series = kvm_setup::measure(*subject, program, count)?;
            Ok(series.figure("kvm_setup", subject.name()).into_iter().collect())
        }
    }
}
