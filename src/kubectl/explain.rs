//! `kubectl explain`: what a type's fields are, from the server's OpenAPI v3 documents.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use clap::Args;
use serde_json::Value;

use crate::discovery::{Discovery, Resource};
use crate::server::Server;
use crate::{Failure, Result};

/// How many values of an enumeration a list of fields shows.
const ENUM_LIMIT: usize = 4;

#[derive(Args, Debug)]
pub struct Arguments {
    /// TYPE[.field ...], e.g. pods.spec.containers
    path: String,
    /// All the fields, without their descriptions
    #[arg(long)]
    recursive: bool,
    /// With --recursive, no deeper than this; 0 is without a limit
    #[arg(long, default_value = "0")]
    max_depth: usize,
    /// Of this group and version
    #[arg(long, default_value = "")]
    api_version: String,
    /// plaintext
    #[arg(short, long, default_value = "plaintext")]
    output: String,
}

pub async fn run(server: &Server, arguments: Arguments) -> Result {
    match arguments.output.as_str() {
        "plaintext" => {}
        "plaintext-openapiv2" => {
            return Err(Failure::text(
                "plaintext-openapiv2 is not part of this kubectl; the default, plaintext, reads OpenAPI v3",
            ));
        }
        other => return Err(Failure::text(format!("unrecognized format: {other}"))),
    }
    let (resource, fields) = split(server.discovery().await?, &arguments.path, &arguments.api_version)?;
    let document = server.get(&format!("/openapi/v3{}", resource.root_path())).await?;
    let schemas = Schemas { document: &document };
    let Some(schema) = schemas.of_kind(&resource) else {
        return Err(Failure::text(format!("GVR ({}) not found in OpenAPI schema", resource.qualified())));
    };
    print!("{}", head(&resource));
    println!("{}", explain(&schemas, schema, &fields, arguments.recursive, arguments.max_depth)?);
    Ok(())
}

/// The type, which may carry its group, and the names of the fields behind it.
fn split(discovery: &Discovery, path: &str, api_version: &str) -> Result<(Resource, Vec<String>)> {
    let parts: Vec<&str> = path.split('.').filter(|part| !part.is_empty()).collect();
    let longest = (1..=parts.len()).rev().find_map(|end| Some((end, discovery.find(&parts[..end].join(".")).ok()?)));
    let (end, resource) = match longest {
        Some(found) => found,
        None => (1, discovery.find(path).map_err(|e| Failure::Unreachable(e.to_string()))?),
    };
    let fields = parts[end..].iter().map(|part| (*part).to_owned()).collect();
    if api_version.is_empty() {
        return Ok((resource.clone(), fields));
    }
    let there = |other: &&Resource| other.name == resource.name && other.api_version() == api_version;
    match discovery.resources.iter().find(there) {
        Some(resource) => Ok((resource.clone(), fields)),
        None => Err(Failure::text(format!("couldn't find resource for \"{api_version}, Resource={}\"", resource.name))),
    }
}

fn head(resource: &Resource) -> String {
    let group = if resource.group.is_empty() { String::new() } else { format!("GROUP:      {}\n", resource.group) };
    format!("{group}KIND:       {}\nVERSION:    {}\n\n", resource.kind, resource.version)
}

fn explain(schemas: &Schemas<'_>, schema: &Value, fields: &[String], recursive: bool, depth: usize) -> Result<String> {
    let mut out = String::new();
    let (mut schema, mut rest) = (schema, fields);
    while let [name, behind @ ..] = rest {
        let property = schemas.property(schema, name);
        let property = property.ok_or_else(|| {
            // Upstream, too, names the last one, whichever it is that is missing.
            Failure::text(format!("field {:?} does not exist", fields.last().unwrap_or(name)))
        })?;
        if behind.is_empty() {
            writeln!(out, "FIELD: {name} <{}>", schemas.type_name(property))?;
            out.push_str(&long_enum(property));
            out.push_str("\n\n");
        }
        (schema, rest) = (property, behind);
    }
    let resolved = schemas.resolve(schema);
    let mut description = String::new();
    schemas.describe(resolved, &mut description);
    let description = if description.is_empty() { "<empty>".to_owned() } else { description };
    writeln!(out, "DESCRIPTION:\n{}", indented(&wrapped(&description, 76), 4))?;
    docs(&mut out, resolved, 0)?;
    let mut list = String::new();
    schemas.list(&mut list, resolved, 1, recursive, depth, &BTreeSet::new())?;
    if !list.is_empty() {
        write!(out, "FIELDS:\n{list}")?;
    }
    Ok(out)
}

struct Schemas<'a> {
    document: &'a Value,
}

fn reference(schema: &Value) -> &str {
    schema["$ref"].as_str().unwrap_or_default()
}

impl<'a> Schemas<'a> {
    fn of_kind(&self, resource: &Resource) -> Option<&'a Value> {
        let is_it = |gvk: &Value| {
            gvk["group"] == resource.group.as_str()
                && gvk["version"] == resource.version.as_str()
                && gvk["kind"] == resource.kind.as_str()
        };
        let kinds = |schema: &Value| {
            schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|all| all.iter().any(is_it))
        };
        self.document["components"]["schemas"].as_object()?.values().find(|schema| kinds(schema))
    }

    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let pointer = reference(schema).strip_prefix('#').filter(|pointer| !pointer.is_empty());
        pointer.and_then(|pointer| self.document.pointer(pointer)).unwrap_or(schema)
    }

    /// The field of a name, behind references, lists, maps and alternatives.
    fn property(&self, schema: &'a Value, name: &str) -> Option<&'a Value> {
        let resolved = self.resolve(schema);
        if let Some(property) = resolved["properties"].get(name) {
            return Some(property);
        }
        for within in ["items", "additionalProperties"] {
            if resolved[within].is_object() {
                return self.property(&resolved[within], name);
            }
        }
        resolved["allOf"].as_array().into_iter().flatten().find_map(|schema| self.property(schema, name))
    }

    fn type_name(&self, schema: &'a Value) -> String {
        let all_of = schema["allOf"].as_array().map(Vec::as_slice).unwrap_or_default();
        if schema["items"].is_object() {
            return format!("[]{}", self.type_name(&schema["items"]));
        }
        if schema["additionalProperties"].is_object() {
            return format!("map[string]{}", self.type_name(&schema["additionalProperties"]));
        }
        if let ([one], false) = (all_of, schema["properties"].is_object()) {
            return self.type_name(one);
        }
        if !reference(schema).is_empty() {
            let resolved = self.resolve(schema);
            return match resolved["type"].as_str().filter(|ty| *ty != "object" && !std::ptr::eq(resolved, schema)) {
                Some(ty) => ty.to_owned(),
                None => reference(schema)
                    .rsplit(['/', '.'])
                    .next()
                    .filter(|name| !name.is_empty())
                    .unwrap_or("Object")
                    .to_owned(),
            };
        }
        match schema["type"].as_str() {
            Some("object") | None => "Object".to_owned(),
            Some(ty) => ty.to_owned(),
        }
    }

    /// The descriptions of a schema and of all that it is made of.
    fn describe(&self, schema: &'a Value, out: &mut String) {
        let schema = self.resolve(schema);
        if let Some(text) = schema["description"].as_str().filter(|text| !text.is_empty()) {
            out.push_str(text);
            out.push('\n');
        }
        schema["allOf"].as_array().into_iter().flatten().for_each(|part| self.describe(part, out));
        for within in ["items", "additionalProperties"] {
            if schema[within].is_object() {
                self.describe(&schema[within], out);
            }
        }
    }

    /// The fields; `seen` are the references on the way here, which end what would go on for ever.
    fn list(
        &self,
        out: &mut String,
        schema: &'a Value,
        level: usize,
        recursive: bool,
        depth: usize,
        seen: &BTreeSet<String>,
    ) -> Result {
        let mut seen = seen.clone();
        if !reference(schema).is_empty() && !seen.insert(reference(schema).to_owned()) {
            return Ok(());
        }
        let resolved = self.resolve(schema);
        for (name, property) in resolved["properties"].as_object().into_iter().flatten() {
            let required = resolved["required"].as_array().is_some_and(|all| all.iter().any(|r| r == name.as_str()));
            self.field(out, name, property, required, level, recursive)?;
            if recursive && (depth == 0 || level < depth) {
                self.list(out, property, level + 1, recursive, depth, &seen)?;
            }
        }
        for part in resolved["allOf"].as_array().into_iter().flatten() {
            self.list(out, part, level, recursive, depth, &seen)?;
        }
        for within in ["items", "additionalProperties"] {
            if resolved[within].is_object() {
                self.list(out, &resolved[within], level, recursive, depth, &seen)?;
            }
        }
        Ok(())
    }

    fn field(
        &self,
        out: &mut String,
        name: &str,
        schema: &'a Value,
        required: bool,
        level: usize,
        short: bool,
    ) -> Result {
        let indent = level * 2;
        let pad = " ".repeat(indent);
        let needed = if required { " -required-" } else { "" };
        writeln!(out, "{pad}{name}\t<{}>{needed}{}", self.type_name(schema), short_enum(schema, &pad))?;
        if !short {
            let description =
                schema["description"].as_str().filter(|text| !text.is_empty()).unwrap_or("<no description>");
            writeln!(out, "{}", indented(&wrapped(description, 78usize.saturating_sub(indent)), indent + 2))?;
            docs(out, schema, indent + 2)?;
            out.push('\n');
        }
        Ok(())
    }
}

fn docs(out: &mut String, schema: &Value, indent: usize) -> Result {
    let docs = &schema["externalDocs"];
    if !docs.is_object() {
        return Ok(());
    }
    writeln!(out, "\n{}", indented("EXTERNAL DOCS:", indent))?;
    if let Some(text) = docs["description"].as_str() {
        writeln!(out, "{}", indented(&wrapped(text, 78usize.saturating_sub(indent)), indent + 2))?;
    }
    if let Some(url) = docs["url"].as_str() {
        writeln!(out, "{}", indented(&format!("URL: {url}"), indent + 2))?;
    }
    Ok(())
}

fn values(schema: &Value) -> Vec<String> {
    let shown = |value: &Value| if value == "" { "\"\"".to_owned() } else { crate::print::cell(value) };
    schema["enum"].as_array().into_iter().flatten().map(shown).collect()
}

fn short_enum(schema: &Value, pad: &str) -> String {
    let mut values = values(schema);
    if values.is_empty() {
        return String::new();
    }
    let more = if values.len() > ENUM_LIMIT { ", ...." } else { "" };
    values.truncate(ENUM_LIMIT);
    format!("\n{pad}enum: {}{more}", values.join(", "))
}

fn long_enum(schema: &Value) -> String {
    let values = values(schema);
    if values.is_empty() {
        return String::new();
    }
    format!("ENUM:{}", values.iter().map(|value| format!("\n    {value}")).collect::<String>())
}

fn indented(text: &str, indent: usize) -> String {
    let pad = " ".repeat(indent);
    format!("{pad}{}", text.replace('\n', &format!("\n{pad}")))
}

/// Lines of at most `limit` characters where words allow it. Blanks at a break go, others stay.
fn wrapped(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 60);
    for (nth, line) in text.split('\n').enumerate() {
        if nth > 0 {
            out.push('\n');
        }
        let (mut width, mut blanks, mut rest) = (0, String::new(), line);
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_whitespace()).unwrap_or(rest.len());
            blanks.push_str(&rest[..end]);
            rest = &rest[end..];
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            rest = after;
            let (gap, length) = (blanks.chars().count(), word.chars().count());
            if word.is_empty() {
                if width + gap <= limit {
                    out.push_str(&blanks);
                }
            } else if width + gap + length > limit && width + gap > 1 {
                // Also a word that is longer than a line begins one of its own.
                out.push('\n');
                width = 0;
            } else {
                out.push_str(&blanks);
                width += gap;
            }
            out.push_str(word);
            width += length;
            blanks.clear();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_are_wrapped() {
        for (text, limit, expect) in [
            ("a bb ccc", 4, "a bb\nccc"),
            ("a  b", 10, "a  b"),
            ("one\n  two three", 7, "one\n  two\nthree"),
            ("x\n", 4, "x\n"),
            ("a longerthanall b", 6, "a\nlongerthanall\nb"),
        ] {
            assert_eq!(wrapped(text, limit), expect, "{text:?}");
        }
    }

    #[test]
    fn fields_are_followed_through_references_lists_and_maps() {
        let document = json!({"components": {"schemas": {
            "x.Boat": {"type": "object", "description": "A boat.", "required": ["spec"], "x-kubernetes-group-version-kind": [{"group": "g", "version": "v1", "kind": "Boat"}],
                "properties": {"spec": {"allOf": [{"$ref": "#/components/schemas/x.Spec"}], "description": "What is wanted."}}},
            "x.Spec": {"type": "object", "description": "A spec.", "properties": {
                "sails": {"type": "array", "items": {"$ref": "#/components/schemas/x.Sail"}},
                "flags": {"type": "object", "additionalProperties": {"type": "string"}}}},
            "x.Sail": {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/x.Sail"},
                "kind": {"type": "string", "enum": ["", "a", "b", "c", "d"]}}}}}});
        let resource = Resource {
            group: "g".into(),
            version: "v1".into(),
            kind: "Boat".into(),
            name: "boats".into(),
            ..Resource::default()
        };
        let path = |text: &str| text.split('.').filter(|p| !p.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let schemas = Schemas { document: &document };
        let schema = schemas.of_kind(&resource).expect("a schema");
        let shown = |fields: &str, recursive: bool| {
            explain(&schemas, schema, &path(fields), recursive, 0).map(|text| head(&resource) + &text)
        };
        assert_eq!(
            shown("", true).expect("explained"),
            "GROUP:      g\nKIND:       Boat\nVERSION:    v1\n\nDESCRIPTION:\n    A boat.\n    \nFIELDS:\n  spec\t<Spec> -required-\n    \
             flags\t<map[string]string>\n    sails\t<[]Sail>\n      kind\t<string>\n      enum: \"\", a, b, c, ....\n      next\t<Sail>\n"
        );
        assert_eq!(
            shown("spec.sails.kind", false).expect("explained"),
            "GROUP:      g\nKIND:       Boat\nVERSION:    v1\n\nFIELD: kind <string>\nENUM:\n    \"\"\n    a\n    b\n    c\n    d\n\nDESCRIPTION:\n    <empty>\n"
        );
        assert_eq!(shown("spec.mast", false).expect_err("missing").to_string(), "field \"mast\" does not exist");
    }
}
