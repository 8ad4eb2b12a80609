//! Linux without Kubernetes: netlink, nf_tables, namespaces, mounts, cgroups, pidfd, seccomp, BPF.
//! The only crate with `unsafe`.
//!
//! Must not know: Kubernetes.

pub mod net;
