//! The launcher of real microVMs.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{Notify, Semaphore};
use votive_protocol::limits::MOUNTS_MAX;
use votive_protocol::{FileSystem, Mount, MountTarget};

use crate::artifacts::Origin;
use crate::causes::with_causes;
use crate::cgroup::{CgroupError, CgroupSpec, Cgroups, CpuMax, EnvironmentCgroup};
use crate::function::{Function, FunctionError, FunctionSpec};
use crate::images::Images;
use crate::jail::{Jail, Jails};
use crate::limits::{LAYERS_MAX, PACKING_AT_ONCE, SCRATCH_MIN_MB};
use crate::microvm::{DeviceLimits, Disk, KernelMemory, Microvm, MicrovmSpec, Spawned};
use crate::network::{Attachment, Lease, Network, NetworkError};
use crate::scratch;
use crate::shells::{Shells, Size};
use crate::worker::api::{CodeSource, FunctionVersionSpec, RegisterError};
use crate::worker::boots::Boots;
use crate::worker::launcher::{CpuShare, LaunchError, LaunchOrder, Launched, Launcher};
use crate::worker::registry::{CodeImage, Version, VersionImages};
use crate::worker::store::{Sha256Digest, Store, StoreError, together};

mod artifact;
mod shells;
#[cfg(test)]
mod tests;

use artifact::Lazy;
use shells::ShellMaker;

pub use shells::HostShell;

/// The most disks of an environment: the runtime's, the code's, the layers' and its own.
const DISKS_MAX: u32 = 4;

/// What the host gives microVMs to be held in.
#[derive(Clone, Debug, Default)]
pub struct HostParts {
    /// Their control groups.
    pub cgroups: Option<Cgroups>,
    /// Their jails.
    pub jails: Option<Jails>,
    /// Their networks.
    pub network: Option<Arc<Network>>,
    /// What their devices may move.
    pub limits: DeviceLimits,
    /// How many VMMs of each size are started ahead ([`crate::shells`]).
    pub shells: usize,
}

/// What a VMM's process is held in.
#[derive(Debug, Default)]
struct Held {
    group: Option<EnvironmentCgroup>,
    /// What the process joins the group through, if it has no jail.
    procs: Option<File>,
    jail: Option<Jail>,
}

/// Starts `votive-vmm`.
#[derive(Debug)]
pub struct MicrovmLauncher {
    images: Images,
    host: HostParts,
    store: Store,
    origin: Option<Origin>,
    packing: Semaphore,
    boots: Boots,
    shells: Shells<HostShell>,
}

impl MicrovmLauncher {
    /// A launcher of these images, which keeps packed code in `state_dir`, gives each microVM a group and a jail of its own if
    /// the `host` has them, and has no more than `boots` of them boot at once. Artifacts are those of `origin`. Called in an
    /// asynchronous runtime.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(
        images: Images,
        host: HostParts,
        boots: usize,
        state_dir: &Path,
        origin: Option<Origin>,
    ) -> std::io::Result<Self> {
        let store = Store::open(state_dir)?;
        let (boots, packing) = (Boots::new(boots), Semaphore::new(PACKING_AT_ONCE));
        let maker = ShellMaker::new(images.vmm().to_owned(), host.clone());
        let shells = Shells::keep(maker, host.shells);
        Ok(Self { images, host, store, origin, packing, boots, shells })
    }

    /// The VMMs that are started ahead, to be closed when no environment is started any more.
    #[must_use]
    pub fn shells(&self) -> Shells<HostShell> {
        self.shells.clone()
    }
}

impl Launcher for MicrovmLauncher {
    async fn prepare(&self, spec: FunctionVersionSpec) -> Result<Version, RegisterError> {
        let function = check(&spec)?;
        let has_runtime = function.spec().container.is_none();
        if has_runtime && !self.images.runtime(&function).is_file() {
            return Err(RegisterError::UnknownRuntime { runtime: spec.runtime });
        }
        let (images, code_sha256) = self.make_images(&spec, &function).await?;
        Ok(Version {
            function: Arc::new(function),
            code_sha256,
            log_format: spec.log_format,
            concurrency_limit: spec.concurrency_limit,
            images: Arc::new(images),
        })
    }

    async fn launch(&self, order: LaunchOrder) -> Result<Launched, LaunchError> {
        // Before its turn: a store that is slow holds up the functions whose code is there, and no others.
        let attached = artifact::attach(self.origin.as_ref(), &order).await?;
        let (code, first_release) = attached.map(Lazy::into_parts).unzip();
        let images = Arc::clone(&order.images);
        let turn = self.boots.turn(order.initialization).await;
        let turn = turn.map_err(|error| LaunchError::new(error.to_string()))?;
        let (images_of_host, host) = (self.images.clone(), self.host.clone());
        let prepared = blocking(move || {
            let spec = microvm_spec(&images_of_host, &order, code)?;
            Ok((spec, order))
        });
        let (mut spec, order) = prepared.await?;
        spec.limits = self.host.limits;
        let network = self.host.attach().await;
        let network = network.map_err(|error| LaunchError::new(with_causes(&error)))?;
        // Once nothing else can fail: a shell that is given back is lost.
        let shell = self.shells.take(Size::of(&order.function)).await;
        let held = blocking(move || {
            let group = host.hold_microvm(&order, &mut spec, shell)?;
            let lease = network.map(|network| give(&mut spec, network));
            Ok((spec, group, lease))
        });
        let (spec, group, lease) = held.await?;
        let mounts = match images.container {
            Some(_) => container_mounts(),
            None => mounts(images.layers.is_some()),
        };
        let spawned =
            Microvm::spawn(spec).await.map_err(|error| LaunchError::new(with_causes(&error)))?;
        let heard = turn.until_heard(&spawned.link);
        tokio::spawn(heard.map_err(|error| LaunchError::new(error.to_string()))?);
        let container = images.container.clone();
        let launched = Launched { container, first_release, ..launched(spawned, mounts) };
        let launched = match group {
            Some(group) => launched.in_group(group),
            None => launched,
        };
        Ok(match (lease, &self.host.network) {
            (Some(lease), Some(network)) => launched.in_network(lease, network.settings()),
            _ => launched,
        })
    }

    fn forget(&self, images: &VersionImages) {
        if let CodeImage::File(code) = &images.code {
            self.store.forget(code);
        }
        if let Some(layers) = &images.layers {
            self.store.forget(layers);
        }
    }
}

/// Gives a microVM its network, and its jail the namespace. A VMM that was started ahead stays in an empty one, and has the tap.
fn give(spec: &mut MicrovmSpec, network: Attachment) -> Lease {
    let Attachment { device, lease } = network;
    spec.tap = Some(device.tap);
    if let Some(jail) = &mut spec.jail {
        jail.network = Some(device.namespace);
    }
    lease
}

/// Does something that takes a while in a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LaunchError> + Send + 'static,
) -> Result<T, LaunchError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| LaunchError::new(error.to_string()))?
}

/// Checks a function version's configuration.
pub(crate) fn check(spec: &FunctionVersionSpec) -> Result<Function, RegisterError> {
    if spec.layers.len() > LAYERS_MAX {
        return Err(RegisterError::TooManyLayers { count: spec.layers.len(), max: LAYERS_MAX });
    }
    // A part of a second is as wrong as none at all.
    let seconds = |duration: std::time::Duration| match duration.subsec_nanos() {
        0 => u32::try_from(duration.as_secs()).unwrap_or(u32::MAX),
        _ => 0,
    };
    // Only an artifact can be a container image, and is taken for one if it is said to be.
    let unnamed = spec.runtime.is_empty() && spec.handler.is_empty();
    let container = match &spec.code {
        CodeSource::Artifact(_) if unnamed || !spec.image_config.is_empty() => {
            Some(spec.image_config.clone())
        }
        _ if !spec.image_config.is_empty() => return Err(FunctionError::NoImage.into()),
        _ => None,
    };
    if container.is_some() && !spec.layers.is_empty() {
        return Err(FunctionError::ImageLayers.into());
    }
    let function = FunctionSpec {
        account: spec.account.clone(),
        name: spec.function_name.clone(),
        version: spec.version.clone(),
        runtime: spec.runtime.clone(),
        handler: spec.handler.clone(),
        memory_mb: spec.memory_mb,
        timeout_s: seconds(spec.timeout),
        init_timeout_s: seconds(spec.init_timeout),
        scratch_mb: match spec.ephemeral_storage_mb {
            0 => SCRATCH_MIN_MB,
            mb => mb,
        },
        environment: spec.environment.clone().into_iter().collect(),
        container,
    };
    Ok(function.validate()?)
}

impl MicrovmLauncher {
    /// The images of a version, and the digest of what they were made of.
    async fn make_images(
        &self,
        spec: &FunctionVersionSpec,
        function: &Function,
    ) -> Result<(VersionImages, Sha256Digest), RegisterError> {
        let (code, layers) = (spec.code.clone(), spec.layers.clone());
        let (code, sha256, layers, container) = if let CodeSource::Artifact(identity) = &code {
            let found = artifact::find(self.origin.as_ref(), identity, function).await?;
            let layers = self.pack(move |store| store.layers(&layers)).await?;
            (CodeImage::Artifact(found.name), found.sha256, layers, found.container)
        } else {
            let pack = move |store: &Store| Ok((store.code(&code)?, store.layers(&layers)?));
            let (code, layers) = self.pack(pack).await?;
            (CodeImage::File(code.image), code.sha256, layers, None)
        };
        let digests: Vec<_> =
            std::iter::once(sha256).chain(layers.iter().map(|it| it.sha256)).collect();
        let layers = layers.map(|it| it.image);
        let container = container.map(Arc::new);
        Ok((VersionImages { code, layers, container }, together(&digests)))
    }

    /// Packs in a thread of its own, when it is its turn.
    async fn pack<T: Send + 'static>(
        &self,
        pack: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, RegisterError> {
        let _turn = self.packing.acquire().await.map_err(|_| RegisterError::Unavailable)?;
        let store = self.store.clone();
        let packed = tokio::task::spawn_blocking(move || pack(&store));
        let packed = packed.await.map_err(|_| RegisterError::Unavailable)?;
        packed.map_err(|error| describe(&error))
    }
}

fn describe(error: &StoreError) -> RegisterError {
    RegisterError::Code { reason: with_causes(error) }
}

fn microvm_spec(
    images: &Images,
    order: &LaunchOrder,
    lazy: Option<Disk>,
) -> Result<MicrovmSpec, LaunchError> {
    let open = |what, path| {
        Images::open(what, path).map_err(|error| LaunchError::new(with_causes(&error)))
    };
    let function = &order.function;
    let code = match (&order.images.code, lazy) {
        (CodeImage::File(path), _) => Disk::new(open("the code image", path.clone())?, true),
        (CodeImage::Artifact(_), Some(disk)) => disk,
        (CodeImage::Artifact(_), None) => {
            return Err(LaunchError::new(String::from("the code has no disk")));
        }
    };
    let layers = order.images.layers.clone();
    let layers = layers.map(|path| open("the layers' image", path)).transpose()?;
    let scratch = scratch::create(function.scratch_bytes());
    let scratch = scratch.map_err(|error| LaunchError::new(with_causes(&error)))?;
    let disks = if order.images.container.is_some() {
        vec![code, scratch]
    } else {
        let runtime = open("the runtime image", images.runtime(function))?;
        disks(runtime, code, layers, scratch)
    };
    Ok(MicrovmSpec { deadline: order.deadline, ..MicrovmSpec::new(images, function, disks) })
}

impl HostParts {
    /// A network for a microVM, if they have any.
    async fn attach(&self) -> Result<Option<Attachment>, NetworkError> {
        match &self.network {
            Some(network) => network.take().await.map(Some),
            None => Ok(None),
        }
    }

    /// Makes the environment's control group and its jail, which its VMM is started in; or takes those of a shell, which becomes
    /// its VMM.
    fn hold_microvm(
        self,
        order: &LaunchOrder,
        spec: &mut MicrovmSpec,
        shell: Option<HostShell>,
    ) -> Result<Option<EnvironmentCgroup>, LaunchError> {
        let failed = |error: CgroupError| LaunchError::new(with_causes(&error));
        let (shell, group) = shell.map(|it| (it.shell, it.group)).unzip();
        let held = match group {
            Some(group) => self.hold_in(group),
            None => self.hold(&CgroupSpec {
                name: order.environment.to_string(),
                memory_mb: order.function.memory_mb(),
                guest_memory_mib: spec.memory_mib,
                vcpus: spec.vcpus,
                disks: u32::try_from(spec.disks.len()).unwrap_or(u32::MAX),
            }),
        };
        let held = held.map_err(failed)?;
        spec.kernel_memory = self.kernel_memory();
        (spec.shell, spec.jail, spec.cgroup) = (shell, held.jail, held.procs);
        Ok(held.group)
    }

    /// Makes a control group, and a jail to start in it.
    fn hold(&self, group: &CgroupSpec) -> Result<Held, CgroupError> {
        let group = self.cgroups.as_ref().map(|cgroups| cgroups.create(group)).transpose()?;
        self.hold_in(group)
    }

    fn hold_in(&self, group: Option<EnvironmentCgroup>) -> Result<Held, CgroupError> {
        let held = Held::default();
        let held = match (&self.jails, &group) {
            (Some(jails), group) => {
                let folder = group.as_ref().map(EnvironmentCgroup::folder).transpose()?;
                Held { jail: Some(Jail::new(jails.clone(), folder)), ..held }
            }
            (None, Some(group)) => Held { procs: Some(group.procs()?), ..held },
            (None, None) => held,
        };
        Ok(Held { group, ..held })
    }

    /// On demand where a VMM in a jail may.
    fn kernel_memory(&self) -> KernelMemory {
        match &self.jails {
            Some(jails) if jails.have_userfaultfd() => KernelMemory::Demand,
            _ => KernelMemory::default(),
        }
    }
}

/// The disks in the order of [`mounts`].
pub(crate) fn disks(runtime: File, code: Disk, layers: Option<File>, scratch: Disk) -> Vec<Disk> {
    let mut disks = vec![Disk::new(runtime, true), code];
    disks.extend(layers.map(|file| Disk::new(file, true)));
    disks.push(scratch);
    disks
}

/// The disks of [`disks`], as PID 1 mounts them.
pub(crate) fn mounts(layers: bool) -> [Option<Mount>; MOUNTS_MAX] {
    let mut targets =
        vec![(MountTarget::Root, FileSystem::Erofs), (MountTarget::Task, FileSystem::Erofs)];
    if layers {
        targets.push((MountTarget::Opt, FileSystem::Erofs));
    }
    targets.push((MountTarget::Tmp, FileSystem::Ext4));
    in_order(targets)
}

/// The disks of a container image: its own root, and scratch.
fn container_mounts() -> [Option<Mount>; MOUNTS_MAX] {
    in_order(vec![(MountTarget::Root, FileSystem::Erofs), (MountTarget::Tmp, FileSystem::Ext4)])
}

fn in_order(targets: Vec<(MountTarget, FileSystem)>) -> [Option<Mount>; MOUNTS_MAX] {
    let mut mounts = [None; MOUNTS_MAX];
    for (device, (place, (target, file_system))) in (0..).zip(mounts.iter_mut().zip(targets)) {
        *place = Some(Mount { device, target, file_system });
    }
    mounts
}

/// A microVM that runs, as its environment's task needs it.
pub(crate) fn launched(spawned: Spawned, mounts: [Option<Mount>; MOUNTS_MAX]) -> Launched {
    let Spawned { microvm, link, control, at } = spawned;
    let kill = Arc::new(Notify::new());
    let process_id = microvm.process_id();
    let end = Box::pin(microvm.wait(Arc::clone(&kill)));
    let control = Some(control);
    Launched {
        link,
        control,
        process_id,
        end,
        kill,
        share: None,
        at,
        mounts,
        network: None,
        container: None,
        first_release: None,
    }
}

impl Launched {
    /// The same, in a control group that its end takes along.
    fn in_group(self, group: EnvironmentCgroup) -> Self {
        let share: Box<dyn CpuShare> = Box::new(group.cpu_max());
        let ended = self.end;
        let end = Box::pin(async move {
            let end = ended.await;
            if let Err(error) = group.remove().await {
                tracing::warn!(
                    error = with_causes(&error),
                    "a control group stays until the next start"
                );
            }
            end
        });
        Self { share: Some(share), end, ..self }
    }

    /// The same with a network that its end takes along.
    fn in_network(self, lease: Lease, settings: votive_protocol::Network) -> Self {
        let ended = self.end;
        let end = Box::pin(async move {
            let end = ended.await;
            drop(lease);
            end
        });
        Self { network: Some(settings), end, ..self }
    }
}

impl CpuShare for Arc<CpuMax> {
    fn throttle(&mut self) {
        tell(CpuMax::throttle(self));
    }

    fn unthrottle(&mut self) {
        tell(CpuMax::unthrottle(self));
    }
}

/// A group that is being removed has no share to set any more.
fn tell(set: std::io::Result<()>) {
    if let Err(error) = set {
        tracing::debug!(%error, "a microVM's share of the processors was not set");
    }
}
