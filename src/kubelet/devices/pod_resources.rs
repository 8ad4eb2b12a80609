//! Tells others on the node which pod has which devices (`podresources/v1`): exporters of GPU metrics ask it.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::context::Context;
use crate::grpc::proto::{Fields, Message};
use crate::grpc::server::Service;
use crate::grpc::{self, Failure, UNKNOWN};
use crate::pod::{self, Role};
use crate::pods::Pods;
use crate::volume::tree;

const DIRECTORY: &str = "pod-resources";
const SOCKET: &str = "kubelet.sock";

struct PodResources {
    ctx: Arc<Context>,
    pods: Arc<Pods>,
}

#[async_trait]
impl Service for PodResources {
    async fn call(&self, method: &str, request: &[u8]) -> Option<Result<Message, Failure>> {
        Some(match method.strip_prefix("/v1.PodResourcesLister/")? {
            "List" => Ok(self.list()),
            "Get" => self.get(request),
            "GetAllocatableResources" => Ok(self.allocatable()),
            _ => return None,
        })
    }
}

/// `ContainerDevices`, one for each device.
fn device(resource: &str, id: &str, nodes: &[i64]) -> Message {
    let message = Message::new().text(1, resource).texts(2, [id]);
    if nodes.is_empty() {
        return message;
    }
    let one = |all: Message, node: &i64| all.message(1, &Message::new().number(1, node.cast_unsigned()));
    message.message(3, &nodes.iter().fold(Message::new(), one))
}

impl PodResources {
    fn of_container(&self, pod: &Pod, container: &Container) -> Message {
        let state = self.ctx.devices.lock();
        let mut message = Message::new().text(1, &container.name);
        for (resource, gift) in state.gifts(&pod::uid(pod), &container.name).into_iter().flatten() {
            for (id, nodes) in &gift.devices {
                message = message.message(2, &device(resource, id, nodes));
            }
        }
        message
    }

    fn of_pod(&self, pod: &Pod) -> Message {
        // An init container that has ended has nothing.
        let lasting = pod::containers(pod).filter(|(role, _)| *role != Role::Init);
        let message = Message::new().text(1, pod::name(pod)).text(2, pod::namespace(pod));
        lasting.fold(message, |all, (_, container)| all.message(3, &self.of_container(pod, container)))
    }

    fn list(&self) -> Message {
        let pods = self.pods.pods();
        let active = pods.iter().filter(|pod| !pod::is_terminal(pod));
        active.fold(Message::new(), |all, pod| all.message(1, &self.of_pod(pod)))
    }

    fn get(&self, request: &[u8]) -> Result<Message, Failure> {
        let fields = Fields::parse(request).unwrap_or_default();
        let (name, namespace) = (fields.text(1), fields.text(2));
        let missing = || Failure { code: UNKNOWN, message: format!("pod {name} in namespace {namespace} not found") };
        let pod = self.pods.find(&namespace, &name).ok_or_else(missing)?;
        Ok(Message::new().message(1, &self.of_pod(&pod)))
    }

    fn allocatable(&self) -> Message {
        let state = self.ctx.devices.lock();
        let mut message = Message::new();
        for (name, resource) in &state.resources {
            for id in resource.healthy() {
                message = message.message(1, &device(name, &id, &resource.devices[&id].nodes));
            }
        }
        message
    }
}

/// Answers until the agent stops.
pub(crate) fn serve(ctx: &Arc<Context>, pods: Arc<Pods>) {
    let directory = ctx.options.root_directory.join(DIRECTORY);
    let service = Arc::new(PodResources { ctx: ctx.clone(), pods });
    let served = tree::ensure_directory(&directory, 0o750)
        .and_then(|()| grpc::server::serve(&ctx.scope, &directory.join(SOCKET), service));
    if let Err(error) = served {
        tracing::error!(directory = %directory.display(), %error, "nobody is told who has which devices");
    }
}
