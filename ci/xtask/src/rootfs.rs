//! Runtime images and demo functions: what a guest's user space is made of.
//!
//! An image is built from a recipe in `rootfs/` without root rights and without installing anything: packages are
//! unpacked into a tree, the tree is pruned and completed, and mkfs.erofs packs it. The same inputs give the same bytes.

pub(crate) mod recipe;

mod functions;
mod node;
pub(crate) mod python;
pub(crate) mod tree;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Cache, Key};
use crate::debian::{self, Package};
use crate::progress::Progress;
use crate::workspace;
use recipe::Recipe;

/// The runtime images, by the name that functions ask for.
const RUNTIMES: [&str; 3] = ["provided", "python3.11", "nodejs24"];

/// Changes when the way of building images changes other than in the recipes.
const REVISION: u32 = 1;

/// Builds every runtime image and every function that is not in the cache, and links them into the current set.
pub(crate) fn build(cache: &Cache, progress: &Progress) -> Result<()> {
    for name in RUNTIMES {
        image(cache, progress, name)?;
    }
    functions::build(cache, progress)
}

/// Builds one runtime image unless the cache holds it, and links it as `current/<name>.erofs`.
pub(crate) fn image(cache: &Cache, progress: &Progress, name: &str) -> Result<PathBuf> {
    let plan = Plan::new(name)?;
    let entry = cache.entry(plan.key()?, |into| {
        let step = progress.step(format!("building the runtime image {name}"));
        let scratch = cache.scratch()?;
        let image = into.join("image.erofs");
        plan.build(cache, progress, scratch.path(), &image)?;
        step.done(&format!("{:.1} MB", image.metadata()?.len() as f64 / 1e6));
        Ok(())
    })?;
    cache.link(&format!("{name}.erofs"), &entry.join("image.erofs"))
}

/// A recipe with the versions that go into the image now.
struct Plan {
    name: String,
    recipe: Recipe,
    packages: Vec<Package>,
}

impl Plan {
    fn new(name: &str) -> Result<Plan> {
        let recipe = Recipe::read(&workspace::root()?.join("rootfs"), name)?;
        let wanted: Vec<&str> = recipe.debian.packages.iter().map(String::as_str).collect();
        let mut packages = debian::resolve(&wanted)?;
        packages.retain(|package| {
            wanted.contains(&package.name.as_str())
                || !recipe.debian.without.contains(&package.name)
        });
        Ok(Plan { name: name.to_owned(), recipe, packages })
    }

    /// What the image depends on: recipes, package versions, and the tools of this machine that leave traces in it.
    fn key(&self) -> Result<Key> {
        let mut key = Key::new("runtime", REVISION)
            .text("name", &self.name)
            .text("packages", &debian::listing(&self.packages));
        for input in self.recipe.inputs() {
            key = key.file("recipe", &input)?;
        }
        let mut tools = vec!["erofs-utils"];
        tools.extend(self.recipe.node.iter().flat_map(|node| &node.tools).map(String::as_str));
        Ok(key.text("tools", &tree::versions_installed(&tools)?))
    }

    /// Makes the image file. `work` is an empty folder for intermediate files.
    fn build(&self, cache: &Cache, progress: &Progress, work: &Path, image: &Path) -> Result<()> {
        let root = work.join("tree");
        std::fs::create_dir(&root)?;
        let debs = debian::download(cache, progress, &self.packages)?;
        tree::unpack(&debs, &root)?;
        tree::certificates(&root)?;
        tree::compile_locale(&self.recipe, &root)?;
        tree::prune(&self.recipe, &root)?;
        tree::complete(&self.recipe, &root)?;
        if let Some(python) = &self.recipe.python {
            python::install(python, &self.recipe, cache, &root)?;
        }
        if let Some(node) = &self.recipe.node {
            node::install(node, &self.recipe, cache, progress, &root)?;
        }
        tree::check_linkage(&root)?;
        tree::release(&self.name, &self.packages, &root)?;
        tree::normalise(&root)?;
        votive_artifact::erofs::pack(&root, image).with_context(|| format!("image {}", self.name))
    }
}
