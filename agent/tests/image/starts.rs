//! A container image laid out for starts like those of an artifact that was started.

use std::fs;

use serde_json::json;

use crate::bed::{Bed, layer, noise};

/// A read list of these chunks: pages 1 and 127 of each.
fn list(chunks: &[u32]) -> Vec<u8> {
    let mut list = b"votiveL\x02".to_vec();
    for chunk in chunks {
        list.extend(chunk.to_le_bytes());
        list.extend((1_u128 << 1 | 1 << 127).to_le_bytes());
    }
    list
}

#[test]
fn an_image_is_laid_out_for_what_starts_of_it_read() {
    let bed = Bed::new();
    let layers = [layer(&[("large", &noise(1, 8 << 20)), ("small", b"text")])];
    let layout = bed.layout("layout", &layers, &json!({ "Cmd": ["/large"] }));
    let plain = bed.json(&["create", "--oci", &layout, "--artifact", "arn:one"]);
    let like = ["create", "--oci", &layout, "--starts-like", "arn:one", "--artifact", "arn:two"];
    let refused = |arguments: &[&str], expect: &str| {
        let said = bed.run(arguments, false);
        assert!(said.code != 0 && said.err.contains(expect), "{} lacks {expect}", said.err);
    };
    refused(&like, "no start of it has been recorded");
    let text = |field: &str| plain[field].as_str().unwrap();
    let reads = bed.path("store/roots").join(text("root")).join("reads");
    fs::create_dir_all(&reads).unwrap();
    fs::write(reads.join(text("manifest")), b"rubbish").unwrap();
    refused(&like, "what it read is damaged");
    fs::write(reads.join(text("manifest")), list(&[1, 3, 5, 7, 9, 11, 13, u32::MAX])).unwrap();
    refused(&["create", "--zip", "f.zip", "--starts-like", "arn:one"], "cannot be used with");
    let missing = ["create", "--oci", &layout, "--starts-like", "arn:none"];
    refused(&missing, "arn:none");
    let other = bed.layout("other", &[layer(&[("x", b"y")])], &json!({}));
    refused(&["create", "--oci", &other, "--starts-like", "arn:one"], "arn:one");

    // What is new is the folders' chunk and what was read, which is in one.
    let made = bed.json(&like);
    assert_ne!(made["manifest"], plain["manifest"]);
    let chunks = |made: &serde_json::Value| made["chunks"].as_u64().unwrap();
    assert_eq!((made["newChunks"].as_u64(), chunks(&made)), (Some(2), chunks(&plain) + 1));
    let again = bed.run(&like, true);
    assert!(again.err.contains("made before"), "{}", again.err);
    assert_eq!(again.json()["manifest"], made["manifest"]);
    assert_eq!(bed.run(&["verify"], false).code, 0);
    // Elsewhere the same is the same.
    let bytes = bed.stored();
    let third = ["create", "--oci", &layout, "--starts-like", "arn:one", "--artifact", "arn:three"];
    assert_eq!(bed.json(&third)["newChunks"], 0);
    assert!(bytes.len() < bed.stored().len());
}
