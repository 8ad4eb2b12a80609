//! What the server is and has: `api-resources`, `api-versions`, `cluster-info`, `version`, `explain`.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use crate::print::{Table, structured};
use crate::server::Server;
use crate::{Failure, Result};

/// The version of the API that this client was made for.
const CLIENT: &str = "v1.36.0";

#[derive(Args, Debug)]
pub struct Resources {
    /// Only this group; empty is the core group
    #[arg(long)]
    api_group: Option<String>,
    /// true or false: only (not) namespaced resources
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    namespaced: Option<bool>,
    /// Only those that support these verbs
    #[arg(long, value_delimiter = ',')]
    verbs: Vec<String>,
    /// Don't print headers
    #[arg(long)]
    no_headers: bool,
    /// wide or name
    #[arg(short, long, default_value = "")]
    output: String,
    /// name or kind
    #[arg(long, default_value = "")]
    sort_by: String,
}

pub async fn resources(server: &Server, arguments: Resources) -> Result {
    let discovery = server.discovery().await?;
    let mut found: Vec<_> = discovery
        .resources
        .iter()
        .filter(|resource| arguments.api_group.as_ref().is_none_or(|group| *group == resource.group))
        .filter(|resource| arguments.namespaced.is_none_or(|namespaced| namespaced == resource.namespaced))
        .filter(|resource| arguments.verbs.iter().all(|verb| resource.verbs.contains(verb)))
        .collect();
    match arguments.sort_by.as_str() {
        "kind" => found.sort_by_key(|resource| resource.kind.clone()),
        _ => found.sort_by_key(|resource| (resource.group.clone(), resource.name.clone())),
    }
    let wide = match arguments.output.as_str() {
        "name" => {
            found.iter().for_each(|resource| println!("{}", resource.qualified()));
            return Ok(());
        }
        "wide" => true,
        "" => false,
        other => return Err(Failure::text(format!("--output {other} is not available"))),
    };
    let mut table = Table::default();
    let mut header = vec!["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"];
    if wide {
        header.extend(["VERBS", "CATEGORIES"]);
    }
    if !arguments.no_headers {
        table.row(header.into_iter().map(str::to_owned));
    }
    for resource in found {
        let mut row = vec![
            resource.name.clone(),
            resource.short_names.join(","),
            resource.api_version(),
            resource.namespaced.to_string(),
            resource.kind.clone(),
        ];
        if wide {
            row.extend([resource.verbs.join(","), resource.categories.join(",")]);
        }
        table.row(row);
    }
    print!("{table}");
    Ok(())
}

pub async fn versions(server: &Server) -> Result {
    let mut versions = server.discovery().await?.versions.clone();
    versions.sort();
    versions.iter().for_each(|version| println!("{version}"));
    Ok(())
}

pub async fn cluster(server: &Server) -> Result {
    server.text("/version").await?;
    println!("Kubernetes control plane is running at {}", server.url);
    let services = server
        .get("/api/v1/namespaces/kube-system/services?labelSelector=kubernetes.io%2Fcluster-service%3Dtrue")
        .await?;
    for service in services["items"].as_array().into_iter().flatten() {
        let name = service["metadata"]["name"].as_str().unwrap_or_default();
        println!("{name} is running at {}/api/v1/namespaces/kube-system/services/{name}/proxy", server.url);
    }
    println!("\nTo further debug and diagnose cluster problems, use 'skiff diagnose'.");
    Ok(())
}

#[derive(Args, Debug)]
pub struct Version {
    /// Only this client's version, without asking the server
    #[arg(long)]
    pub client: bool,
    /// yaml or json
    #[arg(short, long, default_value = "")]
    output: String,
}

fn client() -> Value {
    json!({"gitVersion": CLIENT, "major": "1", "minor": "36", "platform": format!("linux/{}", std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"))})
}

pub fn client_version(arguments: &Version) -> Result {
    if arguments.output.is_empty() {
        println!("Client Version: {CLIENT}");
        return Ok(());
    }
    print!("{}", structured(&json!({"clientVersion": client()}), &arguments.output)?);
    Ok(())
}

pub async fn version(server: &Server, arguments: &Version) -> Result {
    if arguments.output.is_empty() {
        println!("Client Version: {CLIENT}");
        let version = server.get("/version").await?;
        println!("Server Version: {}", version["gitVersion"].as_str().unwrap_or("unknown"));
        return Ok(());
    }
    let version = server.get("/version").await?;
    print!("{}", structured(&json!({"clientVersion": client(), "serverVersion": version}), &arguments.output)?);
    Ok(())
}

#[derive(Args, Debug)]
pub struct Explain {
    /// TYPE[.field ...], e.g. pods.spec.containers
    path: String,
    /// All the fields, without their descriptions
    #[arg(long)]
    recursive: bool,
}

pub async fn explain(server: &Server, arguments: Explain) -> Result {
    let (ty, fields) = arguments.path.split_once('.').unwrap_or((&arguments.path, ""));
    let resource = server.discovery().await?.find(ty)?;
    let root = resource.root_path();
    let document = server.get(&format!("/openapi/v3{root}")).await?;
    let schemas = &document["components"]["schemas"];
    let is_kind = |schema: &Value| {
        schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten().any(|gvk| {
            gvk["group"] == resource.group.as_str()
                && gvk["version"] == resource.version.as_str()
                && gvk["kind"] == resource.kind.as_str()
        })
    };
    let Some(mut schema) =
        schemas.as_object().into_iter().flatten().map(|(_, schema)| schema).find(|schema| is_kind(schema))
    else {
        return Err(Failure::text(format!("couldn't find resource for {:?}", resource.qualified())));
    };
    let mut field: Option<(&str, &Value)> = None;
    for name in fields.split('.').filter(|name| !name.is_empty()) {
        let Some(property) = schema["properties"].get(name) else {
            return Err(Failure::text(format!("field {name:?} does not exist")));
        };
        field = Some((name, property));
        schema = inner(schemas, property);
    }
    let mut out = String::new();
    if !resource.group.is_empty() {
        writeln!(out, "GROUP:      {}", resource.group)?;
    }
    writeln!(out, "KIND:       {}\nVERSION:    {}\n", resource.kind, resource.version)?;
    if let Some((name, property)) = field {
        writeln!(out, "FIELD: {name} <{}>\n\n", type_name(schemas, property))?;
    }
    let description = field.and_then(|(_, property)| property["description"].as_str()).unwrap_or_default();
    writeln!(out, "DESCRIPTION:")?;
    for text in [description, schema["description"].as_str().unwrap_or_default()] {
        if !text.is_empty() {
            wrapped(&mut out, text, 4);
        }
    }
    if schema["properties"].is_object() {
        writeln!(out, "    \nFIELDS:")?;
        list_fields(&mut out, schemas, schema, arguments.recursive, 2, &mut Vec::new());
    }
    println!("{out}");
    Ok(())
}

/// What a property is made of, behind references, lists and maps.
fn inner<'a>(schemas: &'a Value, property: &'a Value) -> &'a Value {
    let reference = property["$ref"].as_str().or_else(|| property["allOf"][0]["$ref"].as_str());
    if let Some(name) = reference.and_then(|reference| reference.rsplit('/').next()) {
        return inner(schemas, &schemas[name]);
    }
    for within in ["items", "additionalProperties"] {
        if property[within].is_object() {
            return inner(schemas, &property[within]);
        }
    }
    property
}

fn type_name(schemas: &Value, property: &Value) -> String {
    if property["items"].is_object() {
        return format!("[]{}", type_name(schemas, &property["items"]));
    }
    if property["additionalProperties"].is_object() {
        return format!("map[string]{}", type_name(schemas, &property["additionalProperties"]));
    }
    let reference = property["$ref"].as_str().or_else(|| property["allOf"][0]["$ref"].as_str());
    if let Some(name) = reference.and_then(|reference| reference.rsplit('/').next()) {
        let scalar = schemas[name]["properties"]
            .is_null()
            .then(|| schemas[name]["type"].as_str())
            .flatten()
            .filter(|ty| *ty != "object");
        return scalar.map_or_else(|| name.rsplit('.').next().unwrap_or(name).to_owned(), str::to_owned);
    }
    property["type"].as_str().unwrap_or("Object").to_owned()
}

fn list_fields(
    out: &mut String,
    schemas: &Value,
    schema: &Value,
    recursive: bool,
    indent: usize,
    open: &mut Vec<String>,
) {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let needed = if required.contains(&name.as_str()) { " -required-" } else { "" };
        let ty = type_name(schemas, property);
        let pad = " ".repeat(indent);
        out.push_str(&format!("{pad}{name}\t<{ty}>{needed}\n"));
        if recursive {
            let within = inner(schemas, property);
            // A schema within itself is listed once.
            if within["properties"].is_object() && !open.contains(&ty) {
                open.push(ty);
                list_fields(out, schemas, within, true, indent + 2, open);
                open.pop();
            }
        } else {
            wrapped(out, property["description"].as_str().unwrap_or("<no description>"), indent + 2);
            out.push('\n');
        }
    }
}

fn wrapped(out: &mut String, text: &str, indent: usize) {
    let pad = " ".repeat(indent);
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && indent + line.len() + 1 + word.len() > 80 {
                out.push_str(&format!("{pad}{line}\n"));
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        if !line.is_empty() {
            out.push_str(&format!("{pad}{line}\n"));
        }
    }
}
