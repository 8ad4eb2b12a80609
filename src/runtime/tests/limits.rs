//! What a container may use, and what it has used.

use skiff_linux::cgroup::Cgroups;
use skiff_runtime::Resources;

use crate::node::{Node, eventually};

crate::tests![
    limits_are_in_the_files,
    a_class_has_what_its_pods_have,
    out_of_memory,
    a_fork_bomb,
    limits_cannot_be_raised_from_inside,
    statistics
];

fn value(node: &Node, group: &str, v1: (&str, &str), v2: &str) -> String {
    value_of_class(node, &format!("/poduid-pod{group}"), v1, v2)
}

fn value_of_class(node: &Node, group: &str, v1: (&str, &str), v2: &str) -> String {
    let cgroups = Cgroups::detect().expect("cgroups");
    let (controller, file) = if cgroups.is_v2() { ("", v2) } else { v1 };
    let group = format!("{}/kubepods/burstable{group}", node.options.cgroup_root);
    let path = cgroups.directory(controller, &group).expect("the controller").join(file);
    std::fs::read_to_string(path).expect("a value").trim().to_owned()
}

async fn limits_are_in_the_files() {
    let node = Node::new().await;
    let mut sandbox = node.sandbox_config("pod");
    sandbox.resources = Resources { memory_limit_bytes: Some(256 << 20), ..Resources::default() };
    let sandbox = node.runtime().run_sandbox(sandbox).await.expect("a sandbox");
    let mut config = node.config("exec sleep 1000");
    config.resources = Resources {
        cpu_shares: Some(512),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        memory_limit_bytes: Some(64 << 20),
        pids_limit: Some(20),
        oom_score_adj: Some(900),
        cpus: Some("0".to_owned()),
        huge_pages: Some([(2 << 20, 4 << 20)].into()),
    };
    let id = node.start(&sandbox, config).await;
    let group = format!("/{}", id.0);
    let v2 = Cgroups::detect().expect("cgroups").is_v2();
    let memory = |group: &str| value(&node, group, ("memory", "memory.limit_in_bytes"), "memory.max");
    assert_eq!(memory(""), (256 << 20).to_string());
    assert_eq!(memory(&group), (64 << 20).to_string());
    assert_eq!(value(&node, &group, ("pids", "pids.max"), "pids.max"), "20");
    assert_eq!(value(&node, &group, ("cpu", "cpu.shares"), "cpu.weight"), if v2 { "59" } else { "512" });
    // Where the kernel counts them, and has pages of the size.
    for (size, bytes) in [("2MB", "4194304"), ("1GB", "0")] {
        let (v1_name, v2_name) = (format!("hugetlb.{size}.limit_in_bytes"), format!("hugetlb.{size}.max"));
        let (controller, file) = if v2 { ("", &v2_name) } else { ("hugetlb", &v1_name) };
        let own = format!("{}/kubepods/burstable/poduid-pod{group}", node.options.cgroup_root);
        let own = Cgroups::detect().expect("cgroups").directory(controller, &own);
        if own.is_some_and(|own| own.join(file).exists()) {
            assert_eq!(value(&node, &group, ("hugetlb", &v1_name), &v2_name), bytes, "{size}");
        }
    }
    let quota = value(&node, &group, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert_eq!(quota, if v2 { "50000 100000" } else { "50000" });
    assert_eq!(value(&node, &group, ("cpuset", "cpuset.cpus"), "cpuset.cpus"), "0");
    let pid = node.runtime().container(&id).await.expect("known").pid.expect("a pid");
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("a score").trim(), "900");

    let raised = Resources { memory_limit_bytes: Some(128 << 20), cpu_shares: Some(1024), ..Resources::default() };
    node.runtime().update_resources(&id, &raised).await.expect("updated");
    assert_eq!(memory(&group), (128 << 20).to_string());
    assert_eq!(value(&node, &group, ("cpu", "cpu.shares"), "cpu.weight"), if v2 { "100" } else { "1024" });
    assert_eq!(value(&node, &group, ("pids", "pids.max"), "pids.max"), "20");
    node.end().await;
}

async fn a_class_has_what_its_pods_have() {
    let node = Node::new().await;
    let v2 = Cgroups::detect().expect("cgroups").is_v2();
    let shares = |shares| Resources { cpu_shares: Some(shares), ..Resources::default() };
    let class = |of_v1: &str, of_v2: &str| {
        let found = value_of_class(&node, "", ("cpu", "cpu.shares"), "cpu.weight");
        assert_eq!(found, if v2 { of_v2 } else { of_v1 });
    };
    let mut sandboxes = Vec::new();
    // One that asks for nothing counts as nothing.
    for (name, own, of_v1, of_v2) in [("a", 2, "2", "1"), ("b", 512, "512", "20"), ("c", 1024, "1534", "58")] {
        let mut config = node.sandbox_config(name);
        config.resources = shares(own);
        sandboxes.push(node.runtime().run_sandbox(config).await.expect("a sandbox").id);
        class(of_v1, of_v2);
    }
    node.runtime().update_sandbox(&sandboxes[0], &shares(102)).await.expect("updated");
    class("1634", "61");
    node.runtime().remove_sandbox(&sandboxes[2]).await.expect("removed");
    class("612", "23");
    node.end().await;
}

async fn out_of_memory() {
    let node = Node::new().await;
    let limit = |config: &mut skiff_runtime::ContainerConfig| config.resources.memory_limit_bytes = Some(32 << 20);
    let (exit, _) = node.run("pod", limit, "exec tail /dev/zero").await;
    assert_eq!((exit.reason.as_str(), exit.code, exit.signal), ("OOMKilled", 137, Some(9)));
    node.end().await;
}

async fn a_fork_bomb() {
    let node = Node::new().await;
    let limit = |config: &mut skiff_runtime::ContainerConfig| config.resources.pids_limit = Some(10);
    let (_, log) = node.run("pod", limit, "exec 2>&1; for i in $(seq 30); do sleep 1000 & done; echo end").await;
    assert!(log.contains("can't fork"), "{log}");
    node.end().await;
}

async fn limits_cannot_be_raised_from_inside() {
    let node = Node::new().await;
    let limit = |config: &mut skiff_runtime::ContainerConfig| config.resources.memory_limit_bytes = Some(64 << 20);
    let script = "exec 2>&1; for file in $(find /sys/fs/cgroup -name memory.limit_in_bytes -o -name memory.max); do \
                  cat $file; echo 999999999 > $file; mount -o remount,rw /sys/fs/cgroup; mount -o remount,rw /sys/fs/cgroup/memory; \
                  echo 999999999 > $file; cat $file; done; mkdir /sys/fs/cgroup/x /sys/fs/cgroup/*/x; ls /sys/fs/cgroup | wc -l";
    let (_, log) = node.run("pod", limit, script).await;
    let limit = (64 << 20).to_string();
    assert_eq!(log.lines().filter(|line| **line == limit).count(), 2, "{log}");
    assert!(log.contains("Read-only file system"), "{log}");
    node.end().await;
}

async fn statistics() {
    let node = Node::new().await;
    let sandbox = node.sandbox("pod").await;
    let script = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo ready; while true; do :; done";
    let id = node.start(&sandbox, node.config(script)).await;
    let log = || async { node.log("pod", "main/0.log") };
    eventually("ready", log, |log| log.contains("ready")).await;
    let probe = || async { node.runtime().container_stats(&id).await.expect("statistics") };
    let stats = eventually("some work", probe, |stats| stats.cpu_usage_ns > 50_000_000).await;
    assert!(stats.memory_working_set_bytes > 20_000_000, "{stats:?}");
    assert!(
        stats.memory_rss_bytes > 20_000_000 && stats.memory_usage_bytes >= stats.memory_working_set_bytes,
        "{stats:?}"
    );
    assert_eq!(stats.pids, 1);
    node.end().await;
}
