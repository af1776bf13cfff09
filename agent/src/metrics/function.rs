//! The metrics of one function version, looked up once, when it is registered, and not for each invocation.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::{
    BILLED, CONCURRENT_EXECUTIONS, DURATION, ERRORS, FUNCTIONS_MAX, INVOCATIONS, OTHER_FUNCTION,
    PROVISIONED_CONCURRENT_EXECUTIONS, PROVISIONED_ENVIRONMENTS, PROVISIONED_INVOCATIONS,
    PROVISIONED_SPILLOVER, THROTTLES,
};

/// Which concurrency an invocation uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// The version has no provisioned concurrency.
    OnDemand,
    /// An environment that is kept for the version.
    Provisioned,
    /// The version has provisioned concurrency, all of which was in use.
    Spillover,
}

/// How much provisioned concurrency a version has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProvisionedEnvironments {
    /// Environments that were asked for.
    pub requested: u32,
    /// Environments that were started.
    pub allocated: u32,
    /// Environments that are initialised.
    pub available: u32,
}

/// The metrics of one function version. Cloning is cheap; clones count together.
#[derive(Clone)]
pub struct FunctionMetrics {
    labels: Labels,
    invocations: Counter,
    errors: Counter,
    duration: Histogram,
    billed: Counter,
    concurrent: Gauge,
    provisioned: Option<Provisioned>,
}

/// Exists once a version has had provisioned concurrency: most never do, and need no series for it.
#[derive(Clone)]
struct Provisioned {
    invocations: Counter,
    spillover: Counter,
    concurrent: Gauge,
}

impl std::fmt::Debug for FunctionMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FunctionMetrics").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl FunctionMetrics {
    /// The metrics of the version `version` of `account`'s `function`.
    #[must_use]
    pub fn new(account: &str, function: &str, version: &str) -> Self {
        let labels = labels_of(account, function, version);
        Self {
            invocations: counter!(INVOCATIONS, &labels),
            errors: counter!(ERRORS, &labels),
            duration: histogram!(DURATION, &labels),
            billed: counter!(BILLED, &labels),
            concurrent: gauge!(CONCURRENT_EXECUTIONS, &labels),
            provisioned: None,
            labels,
        }
    }

    /// An invocation is accepted.
    pub fn started(&self, concurrency: Concurrency) {
        self.invocations.increment(1);
        self.concurrent.increment(1.0);
        match (concurrency, &self.provisioned) {
            (Concurrency::Provisioned, Some(provisioned)) => {
                provisioned.invocations.increment(1);
                provisioned.concurrent.increment(1.0);
            }
            (Concurrency::Spillover, Some(provisioned)) => provisioned.spillover.increment(1),
            (Concurrency::OnDemand | Concurrency::Provisioned | Concurrency::Spillover, _) => {}
        }
    }

    /// An accepted invocation is over. `concurrency` is what it was started with.
    pub fn ended(
        &self,
        concurrency: Concurrency,
        duration: Duration,
        billed_ms: u64,
        failed: bool,
    ) {
        self.left(concurrency);
        self.duration.record(duration.as_secs_f64());
        self.billed.increment(billed_ms);
        if failed {
            self.errors.increment(1);
        }
    }

    /// An accepted invocation was lost with its environment: there is nothing to measure or to bill.
    pub fn lost(&self, concurrency: Concurrency) {
        self.left(concurrency);
        self.errors.increment(1);
    }

    fn left(&self, concurrency: Concurrency) {
        self.concurrent.decrement(1.0);
        if let (Concurrency::Provisioned, Some(provisioned)) = (concurrency, &self.provisioned) {
            provisioned.concurrent.decrement(1.0);
        }
    }

    /// A request found no room; `reason` is one of CONTRACT 4.10's names.
    pub fn throttled(&self, reason: &'static str) {
        let [account, function, version] = self.labels.clone();
        counter!(THROTTLES, &[account, function, version, ("reason", reason.to_owned())])
            .increment(1);
    }

    /// The version's provisioned concurrency changed. To be called before [`Concurrency::Provisioned`] is first counted.
    pub fn provisioned(&mut self, environments: ProvisionedEnvironments) {
        self.provisioned.get_or_insert_with(|| Provisioned {
            invocations: counter!(PROVISIONED_INVOCATIONS, &self.labels),
            spillover: counter!(PROVISIONED_SPILLOVER, &self.labels),
            concurrent: gauge!(PROVISIONED_CONCURRENT_EXECUTIONS, &self.labels),
        });
        for (state, value) in [
            ("requested", environments.requested),
            ("allocated", environments.allocated),
            ("available", environments.available),
        ] {
            let [account, function, version] = self.labels.clone();
            gauge!(
                PROVISIONED_ENVIRONMENTS,
                &[account, function, version, ("state", state.to_owned())]
            )
            .set(f64::from(value));
        }
    }
}

/// The labels of a version's series.
type Labels = [(&'static str, String); 3];

fn labels_of(account: &str, function: &str, version: &str) -> Labels {
    static KNOWN: Mutex<BTreeSet<[String; 3]>> = Mutex::new(BTreeSet::new());
    // The set is whole after every step, so that a panic elsewhere leaves nothing half done.
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    admitted(&mut known, [account, function, version].map(str::to_owned))
}

/// A version's own labels; those of [`OTHER_FUNCTION`] once [`FUNCTIONS_MAX`] others have their own.
pub(super) fn admitted(known: &mut BTreeSet<[String; 3]>, own: [String; 3]) -> Labels {
    let [account, function, version] = if known.contains(&own) {
        own
    } else if known.len() < FUNCTIONS_MAX {
        known.insert(own.clone());
        own
    } else {
        [String::new(), OTHER_FUNCTION.to_owned(), String::new()]
    };
    [("account", account), ("function", function), ("version", version)]
}
