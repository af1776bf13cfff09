//! The tests, by what they are about.

mod answers;
mod container;
mod damage;
mod ends;
mod environment;
mod failures;
mod jails;
mod lazy;
mod network;
mod pauses;
mod shares;
mod sizes;
mod worker;

/// A test.
pub type Case = fn() -> anyhow::Result<()>;

/// Every test with its name.
pub fn all() -> impl Iterator<Item = (&'static str, Case)> {
    [
        answers::CASES,
        environment::CASES,
        failures::CASES,
        sizes::CASES,
        ends::CASES,
        damage::CASES,
        lazy::CASES,
        container::CASES,
        pauses::CASES,
        shares::CASES,
        jails::CASES,
        worker::life::CASES,
        worker::pause::CASES,
        worker::extensions::CASES,
        worker::concurrency::CASES,
        worker::recovery::CASES,
        worker::jail::CASES,
        worker::shells::CASES,
        worker::lease::CASES,
        worker::many::CASES,
        worker::telling::CASES,
        worker::artifacts::CASES,
        network::frames::CASES,
        network::bridge::CASES,
        network::rights::CASES,
        network::microvms::CASES,
    ]
    .into_iter()
    .flatten()
    .copied()
}
