//! The messages and stubs of `votive.worker.v1`, made from `protocol/proto/votive/worker/v1/worker.proto`.

#![expect(
    missing_docs,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated: the documentation is the comments of the .proto file"
)]

tonic::include_proto!("votive.worker.v1");

/// The descriptions of all messages and services with their comments: a `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
