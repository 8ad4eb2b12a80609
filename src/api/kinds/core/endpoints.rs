//! Endpoints.

use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use crate::kinds::adapter::Kind;
use crate::kinds::facts::{AGE, Facts, NAME, text};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;

/// How many endpoints a row shows.
const SHOWN: usize = 3;

pub(super) struct EndpointsKind;

impl Kind for EndpointsKind {
    type Typed = core::Endpoints;
    const FACTS: Facts = Facts {
        short_names: &["ep"],
        columns: &[NAME, text("Endpoints", "Addresses and ports that are ready to serve."), AGE],
        create_on_update: true,
        ..Facts::new("", "v1", "endpoints", "Endpoints")
    };

    fn default(object: &mut Value) {
        let Some(map) = object.as_object_mut() else { return };
        for subset in map.items("subsets") {
            for port in subset.items("ports") {
                port.fill("protocol", "TCP");
            }
        }
    }

    fn cells(object: &Value, row: &mut Row) {
        row.name(object);
        row.push(endpoints(object.list("subsets")));
        row.age(object);
    }
}

fn endpoints(subsets: &[Value]) -> String {
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let ips = || subset.list("addresses").iter().map(|a| a.text("ip"));
        if subset.list("ports").is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for port in subset.list("ports") {
            let number = port.int("port");
            all.extend(
                ips().map(|ip| if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }),
            );
        }
    }
    match all.len() {
        n if n > SHOWN => format!("{} + {} more...", all[..SHOWN].join(","), n - SHOWN),
        _ => all.join(","),
    }
}
