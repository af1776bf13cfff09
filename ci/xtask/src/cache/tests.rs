//! Tests of the build cache in a folder of their own.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use super::{Cache, Key, root_from};

#[test]
fn an_entry_is_built_once_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open_at(folder.path()).unwrap();
    let key = || Key::new("thing", 1).text("input", "a");
    let first = cache.entry(key(), |into| Ok(fs::write(into.join("file"), "made once")?)).unwrap();
    let second = cache.entry(key(), |_| anyhow::bail!("built a second time")).unwrap();
    assert_eq!(first, second);
    assert_eq!(fs::read_to_string(second.join("file")).unwrap(), "made once");
}

#[test]
fn a_failed_build_leaves_no_entry_and_no_scratch() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open_at(folder.path()).unwrap();
    let key = Key::new("thing", 1);
    let path = cache.root().join(key.name());
    let failed = cache.entry(key, |into| {
        fs::write(into.join("half"), "made")?;
        anyhow::bail!("no more")
    });
    assert_eq!(failed.unwrap_err().to_string(), "no more");
    assert!(!path.exists());
    assert_eq!(fs::read_dir(cache.root().join("tmp")).unwrap().count(), 0);
}

#[test]
fn what_a_dead_run_left_is_removed_and_what_a_living_run_has_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open_at(folder.path()).unwrap();
    let living = cache.scratch().unwrap();
    let dead = folder.path().join("tmp/run-dead");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join(super::SCRATCH_LOCK), "").unwrap();
    Cache::open_at(folder.path()).unwrap();
    assert!(living.path().exists());
    assert!(!dead.exists());
}

#[test]
fn labels_and_texts_do_not_run_into_each_other() {
    let names = [
        Key::new("k", 1).text("ab", "c").name(),
        Key::new("k", 1).text("a", "bc").name(),
        Key::new("k", 1).text("a", "b").text("", "c").name(),
        Key::new("k", 2).text("ab", "c").name(),
    ];
    for (i, name) in names.iter().enumerate() {
        assert!(!names[i + 1..].contains(name), "{name} twice in {names:?}");
    }
}

#[test]
fn a_tree_is_known_by_names_contents_and_modes() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a");
    fs::write(&file, "1").unwrap();
    let name = || Key::new("k", 1).tree("t", folder.path()).unwrap().name();
    let at_first = name();
    assert_eq!(name(), at_first);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let executable = name();
    assert_ne!(executable, at_first);
    fs::rename(&file, folder.path().join("b")).unwrap();
    assert_ne!(name(), executable);
}

#[test]
fn a_link_is_replaced_and_never_points_to_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open_at(folder.path()).unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    fs::write(&one, "1").unwrap();
    fs::write(&two, "2").unwrap();
    let link = cache.link("bin/tool", &one).unwrap();
    cache.link("bin/tool", &two).unwrap();
    assert_eq!(fs::read_to_string(&link).unwrap(), "2");
    cache.link("bin/tool", &folder.path().join("missing")).unwrap_err();
    assert_eq!(fs::read_to_string(&link).unwrap(), "2");
}

#[test]
fn the_place_of_the_cache_follows_the_environment() {
    let root = |set: &[(&str, &str)]| {
        let set: Vec<(String, OsString)> =
            set.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
        root_from(|name| set.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone()))
    };
    let all = [("VOTIVE_CACHE", "/v"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
    assert_eq!(root(&all).unwrap(), PathBuf::from("/v"));
    assert_eq!(root(&all[1..]).unwrap(), PathBuf::from("/x/votive"));
    assert_eq!(root(&all[2..]).unwrap(), PathBuf::from("/h/.cache/votive"));
    assert_eq!(
        root(&[("VOTIVE_CACHE", ""), ("HOME", "/h")]).unwrap(),
        PathBuf::from("/h/.cache/votive")
    );
    root(&[]).unwrap_err();
}
