//! Links, addresses and routes of one network namespace: that of the thread in which [`Netlink::open`] was called.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::pin;
use std::time::Duration;

use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::{Handle, LinkBridgePort, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::runtime::Runtime;
use tokio_stream::{Stream, StreamExt};

use super::NetworkError;
use super::addresses::{MTU, Mac, Range};

/// How long the kernel may take for an answer: it may have to wait while another namespace is taken down.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// One end of a link.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) name: String,
    pub(super) mac: Mac,
}

/// A socket to the kernel, and what drives it.
pub(super) struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

impl Netlink {
    /// A socket in this thread's namespace, where it stays.
    pub(super) fn open() -> Result<Self, NetworkError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(NetworkError::Netlink)?;
        let opened = {
            let _entered = runtime.enter();
            rtnetlink::new_connection()
        };
        let (connection, handle, _) = opened.map_err(NetworkError::Netlink)?;
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    fn wait<T>(
        &self,
        what: &'static str,
        name: &str,
        answer: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T, NetworkError> {
        let bounded = async { tokio::time::timeout(ANSWER_TIMEOUT, answer).await };
        let failed = |source| NetworkError::Link { what, name: name.to_owned(), source };
        let late = || NetworkError::Late { what, name: name.to_owned() };
        self.runtime.block_on(bounded).map_err(|_| late())?.map_err(failed)
    }

    /// The number of the link `name`.
    pub(super) fn index(&self, name: &str) -> Result<u32, NetworkError> {
        let links = self.handle.link().get().match_name(name.to_owned()).execute();
        let found = self.wait("find the link", name, first(links))?;
        found.map(|link| link.header.index).ok_or_else(|| NetworkError::Missing(name.to_owned()))
    }

    /// The links whose names begin with `prefix`.
    pub(super) fn names(&self, prefix: &str) -> Result<Vec<String>, NetworkError> {
        let links = self.handle.link().get().execute();
        let links = self.wait("list links", prefix, all(links))?;
        let names = links.iter().filter_map(name_of);
        Ok(names.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
    }

    /// A pair of ends that are down: `here` in this namespace, `there` in another.
    pub(super) fn add_pair(
        &self,
        here: &End,
        there: &End,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), NetworkError> {
        let peer = LinkUnspec::new_with_name(&there.name)
            .address(there.mac.0.to_vec())
            .mtu(u32::from(MTU))
            .setns_by_fd(namespace.as_raw_fd())
            .build();
        let pair = LinkVeth::new(&here.name, &there.name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .address(here.mac.0.to_vec())
            .mtu(u32::from(MTU))
            .build();
        self.wait("add the link", &there.name, self.handle.link().add(pair).execute())
    }

    /// Gives a link that is down its Ethernet address.
    pub(super) fn set_mac(&self, name: &str, mac: Mac) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_name(name).address(mac.0.to_vec()).build();
        self.wait("set the address of", name, self.handle.link().set(message).execute())
    }

    pub(super) fn up(&self, name: &str) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_name(name).up().build();
        self.wait("switch on", name, self.handle.link().set(message).execute())
    }

    /// Makes the link a port of `bridge`, of those that hear nothing of each other.
    pub(super) fn join(&self, name: &str, bridge: &str) -> Result<(), NetworkError> {
        let controller = self.index(bridge)?;
        let message = LinkUnspec::new_with_name(name).controller(controller).build();
        self.wait("join to the bridge", name, self.handle.link().set(message).execute())?;
        let port = LinkBridgePort::new(self.index(name)?).isolated(true).build();
        self.wait("isolate on the bridge", name, self.handle.link().set_port(port).execute())
    }

    /// Removes a link; one that is not there is gone already.
    pub(super) fn remove(&self, name: &str) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_name(name).build();
        match self.wait("remove", name, self.handle.link().del_with_message(message).execute()) {
            Err(NetworkError::Link { source, .. }) if is_no_device(&source) => Ok(()),
            removed => removed,
        }
    }

    pub(super) fn add_address(
        &self,
        name: &str,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), NetworkError> {
        let add = self.handle.address().add(self.index(name)?, IpAddr::V4(address), prefix);
        self.wait("add an address to", name, add.execute())
    }

    /// Tells who has `address` on the link, so that nobody asks.
    pub(super) fn add_neighbour(
        &self,
        name: &str,
        address: Ipv4Addr,
        mac: Mac,
    ) -> Result<(), NetworkError> {
        let add = self.handle.neighbours().add(self.index(name)?, IpAddr::V4(address));
        self.wait("add a neighbour to", name, add.link_layer_address(&mac.0).execute())
    }

    /// Sends all that has no other way by `gateway` on the link, on which it is.
    pub(super) fn add_default(&self, name: &str, gateway: Ipv4Addr) -> Result<(), NetworkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .output_interface(self.index(name)?)
            .onlink()
            .build();
        self.wait("add a route by", name, self.handle.route().add(route).execute())
    }

    /// Sends what is for `address` to the link.
    pub(super) fn add_host(&self, name: &str, address: Ipv4Addr) -> Result<(), NetworkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .output_interface(self.index(name)?)
            .scope(rtnetlink::packet_route::route::RouteScope::Link)
            .build();
        self.wait("add a route by", name, self.handle.route().add(route).execute())
    }

    /// An IPv4 address of this namespace's that is in `range`, if there is one.
    pub(super) fn address_in(&self, range: Range) -> Result<Option<Ipv4Addr>, NetworkError> {
        let addresses = self.handle.address().get().execute();
        let addresses = self.wait("list addresses", "", all(addresses))?;
        let addresses = addresses.iter().flat_map(|message| &message.attributes);
        let mut ours = addresses.filter_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        });
        Ok(ours.find(|address| range.contains(Range::of(*address))))
    }

    /// The link of the default route.
    pub(super) fn default_link(&self) -> Result<Option<String>, NetworkError> {
        let routes = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build());
        let routes = self.wait("list routes", "", all(routes.execute()))?;
        let index = routes.iter().filter(|route| route.header.destination_prefix_length == 0);
        let Some(index) = index.filter_map(output_of).next() else { return Ok(None) };
        let link = self.handle.link().get().match_index(index).execute();
        let link = self.wait("find the link", "", first(link))?;
        Ok(link.as_ref().and_then(name_of).map(str::to_owned))
    }
}

async fn first<T>(
    items: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Option<T>, rtnetlink::Error> {
    match pin!(items).next().await.transpose() {
        Err(error) if is_no_device(&error) => Ok(None),
        found => found,
    }
}

async fn all<T>(
    items: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, rtnetlink::Error> {
    pin!(items).collect().await
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn output_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn is_no_device(error: &rtnetlink::Error) -> bool {
    let no_device = -rustix::io::Errno::NODEV.raw_os_error();
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.code.is_some_and(|code| code.get() == no_device))
}
