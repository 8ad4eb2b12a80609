use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skiff_api::ObjectKey;
use skiff_base::Scope;
use skiff_client::Lister;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::forward::Forwarder;
use crate::wire::{self, Answer, Bad, Code, Foreign, Query, Record};
use crate::zone::{Found, Source, Zone};

/// Questions by UDP that wait for other servers' answers. More are refused, not queued.
const WAITING_LIMIT: usize = 512;
const CONNECTION_LIMIT: usize = 256;
const IDLE_LIMIT: Duration = Duration::from_secs(10);
const LARGEST: usize = 65_535;
/// An alias may lead to an alias.
const ALIAS_LIMIT: usize = 8;

pub(crate) const BY_SERVICE: &str = "dns/service";
pub(crate) const BY_CLUSTER_IP: &str = "dns/cluster-ip";
pub(crate) const BY_ADDRESS: &str = "dns/address";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The caches of objects.
pub(crate) struct Objects {
    pub services: Lister<Service>,
    pub slices: Lister<EndpointSlice>,
    pub namespaces: Lister<Namespace>,
}

impl Objects {
    pub(crate) fn add_indexes(&self) {
        self.services.add_index(BY_CLUSTER_IP, |service| {
            service
                .spec
                .iter()
                .flat_map(|spec| spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip))
                .cloned()
                .collect()
        });
        self.slices.add_index(BY_SERVICE, |slice| {
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            let name = slice.metadata.labels.iter().filter_map(|labels| labels.get(SERVICE_NAME));
            name.map(|name| format!("{namespace}/{name}")).collect()
        });
        self.slices.add_index(BY_ADDRESS, |slice| {
            slice.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect()
        });
    }

    fn are_synced(&self) -> bool {
        self.services.is_synced() && self.slices.is_synced() && self.namespaces.is_synced()
    }
}

impl Source for Objects {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(&ObjectKey::new(namespace, name))
    }

    fn slices(&self, namespace: &str, name: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices.indexed(BY_SERVICE, &format!("{namespace}/{name}"))
    }

    fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.get(&ObjectKey::cluster(name)).is_some()
    }

    fn services_at(&self, ip: IpAddr) -> Vec<Arc<Service>> {
        self.services.indexed(BY_CLUSTER_IP, &ip.to_string())
    }

    fn slices_at(&self, ip: IpAddr) -> Vec<Arc<EndpointSlice>> {
        self.slices.indexed(BY_ADDRESS, &ip.to_string())
    }

    fn service_of(&self, slice: &EndpointSlice) -> Option<Arc<Service>> {
        let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
        self.service(slice.metadata.namespace.as_deref().unwrap_or_default(), name)
    }
}

pub(crate) struct Server {
    pub zone: Zone,
    pub objects: Objects,
    pub forwarder: Forwarder,
}

/// What is to be done about a packet.
enum Step {
    Nothing,
    Reply(Vec<u8>),
    /// Other servers have to be asked: for the question itself, or for the end of an alias.
    Ask(Query, Option<(Vec<Record>, String)>),
}

impl Server {
    /// The answer, as far as it is known here.
    fn look_up(&self, packet: &[u8], by_tcp: bool) -> Step {
        let query = match Query::parse(packet) {
            Ok(query) => query,
            Err(Bad::Ignore) => return Step::Nothing,
            Err(Bad::Answer(answer)) => return Step::Reply(answer),
        };
        let limit = limit(&query, by_tcp);
        if let Some(code) = query.refusal() {
            return Step::Reply(Answer::empty(code).write(&query, limit));
        }
        let (mut labels, mut aliases) = (query.labels.clone(), Vec::new());
        loop {
            let found = self.zone.find(&self.objects, &labels, query.kind);
            if !matches!(found, Found::Elsewhere) && !self.objects.are_synced() {
                // "There is no such name" would be kept by clients.
                return Step::Reply(Answer::empty(Code::ServerFailure).write(&query, limit));
            }
            match found {
                Found::Answer(mut answer) => {
                    answer.answers.splice(..0, aliases);
                    return Step::Reply(answer.write(&query, limit));
                }
                Found::Alias { alias, target } if aliases.len() < ALIAS_LIMIT => {
                    aliases.push(alias);
                    labels = target.split('.').map(str::to_owned).collect();
                }
                Found::Alias { .. } => {
                    return Step::Reply(Answer::empty(Code::ServerFailure).write(&query, limit));
                }
                Found::Elsewhere if aliases.is_empty() => {
                    return match self.forwarder.known(&query) {
                        Some(answer) if answer.len() <= limit => Step::Reply(answer),
                        _ => Step::Ask(query, None),
                    };
                }
                Found::Elsewhere => return Step::Ask(query, Some((aliases, labels.join(".")))),
            }
        }
    }

    /// The answer that other servers give.
    async fn ask(&self, query: Query, alias: Option<(Vec<Record>, String)>, packet: &[u8], by_tcp: bool) -> Vec<u8> {
        let limit = limit(&query, by_tcp);
        let failed = || Answer::empty(Code::ServerFailure).write(&query, limit);
        let Some((aliases, target)) = alias else {
            return match self.forwarder.ask(&query, packet, by_tcp).await {
                Some(answer) if answer.len() <= limit => answer,
                // A resolver that sends more than the client can take by UDP did not read its question.
                Some(answer) => truncated(&query, &answer, limit),
                None => failed(),
            };
        };
        let mut answer = Answer { authoritative: true, answers: aliases, ..Answer::empty(Code::NoError) };
        let question = wire::question(query.id, &target, query.kind);
        let Some(question) = question.as_deref().filter(|_| !target.is_empty()) else { return failed() };
        let Ok(inner) = Query::parse(question) else { return failed() };
        let found = match self.forwarder.known(&inner) {
            Some(found) => Some(found),
            None => self.forwarder.ask(&inner, question, true).await,
        };
        let Some(found) = found else { return failed() };
        let Some(foreign) = Foreign::parse(&found) else { return failed() };
        if foreign.is_name_error() {
            answer.code = Code::NameError;
        }
        answer.answers.extend(foreign.answers());
        answer.write(&query, limit)
    }

    /// Answers packets until the scope is stopped.
    pub(crate) async fn serve_udp(self: Arc<Self>, socket: UdpSocket, scope: Scope) {
        let socket = Arc::new(socket);
        let waiting = Arc::new(Semaphore::new(WAITING_LIMIT));
        let mut buffer = vec![0; LARGEST];
        loop {
            let received = scope.token().run_until_cancelled(socket.recv_from(&mut buffer)).await;
            let (len, from) = match received {
                None => return,
                Some(Ok(received)) => received,
                // An ICMP error about an earlier answer.
                Some(Err(error)) => {
                    tracing::debug!(%error, "receive a DNS question");
                    continue;
                }
            };
            let packet = &buffer[..len];
            match self.look_up(packet, false) {
                Step::Nothing => {}
                Step::Reply(answer) => send(&socket, &answer, from).await,
                Step::Ask(query, alias) => match waiting.clone().try_acquire_owned() {
                    Ok(permit) => {
                        let (server, socket, packet) = (self.clone(), socket.clone(), packet.to_vec());
                        let token = scope.token().clone();
                        scope.spawn(async move {
                            let asking = server.ask(query, alias, &packet, false);
                            if let Some(answer) = token.run_until_cancelled(asking).await {
                                send(&socket, &answer, from).await;
                            }
                            drop(permit);
                        });
                    }
                    Err(_) => {
                        let answer = Answer::empty(Code::ServerFailure).write(&query, query.udp_limit());
                        send(&socket, &answer, from).await;
                    }
                },
            }
        }
    }

    /// Answers connections until the scope is stopped.
    pub(crate) async fn serve_tcp(self: Arc<Self>, listener: TcpListener, scope: Scope) {
        let places = Arc::new(Semaphore::new(CONNECTION_LIMIT));
        loop {
            let next = async {
                let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
                (listener.accept().await, place)
            };
            let Some((accepted, place)) = scope.token().run_until_cancelled(next).await else { return };
            match accepted {
                Ok((stream, _)) => {
                    let (server, token) = (self.clone(), scope.token().clone());
                    scope.spawn(async move {
                        if let Some(Err(error)) = token.run_until_cancelled(server.converse(stream)).await {
                            tracing::debug!(%error, "a DNS connection ended");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Too many open files, most likely: an immediate retry would spin.
                    tracing::warn!(%error, "accept a DNS connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let len = match timeout(IDLE_LIMIT, stream.read_u16()).await {
                Ok(Ok(len)) => len,
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(()),
            };
            let mut packet = vec![0; usize::from(len)];
            timeout(IDLE_LIMIT, stream.read_exact(&mut packet)).await.map_err(|_| io::ErrorKind::TimedOut)??;
            let answer = match self.look_up(&packet, true) {
                Step::Nothing => return Ok(()),
                Step::Reply(answer) => answer,
                Step::Ask(query, alias) => self.ask(query, alias, &packet, true).await,
            };
            let len = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let whole = [&len.to_be_bytes()[..], &answer].concat();
            timeout(IDLE_LIMIT, stream.write_all(&whole)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        }
    }
}

fn limit(query: &Query, by_tcp: bool) -> usize {
    if by_tcp { LARGEST } else { query.udp_limit() }
}

/// The beginning of an answer that is too long.
fn truncated(query: &Query, answer: &[u8], limit: usize) -> Vec<u8> {
    let answers = Foreign::parse(answer).map(|foreign| foreign.answers()).unwrap_or_default();
    Answer { answers, ..Answer::empty(Code::NoError) }.write(query, limit)
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!(%to, %error, "send a DNS answer");
    }
}
