//! Entry points for fuzzing: foreign bytes in, nothing but a verdict out.

use std::io::{Cursor, Read, Seek};

use crate::archive::{Archive, ArchiveError};
use crate::grant::Grant;
use crate::limits::Limits;
use crate::manifest::{Manifest, RootId};
use crate::seal::Artifact;
use crate::store::root::{Root, RootState};
use crate::tree::Node;

/// Small, so that one input costs little.
const LIMITS: Limits = Limits { zipped_bytes: 1 << 20, unzipped_bytes: 4 << 20, nodes: 1000 };

/// Reads an archive as an upload is read, contents included, and writes nothing. Must neither panic nor take long.
pub fn zip(data: &[u8]) {
    // Refusal is the usual end of hostile input.
    let _ = read_all(data);
}

fn read_all(data: &[u8]) -> Result<(), ArchiveError> {
    let mut archive = Archive::open(Cursor::new(data), Cursor::new(data), &LIMITS)?;
    let root = archive.take_root();
    let mut nodes = 0;
    read_folder(&mut archive, &root, &mut nodes)?;
    assert!(nodes <= LIMITS.nodes, "the limit of nodes holds");
    Ok(())
}

fn read_folder<R: Read + Seek>(
    archive: &mut Archive<R>,
    node: &Node,
    nodes: &mut usize,
) -> Result<(), ArchiveError> {
    let Node::Folder { children, .. } = node else { return Ok(()) };
    for (name, child) in children {
        assert!(!name.contains('/') && &**name != ".." && &**name != ".", "names are plain");
        *nodes += 1;
        match child {
            Node::Folder { .. } => read_folder(archive, child, nodes)?,
            Node::File { entry, .. } => archive.read(*entry, |_| Ok::<(), ArchiveError>(()))?,
            Node::Link { target } => assert!(!target.starts_with('/'), "links stay inside"),
        }
    }
    Ok(())
}

/// Reads a manifest: what is read is written alike, and every chunk has its place.
pub fn manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::parse(data) else { return };
    assert!(manifest.encode() == data, "there is one way to write a manifest");
    assert_eq!(Manifest::parse_named(data, &manifest.id()), Ok(manifest.clone()));
    let chunks = manifest.zeros().chunks();
    let places = (0..chunks).filter_map(|index| manifest.place(index));
    assert!(places.eq(0..manifest.names().len()), "chunks have their places in order");
    assert_eq!(manifest.place(chunks), None);
}

/// Reads an artifact: what is read is written alike.
pub fn artifact(data: &[u8]) {
    let Ok(artifact) = Artifact::parse(data) else { return };
    assert!(artifact.encode() == data, "there is one way to write an artifact");
}

/// Reads what a grant's issuer signed: what is read is written alike.
pub fn grant(data: &[u8]) {
    let Some(grant) = Grant::parse(data) else { return };
    assert!(grant.encode() == data, "there is one way to write a grant");
}

/// Reads the record of a root: what is read is written alike.
pub fn root(data: &[u8]) {
    let Some(root) = Root::parse(RootId([0; 16]), RootState::Active, data) else { return };
    assert!(root.encode() == data, "there is one way to write a root's record");
}

#[cfg(test)]
mod tests;
