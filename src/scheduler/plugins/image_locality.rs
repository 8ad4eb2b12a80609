use crate::framework::{MAX_SCORE, Score};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

const MIB: i64 = 1024 * 1024;
/// Less than this is pulled before anyone notices.
const LITTLE: i64 = 23 * MIB;
/// More than this per container makes no node better.
const MUCH: i64 = 1000 * MIB;

/// A node is better that holds the pod's images, the more so where many nodes do (lest one node with a
/// big image draw all its pods).
pub struct ImageLocality;

impl Score for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, all: &Snapshot) -> i64 {
        self.scores(pod, &[node], all)[0]
    }

    fn scores(&self, pod: &PodInfo, nodes: &[&NodeInfo], all: &Snapshot) -> Vec<i64> {
        let spec = pod.spec();
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let images: Vec<(String, f64)> = containers
            .filter_map(|container| container.image.as_deref().map(tagged))
            .map(|image| {
                let holders = all.nodes.iter().filter(|node| node.images.contains_key(&image)).count();
                (image, holders as f64 / all.nodes.len().max(1) as f64)
            })
            .collect();
        let most = MUCH * i64::try_from(images.len().max(1)).unwrap_or(1);
        let score = |node: &&NodeInfo| {
            let held: i64 = images
                .iter()
                .filter_map(|(image, spread)| Some((*node.images.get(image)? as f64 * spread) as i64))
                .sum();
            MAX_SCORE * (held.clamp(LITTLE, most) - LITTLE) / (most - LITTLE)
        };
        nodes.iter().map(score).collect()
    }
}

/// With `:latest` where neither tag nor digest is given.
fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || image.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{info, pod};
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn images_that_are_there_draw_pods() {
        let image = |name: &str, size: i64| json!({"status": {"images": [{"names": [name], "sizeBytes": size}]}});
        let with = Arc::new(info("a", image("r.io/x:latest", 523 * MIB)));
        let without = Arc::new(info("b", json!({})));
        let pod = pod("p", json!({"containers": [{"name": "c", "image": "r.io/x"}]}));
        let alone = crate::testing::view(vec![with.clone()]);
        let both = crate::testing::view(vec![with.clone(), without.clone()]);
        assert_eq!(ImageLocality.score(&pod, &with, &alone), 51);
        assert_eq!(ImageLocality.score(&pod, &with, &both), 24);
        assert_eq!(ImageLocality.score(&pod, &without, &both), 0);
    }

    #[test]
    fn names_get_their_tag() {
        for (image, expect) in [
            ("nginx", "nginx:latest"),
            ("h:5000/nginx", "h:5000/nginx:latest"),
            ("nginx:1", "nginx:1"),
            ("nginx@sha256:0", "nginx@sha256:0"),
        ] {
            assert_eq!(tagged(image), expect);
        }
    }
}
