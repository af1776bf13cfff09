//! The table beside the `.proto` file.

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

use super::*;

fn files() -> Vec<FileDescriptorProto> {
    FileDescriptorSet::decode(votive_control::v1::DESCRIPTORS).unwrap().file
}

#[test]
fn every_call_of_every_service_is_in_the_table_once_and_nothing_else_is() {
    let mut paths = BTreeSet::new();
    for file in files() {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                let call = find(&path).unwrap_or_else(|| panic!("{path} has no role"));
                assert_eq!(call.name, method.name());
                paths.insert(path);
            }
        }
    }
    assert_eq!(paths.len(), CALLS.len());
    let names: BTreeSet<_> = CALLS.iter().map(|call| call.name).collect();
    assert_eq!(names.len(), CALLS.len());
}

#[test]
fn the_comment_of_every_call_tells_its_role() {
    let mut told = 0;
    for file in files() {
        for (service_index, service) in file.service.iter().enumerate() {
            for (index, method) in service.method.iter().enumerate() {
                // Path of a method: field 6 (service) of the file, field 2 (method) of the service.
                let path = [6, service_index as i32, 2, index as i32];
                let info = file.source_code_info.as_ref().unwrap();
                let location = info.location.iter().find(|location| location.path == path).unwrap();
                let comment = location.leading_comments();
                let (_, role) = comment.trim_end().rsplit_once("Role: ").unwrap();
                let call = CALLS.iter().find(|call| call.name == method.name()).unwrap();
                assert_eq!(role, format!("{}.", call.role), "{}", method.name());
                told += 1;
            }
        }
    }
    assert_eq!(told, CALLS.len());
}

#[test]
fn a_path_is_a_call_only_as_it_is_written() {
    assert_eq!(find("/votive.worker.v1.Worker/Drain").unwrap().role, Role::Orchestrator);
    for path in [
        "",
        "/",
        "Drain",
        "/votive.worker.v1.Worker/",
        "/votive.worker.v1.Worker/drain",
        "/votive.worker.v1.Worker/Drain/",
        "/votive.worker.v1.Worker//Drain",
        "//votive.worker.v1.Worker/Drain",
        "/votive.worker.v2.Worker/Drain",
        "/votive.worker.v1.Worker/Drain?x",
        "/votive.worker.v1.Worker/%44rain",
    ] {
        assert_eq!(find(path), None, "{path:?}");
    }
}

#[test]
fn an_observer_changes_nothing() {
    for call in CALLS {
        let reads = ["Get", "List", "Watch"].iter().any(|verb| call.name.starts_with(verb));
        assert_eq!(call.role == Role::Observer, reads, "{}", call.name);
    }
}
