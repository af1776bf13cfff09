//! PID 1 of the peers' guests: serves a Rust handler over HTTP on a vsock port, or enters the first disk and becomes
//! Debian's Python with its `http.server`.

use std::convert::Infallible;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::mount::{MountFlags, mount};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};
use votive_warm::{FUNCTION_OPTION, GUEST_PORT, Pair, handler};

fn main() -> anyhow::Result<()> {
    for (kind, place) in [("proc", "/proc"), ("devtmpfs", "/dev")] {
        mount(kind, place, kind, MountFlags::empty(), None)
            .with_context(|| format!("mounting {place}"))?;
    }
    let options = fs::read_to_string("/proc/cmdline")?;
    let python = format!("{FUNCTION_OPTION}={}", Pair::Python.name());
    if options.split_ascii_whitespace().any(|option| option == python) {
        become_python()
    } else {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve())
    }
}

/// Does not return unless it fails.
fn become_python() -> anyhow::Result<()> {
    mount("/dev/vda", "/root", "erofs", MountFlags::RDONLY, None).context("mounting the disk")?;
    mount("tmpfs", "/root/tmp", "tmpfs", MountFlags::empty(), None)?;
    mount("devtmpfs", "/root/dev", "devtmpfs", MountFlags::empty(), None)?;
    fs::write("/root/tmp/echo.py", include_str!("../../guest/echo.py"))?;
    fs::write("/root/tmp/server.py", include_str!("../../guest/server.py"))?;
    rustix::process::chroot("/root")?;
    rustix::process::chdir("/tmp")?;
    let mut python = Command::new("/usr/bin/python3.11");
    Err(python.args(["server.py", &GUEST_PORT.to_string()]).exec().into())
}

async fn serve() -> anyhow::Result<()> {
    let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, GUEST_PORT))?;
    loop {
        let (stream, _) = listener.accept().await?;
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(connection);
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    match invoke(request).await {
        Ok(body) => *response.body_mut() = Full::new(body),
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    Ok(response)
}

async fn invoke(request: Request<Incoming>) -> anyhow::Result<Bytes> {
    let event = request.into_body().collect().await?.to_bytes();
    Ok(serde_json::to_vec(&handler::echo(serde_json::from_slice(&event)?))?.into())
}
