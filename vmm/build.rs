//! Compiles the table of system calls into the filters that the VMM installs, so that it holds no compiler.

#[path = "build/filters.rs"]
mod filters;
#[path = "build/graph.rs"]
mod graph;
#[path = "src/seccomp/table.rs"]
#[expect(unreachable_pub, dead_code, reason = "it is a module of the library")]
mod table;

use std::fmt::Write;
use std::path::Path;

use seccompiler::BpfProgram;

use crate::table::{DISK, IN_DEBUG_BUILDS, MAIN, SETUP, SETUP_WITH_PATH, TABLE, VCPU};

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=src/seccomp/table.rs");
    let debug = std::env::var("PROFILE").is_ok_and(|profile| profile == "debug");
    let calls = || TABLE.iter().chain(debug.then_some(&IN_DEBUG_BUILDS));
    let all = |kind| filters::allowing(calls(), kind, |_, _| false);
    let mut text = String::new();
    put(&mut text, "VCPU", &all(VCPU));
    put(&mut text, "DISK", &all(DISK));
    put(&mut text, "SETUP", &all(SETUP));
    put(&mut text, "SETUP_WITH_PATH", &all(SETUP_WITH_PATH));
    put(&mut text, "MAIN", &filters::narrowing(TABLE, SETUP, MAIN));
    let folder = std::env::var_os("OUT_DIR").expect("cargo sets it");
    std::fs::write(Path::new(&folder).join("filters.rs"), text)
}

/// One filter as a constant: an instruction is code, jumps and operand.
fn put(text: &mut String, name: &str, program: &BpfProgram) {
    let program = graph::shortened(program);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "static {name}: [Instruction; {}] = [", program.len());
    for step in program {
        let _ = writeln!(
            text,
            "    Instruction {{ code: {:#x}, jt: {}, jf: {}, k: {:#x} }},",
            step.code, step.jt, step.jf, step.k
        );
    }
    text.push_str("];\n");
}
