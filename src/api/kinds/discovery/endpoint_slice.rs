//! EndpointSlice.

use k8s_openapi::api::discovery::v1 as discovery;
use serde_json::Value;

use crate::kinds::adapter::Kind;
use crate::kinds::facts::{AGE, Facts, NAME, text};
use crate::kinds::peek::{Fill, Peek};
use crate::kinds::row::Row;

/// How many entries a cell shows.
const SHOWN: usize = 3;

pub(super) struct EndpointSlices;

impl Kind for EndpointSlices {
    type Typed = discovery::EndpointSlice;
    const FACTS: Facts = Facts {
        columns: &[
            NAME,
            text("AddressType", "What kind of addresses it holds."),
            text("Ports", "The ports of all its endpoints."),
            text("Endpoints", "The addresses of its endpoints."),
            AGE,
        ],
        generation: true,
        ..Facts::new("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
    };

    fn default(object: &mut Value) {
        let Some(map) = object.as_object_mut() else { return };
        for port in map.items("ports") {
            if port.lacks("name") {
                port.insert("name".to_owned(), "".into());
            }
            port.fill("protocol", "TCP");
        }
    }

    fn cells(slice: &Value, row: &mut Row) {
        let port = |port: &Value| match (port.at("port").as_i64(), port.at("name").as_str()) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => "*".to_owned(),
        };
        let addresses = slice.list("endpoints").iter().flat_map(|e| e.list("addresses"));
        row.name(slice);
        row.push(slice.text("addressType"));
        row.push(some_of(slice.list("ports").iter().map(port).collect()));
        row.push(some_of(addresses.filter_map(Value::as_str).map(str::to_owned).collect()));
        row.age(slice);
    }
}

fn some_of(all: Vec<String>) -> String {
    match all.len() {
        0 => "<unset>".to_owned(),
        n if n > SHOWN => format!("{} + {} more...", all[..SHOWN].join(","), n - SHOWN),
        _ => all.join(","),
    }
}
