//! Container images become EROFS images: compared with what `umoci unpack` makes of them, and hostile ones refused.

mod gathered;
mod hostile;
pub(super) mod layout;
mod random;
mod tools;
mod unpacked;

use std::collections::BTreeMap;

use self::layout::{Blob, LayoutFolder, Tar};
use super::*;
use crate::erofs::reader::Reader;

/// Makes an image in the default layout.
fn made(source: &OciSource) -> Result<Image, OciError> {
    image(source, &std::env::temp_dir(), &Limits::CONTAINER_IMAGE)
}

/// The names in the image of these layers, with the contents of files; without empty mount points.
fn flattened(layers: &[Tar]) -> BTreeMap<String, Vec<u8>> {
    let layout = LayoutFolder::new(layers.iter().map(|tar| Blob::gzip(tar.bytes())));
    let image = made(&layout.source()).unwrap();
    let reader = Reader::open(&image.file);
    let all = reader.all();
    let empty = |name: &str| !all.keys().any(|other| other.starts_with(&format!("{name}/")));
    let shown = all.iter().filter(|(name, _)| !unpacked::is_mount_point(name) || !empty(name));
    shown.map(|(name, found)| (name.clone(), reader.content_of_file(found))).collect()
}

fn names(layers: &[Tar]) -> Vec<String> {
    flattened(layers).into_keys().collect()
}

#[test]
fn later_layers_add_replace_and_take_away() {
    let lower = Tar::new().folder("d").file("d/a", b"lower").file("d/b", b"b").file("e", b"e");
    let upper = Tar::new().file("d/a", b"upper").file("d/.wh.b", b"").file(".wh.e", b"");
    let found = flattened(&[lower, upper]);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["/", "/d", "/d/a"]);
    assert_eq!(found["/d/a"], b"upper");
}

#[test]
fn a_whiteout_hides_lower_layers_and_never_its_own() {
    let lower = || Tar::new().folder("d").file("d/low", b"").file("f", b"low");
    for upper in [
        Tar::new().file(".wh.d", b"").folder("d").file("d/up", b"").file("f", b"up"),
        Tar::new().folder("d").file("d/up", b"").file(".wh.d", b"").file("f", b"up"),
        Tar::new().folder("d").file("d/up", b"").file("d/.wh..wh..opq", b"").file("f", b"up"),
        Tar::new().folder("d").file("d/.wh..wh..opq", b"").file("d/up", b"").file("f", b"up"),
        Tar::new().file("f", b"up").file(".wh.f", b"").file("d/.wh.low", b"").file("d/up", b""),
        // The folder of the upper layer is only implied.
        Tar::new().file("d/up", b"").file(".wh.d", b"").file("f", b"up"),
    ] {
        let found = flattened(&[lower(), upper]);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["/", "/d", "/d/up", "/f"]);
        assert_eq!(found["/f"], b"up");
    }
}

#[test]
fn a_folder_and_a_file_replace_each_other() {
    let lower = || Tar::new().folder("x").file("x/in", b"").file("y", b"");
    let upper = || Tar::new().file("x", b"").folder("y").file("y/in", b"");
    assert_eq!(names(&[lower(), upper()]), ["/", "/x", "/y", "/y/in"]);
    // A folder that is listed again keeps what is in it, and gets the new owner and mode.
    let again = Tar::new().folder("x").file("z", b"");
    assert_eq!(names(&[lower(), again]), ["/", "/x", "/x/in", "/y", "/z"]);
}

#[test]
fn names_go_through_links_inside_the_image() {
    let lower = || {
        Tar::new()
            .folder("usr/lib")
            .link("lib", "usr/lib")
            .link("abs", "/usr")
            .link("up", "../../usr")
    };
    let upper = Tar::new().file("lib/a", b"").file("abs/b", b"").file("up/c", b"");
    let expect = ["/", "/abs", "/lib", "/up", "/usr", "/usr/b", "/usr/c", "/usr/lib", "/usr/lib/a"];
    assert_eq!(names(&[lower(), upper]), expect);
    // The last part is never followed.
    let replaced = Tar::new().file("lib", b"now a file");
    assert_eq!(flattened(&[lower(), replaced])["/lib"], b"now a file");
    let gone = Tar::new().file("lib/.wh.a", b"");
    let upper = Tar::new().file("lib/a", b"");
    assert_eq!(names(&[lower(), upper, gone]), ["/", "/abs", "/lib", "/up", "/usr", "/usr/lib"]);
}

#[test]
fn hard_links_name_files_of_lower_layers() {
    let lower = Tar::new().file("a", b"shared").file("b", b"other");
    let upper = Tar::new().hard_link("c", "a").hard_link("b", "a");
    let layout = LayoutFolder::new([lower, upper].map(|tar| Blob::gzip(tar.bytes())));
    let image = made(&layout.source()).unwrap();
    let reader = Reader::open(&image.file);
    let all = reader.all();
    assert_eq!(all["/a"].links, 3);
    for name in ["/b", "/c"] {
        assert_eq!(all[name], all["/a"]);
    }
    assert_eq!(reader.content(&all["/c"]), b"shared");
    assert_eq!((image.summary.files, image.summary.folders), (1, 0));
}

#[test]
fn every_compression_gives_the_same_image() {
    let tar = Tar::new().file("a", &[7; 100_000]).link("l", "a").file("b", b"b");
    let images = [Blob::plain, Blob::gzip, Blob::zstd, Blob::zstd_frames, Blob::gzip_members]
        .map(|blob| made(&LayoutFolder::new([blob(tar.bytes())]).source()).unwrap());
    let all = images.map(|image| Reader::open(&image.file).bytes_of_image());
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "the images differ");
}

#[test]
fn owners_times_and_attributes_are_kept() {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'\n', 0, 0, 0, 0];
    let xattrs: [(&str, &[u8]); 4] = [
        ("SCHILY.xattr.security.capability", &capability),
        ("SCHILY.xattr.user.note", b"text"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("mtime", b"1234.5"),
    ];
    let long = "n".repeat(200);
    let tar = Tar::new().pax(&xattrs).file_of("a", 0o104_755, (1000, 70_000), 99, b"x");
    let tar = tar.file(&format!("{long}/{long}"), b"long").link("l", &"t".repeat(300));
    let layout = LayoutFolder::new([Blob::gzip(tar.bytes())]);
    let image = made(&layout.source()).unwrap();
    let reader = Reader::open(&image.file);
    let all = reader.all();
    let found = &all["/a"];
    assert_eq!((found.mode, found.user, found.group), (0o104_755, 1000, 70_000));
    assert_eq!((found.seconds, found.nanoseconds), (1234, 500_000_000));
    assert_eq!(found.xattrs.keys().collect::<Vec<_>>(), ["security.capability", "user.note"]);
    assert_eq!(found.xattrs["security.capability"], capability);
    assert_eq!(reader.content(&all[&format!("/{long}/{long}")]), b"long");
    assert_eq!(reader.content(&all["/l"]), "t".repeat(300).as_bytes());
}

#[test]
fn the_configuration_says_how_it_is_run() {
    let layout = LayoutFolder::new([Blob::gzip(Tar::new().file("a", b"").bytes())]);
    layout.execution(serde_json::json!({
        "Entrypoint": ["/lambda-entrypoint.sh"], "Cmd": ["app.handler"],
        "Env": ["PATH=/usr/bin", "EMPTY=", "EQUALS=a=b"], "WorkingDir": "/var/task", "User": "1000:1000",
        "ExposedPorts": { "8080/tcp": {} }, "Labels": null, "StopSignal": "SIGKILL",
    }));
    let config = made(&layout.source()).unwrap().config;
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(config.entrypoint, ["/lambda-entrypoint.sh"]);
    assert_eq!(config.command, ["app.handler"]);
    let variables = [pair("PATH", "/usr/bin"), pair("EMPTY", ""), pair("EQUALS", "a=b")];
    assert_eq!(config.environment, variables);
    assert_eq!((&*config.working_folder, &*config.user), ("/var/task", "1000:1000"));
    layout.execution(serde_json::json!({ "Entrypoint": null, "WorkingDir": "" }));
    let config = made(&layout.source()).unwrap().config;
    assert_eq!(config, ContainerConfig { working_folder: "/".into(), ..Default::default() });
}

#[test]
fn what_is_mounted_on_is_there() {
    let all_of = |tar: Tar| {
        let image = made(&LayoutFolder::new([Blob::gzip(tar.bytes())]).source()).unwrap();
        (Reader::open(&image.file).all(), image.summary)
    };
    let (all, summary) = all_of(Tar::new().file("a", b"x"));
    assert_eq!(all.keys().collect::<Vec<_>>(), ["/", "/a", "/dev", "/proc", "/tmp"]);
    for (name, mode) in [("/dev", 0o40_755), ("/proc", 0o40_555), ("/tmp", 0o41_777)] {
        let found = &all[name];
        assert_eq!((found.mode, found.user, found.group, found.links), (mode, 0, 0, 2), "{name}");
        assert_eq!((found.seconds, found.nanoseconds), (0, 0), "{name}");
    }
    assert_eq!((summary.files, summary.folders), (1, 0), "what nobody uploaded is not counted");
    // What the image has stays as it is.
    let (all, _) = all_of(Tar::new().folder("tmp").file("tmp/kept", b"").folder("dev"));
    assert_eq!(all.keys().collect::<Vec<_>>(), ["/", "/dev", "/proc", "/tmp", "/tmp/kept"]);
    assert_eq!((all["/tmp"].mode, all["/tmp"].seconds), (0o40_755, 1000));
    // An image without a layer has a root all the same.
    let layout = LayoutFolder::new([]);
    assert_eq!(Reader::open(&made(&layout.source()).unwrap().file).all().len(), 4);
}

#[test]
fn what_cannot_be_mounted_on_is_refused_with_its_name() {
    for tar in [
        Tar::new().folder("var/tmp").link("tmp", "var/tmp"),
        Tar::new().file("tmp", b""),
        Tar::new().file("b", b"").hard_link("tmp", "b"),
    ] {
        let refused = made(&LayoutFolder::new([Blob::gzip(tar.bytes())]).source()).unwrap_err();
        assert!(matches!(refused, OciError::MountPoint { name: "tmp" }), "{refused}");
        assert!(refused.to_string().contains("\"tmp\""), "{refused}");
    }
    // Hidden by a later layer, it is nothing.
    let (lower, upper) = (Tar::new().link("proc", "x"), Tar::new().file(".wh.proc", b""));
    let layout = LayoutFolder::new([lower, upper].map(|tar| Blob::gzip(tar.bytes())));
    assert!(Reader::open(&made(&layout.source()).unwrap().file).all().contains_key("/proc"));
}

#[test]
fn an_index_of_platforms_gives_ours_and_a_tag_gives_its_image() {
    let layout = layout::two_platforms_and_two_tags();
    let error = made(&layout.source()).unwrap_err();
    assert!(
        matches!(&error, OciError::Ambiguous { names } if names == "one, many" || names == "many, one"),
        "{error}"
    );
    let image = made(&layout.source().with_reference("many")).unwrap();
    assert!(Reader::open(&image.file).all().contains_key("/amd64"));
    let other = made(&layout.source().with_reference("one")).unwrap();
    assert!(Reader::open(&other.file).all().contains_key("/one"));
    let by_digest = layout.source().with_reference(&format!("sha256:{}", other.manifest));
    assert_eq!(made(&by_digest).unwrap().manifest, other.manifest);
    let error = made(&layout.source().with_reference("none")).unwrap_err();
    assert!(matches!(error, OciError::NoImage { .. }), "{error}");
}

#[test]
fn an_archive_gives_what_its_folder_gives() {
    let layout = LayoutFolder::new([Blob::gzip(Tar::new().file("a", b"content").bytes())]);
    let archive = layout.archive();
    let one = made(&layout.source()).unwrap();
    let two = made(&OciSource::archive(archive.path())).unwrap();
    assert_eq!(one.manifest, two.manifest);
    let bytes = |image: &Image| Reader::open(&image.file).bytes_of_image();
    assert!(bytes(&one) == bytes(&two));
}
