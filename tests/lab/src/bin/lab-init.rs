//! PID 1 of the lab's L1: makes a small Debian machine with KVM, runs one command in it, powers off.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{Pid, Signal, WaitOptions, chdir, chroot};
use rustix::system::{RebootCommand, finit_module, reboot};
use votive_lab::Orders;
use votive_lab::frame::{self, Kind};

/// The order in which the initramfs wants its modules loaded, one file name a line.
const MODULE_LIST: &str = "/modules/order";

/// How long a device may take to appear, in L1's time.
const DEVICE_WAIT: Duration = Duration::from_secs(20);

/// A frame of life is sent this often while the command runs.
const HEARTBEAT: Duration = Duration::from_secs(5);

type Port = Arc<Mutex<File>>;

fn main() {
    let port = match begin() {
        Ok(port) => Arc::new(Mutex::new(port)),
        Err(error) => {
            // There is no port yet; the console is all we have.
            eprintln!("lab-init: {error:#}");
            power_off();
            return;
        }
    };
    let sent = match prepare_root().and_then(|()| run(&port)) {
        Ok(code) => send(&port, Kind::Exit, &code.to_le_bytes()),
        Err(error) => send(&port, Kind::Refused, format!("{error:#}").as_bytes()),
    };
    if let Err(error) = sent {
        eprintln!("lab-init: the host does not listen: {error}");
    }
    power_off();
}

fn power_off() {
    rustix::fs::sync();
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        eprintln!("lab-init: cannot power off: {error}");
    }
}

/// Mounts what the kernel offers, loads the modules, opens the port to the host.
fn begin() -> Result<File> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount_new(kind, target, "")?;
    }
    let list = fs::read_to_string(MODULE_LIST).context("no list of modules")?;
    for name in list.lines() {
        let file = File::open(Path::new("/modules").join(name)).with_context(|| name.to_owned())?;
        finit_module(&file, c"", 0).with_context(|| format!("cannot load {name}"))?;
    }
    let path = Path::new("/dev/vport0p1");
    wait_for(path)?;
    File::options().write(true).open(path).context("cannot open the port to the host")
}

/// Puts the root together: the disks, first one on top, and a writable layer in memory; then enters it.
fn prepare_root() -> Result<()> {
    let mut lower = Vec::new();
    for letter in 'a'..='z' {
        let disk = format!("/dev/vd{letter}");
        if !Path::new(&disk).exists() {
            break;
        }
        let place = format!("/layers/{letter}");
        fs::create_dir_all(&place)?;
        mount(disk.as_str(), place.as_str(), "erofs", MountFlags::RDONLY, c"")
            .with_context(|| format!("cannot mount {disk}"))?;
        lower.push(place);
    }
    fs::create_dir_all("/writable")?;
    mount_new("tmpfs", "/writable", "size=75%")?;
    for folder in ["/writable/upper", "/writable/work", "/newroot"] {
        fs::create_dir_all(folder)?;
    }
    let options =
        format!("lowerdir={},upperdir=/writable/upper,workdir=/writable/work", lower.join(":"));
    mount_new("overlay", "/newroot", &options)?;
    for name in ["dev", "proc", "sys"] {
        let (from, to) = (format!("/{name}"), format!("/newroot/{name}"));
        fs::create_dir_all(&to)?;
        mount_move(from.as_str(), to.as_str()).with_context(|| format!("cannot move {from}"))?;
    }
    chdir("/newroot")?;
    mount_move(".", "/").context("cannot move the root")?;
    chroot(".").context("cannot enter the root")?;
    chdir("/")?;
    furnish()
}

/// The mounts and settings of an ordinary server.
fn furnish() -> Result<()> {
    for (kind, target, options) in [
        ("tmpfs", "/tmp", "size=75%,mode=1777"),
        ("tmpfs", "/run", ""),
        ("devpts", "/dev/pts", "ptmxmode=0666"),
        ("tmpfs", "/dev/shm", "mode=1777"),
        // As VMMs' guides for production hosts advise: else each KVM_CREATE_VM waits for all of the machine's threads.
        ("cgroup2", "/sys/fs/cgroup", "favordynmods"),
        ("debugfs", "/sys/kernel/debug", ""),
        ("tracefs", "/sys/kernel/tracing", ""),
        ("securityfs", "/sys/kernel/security", ""),
    ] {
        mount_new(kind, target, options)?;
    }
    for (name, number) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        std::os::unix::fs::symlink(format!("/proc/self/fd{number}"), format!("/dev/{name}"))?;
    }
    // Whoever may make taps: udev leaves that to capabilities.
    fs::set_permissions("/dev/net/tun", fs::Permissions::from_mode(0o666))?;
    // A guest's memory is reserved whole and used in part.
    fs::write("/proc/sys/vm/overcommit_memory", "1")?;
    fs::write("/proc/sys/kernel/hostname", "lab")?;
    let status = Command::new("/bin/busybox").args(["ip", "link", "set", "lo", "up"]).status();
    if !status.context("cannot run busybox")?.success() {
        bail!("the loopback interface did not come up");
    }
    Ok(())
}

/// Runs the command and sends what it writes, then its results; returns its exit code.
fn run(port: &Port) -> Result<i32> {
    let orders: Orders = serde_json::from_slice(&fs::read(Orders::PATH).context("no orders")?)?;
    let (program, arguments) = orders.command.split_first().context("no command")?;
    let defaults = BTreeMap::from([
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("LANG", "C.UTF-8"),
    ]);
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(defaults)
        .envs(&orders.env)
        .current_dir("/tmp")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let main = Pid::from_child(&child);
    let readers = [
        child.stdout.take().map(|out| forward(out, Kind::Stdout, port)),
        child.stderr.take().map(|err| forward(err, Kind::Stderr, port)),
    ];
    if orders.heartbeat {
        let port = Arc::clone(port);
        std::thread::spawn(move || {
            while send(&port, Kind::Alive, b"").is_ok() {
                std::thread::sleep(HEARTBEAT);
            }
        });
    }
    let code = reap_until(main)?;
    // What the command left running holds its pipes open.
    kill_the_rest();
    for reader in readers.into_iter().flatten() {
        // A reader ends by itself; that it panicked would show as missing output.
        let _ = reader.join();
    }
    for path in &orders.results {
        if let Ok(bytes) = fs::read(path) {
            send(port, Kind::ResultBegins, path.to_string_lossy().as_bytes())?;
            send(port, Kind::ResultData, &bytes)?;
        }
    }
    Ok(code)
}

/// Waits for every child that ends, orphans among them, until `main` does; its exit code as a shell tells it.
fn reap_until(main: Pid) -> Result<i32> {
    loop {
        let Some((pid, status)) = rustix::process::wait(WaitOptions::empty())? else { continue };
        if pid == main {
            let status = ExitStatus::from_raw(status.as_raw());
            return Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()));
        }
    }
}

fn kill_the_rest() {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().parse::<i32>().ok();
        if let Some(pid) = pid.filter(|pid| *pid > 1).and_then(Pid::from_raw) {
            // Kernel threads ignore it, and a process may be gone already.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

fn forward(mut from: impl Read + Send + 'static, kind: Kind, port: &Port) -> JoinHandle<()> {
    let port = Arc::clone(port);
    std::thread::spawn(move || {
        let mut buffer = vec![0; frame::BODY_MAX];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) if send(&port, kind, &buffer[..n]).is_err() => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    })
}

fn send(port: &Port, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    let mut port = port.lock().unwrap_or_else(PoisonError::into_inner);
    frame::write(&mut *port, kind, bytes)?;
    port.flush()
}

fn mount_new(kind: &str, target: &str, options: &str) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("cannot make {target}"))?;
    let options = std::ffi::CString::new(options)?;
    mount(kind, target, kind, MountFlags::empty(), options.as_c_str())
        .with_context(|| format!("cannot mount {kind} on {target}"))
}

/// Waits until a device that a module announced is there.
fn wait_for(path: &Path) -> Result<()> {
    let start = Instant::now();
    while !path.exists() {
        if start.elapsed() > DEVICE_WAIT {
            bail!("{} did not appear", path.display());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
