//! Every cap on the guest link, each with its reason.

use crate::BODY_MAX;

/// The largest request payload in bytes: the synchronous limit of AWS Lambda, 6 MB (CONTRACT 4.7).
pub const REQUEST_PAYLOAD_MAX: u64 = 6 * 1024 * 1024;
/// The largest buffered response in bytes. AWS's own runtime interface emulator allows 100 bytes over 6 MiB.
pub const RESPONSE_PAYLOAD_MAX: u64 = 6 * 1024 * 1024 + 100;
/// The largest streamed response in bytes (CONTRACT 4.7: 200 MB).
pub const STREAMED_RESPONSE_MAX: u64 = 200 * 1024 * 1024;
/// Disks a microVM may be told to mount: root, code, merged layers, scratch, and four to spare.
pub const MOUNTS_MAX: usize = 8;
/// Name servers a function may have: as many as `resolv.conf(5)` has (`MAXNS`).
pub const DNS_SERVERS_MAX: usize = 3;
/// The longest string field (ARNs, handlers, trace ids) in bytes.
pub const STRING_MAX: usize = 1024;
/// The longest `Lambda-Runtime-Client-Context` or `-Cognito-Identity` in bytes (the former is 3,583 bytes at AWS).
pub const CONTEXT_MAX: usize = 8 * 1024;
/// The most bytes that a function's own environment variables may take together (4 KB at AWS, CONTRACT 4.4), with the
/// separators, and with the same again for credentials.
pub const ENVIRONMENT_MAX: usize = 16 * 1024;
/// The most bytes that the command line of an image function may take (ENTRYPOINT and CMD together).
pub const ARGUMENTS_MAX: usize = 8 * 1024;
/// The largest body of an error report: what PID 1 passes on of a runtime's `{errorMessage,errorType,stackTrace}`.
pub const ERROR_BODY_MAX: usize = 32 * 1024;
/// The largest `Lambda-Runtime-Function-XRay-Error-Cause` that is passed on, in bytes; a longer one is dropped.
pub const XRAY_CAUSE_MAX: usize = 16 * 1024;

/// The longest name of an extension in bytes: that of a file.
pub const EXTENSION_NAME_MAX: usize = 255;
/// The longest error type of an extension that is passed on, in bytes.
pub const EXTENSION_ERROR_MAX: usize = 128;

// Configure: nine texts, two lists of variables, one of arguments; the numbers need far less than what is left.
const _: () = assert!(2 * ENVIRONMENT_MAX + ARGUMENTS_MAX + 10 * STRING_MAX < BODY_MAX);
const _: () = assert!(ERROR_BODY_MAX + XRAY_CAUSE_MAX + 4 * STRING_MAX < BODY_MAX);
const _: () = assert!(2 * CONTEXT_MAX + 5 * STRING_MAX < BODY_MAX);
