//! Tests of the order of modules, with files that hold nothing but their `depends=` line.

use std::fs;

use super::select;

#[test]
fn dependencies_load_first_and_once_and_built_in_ones_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for (name, depends) in [("irqbypass", ""), ("kvm", "irqbypass"), ("kvm-amd", "kvm,irqbypass")] {
        fs::write(tree.join(format!("{name}.ko")), format!("ELF\0depends={depends}\0x=y\0"))
            .unwrap();
    }
    fs::write(tree.join("modules.builtin"), "kernel/drivers/virtio/virtio_pci.ko\n").unwrap();
    let into = folder.path().join("into");
    select(&tree, &["virtio-pci", "kvm-amd", "kvm"], &into).unwrap();
    let order = fs::read_to_string(into.join("order")).unwrap();
    assert_eq!(order, "irqbypass.ko\nkvm.ko\nkvm_amd.ko\n");
    assert!(into.join("kvm_amd.ko").exists());
}

#[test]
fn missing_and_circular_modules_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.ko"), "\0depends=b\0").unwrap();
    fs::write(folder.path().join("b.ko"), "\0depends=a\0").unwrap();
    let into = folder.path().join("into");
    let error = |names: &[&str]| select(folder.path(), names, &into).unwrap_err().to_string();
    assert_eq!(error(&["c"]), "the kernel has no module c");
    assert_eq!(error(&["a"]), "modules depend on each other: a -> b");
}
