//! How long creation takes. Prints; asserts nothing about time.

use std::time::Instant;

use crate::node::Node;

crate::tests![create_start_exec];

const ROUNDS: usize = 30;

fn p50(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
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
        "p50 of {ROUNDS}: sandbox {:.1} ms, create {:.1} ms, start {:.1} ms, exec {:.1} ms, removal {:.1} ms",
        p50(sandboxes),
        p50(creates),
        p50(starts),
        p50(execs),
        p50(removes)
    );
    node.end().await;
}
