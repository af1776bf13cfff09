//! Makes the messages and the client's and server's stubs from `protocol/proto`, without a `protoc`.

use std::error::Error;
use std::path::{Path, PathBuf};

/// The folder that the names of `.proto` files begin in.
const ROOT: &str = "../protocol/proto";

/// The files.
const FILES: [&str; 1] = ["votive/worker/v1/worker.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let files: Vec<PathBuf> = FILES.iter().map(|file| Path::new(ROOT).join(file)).collect();
    let mut compiler = protox::Compiler::new([ROOT])?;
    // Comments become the documentation of what is generated.
    compiler.include_source_info(true).include_imports(true).open_files(&files)?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        // Payloads are passed on as they were received, not copied.
        .bytes(".")
        .build_transport(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
