//! Against a server of our own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::connect::connect_first;
use crate::{Error, Resolver};

const NOT_FOUND: u16 = 3;
const SERVER_FAILURE: u16 = 2;
const TRUNCATED: u16 = 1 << 9;

/// Answers each question with a code (and flags) and addresses; `None` is silence.
type Rule = fn(name: &str, kind: u16) -> Option<(u16, &'static [&'static str])>;

/// A name server that runs until its socket's process ends.
struct NameServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl NameServer {
    fn start(rule: Rule) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let address = socket.local_addr().expect("bound");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((len, client)) = socket.recv_from(&mut buffer) {
                let (name, kind) = read_question(&buffer[..len]);
                heard.lock().expect("the list").push(format!("{name}/{kind}"));
                let Some((flags, addresses)) = rule(&name, kind) else { continue };
                // Someone else's answer, with a wrong number, comes first.
                let mut forged = answer(&buffer[..len], 0, &["192.0.2.66"]);
                forged[0] ^= 1;
                socket.send_to(&forged, client).expect("sent");
                socket.send_to(&answer(&buffer[..len], flags, addresses), client).expect("sent");
            }
        });
        Self { address, asked }
    }

    /// What was asked, sorted: both families go at once.
    fn asked(&self) -> Vec<String> {
        let mut asked = self.asked.lock().expect("the list").clone();
        asked.sort();
        asked
    }
}

fn read_question(packet: &[u8]) -> (String, u16) {
    let (mut at, mut labels) = (12, Vec::new());
    while packet[at] != 0 {
        let end = at + 1 + usize::from(packet[at]);
        labels.push(String::from_utf8_lossy(&packet[at + 1..end]).into_owned());
        at = end;
    }
    (labels.join("."), u16::from_be_bytes([packet[at + 1], packet[at + 2]]))
}

fn answer(question: &[u8], flags: u16, addresses: &[&str]) -> Vec<u8> {
    let mut packet = question.to_vec();
    packet[2..4].copy_from_slice(&(0x8180 | flags).to_be_bytes());
    packet[6..8].copy_from_slice(&(addresses.len() as u16).to_be_bytes());
    for ip in addresses {
        let (kind, data) = match ip.parse().expect("an address") {
            IpAddr::V4(ip) => (1, ip.octets().to_vec()),
            IpAddr::V6(ip) => (28, ip.octets().to_vec()),
        };
        packet.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        packet.extend(data);
    }
    packet
}

fn resolver(hosts: &str, resolv_conf: &str) -> (Resolver, TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let (hosts_file, conf_file) = (dir.path().join("hosts"), dir.path().join("resolv.conf"));
    std::fs::write(&hosts_file, hosts).expect("written");
    std::fs::write(&conf_file, resolv_conf).expect("written");
    (Resolver::new(hosts_file, conf_file), dir)
}

async fn look_up(resolver: &Resolver, name: &str) -> Result<Vec<String>, String> {
    let found = resolver.resolve(name).await;
    found.map(|list| list.iter().map(ToString::to_string).collect()).map_err(|e: Error| e.to_string())
}

fn list(addresses: &[&str]) -> Result<Vec<String>, String> {
    Ok(addresses.iter().map(|ip| (*ip).to_owned()).collect())
}

#[tokio::test]
async fn files_and_addresses_need_no_server() {
    let server = NameServer::start(|_, _| None);
    let conf = format!("nameserver {}", server.address);
    let (resolver, _dir) = resolver("127.0.0.7 db Db.example", &conf);
    for (name, expect) in [
        ("192.0.2.1", list(&["192.0.2.1"])),
        ("[2001:db8::1]", list(&["2001:db8::1"])),
        ("DB", list(&["127.0.0.7"])),
        ("db.example.", list(&["127.0.0.7"])),
        ("a b", Err("lookup a b: no such host".to_owned())),
        ("", Err("lookup : no such host".to_owned())),
    ] {
        assert_eq!(look_up(&resolver, name).await, expect, "{name}");
    }
    let localhost = look_up(&resolver, "app.LOCALHOST").await.expect("loopback");
    assert!(localhost.contains(&"127.0.0.1".to_owned()) && localhost.len() == 2, "{localhost:?}");
    assert_eq!(server.asked(), [""; 0]);
}

#[tokio::test]
async fn both_families_are_asked_for_and_forged_answers_do_not_count() {
    let server = NameServer::start(|name, kind| match (name, kind) {
        ("both.example", 1) => Some((0, &["127.0.0.2", "127.0.0.1"])),
        ("both.example", _) => Some((0, &["::1"])),
        ("four.example", 1) => Some((0, &["127.0.0.4"])),
        ("four.example", _) => Some((0, &[])),
        _ => Some((NOT_FOUND, &[])),
    });
    let (resolver, _dir) = resolver("", &format!("nameserver {}", server.address));
    let mut both = look_up(&resolver, "both.example").await.expect("found");
    assert_eq!(
        both.iter().position(|ip| ip == "127.0.0.2"),
        both.iter().position(|ip| ip == "127.0.0.1").map(|i| i - 1)
    );
    both.sort();
    assert_eq!(both, ["127.0.0.1", "127.0.0.2", "::1"]);
    assert_eq!(look_up(&resolver, "four.example").await, list(&["127.0.0.4"]));
    let none = resolver.resolve("none.example").await.expect_err("nothing there");
    assert!(none.is_no_such_host());
    assert_eq!(none.to_string(), format!("lookup none.example on {}: no such host", server.address));
}

#[tokio::test]
async fn search_domains_are_tried_in_turn() {
    let server = NameServer::start(|name, kind| match (name, kind) {
        ("db.two", 1) => Some((0, &["127.0.0.5"])),
        ("db.two", _) => Some((0, &[])),
        _ => Some((NOT_FOUND, &[])),
    });
    let (resolver, _dir) = resolver("", &format!("nameserver {}\nsearch one two three", server.address));
    assert_eq!(look_up(&resolver, "db").await, list(&["127.0.0.5"]));
    assert_eq!(server.asked(), ["db.one/1", "db.one/28", "db.two/1", "db.two/28"]);
}

#[tokio::test]
async fn a_server_that_fails_is_followed_by_the_next() {
    let bad = NameServer::start(|_, _| Some((SERVER_FAILURE, &[])));
    let good = NameServer::start(|_, kind| Some((0, if kind == 1 { &["127.0.0.6"] } else { &[] })));
    let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr()).expect("a free port");
    let conf = format!("nameserver {closed}\nnameserver {}\nnameserver {}", bad.address, good.address);
    let (resolver, _dir) = resolver("", &conf);
    assert_eq!(look_up(&resolver, "db.example").await, list(&["127.0.0.6"]));
    assert_eq!(bad.asked().len(), 2);
}

#[tokio::test]
async fn trouble_is_told_apart_from_a_name_that_is_not_there() {
    let bad = NameServer::start(|_, _| Some((SERVER_FAILURE, &[])));
    let silent = NameServer::start(|_, _| None);
    let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr()).expect("a free port");
    for (server, why) in
        [(bad.address, "server misbehaving"), (silent.address, "i/o timeout"), (closed, "connection refused")]
    {
        let (resolver, _dir) = resolver("", &format!("nameserver {server}\noptions timeout:1 attempts:1"));
        let expect = format!("lookup db.example on {server}: {why}");
        assert_eq!(look_up(&resolver, "db.example").await, Err(expect));
    }
}

#[tokio::test]
async fn one_family_does_not_wait_for_ever_for_the_other() {
    let server = NameServer::start(|_, kind| (kind == 1).then_some((0, &["127.0.0.8"])));
    let (resolver, _dir) = resolver("", &format!("nameserver {}\noptions timeout:30 attempts:5", server.address));
    assert_eq!(look_up(&resolver, "db.example").await, list(&["127.0.0.8"]));
}

#[tokio::test]
async fn what_does_not_fit_comes_by_tcp() {
    let server = NameServer::start(|_, _| Some((TRUNCATED, &[])));
    let listener = TcpListener::bind(server.address).await.expect("the same port");
    let (resolver, _dir) = resolver("", &format!("nameserver {}\noptions no-aaaa", server.address));
    let serve = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut question = vec![0; usize::from(stream.read_u16().await.expect("a length"))];
        stream.read_exact(&mut question).await.expect("a question");
        let reply = answer(&question, 0, &["127.0.0.9"; 200]);
        stream.write_u16(reply.len() as u16).await.expect("sent");
        stream.write_all(&reply).await.expect("sent");
    };
    let (found, ()) = tokio::join!(resolver.resolve("big.example"), serve);
    assert_eq!(found.expect("found").len(), 200);
    assert_eq!(server.asked(), ["big.example/1"]);
}

#[tokio::test]
async fn an_address_that_refuses_is_followed_by_the_next() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let open = listener.local_addr().expect("bound");
    let closed = SocketAddr::from(([127, 0, 0, 2], open.port()));
    let stream = connect_first([closed, open].into_iter()).await.expect("connected");
    assert_eq!(stream.peer_addr().expect("connected"), open);
    let refused = connect_first([closed].into_iter()).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}
