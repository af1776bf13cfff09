//! Images made by umoci, buildah and skopeo become what umoci unpacks of them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{Timespec, Timestamps, XattrFlags};

use super::{LayoutFolder, OciSource, made, unpacked};
use crate::erofs::reader::Reader;

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| unreachable!("cannot start {program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Files of every kind below a folder.
fn fill(root: &Path) {
    for folder in ["bin", "etc/deep/er", "var/empty", "srv"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("bin/tool"), vec![0x7f; 700_000]).unwrap();
    fs::hard_link(root.join("bin/tool"), root.join("bin/alias")).unwrap();
    fs::set_permissions(root.join("bin/tool"), Permissions::from_mode(0o4755)).unwrap();
    fs::write(root.join("etc/deep/er/config"), "text\n").unwrap();
    fs::write(root.join("etc/ümläut und leer"), "").unwrap();
    fs::write(root.join("srv").join("n".repeat(255)), [0; 10_000]).unwrap();
    symlink("/bin/tool", root.join("etc/absolute")).unwrap();
    symlink("../../../../out", root.join("etc/out")).unwrap();
    symlink("t".repeat(1000), root.join("etc/far")).unwrap();
    for i in 0..300 {
        fs::write(root.join(format!("srv/{i}")), i.to_string().repeat(i)).unwrap();
    }
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::setxattr(root.join(path), name, value, XattrFlags::empty()).unwrap();
    };
    set("etc/deep/er/config", "user.note", b"line\nline\0end");
    if unpacked::is_root() {
        let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        set("srv/17", "security.capability", &capability);
        std::os::unix::fs::chown(root.join("srv/18"), Some(1000), Some(100_000)).unwrap();
        std::os::unix::fs::lchown(root.join("etc/out"), Some(7), Some(8)).unwrap();
    }
    let time = Timespec { tv_sec: 1_500_000_000, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, root.join("etc/out"), &times, nofollow).unwrap();
}

/// What a second layer does to that.
fn change(root: &Path) {
    fs::remove_file(root.join("srv/5")).unwrap();
    fs::remove_dir_all(root.join("etc/deep")).unwrap();
    fs::write(root.join("srv/6"), "changed").unwrap();
    fs::remove_file(root.join("bin/alias")).unwrap();
    fs::create_dir(root.join("bin/alias")).unwrap();
    fs::write(root.join("bin/alias/file"), "in a folder that was a file").unwrap();
    fs::set_permissions(root.join("srv/7"), Permissions::from_mode(0o600)).unwrap();
}

/// Compares the image of a tag with what umoci unpacks.
fn check(layout: &Path, tag: &str) {
    let bundle = tempfile::tempdir().unwrap();
    let bundle = bundle.path().join("bundle");
    unpacked::unpack(layout, tag, &bundle).unwrap();
    let source = OciSource::folder(layout).with_reference(tag);
    let image = made(&source).unwrap();
    unpacked::compare(&image.file, &bundle.join("rootfs"), true);
}

/// A layout of two layers, made by umoci alone, under the tag `two`.
fn umoci_layout(folder: &Path) -> std::path::PathBuf {
    let layout = folder.join("layout");
    let bundle = folder.join("bundle");
    let image = format!("{}:one", layout.display());
    run("umoci", &["init", "--layout", text(&layout)]);
    run("umoci", &["new", "--image", &image]);
    let rootless: &[&str] = if unpacked::is_root() { &[] } else { &["--rootless"] };
    run("umoci", &[&["unpack", "--image", &image], rootless, &[text(&bundle)]].concat());
    fill(&bundle.join("rootfs"));
    run("umoci", &["repack", "--image", &image, "--refresh-bundle", text(&bundle)]);
    change(&bundle.join("rootfs"));
    run("umoci", &["repack", "--image", &format!("{}:two", layout.display()), text(&bundle)]);
    layout
}

#[test]
fn an_image_of_umoci_s_is_what_umoci_unpacks() {
    let folder = tempfile::tempdir().unwrap();
    let layout = umoci_layout(folder.path());
    check(&layout, "one");
    check(&layout, "two");
}

#[test]
fn an_archive_that_skopeo_recompressed_holds_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let layout = umoci_layout(folder.path());
    let expect = made(&OciSource::folder(&layout).with_reference("two")).unwrap();
    let archive = folder.path().join("archive.tar");
    let from = format!("oci:{}:two", layout.display());
    let to = format!("oci-archive:{}:tag", archive.display());
    let policy = "--insecure-policy";
    run("skopeo", &[policy, "copy", "--quiet", "--dest-compress-format", "zstd", &from, &to]);
    let found = made(&OciSource::archive(&archive)).unwrap();
    assert_ne!(found.manifest, expect.manifest, "the layers are compressed in another way");
    assert_eq!(found.summary.files, expect.summary.files);
    let bytes = |image: &super::Image| Reader::open(&image.file).bytes_of_image();
    assert!(bytes(&found) == bytes(&expect), "the images differ");
}

#[test]
fn an_image_of_buildah_s_is_what_umoci_unpacks() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fill(&tree);
    let layout = folder.path().join("layout");
    let storage = ["--root", text(&folder.path().join("root")), "--runroot"].map(str::to_owned);
    let buildah = |arguments: &[&str]| {
        let run_root = folder.path().join("run");
        let output = Command::new("buildah")
            .args(&storage)
            .arg(run_root)
            .args(["--storage-driver", "vfs"])
            .args(arguments)
            .output()
            .expect("buildah is in PATH");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "buildah {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let container = buildah(&["from", "scratch"]);
    buildah(&["copy", &container, text(&tree), "/"]);
    let command = ["config", "--entrypoint", "[\"/bin/tool\"]", "--env", "A=b c"];
    buildah(&[&command[..], &["--workingdir", "/srv", "--user", "7", &container]].concat());
    let policy = folder.path().join("policy.json");
    fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    let to = format!("oci:{}:tag", layout.display());
    buildah(&["commit", "--signature-policy", text(&policy), &container, &to]);
    check(&layout, "tag");
    let config = made(&OciSource::folder(&layout)).unwrap().config;
    assert_eq!(config.entrypoint, ["/bin/tool"]);
    assert!(config.environment.contains(&("A".to_owned(), "b c".to_owned())));
    assert_eq!((&*config.working_folder, &*config.user), ("/srv", "7"));
}

#[test]
fn the_same_image_at_another_time_and_place_is_the_same_bytes() {
    let one = LayoutFolder::new([super::Blob::gzip(super::Tar::new().file("a", b"x").bytes())]);
    let two = LayoutFolder::new([super::Blob::gzip(super::Tar::new().file("a", b"x").bytes())]);
    let bytes = |layout: &LayoutFolder, folder: &str| {
        let image =
            super::image(&layout.source(), folder.as_ref(), &super::Limits::CONTAINER_IMAGE);
        Reader::open(&image.unwrap().file).bytes_of_image()
    };
    assert!(bytes(&one, "/tmp") == bytes(&two, "/dev/shm"));
}
