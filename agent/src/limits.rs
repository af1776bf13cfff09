//! Every cap and wait of the worker, each with its reason.

use std::time::Duration;

/// The least memory of a function in MB (CONTRACT 4.7).
pub const MEMORY_MIN_MB: u32 = 128;
/// The most memory of a function in MB (CONTRACT 4.7).
pub const MEMORY_MAX_MB: u32 = 10_240;
/// The memory of a function that does not say, in MB: AWS Lambda's default.
pub const MEMORY_DEFAULT_MB: u32 = 128;
/// The longest time limit of a function in seconds (CONTRACT 4.7).
pub const TIMEOUT_MAX_S: u32 = 900;
/// The time limit of a function that does not say, in seconds (CONTRACT 4.7).
pub const TIMEOUT_DEFAULT_S: u32 = 3;
/// How long the init phase may take, in seconds (CONTRACT 4.6); one that takes longer is run again inside the invocation.
pub const INIT_TIMEOUT_DEFAULT_S: u32 = 10;
/// What the guest's kernel and PID 1 get beside the function's own memory, in MiB.
pub const GUEST_RESERVE_MIB: u32 = 64;
/// The part of its memory that a kernel takes to keep account of it: 64 bytes for each page of 4 KiB.
pub const PAGE_ACCOUNTS_DIVISOR: u32 = 64;
/// A handler's longest name in bytes: AWS Lambda's limit.
pub const HANDLER_MAX: usize = 128;
/// The longest name of a function in bytes: AWS Lambda's limit.
pub const NAME_MAX: usize = 64;
/// What a function's environment variables may take together, keys and values, in bytes (CONTRACT 4.4).
pub const ENVIRONMENT_MAX: usize = 4 * 1024;
/// The least size of `/tmp` in MB (CONTRACT 4.5).
pub const SCRATCH_MIN_MB: u32 = 512;
/// The most size of `/tmp` in MB (CONTRACT 4.5).
pub const SCRATCH_MAX_MB: u32 = 10_240;

/// MicroVMs that boot at once for each processor, unless it is configured. A boot is computation; one that waits for a disk
/// leaves its processor to another. More of them at once make all of them late: fifty on one processor were given up for hung.
pub const BOOTS_PER_PROCESSOR: usize = 2;
/// How long a guest may take from its process's start to its first frame. A real guest takes a fraction of a second, an
/// emulated one on a crowded host seconds; beyond this it is stuck.
pub const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long PID 1 may take to end runtime and extensions and say so. Extensions have 2 s of it (CONTRACT 4.2); SIGKILL and
/// reaping take microseconds; an emulated guest is slower, one that takes longer is not going to.
pub const RESET_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a guest that was told to power off may take before its process is killed; extensions have 2 s of it
/// (CONTRACT 4.2).
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// The most that a guest may take to end runtime and extensions when it is told to power off, in milliseconds: all that
/// extensions may have (CONTRACT 4.2). PID 1 keeps to less where less is due.
pub const SHUTDOWN_GRACE_MS: u32 = 2000;
/// How often a VMM whose guest runs is asked whether it is there. With [`HANG_TIMEOUT`] a hang is known within a second.
pub const PROBE_PERIOD: Duration = Duration::from_millis(400);
/// How long after the end of the link the process's own end, which tells why, is waited for.
pub const LOST_LINK_GRACE: Duration = Duration::from_millis(500);
/// How long a killed process may take to be reaped before the environment is given up.
pub const KILL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an image that comes while it is read stays in memory after its last environment, unless it is configured: as long as
/// an idle environment.
pub const ARTIFACT_IDLE_TIMEOUT: Duration = IDLE_TIMEOUT_DEFAULT;
/// How long a guest's read may wait for a chunk, unless it is configured: as long as a hard disk's driver waits.
pub const ARTIFACT_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The most that it may be: a VMM waits for ten minutes at most, and for a while longer than this side.
pub const ARTIFACT_READ_TIMEOUT_MAX: Duration = Duration::from_secs(540);
/// Artifacts that are looked up for registrations at once, so that starts of environments find room at a store that is slow.
pub const ARTIFACTS_RESOLVED_AT_ONCE: usize = 8;
/// How long a registration may wait for the store that its artifact is in and for its key service: as long as a start of an
/// environment may be waited for.
pub const ARTIFACT_RESOLVE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long after a process's end its pipes are read.
pub const PIPE_GRACE: Duration = Duration::from_secs(1);

/// Events that may wait for the loop. A frame is at most 64 KiB, so a guest can hold up to 2 MiB here; then its link stops.
pub const EVENTS_WAITING_MAX: usize = 32;
/// Messages that may wait for the guest to read. The loop sends at most three for an invocation.
pub const MESSAGES_WAITING_MAX: usize = 16;
/// The longest line of a log in bytes (AWS cuts events at 256 KB); a longer one is cut into several.
pub const LOG_LINE_MAX: usize = 256 * 1024;
/// The marks that are kept: the VMM's own and the 64 that a guest may write.
pub const MARKS_MAX: usize = 80;
/// The longest line of marks in bytes.
pub const MARK_LINE_MAX: usize = 128;
/// What is kept of the VMM's standard error, in bytes: its reason is the last line.
pub const VMM_STDERR_MAX: usize = 8 * 1024;

/// The longest life of a worker, from its first lease on (CONTRACT: 14 hours; CHECKLIST 58).
pub const LEASE_MAX: Duration = Duration::from_secs(14 * 60 * 60);
/// How long before the end of a lease every microVM that is left is killed.
pub const LEASE_KILL_MARGIN: Duration = Duration::from_secs(2);
/// How long before the end of a lease a microVM ends itself, should nobody have ended it: its own timer fires no later than
/// this takes, and its memory is gone in time too.
pub const LEASE_DEADLINE_MARGIN: Duration = Duration::from_secs(1);
/// What is left between the last reservation and the last moment at which its invocation can begin, beside the time that a
/// reservation is good.
pub const LEASE_DRAIN_MARGIN: Duration = Duration::from_secs(1);
/// How long a reservation is good. An orchestrator spends it at once; what it holds meanwhile is lost to others.
pub const RESERVATION_LIFETIME: Duration = Duration::from_secs(5);
/// How long an environment on demand waits for its next invocation unless it is configured: AWS keeps them for minutes.
pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(600);
/// How long a VMM may leave a question unanswered. With the pace of questions it makes a hang known within a second.
pub const HANG_TIMEOUT: Duration = Duration::from_millis(500);
/// Commands that may wait for the worker's loop; a caller waits beyond that.
pub const COMMANDS_WAITING_MAX: usize = 256;
/// Events that a watcher may be behind before it misses some.
pub const WATCH_WAITING_MAX: usize = 1024;
/// Lines of logs that a watcher may be behind before it misses some; each is at most [`WATCH_LINE_MAX`].
pub const WATCH_LINES_WAITING_MAX: usize = 256;
/// The longest line of a log that a watcher is shown, in bytes.
pub const WATCH_LINE_MAX: usize = 64 * 1024;
/// Function versions that a worker knows at once.
pub const FUNCTION_VERSIONS_MAX: usize = 10_000;
/// Names whose meaning a worker remembers: those of versions that were removed count too.
pub const FUNCTION_VERSION_NAMES_MAX: usize = 100_000;
/// Layers of a function (CONTRACT 4.7).
pub const LAYERS_MAX: usize = 5;
/// Reservations that wait to be spent, or are remembered to tell a late caller why it is refused.
pub const RESERVATIONS_MAX: usize = 20_000;
/// How long after its end a reservation is remembered, to tell a late caller why it is refused.
pub const RESERVATION_REMEMBERED: Duration = Duration::from_secs(60);
/// When a throttled caller may try again.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long before an environment's lease ends its provisioned replacement is begun.
pub const REPLACEMENT_LEAD: Duration = Duration::from_secs(60);
/// After how many starts in a row that came to nothing provisioned concurrency counts as failed.
pub const PROVISION_FAILURES_MAX: u32 = 3;
/// The longest wait between two tries to start a provisioned environment.
pub const PROVISION_RETRY_MAX: Duration = Duration::from_secs(60);
/// Releases that are kept for callers who ask for them late.
pub const RELEASES_KEPT_MAX: usize = 4096;
/// The burst of a streamed answer in bytes (CONTRACT 4.1).
pub const STREAM_BURST_BYTES: u64 = 6 * 1024 * 1024;
/// The pace of a streamed answer after its burst (CONTRACT 4.1).
pub const STREAM_BYTES_PER_SECOND: u64 = 2 * 1024 * 1024;
/// Parts of an answer that may wait for their caller; a piece is at most 64 KiB. Four are a whole answer without a payload.
pub const PARTS_WAITING_MAX: usize = 4;
/// How long after an invocation's end its environment waits for a caller who does not take the answer.
pub const OUTBOX_GRACE: Duration = Duration::from_secs(10);
/// What a release brings of the log: the last 4 KB (CONTRACT 4.9).
pub const LOG_TAIL_MAX: usize = 4 * 1024;
/// Orders that may wait for an environment: an invocation and an end are all there are.
pub const ORDERS_WAITING_MAX: usize = 8;
/// Reports of environments that may wait for the worker's loop; an environment waits beyond that.
pub const NOTICES_WAITING_MAX: usize = 1024;
/// How long after a process's end its guest's last frames are read. They are in the socket already.
pub const LAST_WORDS_GRACE: Duration = Duration::from_millis(250);
/// Function versions whose images are packed at once. Each takes a processor, and room for its files.
pub const PACKING_AT_ONCE: usize = 2;
/// The longest field that is passed on beside a payload, in bytes; those with contexts have the protocol's own limit.
pub const INVOKE_FIELD_MAX: usize = 1024;
/// Callers who may wait for the release of one invocation.
pub const RELEASE_WAITERS_MAX: usize = 16;

/// Bytes of packed images that a worker takes over from the one before it, whose functions may be registered again.
pub const IMAGES_KEPT_MAX_BYTES: u64 = 8 << 30;
