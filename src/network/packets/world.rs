use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use skiff_linux::net::route::{self, Address, Route, Target, VethPair};
use skiff_linux::net::{Protocol, Socket, netns};

use crate::{Cidr, HostPort, Network, NetworkOptions};

const LIMIT: Duration = Duration::from_secs(5);
/// For what is expected to be dropped in silence.
const SILENCE: Duration = Duration::from_millis(600);

pub(crate) fn options() -> NetworkOptions {
    NetworkOptions {
        pod_cidr: cidr("10.42.0.0/24"),
        cluster_cidr: cidr("10.42.0.0/16"),
        service_cidr: cidr("10.43.0.0/16"),
        node_ip: Ipv4Addr::new(192, 168, 77, 1),
        dns_ip: Ipv4Addr::new(10, 43, 0, 10),
        data_directory: "/nonexistent".into(),
    }
}

pub(crate) fn cidr(text: &str) -> Cidr {
    text.parse().expect("a network")
}

/// A node in a namespace of its own, and one "outside" that it shares a cable with.
pub(crate) struct World {
    pub directory: tempfile::TempDir,
    pub options: NetworkOptions,
}

pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);

/// Runs a test as the only inhabitant of a new node.
pub(crate) fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce(World) -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(test(World::new()));
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let outside = directory.path().join("outside");
        netns::create(&outside).expect("a namespace");
        let mut socket = Socket::open(Protocol::Route).expect("a socket");
        route::set_up(&mut socket, 1).expect("lo");
        let namespace = File::open(&outside).expect("there");
        let pair = VethPair {
            name: "up0",
            mac: [2, 0, 0, 0, 0, 1],
            alias: "uplink",
            mtu: 1500,
            peer_name: "out0",
            peer_mac: [2, 0, 0, 0, 0, 2],
            peer_namespace: namespace.as_fd(),
        };
        route::add_veth(&mut socket, &pair).expect("a cable");
        let link = address(&mut socket, "up0", NODE);
        let target = Target::Gateway { link, gateway: OUTSIDE.into() };
        let everywhere = Ipv4Addr::UNSPECIFIED.into();
        let default = Route { destination: everywhere, prefix_len: 0, target, source: None, metric: 0, protocol: 4 };
        route::replace_route(&mut socket, &default).expect("a default route");
        netns::within(&outside, || {
            address(&mut Socket::open(Protocol::Route)?, "out0", OUTSIDE);
            Ok(())
        })
        .expect("the other end");
        let options = NetworkOptions { data_directory: directory.path().join("network"), ..options() };
        Self { directory, options }
    }

    pub(crate) async fn network(&self) -> Network {
        Network::open(self.options.clone()).await.expect("the network opens")
    }

    pub(crate) fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    pub(crate) fn pod_path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A pod that serves its name on TCP and UDP port 8080.
    pub(crate) async fn pod(&self, network: &Network, name: &str) -> Pod {
        self.pod_with_ports(network, name, &[]).await
    }

    pub(crate) async fn pod_with_ports(&self, network: &Network, name: &str, ports: &[HostPort]) -> Pod {
        let path = self.pod_path(name);
        netns::create(&path).expect("a namespace");
        let addresses = network.attach(name, &path, ports).await.expect("attached");
        let [IpAddr::V4(ip)] = addresses[..] else { panic!("{addresses:?}") };
        serve(Some(&path), name, 8080);
        Pod { ip, path }
    }

    /// The route by which the outside reaches an address through the node.
    pub(crate) fn route_outside(&self, to: Cidr) {
        let add = || {
            let mut socket = Socket::open(Protocol::Route)?;
            let link = route::link_by_name(&mut socket, "out0")?.expect("there").index;
            let target = Target::Gateway { link, gateway: NODE.into() };
            let (destination, prefix_len) = (to.address.into(), to.prefix_len);
            let route = Route { destination, prefix_len, target, source: None, metric: 0, protocol: 4 };
            Ok(route::replace_route(&mut socket, &route)?)
        };
        netns::within(&self.outside(), add).expect("a route");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.directory.path()).expect("there").flatten() {
            if netns::is_namespace(&entry.path()).unwrap_or(false) {
                netns::remove(&entry.path()).expect("removed");
            }
        }
    }
}

pub(crate) struct Pod {
    pub ip: Ipv4Addr,
    pub path: PathBuf,
}

fn address(socket: &mut Socket, link: &str, ip: Ipv4Addr) -> u32 {
    let link = route::link_by_name(socket, link).expect("asked").expect("there").index;
    route::add_address(socket, &Address { link, ip: ip.into(), prefix_len: 24 }).expect("an address");
    route::set_up(socket, link).expect("up");
    link
}

fn inside<T: Send>(namespace: Option<&Path>, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    match namespace {
        Some(path) => netns::within(path, work),
        None => work(),
    }
}

/// Answers each TCP connection and UDP packet with the name and the client's address, until the process ends.
pub(crate) fn serve(namespace: Option<&Path>, name: &str, port: u16) {
    serve_at(namespace, Ipv4Addr::UNSPECIFIED, name, port);
}

pub(crate) fn serve_at(namespace: Option<&Path>, ip: Ipv4Addr, name: &str, port: u16) {
    let open = || Ok((TcpListener::bind((ip, port))?, UdpSocket::bind((ip, port))?));
    let (tcp, udp) = inside(namespace, open).expect("sockets");
    let tcp_name = name.to_owned();
    std::thread::spawn(move || {
        while let Ok((mut stream, from)) = tcp.accept() {
            // A client that is gone does not care.
            drop(write!(stream, "{tcp_name} {}", from.ip()));
        }
    });
    let name = name.to_owned();
    std::thread::spawn(move || {
        while let Ok((_, from)) = udp.recv_from(&mut [0; 64]) {
            drop(udp.send_to(format!("{name} {}", from.ip()).as_bytes(), from));
        }
    });
}

/// What the server at an address says to a TCP client in `namespace` (or on the node).
pub(crate) fn ask(namespace: Option<&Path>, ip: Ipv4Addr, port: u16) -> io::Result<String> {
    ask_within(namespace, ip, port, LIMIT)
}

/// The same where no answer is expected.
pub(crate) fn is_silent(namespace: Option<&Path>, ip: Ipv4Addr, port: u16) -> bool {
    matches!(ask_within(namespace, ip, port, SILENCE), Err(e) if e.kind() == io::ErrorKind::TimedOut)
}

pub(crate) fn is_refused(namespace: Option<&Path>, ip: Ipv4Addr, port: u16) -> bool {
    matches!(ask(namespace, ip, port), Err(e) if e.kind() == io::ErrorKind::ConnectionRefused)
}

fn ask_within(namespace: Option<&Path>, ip: Ipv4Addr, port: u16, limit: Duration) -> io::Result<String> {
    inside(namespace, || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((ip, port)), limit)?;
        stream.set_read_timeout(Some(limit))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
}

/// The same on the node with a source address.
pub(crate) fn ask_from(source: Ipv4Addr, ip: Ipv4Addr, port: u16) -> io::Result<String> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
    let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let mut stream = TcpStream::from(client);
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    bind(stream.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
    connect(stream.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(ip, port)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// A UDP client that keeps its port.
pub(crate) struct UdpClient(UdpSocket);

impl UdpClient {
    pub(crate) fn new(namespace: Option<&Path>) -> Self {
        let socket = inside(namespace, || UdpSocket::bind("0.0.0.0:0")).expect("a socket");
        socket.set_read_timeout(Some(LIMIT)).expect("a limit");
        Self(socket)
    }

    pub(crate) fn ask(&self, ip: Ipv4Addr, port: u16) -> io::Result<String> {
        self.0.connect((ip, port))?;
        self.0.send(b"?")?;
        let mut buffer = [0; 256];
        let len = self.0.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
    }
}

/// Debian's tools, to look at what was made from another side. The child is in the caller's namespace.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the tool is installed");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Looks again and again until `what` is true.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let limit = tokio::time::Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(tokio::time::Instant::now() < limit, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
