//! Everything that a spec names, opened and not read.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::BootError;
use crate::console;
use crate::descriptor::{Access, Descriptors, FileRef};
use crate::spec::{EncryptedDiskSpec, LazyDiskSpec, ValidSpec, VsockSpec};
use crate::virtio::block::{BlockSpec, EncryptedSpec, LazySpec};
use crate::virtio::net::NetSpec;
use crate::virtio::vsock::Listener;

/// Everything that the spec names, opened.
pub(super) struct Files {
    pub(super) kernel: Arc<File>,
    pub(super) initrd: Option<Arc<File>>,
    pub(super) marks: Option<File>,
    pub(super) cmdline: String,
    pub(super) devices: DeviceFiles,
}

/// What the vsock device bridges to.
pub(super) struct VsockFiles {
    pub(super) cid: u32,
    pub(super) path: Option<PathBuf>,
    pub(super) listener: Option<Listener>,
    pub(super) ports: Vec<(u32, OwnedFd)>,
}

/// What devices are made of.
pub(super) struct DeviceFiles {
    pub(super) console: Option<File>,
    pub(super) disks: Vec<BlockSpec>,
    pub(super) vsock: Option<VsockFiles>,
    pub(super) rng: bool,
    pub(super) net: Option<NetSpec>,
}

impl Files {
    /// Opens paths and takes over descriptors; reads nothing.
    pub(super) fn open(spec: ValidSpec, from: &mut Descriptors) -> Result<Self, BootError> {
        let mut optional = |field, file: Option<FileRef>, access| {
            file.map(|file| open(field, &file, access, from)).transpose()
        };
        let initrd = optional("initrd", spec.initrd, Access::Read)?.map(Arc::new);
        let marks = optional("marks", spec.marks, Access::Append)?;
        let kernel = Arc::new(open("kernel", &spec.kernel, Access::Read, from)?);
        let disk = |(index, disk): (usize, crate::spec::DiskSpec)| {
            let access = if disk.read_only { Access::Read } else { Access::ReadWrite };
            Ok::<_, BootError>(BlockSpec {
                file: open("disk", &disk.file, access, from)?,
                read_only: disk.read_only,
                serial: format!("disk{index}"),
                lazy: disk.lazy.map(|lazy| open_lazy(lazy, from)).transpose()?,
                encrypted: disk.encrypted.map(|it| open_encrypted(it, from)).transpose()?,
                limits: disk.limits,
            })
        };
        let disks = spec.disks.into_iter().enumerate().map(disk).collect::<Result<_, _>>()?;
        let devices = DeviceFiles {
            console: spec.console.as_ref().map(|it| console::open(it, from)).transpose()?,
            disks,
            vsock: spec.vsock.map(|vsock| open_vsock(vsock, from)).transpose()?,
            rng: spec.rng,
            net: spec.net.map(|net| open_net(net, from)).transpose()?,
        };
        Ok(Self { kernel, initrd, marks, cmdline: spec.cmdline, devices })
    }
}

fn open(
    field: &'static str,
    file: &FileRef,
    access: Access,
    from: &mut Descriptors,
) -> Result<File, BootError> {
    let failed = |source| BootError::Open { field, name: file.to_string(), source };
    file.open_from(access, from).map_err(failed)
}

fn open_lazy(spec: LazyDiskSpec, from: &mut Descriptors) -> Result<LazySpec, BootError> {
    let requests = open("disk requests", &FileRef::Fd(spec.requests), Access::ReadWrite, from)?;
    Ok(LazySpec {
        presence: open("disk presence", &FileRef::Fd(spec.presence), Access::Read, from)?,
        requests: UnixStream::from(OwnedFd::from(requests)),
        reads: spec
            .reads
            .map(|fd| open("disk reads", &FileRef::Fd(fd), Access::ReadWrite, from))
            .transpose()?,
        timeout: Duration::from_millis(spec.timeout_ms.into()),
    })
}

fn open_encrypted(
    spec: EncryptedDiskSpec,
    from: &mut Descriptors,
) -> Result<EncryptedSpec, BootError> {
    let mut open = |file: &FileRef| open("disk template", file, Access::Read, from);
    Ok(EncryptedSpec { template: spec.template.as_ref().map(&mut open).transpose()? })
}

fn open_vsock(spec: VsockSpec, from: &mut Descriptors) -> Result<VsockFiles, BootError> {
    let port = |(port, fd)| match from.take(fd) {
        Ok(file) => Ok((port, OwnedFd::from(file))),
        Err(source) => {
            Err(BootError::Open { field: "vsock port", name: format!("fd:{fd}"), source })
        }
    };
    let ports = spec.ports.into_iter().map(port).collect::<Result<_, _>>()?;
    let listener = spec.path.clone().map(Listener::bind).transpose()?;
    Ok(VsockFiles { cid: spec.cid, path: spec.path, listener, ports })
}

fn open_net(spec: crate::spec::NetSpec, from: &mut Descriptors) -> Result<NetSpec, BootError> {
    let tap = open("net tap", &FileRef::Fd(spec.tap), Access::ReadWrite, from)?;
    let crate::spec::NetSpec { mac, mtu, receive, send, .. } = spec;
    Ok(NetSpec { tap, mac, mtu, receive, send })
}
