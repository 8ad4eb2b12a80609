//! How long creation takes. Prints; asserts nothing about time.

use std::fs;
use std::time::Instant;

use skiff_linux::mount;

use crate::node::Node;

crate::tests![create_start_exec, hardly_reads_the_table_of_mounts];

const ROUNDS: usize = 30;

/// The middle one, and the least: what it would be on an idle machine.
fn p50(mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    format!("{:.1} (least {:.1}) ms", times[times.len() / 2], times[0])
}

async fn create_start_exec() {
    let node = Node::new().await;
    let (mut sandboxes, mut creates, mut starts, mut execs, mut removes) = (vec![], vec![], vec![], vec![], vec![]);
    let ms = |since: Instant| since.elapsed().as_secs_f64() * 1000.0;
    for round in 0..ROUNDS {
        let begin = Instant::now();
        let sandbox = node.sandbox(&format!("pod{round}")).await;
        sandboxes.push(ms(begin));
        let begin = Instant::now();
        let id = node.runtime().create_container(&sandbox.id, node.config("exec sleep 1000")).await.expect("created");
        creates.push(ms(begin));
        let begin = Instant::now();
        node.runtime().start_container(&id).await.expect("started");
        starts.push(ms(begin));
        let begin = Instant::now();
        node.runtime().exec_sync(&id, &["true".into()], None).await.expect("an exec");
        execs.push(ms(begin));
        if round % 2 == 0 {
            let begin = Instant::now();
            node.runtime().remove_sandbox(&sandbox.id).await.expect("removed");
            removes.push(ms(begin));
        }
    }
    println!(
        "p50 of {ROUNDS}: sandbox {}, create {}, start {}, exec {}, removal {}",
        p50(sandboxes),
        p50(creates),
        p50(starts),
        p50(execs),
        p50(removes)
    );
    let (own, children) = cpu_ms(&node);
    println!("the supervisor of {} containers: {}", ROUNDS / 2, memory(&node));
    let rounds = ROUNDS as f64;
    println!("CPU per round: supervisor {:.1} ms, its children {:.1} ms", own / rounds, children / rounds);
    node.end().await;
}

/// That table grows with the pods of a node; a start must not read it again and again.
async fn hardly_reads_the_table_of_mounts() {
    let node = Node::new().await;
    let many = node.directory.path().join("many");
    fs::create_dir(&many).expect("a directory");
    for i in 0..200 {
        let place = many.join(i.to_string());
        fs::create_dir(&place).expect("a directory");
        mount::bind(&many, &place).expect("bound");
    }
    let sandbox = node.sandbox("pod").await;
    let before = read_bytes(&node);
    let id = node.runtime().create_container(&sandbox.id, node.config("exec sleep 1000")).await.expect("created");
    node.runtime().start_container(&id).await.expect("started");
    let read = read_bytes(&node) - before;
    let table = fs::read("/proc/self/mountinfo").expect("the mounts").len() as u64;
    // Before anything is asserted, lest they stay.
    mount::ensure_unmounted_below(&many).expect("unmounted");
    node.end().await;
    assert!(read < table, "{read} bytes were read, with {table} in the table of mounts");
}

/// What the supervisor has read, and its children that have ended: those that make a container.
fn read_bytes(node: &Node) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/io", supervisor(node))).expect("its reads");
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("a count");
    line.parse().expect("a number")
}

/// The supervisor's own time and that of the children that it has reaped: steadier than the clock on a busy machine.
fn cpu_ms(node: &Node) -> (f64, f64) {
    let pid = supervisor(node);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its times");
    let after_name = stat.rsplit(')').next().expect("fields");
    let ticks: Vec<f64> =
        after_name.split_whitespace().skip(11).take(4).map(|t| t.parse().expect("a number")).collect();
    (10.0 * (ticks[0] + ticks[1]), 10.0 * (ticks[2] + ticks[3]))
}

fn supervisor(node: &Node) -> nix::unistd::Pid {
    let cgroups = skiff_linux::cgroup::Cgroups::detect().expect("cgroups");
    let group = format!("{}/skiff-supervisor", node.options.cgroup_root);
    cgroups.processes(&group).expect("processes")[0]
}

fn memory(node: &Node) -> String {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", supervisor(node))).expect("its memory");
    let lines = text.lines().filter(|line| ["Pss:", "Pss_Anon:"].iter().any(|name| line.starts_with(name)));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
}
