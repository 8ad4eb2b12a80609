//! From `TYPE NAME`, `TYPE/NAME`, `TYPE,TYPE`, selectors and files to objects on the server.

use clap::Args;
use serde_json::Value;

use crate::discovery::{Discovery, Resource};
use crate::manifest::Files;
use crate::server::{JSON, Server, path, with_query};
use crate::{Failure, Result};

/// A resource type, with the names asked for; none means all.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    pub resource: Resource,
    pub names: Vec<String>,
    /// Where the names are, if that is not where the command looks.
    pub namespace: Option<String>,
}

/// What most commands select objects by.
#[derive(Args, Debug, Default, Clone)]
pub struct Selection {
    #[command(flatten)]
    pub files: Files,
    /// Selector (label query) to filter on
    #[arg(short = 'l', long, default_value = "")]
    pub selector: String,
    /// Selector (field query) to filter on
    #[arg(long, default_value = "")]
    pub field_selector: String,
    /// Select all resources of the type in the namespace
    #[arg(long)]
    pub all: bool,
}

const MISSING: &str = "You must provide one or more resources by argument or filename.
Example resource specifications include:
   '-f rsrc.yaml'
   '--filename=rsrc.json'
   '<resource> <name>'
   '<resource>'";

/// Only single objects have subresources.
pub const BULK: &str = "subresource cannot be used when bulk resources are specified";

/// One object on the server.
pub struct Found {
    pub resource: Resource,
    pub object: Value,
}

impl Found {
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    pub fn namespace(&self) -> Option<&str> {
        self.object["metadata"]["namespace"].as_str()
    }

    pub fn path(&self, subresource: &str) -> String {
        path(&self.resource, self.namespace(), self.name(), subresource)
    }

    /// `deployment.apps/x`
    pub fn label(&self) -> String {
        self.resource.label(self.name())
    }
}

/// Reads the words behind a command.
pub fn parse(discovery: &Discovery, words: &[String]) -> Result<Vec<Target>> {
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if words.iter().any(|word| word.contains('/')) {
        let mut targets: Vec<Target> = Vec::new();
        for word in words {
            let Some((ty, name)) = word.split_once('/').filter(|(ty, name)| !ty.is_empty() && !name.is_empty()) else {
                return Err(Failure::text(
                    "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'kubectl get resource/<resource_name>' instead of 'kubectl get resource resource/<resource_name>'",
                ));
            };
            let resource = discovery.find(ty)?.clone();
            match targets.last_mut().filter(|last| last.resource == resource) {
                Some(last) => last.names.push(name.to_owned()),
                None => targets.push(Target { resource, names: vec![name.to_owned()], namespace: None }),
            }
        }
        return Ok(targets);
    }
    let names = &words[1..];
    let mut targets = Vec::new();
    for ty in first.split(',').filter(|ty| !ty.is_empty()) {
        match (discovery.find(ty), discovery.in_category(ty)) {
            (Err(_), category) if !category.is_empty() && names.is_empty() => {
                targets.extend(category.into_iter().cloned().map(|resource| Target {
                    resource,
                    names: Vec::new(),
                    namespace: None,
                }));
            }
            (resource, _) => {
                targets.push(Target { resource: resource?.clone(), names: names.to_vec(), namespace: None })
            }
        }
    }
    Ok(targets)
}

impl Selection {
    pub fn is_empty(&self) -> bool {
        self.selector.is_empty() && self.field_selector.is_empty() && !self.all
    }

    /// The objects on the server. Names that don't exist are errors. `namespace: None`: all namespaces.
    pub async fn find(&self, server: &Server, words: &[String], namespace: Option<&str>) -> Result<Vec<Found>> {
        self.find_subresource(server, words, namespace, "").await
    }

    /// The same of a subresource; what files name is found as it is, as upstream does.
    pub async fn find_subresource(
        &self,
        server: &Server,
        words: &[String],
        namespace: Option<&str>,
        subresource: &str,
    ) -> Result<Vec<Found>> {
        match self.each(server, words, namespace, subresource).await? {
            (_, Some(missing)) => Err(missing),
            (found, None) => Ok(found),
        }
    }

    /// The objects that are there, and the last error about one that is not; those before it are told.
    pub async fn find_each(
        &self,
        server: &Server,
        words: &[String],
        namespace: Option<&str>,
    ) -> Result<(Vec<Found>, Option<anyhow::Error>)> {
        self.each(server, words, namespace, "").await
    }

    async fn each(
        &self,
        server: &Server,
        words: &[String],
        namespace: Option<&str>,
        subresource: &str,
    ) -> Result<(Vec<Found>, Option<anyhow::Error>)> {
        let (mut found, mut missing) = (Vec::new(), None);
        let mut take = |resource: &Resource, object: Result<Value>| match object {
            Ok(object) => found.push(Found { resource: resource.clone(), object }),
            Err(e) => {
                if let Some(previous) = missing.replace(e) {
                    eprintln!("{}", crate::failure::sentence(&previous));
                }
            }
        };
        if !self.files.is_empty() {
            for mut manifest in self.files.read()? {
                let resource = manifest.place(server).await?.clone();
                let object = server.object(&resource, Some(manifest.namespace()), manifest.name(), JSON).await;
                take(&resource, object);
            }
            return Ok((found, missing));
        }
        let targets = parse(server.discovery().await?, words)?;
        if targets.is_empty() {
            return Err(Failure::text(MISSING));
        }
        for Target { resource, names, .. } in targets {
            if names.is_empty() {
                if self.is_empty() && namespace.is_some() {
                    return Err(Failure::text("resource(s) were provided, but no name was specified"));
                }
                if !subresource.is_empty() {
                    return Err(Failure::text(BULK));
                }
                for object in self.list(server, &resource, namespace).await? {
                    take(&resource, Ok(object));
                }
            }
            for name in names {
                take(&resource, server.subresource(&resource, namespace, &name, subresource, JSON).await);
            }
        }
        Ok((found, missing))
    }

    /// The selected objects of a type, each with its kind.
    pub async fn list(&self, server: &Server, resource: &Resource, namespace: Option<&str>) -> Result<Vec<Value>> {
        list(server, resource, namespace, &self.selector, &self.field_selector).await
    }
}

/// A list as it was at one version.
pub struct Listed {
    pub objects: Vec<Value>,
    pub version: String,
}

/// The objects that field selectors choose, in one answer: what a watch goes on from.
pub async fn page(server: &Server, resource: &Resource, namespace: Option<&str>, fields: &str) -> Result<Listed> {
    let mut answer = server.get(&with_query(&path(resource, namespace, "", ""), &[("fieldSelector", fields)])).await?;
    let version = answer["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let mut objects = Vec::new();
    if let Value::Array(items) = answer["items"].take() {
        for mut item in items {
            item["apiVersion"] = resource.api_version().into();
            item["kind"] = resource.kind.as_str().into();
            objects.push(item);
        }
    }
    Ok(Listed { objects, version })
}

/// All pages of a list; the objects carry their kind.
pub async fn list(
    server: &Server,
    resource: &Resource,
    namespace: Option<&str>,
    labels: &str,
    fields: &str,
) -> Result<Vec<Value>> {
    let base = path(resource, namespace, "", "");
    let (mut objects, mut next) = (Vec::new(), String::new());
    loop {
        let pairs = [("labelSelector", labels), ("fieldSelector", fields), ("limit", "500"), ("continue", &next)];
        let mut page = server.get(&with_query(&base, &pairs)).await?;
        if let Value::Array(items) = page["items"].take() {
            for mut item in items {
                item["apiVersion"] = resource.api_version().into();
                item["kind"] = resource.kind.as_str().into();
                objects.push(item);
            }
        }
        next = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if next.is_empty() {
            return Ok(objects);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::tests::sample;

    #[test]
    fn words_name_types_and_objects() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let parsed = |text: &str| {
            let targets = parse(&sample(), &words(text)).map_err(|e| e.to_string())?;
            Ok::<_, String>(
                targets.into_iter().map(|t| (t.resource.qualified(), t.names.join(","))).collect::<Vec<_>>(),
            )
        };
        let pair = |ty: &str, names: &str| (ty.to_owned(), names.to_owned());
        assert_eq!(parsed("po"), Ok(vec![pair("pods", "")]));
        assert_eq!(parsed("po a b"), Ok(vec![pair("pods", "a,b")]));
        assert_eq!(parsed("po,deploy"), Ok(vec![pair("pods", ""), pair("deployments.apps", "")]));
        assert_eq!(parsed("po/a deploy/b deploy/c"), Ok(vec![pair("pods", "a"), pair("deployments.apps", "b,c")]));
        assert_eq!(parsed("all").map(|found| found.len()), Ok(6));
        assert!(parsed("po po/a").expect_err("mixed").contains("there is no need to specify a resource type"));
    }
}
