//! A whole run: which cases, against whom, how often, and the table.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use serde::Serialize;

use crate::judge::{self, Usual};
use crate::neighbour::Neighbour;
use crate::run::{self, Got};
use crate::subject::{Kind, Orders, Subject};
use crate::table::{CASES, Case, Expected};

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// votive-vmm's program.
    pub votive: PathBuf,
    /// Firecracker's, to be run beside it.
    pub firecracker: Option<PathBuf>,
    /// Only cases whose names contain this.
    pub filter: String,
    /// The first seed.
    pub seed: u64,
    /// How many seeds of the random case, one after the other.
    pub seeds: u64,
    /// Steps of each.
    pub steps: u64,
    /// Repetitions in percent.
    pub scale: u64,
    /// How long a case may take.
    pub limit: Duration,
    /// How long those cases run that only their deadline ends.
    pub deadline: Duration,
    /// How many cases run at a time, each beside an innocent microVM of its own.
    pub jobs: usize,
    /// JSON lines instead of a table.
    pub json: bool,
    /// This part of the cases only: the first of it, from 0, and the number of parts.
    pub shard: (usize, usize),
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Line<'a> {
    case: &'a str,
    seed: u64,
    subject: &'a str,
    expected: String,
    complaints: Vec<String>,
    got: &'a Got,
}

/// How many lines of votive's were as expected, and how many not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// As expected.
    pub passed: usize,
    /// Not.
    pub failed: usize,
}

impl Plan {
    /// Runs it; each line is written to `out` as it comes. Firecracker's lines are shown and not counted.
    ///
    /// # Errors
    /// A VMM cannot be started, or `out` not be written.
    pub fn run(&self, out: &mut (dyn Write + Send)) -> Result<Counts> {
        let votive = Subject { kind: Kind::Votive, program: self.votive.clone() };
        let mut counts = self.run_subject(&votive, out)?;
        if let Some(program) = &self.firecracker {
            let peer = Subject { kind: Kind::Firecracker, program: program.clone() };
            let theirs = self.run_subject(&peer, out)?;
            writeln!(out, "firecracker: {} as expected, {} not", theirs.passed, theirs.failed)?;
        }
        if counts == Counts::default() {
            counts.failed = 1;
        }
        Ok(counts)
    }

    /// The cases of this plan, each with its seeds.
    fn cases(&self) -> impl Iterator<Item = (&'static Case, u64)> {
        let wanted = CASES.iter().filter(|case| case.name.contains(&self.filter));
        let seeded = wanted.flat_map(move |case| {
            let seeds = if case.name == "random" { self.seeds } else { 1 };
            (0..seeds).map(move |more| (case, self.seed.wrapping_add(more)))
        });
        seeded.skip(self.shard.0).step_by(self.shard.1.max(1))
    }

    fn run_subject(&self, subject: &Subject, out: &mut (dyn Write + Send)) -> Result<Counts> {
        let mut neighbour = Neighbour::start(subject)?;
        let idle = self.one(subject, &CASES[0], self.seed, &mut neighbour)?;
        if idle.code != Some(0) {
            bail!("{} does not run the guest that does nothing: {idle:?}", subject.name());
        }
        let usual = Usual { peak_kib: idle.peak_kib, calls: neighbour.order()?.calls };
        drop(neighbour);
        let is_comparable =
            |case: &Case| subject.kind == Kind::Votive || !case.is_of_votive_alone();
        let left = Mutex::new(self.cases().filter(|(case, _)| is_comparable(case)));
        let sum = Mutex::new((Counts::default(), out));
        let work = || -> Result<()> {
            let mut neighbour = Neighbour::start(subject)?;
            loop {
                let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((case, seed)) = next else { return Ok(()) };
                let got = self.one(subject, case, seed, &mut neighbour)?;
                if got.neighbour_operations == 0 {
                    neighbour = Neighbour::start(subject)?;
                }
                let complaints = judge::complaints(subject.kind, case.expected, &got, usual);
                let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                let (counts, out) = &mut *sum;
                let count =
                    if complaints.is_empty() { &mut counts.passed } else { &mut counts.failed };
                *count += 1;
                let expected = expected(subject.kind, case.expected);
                let (case, subject) = (case.name, subject.name());
                self.show(&Line { case, seed, subject, expected, complaints, got: &got }, out)?;
            }
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.max(1)).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().map_err(|_| anyhow!("a worker of the suite died"))?
            })
        })?;
        let (counts, _) = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(counts)
    }

    fn one(
        &self,
        subject: &Subject,
        case: &Case,
        seed: u64,
        neighbour: &mut Neighbour,
    ) -> Result<Got> {
        let orders = Orders {
            case: case.name.to_owned(),
            vcpus: case.vcpus(),
            seed,
            steps: self.steps,
            scale: self.scale,
        };
        let limit = if case.expected == Expected::Deadline { self.deadline } else { self.limit };
        run::run(subject, case, &orders, limit, neighbour)
    }

    fn show(&self, line: &Line<'_>, out: &mut (dyn Write + Send)) -> Result<()> {
        if self.json {
            return Ok(writeln!(out, "{}", serde_json::to_string(line)?)?);
        }
        let Line { case, seed, subject, expected, complaints, got } = line;
        let verdict = if complaints.is_empty() { "ok" } else { "NOT" };
        writeln!(
            out,
            "{verdict:3} {subject:11} {case:26} expected {expected:22} got {:28} {:6} KiB {:6} ms cpu {:6.2} s {:6.2} ms at rest {:6} B log {:2} beside with {} calls, {:.2} ms",
            describe(got),
            got.peak_kib,
            got.cpu_ms,
            got.seconds,
            got.rest_ns.map_or(0, |(ran, _)| ran) as f64 / 1e6,
            got.logged_bytes,
            got.neighbour_operations,
            got.neighbour_calls,
            got.neighbour_ns as f64 / 1e6,
        )?;
        if *case == "random" {
            writeln!(out, "    seed {seed}: reproduce with --seed {seed} --steps {}", self.steps)?;
        }
        for complaint in complaints {
            writeln!(out, "    {complaint}")?;
        }
        if !complaints.is_empty() {
            writeln!(out, "    last words: {}", got.reason)?;
            got.wrong.iter().try_for_each(|wrong| writeln!(out, "    {wrong}"))?;
        }
        Ok(())
    }
}

fn expected(kind: Kind, expected: Expected) -> String {
    match (expected, kind) {
        (Expected::Answers, _) => "answers, exit 0".to_owned(),
        (Expected::AnswersUnheard, _) => "exit 0".to_owned(),
        (Expected::Ends { code, .. }, Kind::Votive) => format!("exit {code}"),
        (Expected::Ends { .. }, Kind::Firecracker) => "an exit code but 0".to_owned(),
        (Expected::Deadline, Kind::Votive) => "the deadline, exit 6".to_owned(),
        (Expected::Deadline, Kind::Firecracker) => "no end".to_owned(),
    }
}

fn describe(got: &Got) -> String {
    let all = got.held + got.failed + got.lax;
    let facts = match (got.told, got.failed, got.lax) {
        (false, ..) => String::new(),
        (true, 0, 0) => format!("{all} facts, "),
        (true, 0, lax) => format!("{lax} of {all} facts lax, "),
        (true, failed, _) => format!("{failed} of {all} facts wrong, "),
    };
    match got.code {
        Some(code) => format!("{facts}exit {code}"),
        None => format!("{facts}killed"),
    }
}
