//! `votive image` from its command line: what it makes, tells, checks and collects, and what it refuses.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "image/bed.rs"]
mod bed;
#[path = "image/places.rs"]
mod places;
#[path = "image/secret.rs"]
mod secret;
#[path = "image/starts.rs"]
mod starts;

use std::fs;

use serde_json::{Value, json};

use self::bed::{Bed, entry, layer, noise};

const CHUNK: usize = 512 << 10;

#[test]
fn a_zip_is_made_once_told_of_and_verified() {
    let bed = Bed::new();
    let zip = bed.zip("f.zip", &[("index.py", b"code"), ("data", &noise(1, 3 * CHUNK))]);
    let create = ["create", "--zip", &zip, "--artifact", "arn:one"];
    let made = bed.json(&create);
    assert_eq!((&made["artifact"], &made["zeroChunks"]), (&json!("arn:one"), &json!(0)));
    assert_eq!(made["chunks"], 4);
    assert_eq!(made["newChunks"], 4);
    assert_eq!(made["dedupRatio"], 0.0);
    let logical = made["logicalBytes"].as_u64().unwrap();
    assert!(logical > 3 * CHUNK as u64 && logical.is_multiple_of(4096), "{made}");
    let stored = made["storedBytes"].as_u64().unwrap();
    let root = made["root"].as_str().unwrap();
    let before = bed.stored();
    let of_it = before
        .iter()
        .filter(|(path, _)| ["/root", "/index/"].iter().all(|own| !path.contains(own)));
    let in_store: usize = of_it.map(|(_, bytes)| bytes.len()).sum();
    // The record of the root and the index are the store's own.
    assert!(in_store as u64 <= stored && stored < in_store as u64 + 200, "{in_store}, {stored}");
    let again = bed.run(&create, true);
    assert!(again.err.contains("made before"), "{}", again.err);
    let again = again.json();
    assert_eq!((&again["storedBytes"], &again["newChunks"]), (&json!(0), &json!(0)));
    assert_eq!((&again["manifest"], &again["dedupRatio"]), (&made["manifest"], &json!(1.0)));
    assert_eq!(bed.stored(), before, "nothing is stored the second time");
    let other = bed.zip("g.zip", &[("index.py", b"other")]);
    let taken = bed.run(&["create", "--zip", &other, "--artifact", "arn:one"], false);
    assert!(taken.code == 1 && taken.err.contains("arn:one"), "{}", taken.err);

    let told = bed.json(&["inspect", "arn:one"]);
    let expected = json!({
        "artifact": "arn:one", "manifest": made["manifest"], "root": root, "sealedInRoot": root,
        "method": "service key", "key": "votive", "imageBytes": logical, "chunks": 4, "zeroChunks": 0,
    });
    assert_eq!(told, json!({ "artifacts": [expected] }));
    let text = bed.run(&["inspect"], false).out;
    assert!(text.starts_with("arn:one  service key  ") && text.contains(root), "{text}");
    let missing = bed.run(&["inspect", "arn:none"], false);
    assert!(missing.code == 1 && missing.err.contains("arn:none"), "{}", missing.err);

    let good = bed.json(&["verify"]);
    assert_eq!(good["artifacts"][0]["chunks"], 4);
    assert_eq!(good["artifacts"][0]["damaged"], json!([]));
}

#[test]
fn verify_tells_what_is_damaged_and_what_is_missing() {
    let bed = Bed::new();
    let layout = bed.layout("layout", &[layer(&[("data", &noise(2, 3 * CHUNK))])], &json!({}));
    bed.json(&["create", "--oci", &layout, "--artifact", "arn:one"]);
    let good = bed.run(&["verify", "arn:one"], false);
    assert!(good.code == 0 && good.out.ends_with("good\n"), "{}", good.out);
    let chunks: Vec<_> = bed::files(&bed.path("store"))
        .into_iter()
        .filter(|path| path.to_str().unwrap().contains("/chunks/"))
        .collect();
    let mut bytes = fs::read(&chunks[0]).unwrap();
    bytes[1000] ^= 1;
    fs::write(&chunks[0], bytes).unwrap();
    fs::remove_file(&chunks[1]).unwrap();
    let bad = bed.run(&["verify"], true);
    assert_eq!(bad.code, 1, "{}", bad.err);
    let told: Value = serde_json::from_str(&bad.out).unwrap();
    let told = &told["artifacts"][0];
    let numbers = |name: &str| told[name].as_array().unwrap().clone();
    assert_eq!((numbers("missing").len(), numbers("damaged").len()), (1, 1), "{told}");
    assert_ne!(numbers("missing"), numbers("damaged"));
    let text = bed.run(&["verify"], false);
    assert!(text.out.contains("1 chunks missing, 1 damaged"), "{}", text.out);
}

#[test]
fn images_share_what_they_have_in_common() {
    let bed = Bed::new();
    let base = layer(&[("lib/large", &noise(3, 4 * CHUNK))]);
    let image = |name: &str, own: &[u8]| {
        let layout = bed.layout(name, &[base.clone(), layer(&[("own", own)])], &json!({}));
        bed.json(&["create", "--oci", &layout])
    };
    let (one, two) = (image("one", b"one"), image("two", b"two"));
    assert_ne!(one["artifact"], two["artifact"]);
    assert_eq!((&one["dedupRatio"], &two["newChunks"]), (&json!(0.0), &json!(1)));
    assert!(two["dedupRatio"].as_f64().unwrap() > 0.75, "{two}");
}

#[test]
fn what_is_refused_is_told_with_its_name() {
    let bed = Bed::new();
    let zips: [(&str, &[u8]); 2] = [("../evil", b""), ("/etc/passwd", b"")];
    for (name, content) in zips {
        let zip = bed.zip("bad.zip", &[("good", b""), (name, content)]);
        let said = bed.run(&["create", "--zip", &zip], false);
        assert!(said.code == 1 && said.err.contains(name), "{name}: {}", said.err);
    }
    let layers = [
        (entry(tar::EntryType::Char, "dev/zero0", ""), "dev/zero0"),
        (entry(tar::EntryType::Fifo, "run/pipe", ""), "run/pipe"),
        (entry(tar::EntryType::Link, "alias", "not/there"), "alias"),
        (entry(tar::EntryType::Symlink, "tmp", "var/tmp"), "tmp"),
    ];
    for (number, (layer, name)) in layers.into_iter().enumerate() {
        let layout = bed.layout(&format!("bad-{number}"), &[layer], &json!({}));
        let said = bed.run(&["create", "--oci", &layout], false);
        assert!(said.code == 1 && said.err.contains(&format!("{name:?}")), "{name}: {}", said.err);
    }
    let layout = bed.layout("bad-config", &[], &json!({ "WorkingDir": "relative" }));
    let said = bed.run(&["create", "--oci", &layout], false);
    assert!(said.code == 1 && said.err.contains("relative"), "{}", said.err);
    // Nothing of all that is in the store but the root that was opened for it.
    let stored = bed.stored();
    assert!(stored.len() == 1 && stored.keys().all(|path| path.ends_with("/root")), "{stored:?}");
    assert_eq!(bed::files(&bed.path("tmp")), Vec::<std::path::PathBuf>::new());
}

#[test]
fn mistakes_of_the_caller_are_told_and_do_nothing() {
    let bed = Bed::new();
    let zip = bed.zip("f.zip", &[("a", b"")]);
    let (none, both) = (&["create"][..], &["create", "--zip", &zip, "--oci", "x"][..]);
    let no_file = &["create", "--zip", "/not/there.zip"][..];
    let no_live = &["gc", "--live", "/not/there"][..];
    for arguments in [none, both, no_file, no_live, &["root", "clear", "no-root"]] {
        let said = bed.run(arguments, false);
        assert!(said.code == 2 && said.out.is_empty(), "{arguments:?}: {} {}", said.code, said.err);
    }
    let url = bed.run(&["inspect", "--store", "gopher://x"], false);
    assert!(url.code == 1 && url.err.contains("gopher://x"), "{}", url.err);
    let elsewhere = bed.path("elsewhere");
    let no_keys = bed.run(&["create", "--zip", &zip, "--keys", elsewhere.to_str().unwrap()], false);
    assert!(no_keys.code != 0 && no_keys.err.contains("elsewhere"), "{}", no_keys.err);
    assert!(!elsewhere.exists());
}

#[test]
fn keys_are_made_rotated_disabled_and_enabled() {
    let bed = Bed::new();
    let states = |said: Value| -> Vec<(String, bool, u64)> {
        let keys = said["keys"].as_array().unwrap().clone();
        let one = |key: Value| {
            let name = key["key"].as_str().unwrap().to_owned();
            (name, key["enabled"].as_bool().unwrap(), key["versions"].as_u64().unwrap())
        };
        keys.into_iter().map(one).collect()
    };
    bed.json(&["key", "create", "customer"]);
    let again = bed.run(&["key", "create", "customer"], false);
    assert!(again.code == 1 && again.err.contains("customer"), "{}", again.err);
    assert_eq!(states(bed.json(&["key", "rotate", "customer"])), [("customer".into(), true, 2)]);
    let zip = bed.zip("f.zip", &[("a", b"x")]);
    let create = ["create", "--zip", &zip, "--key", "customer"];
    assert_eq!(states(bed.json(&["key", "disable", "customer"])), [("customer".into(), false, 2)]);
    let refused = bed.run(&create, false);
    assert!(refused.code == 1 && refused.err.contains("KMSDisabledException"), "{}", refused.err);
    bed.json(&["key", "enable", "customer"]);
    bed.json(&create);
    bed.json(&["key", "disable", "customer"]);
    let refused = bed.run(&["verify"], false);
    assert!(refused.code == 1 && refused.err.contains("KMSDisabledException"), "{}", refused.err);
    let listed = states(bed.json(&["key", "list"]));
    assert_eq!(listed, [("customer".into(), false, 2), ("votive".into(), true, 1)]);
    let nobody = bed.run(&["key", "rotate", "nobody"], false);
    assert!(nobody.code == 1 && nobody.err.contains("nobody"), "{}", nobody.err);
}

#[test]
fn roots_are_rotated_and_collected() {
    let bed = Bed::new();
    let layout = |name: &str, number| {
        let layers = [layer(&[("data", &noise(number, CHUNK))])];
        bed.layout(name, &layers, &json!({ "Cmd": ["/data"] }))
    };
    let (kept, lost) = (layout("kept", 10), layout("lost", 11));
    // What a killed writer left an hour ago.
    let left = bed.path("store/roots/left/artifacts");
    fs::create_dir_all(&left).unwrap();
    let file = fs::File::create(left.join("a#1")).unwrap();
    file.set_len(10).unwrap();
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(3700)).unwrap();
    let sweep = json!([{ "action": "sweep", "files": 1, "bytes": 10 }]);
    assert_eq!(bed.json(&["gc", "--dry-run"])["actions"], sweep);
    assert_eq!(bed.json(&["gc"])["actions"], sweep);
    assert!(!left.join("a#1").exists());
    let made = bed.json(&["create", "--oci", &kept, "--artifact", "kept"]);
    bed.json(&["create", "--oci", &lost, "--artifact", "lost"]);
    let old = made["root"].as_str().unwrap();
    assert_eq!(bed.json(&["gc"]), json!({ "dryRun": false, "actions": [] }));
    assert_eq!(bed.run(&["gc"], false).out, "nothing to collect\n");
    let roots = bed.json(&["root", "new"])["roots"].clone();
    let state = |root: &Value| root["state"].as_str().unwrap().to_owned();
    let states = |roots: &Value| roots.as_array().unwrap().iter().map(state).collect::<Vec<_>>();
    assert_eq!(states(&roots), ["retired", "active"]);
    assert_eq!(roots[0], json!({ "root": old, "state": "retired", "alarms": 0 }));
    let live = bed.path("live.txt");
    fs::write(&live, "kept\n\n").unwrap();
    let gc = ["gc", "--live", live.to_str().unwrap()];
    let before = bed.stored();
    let planned = bed.json(&[&gc[..], &["--dry-run"]].concat());
    assert_eq!(bed.stored(), before, "a dry run changes nothing");
    let text = bed.run(&[&gc[..], &["--dry-run"]].concat(), false).out;
    assert!(text.contains("would be copied") && text.contains("would be expired"), "{text}");
    let mut done = bed.json(&gc);
    assert_eq!((&planned["dryRun"], &done["dryRun"]), (&json!(true), &json!(false)));
    done["dryRun"] = json!(true);
    assert_eq!(planned, done, "what was planned is what was done");
    let copy = &done["actions"][0];
    assert_eq!(copy["action"], "copy");
    let after = bed.stored();
    let new: Vec<_> = after.iter().filter(|(path, _)| !before.contains_key(*path)).collect();
    let copied = new.iter().filter(|(path, _)| !path.ends_with("/expired"));
    let bytes: usize = copied.clone().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(
        (copy["objects"].as_u64(), copy["bytes"].as_u64()),
        (Some(copied.count() as u64), Some(bytes as u64))
    );
    assert_eq!(done["actions"][1], json!({ "action": "expire", "root": old }));
    assert_eq!(states(&bed.json(&["root", "list"])["roots"]), ["expired", "active"]);
    // It was copied as it is, and is still known for what it was made of.
    let told = bed.json(&["inspect", "kept"])["artifacts"][0].clone();
    assert_eq!((&told["manifest"], &told["sealedInRoot"]), (&made["manifest"], &json!(old)));
    assert_ne!(told["root"], json!(old));
    assert_eq!(bed.run(&["verify", "kept"], false).code, 0);
    assert_eq!(bed.json(&["create", "--oci", &kept, "--artifact", "kept"])["storedBytes"], 0);
    // It waits for a day, and what a dry run says is what it would be then.
    assert_eq!(bed.json(&["gc"])["actions"], json!([{ "action": "wait", "root": old }]));
    let would = bed.json(&["gc", "--dry-run"])["actions"][0].clone();
    let of_old = after.iter().filter(|(path, _)| path.contains(old));
    let bytes: usize = of_old.clone().map(|(_, bytes)| bytes.len()).sum();
    let expected =
        json!({ "action": "delete", "root": old, "objects": of_old.count(), "bytes": bytes });
    assert_eq!(would, expected);
    // An alarm stops it, and says so by the exit code.
    let alarms = bed.path("store/roots").join(old).join("alarms");
    fs::create_dir_all(&alarms).unwrap();
    fs::write(alarms.join("1"), "read at 1\n").unwrap();
    let expired = bed.path("store/roots").join(old).join("expired");
    fs::write(&expired, "1000\n").unwrap();
    let stopped = bed.run(&["gc"], false);
    assert!(stopped.code == 1 && stopped.out.starts_with("ALARM"), "{}", stopped.out);
    assert!(bed.run(&["root", "list"], false).out.contains("1 ALARMS"));
    let cleared = bed.json(&["root", "clear", old]);
    assert_eq!(cleared["roots"][0]["alarms"], 0);
    let deleted = bed.json(&["gc"])["actions"][0].clone();
    assert_eq!((&deleted["action"], &deleted["root"]), (&json!("delete"), &json!(old)));
    assert!(bed.stored().keys().all(|path| !path.contains(old)), "the root is gone");
    assert_eq!(bed.run(&["verify", "kept"], false).code, 0);
    let lost = bed.run(&["inspect", "lost"], false);
    assert_eq!(lost.code, 1, "{}", lost.out);
}
