//! `kubectl get`: tables made by the server, or objects in other formats; once, or for as long as somebody watches.

use clap::Args;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::discovery::Resource;
use crate::failure::is_not_found;
use crate::manifest::Files;
use crate::print::{JsonPath, Output, Table, without_managed_fields};
use crate::server::{JSON, Server, TABLE, path, with_query};
use crate::targets::{self, BULK, Target};
use crate::{Failure, Result};

mod rows;

use rows::{SortKey, View, sort_rows};

#[derive(Args, Debug)]
pub struct Arguments {
    /// TYPE[/NAME] [NAME ...]
    words: Vec<String>,
    #[command(flatten)]
    files: Files,
    /// Output format: wide, yaml, json, name, jsonpath=..., go-template=..., custom-columns=...
    #[arg(short, long, default_value = "")]
    output: String,
    /// The template, or its file, of -o go-template and -o jsonpath
    #[arg(long, default_value = "", hide_default_value = true)]
    template: String,
    /// List the requested objects across all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Selector (label query) to filter on
    #[arg(short = 'l', long, default_value = "")]
    selector: String,
    /// Selector (field query) to filter on
    #[arg(long, default_value = "")]
    field_selector: String,
    /// After listing the requested objects, watch for changes
    #[arg(short, long)]
    watch: bool,
    /// Watch for changes without listing first
    #[arg(long)]
    watch_only: bool,
    /// Don't print headers
    #[arg(long)]
    no_headers: bool,
    /// Show all labels as the last column
    #[arg(long)]
    show_labels: bool,
    /// Labels to show as columns
    #[arg(short = 'L', long, value_delimiter = ',')]
    label_columns: Vec<String>,
    /// List the resource type for the requested objects
    #[arg(long)]
    show_kind: bool,
    /// Don't hide managedFields
    #[arg(long)]
    show_managed_fields: bool,
    /// Get this subresource (status, scale, resize) of the objects
    #[arg(long, default_value = "")]
    subresource: String,
    /// Treat "resource not found" as success
    #[arg(long)]
    ignore_not_found: bool,
    /// Sort by this JSONPath expression
    #[arg(long)]
    sort_by: Option<String>,
    /// Most objects in one answer of the server
    #[arg(long, default_value = "500")]
    chunk_size: u32,
    /// A path to ask the server for as it is
    #[arg(long)]
    raw: Option<String>,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    if let Some(raw) = &arguments.raw {
        if !arguments.output.is_empty() {
            return Err(Failure::text("--raw and --output are mutually exclusive"));
        }
        if !raw.starts_with('/') && !raw.contains("://") {
            return Err(Failure::text(format!(
                "--raw must be a valid URL path: parse {raw:?}: invalid URI for request"
            )));
        }
        print!("{}", server.text(raw).await?);
        return Ok(());
    }
    let output = Output::parse(&arguments.output, &arguments.template, true)?;
    let targets = arguments.targets(server).await?;
    if targets.is_empty() {
        eprintln!(
            "You must specify the type of resource to get. Use \"kubectl api-resources\" for a complete list of supported resources.\n"
        );
        return Err(Failure::text(
            "Required resource not specified.\nUse \"kubectl explain <resource>\" for a detailed description of that resource (e.g. kubectl explain pods).\nSee 'kubectl get -h' for help and examples",
        ));
    }
    let get = Get { server, arguments: &arguments, output };
    if arguments.watch || arguments.watch_only {
        let [target] = targets.as_slice() else {
            return Err(Failure::text("you may only specify a single resource type"));
        };
        return get.watch(target).await;
    }
    if !arguments.subresource.is_empty() && targets.iter().any(|target| target.names.is_empty()) {
        return Err(Failure::text(BULK));
    }
    match get.output {
        Output::Table { .. } => get.tables(&targets).await,
        _ => get.objects(&targets).await,
    }
}

impl Arguments {
    async fn targets(&self, server: &Server) -> Result<Vec<Target>> {
        if self.files.is_empty() {
            return targets::parse(server.discovery().await?, &self.words);
        }
        // Objects of one type and namespace that follow each other share a table.
        let mut targets: Vec<Target> = Vec::new();
        for mut manifest in self.files.read()? {
            let resource = manifest.place(server).await?.clone();
            let (name, namespace) = (manifest.name().to_owned(), Some(manifest.namespace().to_owned()));
            match targets.last_mut().filter(|last| last.resource == resource && last.namespace == namespace) {
                Some(last) => last.names.push(name),
                None => targets.push(Target { resource, names: vec![name], namespace }),
            }
        }
        Ok(targets)
    }
}

struct Get<'a> {
    server: &'a Server,
    arguments: &'a Arguments,
    output: Output,
}

impl Get<'_> {
    fn namespace(&self) -> Option<&str> {
        (!self.arguments.all_namespaces).then_some(self.server.namespace.as_str())
    }

    fn list_path(&self, resource: &Resource, more: &[(&str, &str)]) -> String {
        let base = path(resource, self.namespace(), "", "");
        // Rows that are sorted by what they don't show come with their objects.
        let sorted = self.arguments.sort_by.is_some() && matches!(self.output, Output::Table { .. });
        let pairs = [
            ("labelSelector", self.arguments.selector.as_str()),
            ("fieldSelector", &self.arguments.field_selector),
            ("includeObject", if sorted { "Object" } else { "" }),
        ];
        with_query(&with_query(&base, &pairs), more)
    }

    /// What the server has, in all its parts; names that don't exist are told, and fail the command at the end.
    async fn answers(&self, target: &Target, accept: &str, missing: &mut Vec<anyhow::Error>) -> Result<Vec<Value>> {
        let mut answers = Vec::new();
        let namespace = target.namespace.as_deref().or(self.namespace());
        // Of what files name there is the whole, as upstream does.
        let part = if self.arguments.files.is_empty() { self.arguments.subresource.as_str() } else { "" };
        for name in &target.names {
            match self.server.subresource(&target.resource, namespace, name, part, accept).await {
                Ok(answer) => answers.push(answer),
                Err(e) if is_not_found(&e) && self.arguments.ignore_not_found => {}
                Err(e) if is_not_found(&e) => missing.push(e),
                Err(e) => return Err(e),
            }
        }
        if target.names.is_empty() {
            let limit =
                if self.arguments.chunk_size == 0 { String::new() } else { self.arguments.chunk_size.to_string() };
            let mut next = String::new();
            loop {
                let path = self.list_path(&target.resource, &[("limit", &limit), ("continue", &next)]);
                let answer = self.server.get_as(&path, accept).await?;
                next = answer["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
                answers.push(answer);
                if next.is_empty() {
                    break;
                }
            }
        }
        Ok(answers)
    }

    async fn tables(&self, targets: &[Target]) -> Result {
        let mut missing = Vec::new();
        let mut parts: Vec<(&Resource, Vec<Value>)> = Vec::new();
        for target in targets {
            let answers = match self.answers(target, TABLE, &mut missing).await {
                // Of a category, what can't be listed is passed over.
                Err(e) if targets.len() > 1 && is_not_found(&e) => continue,
                answers => answers?,
            };
            match parts.last_mut().filter(|(resource, _)| **resource == target.resource) {
                Some((_, part)) => part.extend(answers),
                None => parts.push((&target.resource, answers)),
            }
        }
        // What was found is of one type, or of several.
        let mut found = parts.iter().filter(|(_, answers)| !answers.is_empty()).map(|(resource, _)| *resource);
        let first = found.next();
        let several = self.arguments.show_kind || found.any(|resource| Some(resource) != first);
        let mut printed = false;
        for (resource, mut answers) in parts {
            if let Some(by) = &self.arguments.sort_by {
                sort_rows(&mut answers, &JsonPath::parse_path(by)?);
            }
            let mut view = View::new(self, resource, several);
            let mut table = Table::default();
            for answer in &answers {
                view.add(answer, &mut table);
            }
            if view.rows == 0 {
                continue;
            }
            if printed {
                println!();
            }
            print!("{table}");
            printed = true;
        }
        if !printed && missing.is_empty() && !self.arguments.ignore_not_found {
            self.nothing(targets.iter().any(|target| target.resource.namespaced));
        }
        told(missing)
    }

    fn nothing(&self, scoped: bool) {
        match self.namespace().filter(|_| scoped) {
            Some(namespace) => eprintln!("No resources found in {namespace} namespace."),
            None => eprintln!("No resources found"),
        }
    }

    async fn objects(&self, targets: &[Target]) -> Result {
        let mut missing = Vec::new();
        let mut objects: Vec<(Resource, Value)> = Vec::new();
        let mut single = targets.len() == 1 && targets[0].names.len() == 1;
        for target in targets {
            for answer in self.answers(target, JSON, &mut missing).await? {
                let items = answer.get("items").and_then(Value::as_array).cloned();
                let in_list = items.is_some();
                for mut object in items.unwrap_or_else(|| vec![answer.clone()]) {
                    if in_list {
                        object["apiVersion"] = target.resource.api_version().into();
                        object["kind"] = target.resource.kind.as_str().into();
                    }
                    objects.push((target.resource.clone(), object));
                }
                single &= !in_list;
            }
        }
        if !self.arguments.show_managed_fields {
            for (_, object) in &mut objects {
                *object = without_managed_fields(object.take());
            }
        }
        if let Some(by) = &self.arguments.sort_by {
            let by = JsonPath::parse_path(by)?;
            objects
                .sort_by_cached_key(|(_, object)| SortKey::of(by.values(object).ok().and_then(|v| v.first().copied())));
        }
        self.print_objects(&objects, single)?;
        told(missing)
    }

    fn print_objects(&self, objects: &[(Resource, Value)], single: bool) -> Result {
        if objects.is_empty() && (single || self.output.is_table()) {
            if !single {
                self.nothing(true);
            }
            return Ok(());
        }
        match &self.output {
            Output::Name | Output::Table { .. } => {
                for (resource, object) in objects {
                    print!("{}", self.output.show(object, Some(resource))?);
                }
            }
            Output::Columns(columns) => {
                let values: Vec<Value> = objects.iter().map(|(_, object)| object.clone()).collect();
                print!("{}", columns.table(&values, !self.arguments.no_headers)?);
            }
            output => match objects {
                [(resource, object)] if single => print!("{}", output.show(object, Some(resource))?),
                many => {
                    let items: Vec<&Value> = many.iter().map(|(_, object)| object).collect();
                    let list = json!({"apiVersion": "v1", "kind": "List", "items": items, "metadata": {"resourceVersion": ""}});
                    print!("{}", output.show(&list, None)?);
                }
            },
        }
        Ok(())
    }

    async fn watch(&self, target: &Target) -> Result {
        let resource = &target.resource;
        let is_table = matches!(self.output, Output::Table { .. });
        let accept = if is_table { TABLE } else { JSON };
        let name = match target.names.as_slice() {
            [] => String::new(),
            [name] => format!("metadata.name={name}"),
            _ => return Err(Failure::text("watch is only supported on individual resources and resource collections")),
        };
        let with_name = |more: &[(&str, &str)]| {
            let mut pairs = more.to_vec();
            pairs.push(("fieldSelector", &name));
            self.list_path(resource, &pairs)
        };
        if let [name] = target.names.as_slice() {
            let namespace = target.namespace.as_deref().or(self.namespace());
            self.server.object(resource, namespace, name, JSON).await?;
        }
        let first = self.server.get_as(&with_name(&[]), accept).await?;
        let mut view = View::new(self, resource, self.arguments.show_kind);
        let mut shown = Table::default();
        if !self.arguments.watch_only {
            self.show_watched(&first, &mut view, &mut shown)?;
        }
        let mut version = first["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        loop {
            let path = with_name(&[("watch", "true"), ("resourceVersion", &version), ("allowWatchBookmarks", "true")]);
            let mut events = std::pin::pin!(self.server.watch(&path, accept).await?);
            while let Some(event) = events.next().await {
                let (kind, object) = event?;
                let seen = match object.get("rows") {
                    Some(rows) => &rows[0]["object"]["metadata"]["resourceVersion"],
                    None => &object["metadata"]["resourceVersion"],
                };
                if let Some(seen) = seen.as_str() {
                    version = seen.to_owned();
                }
                if kind != "BOOKMARK" {
                    self.show_watched(&object, &mut view, &mut shown)?;
                }
            }
        }
    }

    fn show_watched(&self, object: &Value, view: &mut View<'_>, shown: &mut Table) -> Result {
        if matches!(self.output, Output::Table { .. }) {
            let mut part = Table::below(shown);
            view.add(object, &mut part);
            print!("{part}");
            *shown = part;
        } else {
            let items = object.get("items").and_then(Value::as_array).cloned().unwrap_or_else(|| vec![object.clone()]);
            for mut item in items {
                item["apiVersion"] = view.resource.api_version().into();
                item["kind"] = view.resource.kind.as_str().into();
                if !self.arguments.show_managed_fields {
                    item = without_managed_fields(item);
                }
                if matches!(&self.output, Output::Structured(format) if format == "yaml") {
                    println!("---");
                }
                print!("{}", self.output.show(&item, Some(view.resource))?);
            }
        }
        use std::io::Write as _;
        std::io::stdout().flush().map_err(|e| Failure::text(format!("write to stdout: {e}")))
    }
}

/// Names that don't exist: the first ends the command, the others are told before.
fn told(mut missing: Vec<anyhow::Error>) -> Result {
    let Some(last) = missing.pop() else { return Ok(()) };
    for error in &missing {
        eprintln!("{}", crate::failure::sentence(error));
    }
    Err(last)
}
