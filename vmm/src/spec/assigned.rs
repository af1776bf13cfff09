//! What of a spec is known before the rest: a shell's own, which an assignment completes.

use std::ffi::OsString;
use std::os::fd::RawFd;

use super::{
    ConsoleSpec, DISKS_ALLOWED, FD_ALLOWED, KernelMemory, PASSED_ALLOWED, SpecError, ValidSpec,
    VmSpec, deadline, file, kernel_memory, memory_bytes, number, parent, passed, vcpus, wrong,
};
use crate::descriptor::FileRef;
use crate::limits::MAX_DISKS;

const SHELLS_DISKS_ALLOWED: &str = "0 to 8";
const SHELL_ALLOWED: &str = "with --shell: --vcpus, --memory-mib, --disks, --kernel-memory, --kvm, --userfaultfd, \
                             --deadline, --cgroup, --parent";
const ASSIGNED_ALLOWED: &str = "in an assignment: --kernel, --initrd, --cmdline, --disk, --vsock, --net, --rng, --no-rng, \
                                --console, --marks, and --deadline if the shell has none";
const RECEIVED_ALLOWED: &str = "fd:N of the descriptors that came along, from 0, and no path";

/// First number of a descriptor that may be inherited.
const FIRST_INHERITED: RawFd = 3;

/// What a process has to know before it opens anything, and needs no tenant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ahead {
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Guest memory in bytes.
    pub memory_bytes: u64,
    /// How the kernel gets into guest memory.
    pub kernel_memory: Option<KernelMemory>,
    /// Most disks.
    pub disks: usize,
    /// Most devices of any kind.
    pub devices: usize,
    /// Most devices, but disks, that watch something of the host's.
    pub watchers: usize,
    /// Whether the vsock device has a path.
    pub with_path: bool,
    /// An opened /dev/kvm.
    pub kvm: Option<RawFd>,
    /// An opened /dev/userfaultfd.
    pub userfaultfd: Option<RawFd>,
    /// The descriptor of the socket that commands come from, and a shell's assignment before.
    pub control: Option<RawFd>,
    /// When the microVM ends at the latest, if that is known.
    pub deadline_ns: Option<u64>,
    /// The `cgroup.procs` of the control group to join.
    pub cgroup: Option<FileRef>,
    /// The parent process.
    pub parent: Option<u32>,
}

/// A shell's spec, every value checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidShell {
    /// What it makes.
    pub ahead: Ahead,
    /// What an assignment is added to.
    rest: VmSpec,
}

impl VmSpec {
    /// Checks every value of a shell's.
    ///
    /// # Errors
    /// The first wrong value with its field and what is allowed.
    pub fn validate_shell(mut self) -> Result<ValidShell, SpecError> {
        let control = self.shell.take().unwrap_or_default();
        let control = inherited("shell", passed("shell", &control)?)?;
        let most = MAX_DISKS as u32;
        let disks = self
            .disk_threads
            .take()
            .map_or(Ok(most), |text| number("disks", &text, 0, most, SHELLS_DISKS_ALLOWED))?
            as usize;
        let descriptor = |field, text: Option<String>| {
            text.map(|text| passed(field, &text).and_then(|fd| inherited(field, fd))).transpose()
        };
        let kvm = descriptor("kvm", self.kvm.take())?;
        let userfaultfd = descriptor("userfaultfd", self.userfaultfd.take())?;
        let cgroup = self.cgroup.take().map(|text| file("cgroup", &text, super::FILE_ALLOWED));
        let ahead = Ahead {
            vcpus: vcpus(self.vcpus.clone())?,
            memory_bytes: memory_bytes(self.memory_mib.clone())?,
            kernel_memory: kernel_memory(self.kernel_memory.as_deref())?,
            disks,
            // vsock, entropy, network.
            devices: disks + 3,
            watchers: 2,
            with_path: false,
            kvm,
            userfaultfd,
            control: Some(control),
            deadline_ns: self.deadline.as_deref().map(deadline).transpose()?,
            cgroup: cgroup.transpose()?,
            parent: self.parent.take().map(parent).transpose()?,
        };
        let mut fds: Vec<_> = [Some(control), kvm, userfaultfd].into_iter().flatten().collect();
        if let Some(FileRef::Fd(fd)) = ahead.cgroup {
            fds.push(inherited("cgroup", fd)?);
        }
        each_once(fds)?;
        let Self { vcpus, memory_mib, kernel_memory, deadline, .. } = self.clone();
        let own = Self { vcpus, memory_mib, kernel_memory, deadline, ..Self::default() };
        if self != own {
            return Err(wrong("shell", "another option", SHELL_ALLOWED));
        }
        Ok(ValidShell { ahead, rest: self })
    }
}

impl ValidShell {
    /// The spec with the rest of its options, which came with so many descriptors.
    ///
    /// # Errors
    /// As those of a command line, and for whatever is none of an assignment's.
    pub fn assign<I>(mut self, arguments: I, descriptors: usize) -> Result<ValidSpec, SpecError>
    where
        I: IntoIterator<Item = OsString>,
    {
        let refused = || wrong("shell", "another option", ASSIGNED_ALLOWED);
        if self.rest.add(arguments)?.is_some() {
            return Err(refused());
        }
        let VmSpec { control, cgroup, parent, kvm, userfaultfd, shell, disk_threads, .. } =
            &self.rest;
        if [control, cgroup, parent, kvm, userfaultfd, shell, disk_threads]
            .iter()
            .any(|option| option.is_some())
        {
            return Err(refused());
        }
        let spec = self.rest.checked()?;
        if spec.disks.len() > self.ahead.disks {
            return Err(wrong("disk", &format!("{} disks", spec.disks.len()), DISKS_ALLOWED));
        }
        let unknown = |fd: RawFd| usize::try_from(fd).map_or(true, |fd| fd >= descriptors);
        match spec.descriptors().into_iter().find(|(_, fd)| unknown(*fd)) {
            Some((field, fd)) => return Err(wrong(field, &format!("fd:{fd}"), RECEIVED_ALLOWED)),
            None => each_once(spec.descriptors().into_iter().map(|(_, fd)| fd).collect())?,
        }
        match spec.path() {
            Some((field, path)) => Err(wrong(field, &path, RECEIVED_ALLOWED)),
            None => Ok(spec),
        }
    }
}

impl ValidSpec {
    /// What has to be known first.
    #[must_use]
    pub fn ahead(&self) -> Ahead {
        let watchers = usize::from(self.vsock.is_some()) + usize::from(self.net.is_some());
        Ahead {
            vcpus: self.vcpus,
            memory_bytes: self.memory_bytes,
            kernel_memory: self.kernel_memory,
            disks: self.disks.len(),
            devices: self.disks.len() + watchers + usize::from(self.rng),
            watchers,
            with_path: self.vsock.as_ref().is_some_and(|vsock| vsock.path.is_some()),
            kvm: self.kvm,
            userfaultfd: self.userfaultfd,
            control: self.control,
            deadline_ns: self.deadline_ns,
            cgroup: self.cgroup.clone(),
            parent: self.parent,
        }
    }

    /// Refuses standard streams, and a descriptor that is named twice: both users would own and close it.
    pub(super) fn names_inherited_descriptors(&self) -> Result<(), SpecError> {
        for (field, fd) in self.descriptors() {
            inherited(field, fd)?;
        }
        each_once(self.descriptors().into_iter().map(|(_, fd)| fd).collect())
    }

    fn files(&self) -> Vec<(&'static str, &FileRef)> {
        let mut files = vec![("kernel", &self.kernel)];
        let optional = [("initrd", &self.initrd), ("marks", &self.marks), ("cgroup", &self.cgroup)];
        files
            .extend(optional.into_iter().filter_map(|(field, file)| Some((field, file.as_ref()?))));
        files.extend(self.disks.iter().map(|disk| ("disk path", &disk.file)));
        let encrypted = self.disks.iter().filter_map(|disk| disk.encrypted.as_ref());
        let templates = encrypted.filter_map(|encrypted| encrypted.template.as_ref());
        files.extend(templates.map(|file| ("disk template", file)));
        if let Some(ConsoleSpec::File(file)) = &self.console {
            files.push(("console", file));
        }
        files
    }

    /// Every descriptor that is named, and where.
    fn descriptors(&self) -> Vec<(&'static str, RawFd)> {
        let files = self.files().into_iter().filter_map(|(field, file)| match file {
            FileRef::Fd(fd) => Some((field, *fd)),
            FileRef::Path(_) => None,
        });
        let lazy = self.disks.iter().filter_map(|disk| disk.lazy.as_ref());
        let lazy = lazy.flat_map(|lazy| {
            let both = [("disk presence", lazy.presence), ("disk requests", lazy.requests)];
            both.into_iter().chain(lazy.reads.map(|fd| ("disk reads", fd)))
        });
        let ports = self.vsock.iter().flat_map(|vsock| &vsock.ports);
        let single = [
            ("net tap", self.net.as_ref().map(|net| net.tap)),
            ("control", self.control),
            ("kvm", self.kvm),
            ("userfaultfd", self.userfaultfd),
        ];
        let single = single.into_iter().filter_map(|(field, fd)| Some((field, fd?)));
        files.chain(lazy).chain(ports.map(|(_, fd)| ("vsock port", *fd))).chain(single).collect()
    }

    /// A path that is named, and where.
    fn path(&self) -> Option<(&'static str, String)> {
        let file = self.files().into_iter().find_map(|(field, file)| match file {
            FileRef::Path(path) => Some((field, path.display().to_string())),
            FileRef::Fd(_) => None,
        });
        let socket = self.vsock.as_ref().and_then(|vsock| vsock.path.as_ref());
        let stdout = matches!(self.console, Some(ConsoleSpec::Stdout));
        file.or_else(|| socket.map(|path| ("vsock path", path.display().to_string())))
            .or_else(|| stdout.then(|| ("console", "stdout".to_owned())))
    }
}

fn inherited(field: &'static str, fd: RawFd) -> Result<RawFd, SpecError> {
    if fd >= FIRST_INHERITED {
        Ok(fd)
    } else {
        Err(wrong(field, &format!("fd:{fd}"), PASSED_ALLOWED))
    }
}

fn each_once(mut fds: Vec<RawFd>) -> Result<(), SpecError> {
    fds.sort_unstable();
    match fds.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(wrong("fd", &format!("fd:{} twice", pair[0]), FD_ALLOWED)),
        None => Ok(()),
    }
}
