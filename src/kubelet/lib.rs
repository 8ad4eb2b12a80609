//! The node agent: makes the pods that are bound to this node run, and says how they are.
//!
//! Bottom-up. Pure: `settings`, `pod` asks a Pod object, `quantity`, `resources` (quality of service, cgroup values), `resize`, `expand`
//! (`$(VAR)`), `fields` (downward API), `admit` (whether a pod is taken at all), `unsupported`, `env_file`, `environment`, `etc_files` (hosts, resolv.conf), `backoff`, `plan` (what to do
//! with containers), `slot` (what is known of a container), `status` (what the API is told).
//! With effects: `engine` is the seam to runtime and network, `source` observes ConfigMaps and Secrets, `token` asks for
//! service-account tokens, `trust` for trust anchors, `pulled` knows who may use an image, `userns` which ids a pod has, `image`, `volume`, `csi` (drivers of volumes, by `grpc`), `devices` (that plugins give), `cpus` (that containers have for themselves), `plugins` (which finds both), `leftovers`, `container`,
//! `sandbox`, `hook`, `probe` (on `http_get`, `grpc_health`).
//! `collect` removes images. Beside: `local_path` makes volumes of this node's directories.
//! Above: `worker`, one for each pod; `pods` hands events to them and ends what has no pod,
//! `static_pods` brings those that the API server only sees; `node` registers (`machine` is what it is on),
//! `heartbeat` keeps its lease and status; `pressure` ends pods when the machine runs out of something, `preempt` when a critical one has no room; `logs`, `stream`, `stats`, `metrics`, `auth` (who may ask), `connections` and `server` answer on port 10250. `shutdown` is for
//! the end of the machine, when no agent runs.
//!
//! Invariants: a pod's containers are decided on by its worker alone; a UID never goes back to an earlier phase;
//! nothing polls (but trust anchors, where a pod has them); a stop of the agent touches no container; whatever a pod made on the host is found by name.
//!
//! Must not know: the store, the API server.

mod admit;
mod auth;
mod backoff;
mod collect;
mod connections;
mod container;
mod context;
mod cpus;
mod csi;
mod devices;
mod engine;
mod env_file;
mod environment;
mod etc_files;
mod expand;
mod fields;
mod grpc;
mod grpc_health;
mod heartbeat;
mod hook;
mod http_get;
mod image;
mod leftovers;
pub mod local_path;
mod logs;
mod machine;
mod metrics;
mod node;
mod options;
mod plan;
mod plugins;
mod pod;
#[cfg(test)]
mod pod_fields;
mod pods;
mod preempt;
mod pressure;
mod probe;
mod pulled;
mod quantity;
mod reservation;
mod reserved;
mod resize;
mod resources;
mod sandbox;
mod server;
mod settings;
mod shutdown;
mod slot;
mod source;
mod start;
mod static_pods;
mod stats;
mod status;
mod stream;
#[cfg(test)]
mod testing;
mod token;
mod trust;
mod unsupported;
mod userns;
mod volume;
mod worker;

pub use leftovers::PodPlaces;
pub use logs::{Ending, LogOptions, Stdio, stream as stream_log};
pub use node::VERSION;
pub use options::{Error, Options};
pub use settings::Settings;
pub use shutdown::end_containers;
pub use start::{Kubelet, start};
