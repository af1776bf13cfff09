//! `votive-agent` with real microVMs, driven by `votive` over its control socket.

pub(super) mod artifacts;
pub(super) mod concurrency;
pub(super) mod extensions;
pub(super) mod jail;
pub(super) mod lease;
pub(super) mod life;
pub(super) mod many;
pub(super) mod pause;
pub(super) mod recovery;
pub(super) mod shells;
pub(super) mod telling;
