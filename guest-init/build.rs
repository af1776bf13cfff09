//! Links PID 1 without a C library: static, at a fixed address, with its own `_start`. Compiles the filter of system calls that
//! a function's processes run under.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// The address families of linux/socket.h that a function may make sockets of: local, IPv4, IPv6, and netlink, which resolvers
/// ask for addresses. vsock, PID 1's way to the agent, is none of them.
const FAMILIES: [u64; 4] = [1, 2, 10, 16];
/// `socket` of asm/unistd_64.h.
const SOCKET: i64 = 41;
/// `EAFNOSUPPORT` of asm-generic/errno.h: what a kernel without the family says.
const UNSUPPORTED: u32 = 97;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = std::env::var_os("OUT_DIR").ok_or("no OUT_DIR")?;
    std::fs::write(Path::new(&out).join("filter.rs"), source(&filter()?)?)?;
    if std::env::var_os("CARGO_FEATURE_STD").is_none() {
        for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
    Ok(())
}

/// Every call is allowed but `socket` of another family.
fn filter() -> Result<BpfProgram, Box<dyn Error>> {
    let differs =
        |family| SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family);
    let others = FAMILIES.into_iter().map(differs).collect::<Result<_, _>>()?;
    let rules = BTreeMap::from([(SOCKET, vec![SeccompRule::new(others)?])]);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(UNSUPPORTED),
        TargetArch::x86_64,
    )?;
    Ok(filter.try_into()?)
}

/// The program as a list of `sock_filter`s of linux/filter.h: code, where to go, and a constant.
fn source(program: &BpfProgram) -> Result<String, std::fmt::Error> {
    let mut source = format!("static FILTER: [Instruction; {}] = [\n", program.len());
    for step in program {
        let (code, yes, no, constant) = (step.code, step.jt, step.jf, step.k);
        writeln!(source, "    Instruction({code}, {yes}, {no}, {constant}),")?;
    }
    source.push_str("];\n");
    Ok(source)
}
