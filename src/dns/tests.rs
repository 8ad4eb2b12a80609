//! Real sockets on the loopback of a network namespace of the test's own.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use skiff_base::Scope;
use skiff_client::fake::FakeTransport;
use skiff_client::{Client, Informers};
use skiff_linux::net::{Protocol, Socket, route};

use crate::wire::{self, A, AAAA, Answer, Code, Data, Foreign, Query, Record};
use crate::{Options, start};

const CLUSTER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 10);

/// Runs a test beside a server at [`CLUSTER`], in a runtime of several threads, so that the test may block.
fn with_server(resolv_conf: &str, test: impl FnOnce(&Asker, &Path) + Send + 'static) {
    let text = resolv_conf.to_owned();
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
        route::set_up(&mut Socket::open(Protocol::Route).expect("a socket"), 1).expect("lo");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let upstream = directory.path().join("resolv.conf");
        std::fs::write(&upstream, text).expect("writable");
        // Its threads are made here, so they are in this namespace.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let scope = Scope::new();
        let address = runtime.block_on(async {
            let api = Arc::new(FakeTransport::new());
            api.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}));
            for (name, spec) in [
                ("web", json!({"clusterIP": "10.43.0.20", "clusterIPs": ["10.43.0.20"], "ports": [{"port": 80}]})),
                ("out", json!({"type": "ExternalName", "externalName": "www.example.org"})),
                ("loop", json!({"type": "ExternalName", "externalName": "loop.default.svc.cluster.local"})),
                ("in", json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"})),
            ] {
                api.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": name}, "spec": spec}));
            }
            let informers = Informers::new(Client::new(api), scope.clone());
            let options = Options {
                listen: SocketAddr::from((CLUSTER, 53)),
                domain: "cluster.local".to_owned(),
                upstream: upstream.clone(),
                networks: vec!["10.43.0.0/16".parse().expect("a network")],
                network: None,
            };
            let address = start(&informers, options, &scope).await.expect("starts");
            informers.synced().await;
            address
        });
        test(&Asker { server: address }, &upstream);
        runtime.block_on(scope.stop());
    };
    std::thread::spawn(run).join().expect("the test passes");
}

struct Asker {
    server: SocketAddr,
}

impl Asker {
    fn exchange(&self, packet: &[u8]) -> std::io::Result<Vec<u8>> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.send_to(packet, self.server)?;
        let mut buffer = vec![0; 65_535];
        let (len, from) = socket.recv_from(&mut buffer)?;
        assert_eq!(from, self.server);
        Ok(buffer[..len].to_vec())
    }

    fn exchange_tcp(&self, packet: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(self.server)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        // In pieces, as a network may.
        let whole = [&u16::try_from(packet.len()).expect("short").to_be_bytes()[..], packet].concat();
        for piece in whole.chunks(5) {
            stream.write_all(piece)?;
        }
        let mut len = [0; 2];
        stream.read_exact(&mut len)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    /// The answer to a question: code, data of the records.
    fn ask(&self, name: &str, kind: u16) -> (u8, Vec<String>) {
        let question = wire::question(77, name, kind).expect("a name");
        read(&question, &self.exchange(&question).expect("an answer"))
    }

    fn ask_tcp(&self, name: &str, kind: u16) -> (u8, Vec<String>) {
        let question = wire::question(78, name, kind).expect("a name");
        read(&question, &self.exchange_tcp(&question).expect("an answer"))
    }
}

fn read(question: &[u8], packet: &[u8]) -> (u8, Vec<String>) {
    let query = Query::parse(question).expect("a question");
    assert!(query.is_answered_by(packet, query.id));
    let records = Foreign::parse(packet).expect("an answer").answers();
    let texts = records.iter().map(|r| match &r.data {
        Data::A(ip) => ip.to_string(),
        Data::Cname(name) => name.clone(),
        other => format!("{other:?}"),
    });
    (packet[3] & 0xf, texts.collect())
}

/// A resolver that knows `www.example.org`, and many addresses of `many.example.org`; and counts questions.
fn resolver(ip: Ipv4Addr) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let udp = UdpSocket::bind((ip, 53)).expect("bound");
    let count = asked.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((len, from)) = udp.recv_from(&mut buffer) {
            count.fetch_add(1, Ordering::Relaxed);
            let query = Query::parse(&buffer[..len]).expect("a question");
            udp.send_to(&resolve(&query).write(&query, query.udp_limit()), from).expect("sent");
        }
    });
    let tcp = std::net::TcpListener::bind((ip, 53)).expect("bound");
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            let mut len = [0; 2];
            stream.read_exact(&mut len).expect("a length");
            let mut packet = vec![0; usize::from(u16::from_be_bytes(len))];
            stream.read_exact(&mut packet).expect("a question");
            let query = Query::parse(&packet).expect("a question");
            let answer = resolve(&query).write(&query, 65_535);
            let len = u16::try_from(answer.len()).expect("short").to_be_bytes();
            stream.write_all(&[&len[..], &answer].concat()).expect("sent");
        }
    });
    asked
}

fn resolve(query: &Query) -> Answer {
    let record = |n: u8| Record { name: query.name(), ttl_s: 60, data: Data::A(Ipv4Addr::new(192, 0, 2, n)) };
    let answers = match (query.name().as_str(), query.kind) {
        ("www.example.org", A) => vec![record(1)],
        ("www.example.org", _) => vec![],
        ("many.example.org", _) => (0..100).map(record).collect(),
        _ => return Answer::empty(Code::NameError),
    };
    Answer { answers, ..Answer::empty(Code::NoError) }
}

#[test]
fn the_clusters_names_by_udp_and_tcp() {
    with_server("", |asker, _| {
        for name in ["web.default.svc.cluster.local", "WEB.default.SVC.cluster.local"] {
            assert_eq!(asker.ask(name, A), (0, vec!["10.43.0.20".to_owned()]));
            assert_eq!(asker.ask_tcp(name, A), (0, vec!["10.43.0.20".to_owned()]));
        }
        assert_eq!(asker.ask("web.default.svc.cluster.local", AAAA), (0, vec![]));
        assert_eq!(asker.ask("gone.default.svc.cluster.local", A), (3, vec![]));
        let followed = vec!["web.default.svc.cluster.local".to_owned(), "10.43.0.20".to_owned()];
        assert_eq!(asker.ask("in.default.svc.cluster.local", A), (0, followed));
        assert_eq!(asker.ask("loop.default.svc.cluster.local", A), (2, vec![]));
        // Garbage gets no answer, or a refusal, and does no harm.
        let mut update = wire::question(1, "a.b", A).expect("a name");
        update[2] |= 0x28;
        assert_eq!(asker.exchange(&update).expect("an answer")[3] & 0xf, 4);
        let mut chaos = wire::question(1, "a.b", A).expect("a name");
        *chaos.last_mut().expect("a class") = 3;
        assert_eq!(asker.exchange(&chaos).expect("an answer")[3] & 0xf, 5);
    });
}

#[test]
fn without_resolvers_the_answer_is_quick() {
    // Ourselves are no resolver to ask.
    with_server(&format!("nameserver {CLUSTER}\n"), |asker, _| {
        assert_eq!(asker.ask("www.example.org", A), (2, vec![]));
        assert_eq!(asker.ask("out.default.svc.cluster.local", A), (2, vec![]));
        assert_eq!(asker.ask_tcp("www.example.org", A), (2, vec![]));
    });
}

#[test]
fn other_names_are_asked_for_once() {
    // The first resolver is not there.
    with_server("nameserver 127.0.0.98\nnameserver 127.0.0.99\n", |asker, _| {
        let asked = resolver(Ipv4Addr::new(127, 0, 0, 99));
        for _ in 0..3 {
            assert_eq!(asker.ask("www.example.org", A), (0, vec!["192.0.2.1".to_owned()]));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1, "kept");
        let alias = vec!["www.example.org".to_owned(), "192.0.2.1".to_owned()];
        assert_eq!(asker.ask("out.default.svc.cluster.local", A), (0, alias), "the same answer serves an alias");
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(asker.ask("out.default.svc.cluster.local", AAAA), (0, vec!["www.example.org".to_owned()]));
        assert_eq!(asker.ask("gone.example.org", A), (3, vec![]));
        assert_eq!(asked.load(Ordering::Relaxed), 3);

        // More than fits in a packet: by UDP a part, by TCP all.
        let question = wire::question(5, "many.example.org", A).expect("a name");
        let packet = asker.exchange(&question).expect("an answer");
        assert!(packet.len() <= 512 && Foreign::parse(&packet).expect("an answer").is_truncated());
        assert_eq!(asker.ask_tcp("many.example.org", A).1.len(), 100);
        let packet = asker.exchange(&question).expect("an answer");
        assert!(packet.len() <= 512 && Foreign::parse(&packet).expect("an answer").is_truncated());
    });
}

#[test]
fn a_port_that_is_taken_is_an_error_that_says_so() {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
        route::set_up(&mut Socket::open(Protocol::Route).expect("a socket"), 1).expect("lo");
        let _other = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).expect("bound");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let scope = Scope::new();
            let informers = Informers::new(Client::new(Arc::new(FakeTransport::new())), scope.clone());
            let options = |network| Options {
                listen: SocketAddr::new(IpAddr::from([10, 43, 0, 10]), 53),
                domain: "cluster.local".to_owned(),
                upstream: "/nonexistent".into(),
                networks: vec![],
                network,
            };
            let directory = tempfile::tempdir().expect("a temporary directory");
            let network = skiff_network::Network::open(skiff_network::NetworkOptions {
                pod_cidr: "10.42.0.0/24".parse().expect("a network"),
                cluster_cidr: "10.42.0.0/16".parse().expect("a network"),
                service_cidr: "10.43.0.0/16".parse().expect("a network"),
                node_ip: Ipv4Addr::LOCALHOST,
                dns_ip: Ipv4Addr::new(10, 43, 0, 10),
                data_directory: directory.path().to_owned(),
            });
            let network = network.await.expect("opens");
            let error = start(&informers, options(None), &scope).await.expect_err("taken");
            assert_eq!(
                skiff_base::chain(&error).to_string(),
                "listen for DNS questions on 10.43.0.10:53: Address already in use (os error 98)"
            );
            let address = start(&informers, options(Some(network)), &scope).await.expect("on another port");
            assert_ne!(address.port(), 53);
            informers.synced().await;
            // By the usual port all the same.
            let server = SocketAddr::new(address.ip(), 53);
            let asking = tokio::net::UdpSocket::bind("0.0.0.0:0").await.expect("bound");
            let question = wire::question(9, "ns.dns.cluster.local", A).expect("a name");
            asking.send_to(&question, server).await.expect("sent");
            let mut buffer = [0; 512];
            let waiting = tokio::time::timeout(Duration::from_secs(5), asking.recv_from(&mut buffer));
            let (len, from) = waiting.await.expect("in time").expect("an answer");
            assert_eq!(from, server);
            assert_eq!(read(&question, &buffer[..len]), (0, vec!["10.43.0.10".to_owned()]));
            scope.stop().await;
        });
    };
    std::thread::spawn(run).join().expect("the test passes");
}
