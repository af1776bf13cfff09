//! Compiles the guest: no standard library, no C library, static, at the address that both VMMs load it to.
//!
//! Straight through rustc: the image needs a panic strategy, a code model and a linker script that no profile of the
//! workspace has, and a program that carries it must not depend on where cargo put it.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=guest");
    let guest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("guest");
    let image = PathBuf::from(env::var("OUT_DIR")?).join("guest.elf");
    let script = guest.join("guest.ld");
    let mut rustc = Command::new(env::var("RUSTC")?);
    rustc.args(["--edition", "2024", "--crate-name", "hostile_guest", "--crate-type", "bin"]);
    rustc.args(["--target", "x86_64-unknown-linux-gnu", "--cfg", "feature=\"image\""]);
    for option in ["panic=abort", "opt-level=2", "relocation-model=static", "codegen-units=1"] {
        rustc.args(["-C", option]);
    }
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"] {
        rustc.arg("-C").arg(format!("link-arg={argument}"));
    }
    rustc.arg("-C").arg(format!("link-arg=-Wl,-T,{}", script.display()));
    rustc.arg("-o").arg(&image).arg(guest.join("src/lib.rs"));
    let status = rustc.status()?;
    if !status.success() {
        return Err(format!("rustc could not make the guest: {status}").into());
    }
    println!("cargo::rustc-env=HOSTILE_GUEST={}", image.display());
    Ok(())
}
