//! `kubectl events`.

use clap::Args;
use futures::StreamExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_api::duration::human_since;

use crate::print::{Printing, Table};
use crate::server::{JSON, Server, with_query};
use crate::targets::{self, parse};
use crate::{Failure, Result};

#[derive(Args, Debug)]
pub struct Arguments {
    /// List the events of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only events about this object: TYPE/NAME
    #[arg(long = "for")]
    about: Option<String>,
    /// Only events of these types: Normal, Warning
    #[arg(long, value_delimiter = ',')]
    types: Vec<String>,
    /// After listing the events, watch for more
    #[arg(short, long)]
    watch: bool,
    /// Don't print headers
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    printing: Printing,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    for ty in &arguments.types {
        if !["normal", "warning"].contains(&ty.to_ascii_lowercase().as_str()) {
            return Err(Failure::text("valid --types are Normal or Warning"));
        }
    }
    let about = match &arguments.about {
        Some(word) => Some(about(server, word).await?),
        None => None,
    };
    let fields = match &about {
        Some((kind, name)) => format!("involvedObject.kind={kind},involvedObject.name={name}"),
        None => String::new(),
    };
    let resource = server.discovery().await?.find("events.v1.")?.clone();
    let namespace = (!arguments.all_namespaces).then_some(server.namespace.as_str());
    let wanted = |event: &Value| {
        let ty = event["type"].as_str().unwrap_or_default();
        arguments.types.is_empty() || arguments.types.iter().any(|wanted| wanted.eq_ignore_ascii_case(ty))
    };
    let listed = targets::page(server, &resource, namespace, &fields).await?;
    let mut events: Vec<Value> = listed.objects.into_iter().filter(wanted).collect();
    events.sort_by_key(last_seen);
    if events.is_empty() && !arguments.watch {
        match namespace {
            Some(namespace) => eprintln!("No events found in {namespace} namespace."),
            None => eprintln!("No events found."),
        }
        return Ok(());
    }
    let mut shown = Table::default();
    if !arguments.no_headers && arguments.printing.output.is_empty() {
        let place = arguments.all_namespaces.then_some("NAMESPACE");
        let header = place.into_iter().chain(["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]);
        shown.row(header.map(str::to_owned));
    }
    if arguments.printing.output.is_empty() {
        events.iter().for_each(|event| shown.row(row(event, arguments.all_namespaces)));
        print!("{shown}");
    } else {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": events, "metadata": {"resourceVersion": ""}});
        arguments.printing.print(&list, &resource, String::new)?;
    }
    if !arguments.watch {
        return Ok(());
    }
    let base = crate::server::path(&resource, namespace, "", "");
    let pairs = [("fieldSelector", fields.as_str()), ("watch", "true"), ("resourceVersion", &listed.version)];
    let mut changes = std::pin::pin!(server.watch(&with_query(&base, &pairs), JSON).await?);
    while let Some(change) = changes.next().await {
        let (kind, event) = change?;
        if kind == "DELETED" || !wanted(&event) {
            continue;
        }
        if arguments.printing.output.is_empty() {
            let mut part = Table::below(&shown);
            part.row(row(&event, arguments.all_namespaces));
            print!("{part}");
            shown = part;
        } else {
            arguments.printing.print(&event, &resource, String::new)?;
        }
    }
    Ok(())
}

/// The kind and name that events are about.
async fn about(server: &Server, word: &str) -> Result<(String, String)> {
    let targets = parse(server.discovery().await?, &[word.to_owned()])?;
    match targets.as_slice() {
        [target] if target.names.len() == 1 => Ok((target.resource.kind.clone(), target.names[0].clone())),
        _ => Err(Failure::text("--for must be in resource/name form")),
    }
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

fn last_seen(event: &Value) -> Option<Timestamp> {
    time(&event["series"]["lastObservedTime"])
        .or_else(|| time(&event["lastTimestamp"]))
        .or_else(|| time(&event["eventTime"]))
}

fn row(event: &Value, with_namespace: bool) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let now = Timestamp::now();
    let age = |at: Option<Timestamp>| at.map_or_else(|| "<unknown>".to_owned(), |at| human_since(at, now));
    let first = time(&event["firstTimestamp"]).or_else(|| time(&event["eventTime"]));
    let last = last_seen(event);
    let count = event["series"]["count"].as_i64().or_else(|| event["count"].as_i64()).unwrap_or(1);
    let interval =
        if count > 1 { format!("{} (x{count} over {})", age(last), age(first)) } else { age(first.or(last)) };
    let object = &event["involvedObject"];
    let mut row = Vec::new();
    if with_namespace {
        row.push(text(&event["metadata"]["namespace"]));
    }
    row.extend([
        interval,
        text(&event["type"]),
        text(&event["reason"]),
        format!("{}/{}", text(&object["kind"]), text(&object["name"])),
        text(&event["message"]).trim().to_owned(),
    ]);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_row() {
        let event = json!({"type": "Normal", "reason": "Started", "message": " ok \n", "count": 1, "metadata": {"namespace": "d"},
            "involvedObject": {"kind": "Pod", "name": "p"}});
        assert_eq!(row(&event, true), ["d", "<unknown>", "Normal", "Started", "Pod/p", "ok"]);
    }
}
