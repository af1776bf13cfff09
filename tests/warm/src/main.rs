//! `votive-warm`: measures warm invocations on one path where it runs, in the lab's L1, and prints a JSON object a line.
//!
//! `cargo xtask bench` runs it for each path and compares what it prints with `ci/budgets.toml`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use votive_bench::report::{self, Figure};
use votive_bench::subject::Subject;
use votive_warm::freezer::Freezer;
use votive_warm::measure::{Plan, measure};
use votive_warm::peer::{Channel, Peer, PeerSpec};
use votive_warm::upstream::Upstream;
use votive_warm::votive::{Votive, VotiveSpec};
use votive_warm::{Pair, host_agent};

/// Measures warm invocations.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// votive: the client crate, votive-agent, its VMM and PID 1, an unmodified runtime
    Votive {
        #[command(flatten)]
        plan: PlanArguments,
        /// votive-agent
        #[arg(long)]
        agent: PathBuf,
        /// The folder with kernel, initramfs, runtimes and VMM
        #[arg(long)]
        images: PathBuf,
        /// warm-function
        #[arg(long)]
        function: PathBuf,
        /// Reserve first, then invoke
        #[arg(long)]
        two_calls: bool,
    },
    /// A peer: a client, a host agent, a VMM with a vsock, an HTTP server
    Peer {
        #[command(flatten)]
        plan: PlanArguments,
        /// Which VMM
        #[arg(long, value_enum)]
        vmm: Subject,
        /// Its program
        #[arg(long)]
        program: PathBuf,
        /// What stands before the guest
        #[arg(long, value_enum)]
        channel: Channel,
        /// An uncompressed kernel
        #[arg(long)]
        kernel: PathBuf,
        /// An initramfs with warm-guest as its PID 1
        #[arg(long)]
        initrd: PathBuf,
        /// The image with Python
        #[arg(long)]
        root: PathBuf,
    },
    /// The peers' host agent
    #[command(hide = true)]
    HostAgent {
        #[arg(long)]
        socket: PathBuf,
        #[arg(long)]
        keys: PathBuf,
        #[arg(long)]
        upstream: Upstream,
        #[arg(long)]
        freezer: Option<Freezer>,
    },
}

#[derive(clap::Args)]
struct PlanArguments {
    /// Which function
    #[arg(long, value_enum)]
    pair: Pair,
    /// The name in the report
    #[arg(long)]
    subject: String,
    /// Windows that are measured
    #[arg(long, default_value_t = 5)]
    windows: usize,
    /// Invocations in each
    #[arg(long, default_value_t = 100)]
    invocations: u32,
    /// Time invocations instead of counting instructions and exits
    #[arg(long)]
    wall: bool,
    /// Also record a few invocations with the kernel's tracer, for a person to read
    #[arg(long)]
    trace: Option<PathBuf>,
}

impl PlanArguments {
    fn plan(&self) -> Plan {
        Plan {
            pair: self.pair.name(),
            subject: self.subject.clone(),
            windows: self.windows,
            invocations: self.invocations,
            wall: self.wall,
            trace: self.trace.clone(),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    report::end("votive-warm", run(Arguments::parse().command).await)
}

async fn run(command: Command) -> anyhow::Result<Vec<Figure>> {
    match command {
        Command::Votive { plan, agent, images, function, two_calls } => {
            let spec = VotiveSpec { agent, images, pair: plan.pair, function, two_calls };
            measure(&mut Votive::start(&spec).await?, &plan.plan()).await
        }
        Command::Peer { plan, vmm, program, channel, kernel, initrd, root } => {
            let pair = plan.pair;
            let spec = PeerSpec { subject: vmm, program, pair, channel, kernel, initrd, root };
            measure(&mut Peer::start(&spec).await?.client, &plan.plan()).await
        }
        Command::HostAgent { socket, keys, upstream, freezer } => {
            host_agent::serve(&socket, &keys, &upstream, freezer.as_ref()).await?;
            Ok(Vec::new())
        }
    }
}
