//! Images, sandboxes and containers, in CRI's vocabulary. Usable and tested without a cluster.
//!
//! ```text
//!  Runtime (in the agent)            skiff supervisor (outlives it)        short-lived children of the supervisor
//!  runtime, sandboxes, containers,   supervisor/mod: epoll loop,           creator (libcontainer), sandbox, exec
//!  execs: the calls of the API   --> parent of every container        -->  plan + spec + identity decide what they do
//!  state: what is known          <-- events, exits                         entry: from root child to the program
//! ```
//!
//! Bottom-up: [`types`](self) is CRI's vocabulary; [`images`] pulls, imports and unpacks; `plan` decides what a container
//! is, `identity` who runs in it, `spec` how OCI says it; `protocol` is what agent and supervisor tell each other,
//! `record` what they leave on disk, `in_use` which images that needs; `supervisor` is the other process; `link` is our end of its socket, `state` what we
//! know, `recover` how records, host and supervisor come together again after a crash; `runtime`, `sandboxes`,
//! `containers` and `execs` are the handle's calls.
//!
//! Invariants: the end of the agent ends no container; what has no record is removed at the next start; whatever may
//! wait runs in the agent or in a child, never in the supervisor; nothing is forked or cloned from the agent, which only
//! ever executes the supervisor.
//!
//! Must not know: the Kubernetes API.

mod containers;
mod execs;
mod identity;
pub mod images;
mod in_use;
mod link;
mod plan;
mod protocol;
mod record;
mod recover;
mod runtime;
mod sandboxes;
mod spec;
mod state;
mod supervisor;
mod types;

pub use in_use::images_in_use;
pub use runtime::Runtime;
pub use supervisor::supervisor_main;
pub use types::*;
