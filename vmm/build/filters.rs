//! Filters from the table of system calls. The build script and the tests share it.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::table::{Call, Kinds, Rule};

/// The filter that allows threads of `kind` what `table` says, but for the rules that `leave_out` names, and nothing else.
pub(crate) fn allowing<'table>(
    table: impl IntoIterator<Item = &'table Call>,
    kind: Kinds,
    leave_out: impl Fn(&Call, &Rule) -> bool,
) -> BpfProgram {
    let mut calls = BTreeMap::new();
    for call in table {
        let rules: Vec<&Rule> = of_kind(call, kind).filter(|rule| !leave_out(call, rule)).collect();
        if !rules.is_empty() {
            let unconditional = rules.iter().any(|rule| rule.arguments.is_empty());
            let rules = rules.into_iter().map(|rule| conditions(rule, SeccompCmpOp::Eq));
            let rules = if unconditional { Vec::new() } else { rules.collect() };
            calls.insert(call.number, rules);
        }
    }
    program(calls, SeccompAction::KillProcess, SeccompAction::Allow)
}

/// The filter that takes from a thread of the kind `from` what it would not have as one of the kind `to`.
///
/// It is stacked on the first, and so allows everything else: far shorter than another list, which would have to be compiled
/// in the kernel for each microVM.
///
/// # Panics
/// When `to` has something that `from` has not, or calls differ in more than one argument.
pub(crate) fn narrowing(table: &[Call], from: Kinds, to: Kinds) -> BpfProgram {
    let mut calls = BTreeMap::new();
    for call in table {
        let (before, after) = (of_kind(call, from).count(), of_kind(call, to).count());
        let kept: Vec<&Rule> = of_kind(call, to).collect();
        assert!(kept.iter().all(|rule| rule.kinds & from != 0), "{} is new", call.name);
        if before == after {
            continue;
        }
        let arguments: Vec<_> = kept
            .iter()
            .map(|rule| {
                assert_eq!(rule.arguments.len(), 1, "of {} one is kept", call.name);
                let argument = rule.arguments.first().expect("there is one");
                condition(argument.index, argument.value, SeccompCmpOp::Ne)
            })
            .collect();
        let rules = if arguments.is_empty() {
            Vec::new()
        } else {
            vec![SeccompRule::new(arguments).expect("it has an argument")]
        };
        calls.insert(call.number, rules);
    }
    program(calls, SeccompAction::Allow, SeccompAction::KillProcess)
}

fn of_kind(call: &Call, kind: Kinds) -> impl Iterator<Item = &Rule> {
    call.rules.iter().filter(move |rule| rule.kinds & kind != 0)
}

fn conditions(rule: &Rule, operator: SeccompCmpOp) -> SeccompRule {
    let conditions =
        rule.arguments.iter().map(|it| condition(it.index, it.value, operator.clone())).collect();
    SeccompRule::new(conditions).expect("it has an argument")
}

fn condition(index: u8, value: u32, operator: SeccompCmpOp) -> SeccompCondition {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value.into())
        .expect("a call has six arguments")
}

fn program(
    calls: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    found: SeccompAction,
) -> BpfProgram {
    SeccompFilter::new(calls, otherwise, found, TargetArch::x86_64)
        .and_then(BpfProgram::try_from)
        .expect("the table is short and its actions differ")
}
