//! Keeps together what the objects say, what is decided by them, and what they are told to be.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Method;
use k8s_openapi::api::flowcontrol::v1 as flowcontrol;
use serde_json::{Value, json};
use skiff_api::ApiError;
use skiff_base::chain;
use tracing::warn;

use super::objects;
use super::rules::Config;
use crate::cache::{Filter, ResourceCache, Told};
use crate::server::Server;

/// How often is looked whether the mandatory and suggested objects are there, as upstream.
const REPAIR_INTERVAL: Duration = Duration::from_secs(60);
/// Writes under way at a time: they share the log's flushes.
const AT_ONCE: usize = 16;
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";

/// Until the server stops.
pub(crate) async fn follow(server: Arc<Server>) {
    let stop = server.scope.token().clone();
    let caches = [LEVELS, SCHEMAS].map(|resource| server.resource(&format!("{}/{resource}", objects::GROUP)));
    let filter = {
        let registry = server.registry.load();
        let Some(row) = registry.find(objects::GROUP, "v1", SCHEMAS) else { return };
        let Ok(filter) = Filter::new("", "", "", &row.descriptor.strategy) else { return };
        Arc::new(filter)
    };
    let [levels, schemas] = &caches;
    let mut repair = tokio::time::interval(REPAIR_INTERVAL);
    loop {
        let (_, mut of_levels) = levels.subscribe_all(&filter);
        let (_, mut of_schemas) = schemas.subscribe_all(&filter);
        loop {
            server.take_flows(levels, schemas);
            if let Err(error) = server.tell_dangling(levels, schemas).await {
                warn!(error = %chain(&error), "flow schemas could not be told whether their levels are there");
            }
            let told = tokio::select! {
                told = of_levels.next() => Some(told),
                told = of_schemas.next() => Some(told),
                _ = repair.tick() => {
                    if let Err(error) = server.ensure_flows(levels, schemas).await {
                        warn!(error = %chain(&error), "the objects of flow control could not be looked after");
                    }
                    None
                }
                () = stop.cancelled() => return,
            };
            if !matches!(told, None | Some(Told::Changes(_))) {
                break;
            }
            for subscription in [&mut of_levels, &mut of_schemas] {
                while let Some(Told::Changes(_)) = subscription.ready() {}
            }
        }
    }
}

/// What is done to an object.
#[derive(Debug, PartialEq)]
enum Action {
    Create(Value),
    Update(String, Value),
    Delete(String),
}

impl Server {
    /// Decides by these objects from now on.
    fn take_flows(&self, levels: &ResourceCache, schemas: &ResourceCache) {
        let levels: Vec<_> = levels.all().iter().filter_map(|object| object.typed().ok()).collect();
        let schemas: Vec<_> = schemas.all().iter().filter_map(|object| object.typed().ok()).collect();
        let levels: Vec<&flowcontrol::PriorityLevelConfiguration> = levels.iter().map(AsRef::as_ref).collect();
        let schemas: Vec<&flowcontrol::FlowSchema> = schemas.iter().map(AsRef::as_ref).collect();
        let config = Config::plan(&schemas, &levels, &mut self.flow.lock());
        self.flow.config.store(Arc::new(config));
    }

    async fn ensure_flows(&self, levels: &ResourceCache, schemas: &ResourceCache) -> Result<(), ApiError> {
        self.cache.fresh().await?;
        let mut writes = Vec::new();
        for (resource, wanted, cache) in [(LEVELS, objects::levels(), levels), (SCHEMAS, objects::schemas(), schemas)] {
            let there: Vec<Value> = cache.all().iter().map(|object| object.value()).collect();
            let list = format!("/apis/{}/v1/{resource}", objects::GROUP);
            writes.extend(plan_objects(&wanted, &there).into_iter().map(|action| match action {
                Action::Create(object) => (Method::POST, list.clone(), Some(object)),
                Action::Update(name, object) => (Method::PUT, format!("{list}/{name}"), Some(object)),
                Action::Delete(name) => (Method::DELETE, format!("{list}/{name}"), None),
            }));
        }
        self.write_flows(writes).await
    }

    /// Schemas are told whether the level that they name is there.
    async fn tell_dangling(&self, levels: &ResourceCache, schemas: &ResourceCache) -> Result<(), ApiError> {
        let mut writes = Vec::new();
        for schema in schemas.all() {
            let object = schema.value();
            let level = object["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
            let Some(status) = plan_status(&object, level, levels.find("", level).is_some()) else { continue };
            let path = format!("/apis/{}/v1/{SCHEMAS}/{}/status", objects::GROUP, schema.meta.name);
            // Whole, so that nothing else of it is taken away.
            let mut told = object.clone();
            told["status"] = status;
            writes.push((Method::PUT, path, Some(told)));
        }
        self.write_flows(writes).await
    }

    async fn write_flows(&self, writes: Vec<(Method, String, Option<Value>)>) -> Result<(), ApiError> {
        let done = stream::iter(writes)
            .map(|(method, path, body)| async move {
                match self.ask_as_itself(method, &path, body.as_ref()).await {
                    // Someone else was faster: that comes as a change.
                    Err(error) if !error.is_already_exists() && !error.is_not_found() && !error.is_conflict() => {
                        Err(error)
                    }
                    _ => Ok(()),
                }
            })
            .buffer_unordered(AT_ONCE);
        done.try_collect().await
    }
}

/// The status as it should be, if it is not.
fn plan_status(schema: &Value, level: &str, there: bool) -> Option<Value> {
    let base = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    let (status, reason, message) = match there {
        true => ("False", "Found", format!("{base} and it exists")),
        false => ("True", "NotFound", format!("{base} but there is no such object")),
    };
    let conditions = schema["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let (old, mut others): (Vec<Value>, Vec<Value>) = conditions.into_iter().partition(|c| c["type"] == "Dangling");
    let old = old.first();
    if old.is_some_and(|old| old["status"] == status && old["reason"] == reason && old["message"] == message) {
        return None;
    }
    let since = old.filter(|old| old["status"] == status).map(|old| old["lastTransitionTime"].clone());
    others.push(json!({"type": "Dangling", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since.unwrap_or_else(|| skiff_base::time::now_rfc3339().into())}));
    Some(json!({ "conditions": others }))
}

/// Mandatory objects are always as they are wanted; others as long as their annotation says that they should be.
fn plan_objects(wanted: &[Value], there: &[Value]) -> Vec<Action> {
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let follows = |object: &Value| object["metadata"]["annotations"][objects::AUTOUPDATE] == "true";
    let mut actions = Vec::new();
    for new in wanted {
        let Some(old) = there.iter().find(|old| name(old) == name(new)) else {
            actions.push(Action::Create(new.clone()));
            continue;
        };
        let mandatory = objects::MANDATORY.contains(&name(new).as_str());
        let differs = old["spec"] != new["spec"] && (mandatory || follows(old)) || mandatory && !follows(old);
        if differs {
            let mut made = old.clone();
            made["spec"] = new["spec"].clone();
            if mandatory {
                made["metadata"]["annotations"][objects::AUTOUPDATE] = "true".into();
            }
            actions.push(Action::Update(name(new), made));
        }
    }
    // What an earlier version suggested.
    let left = there.iter().filter(|old| follows(old) && !wanted.iter().any(|new| name(new) == name(old)));
    actions.extend(left.map(|old| Action::Delete(name(old))));
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_looked_after() {
        let wanted = objects::schemas();
        assert_eq!(plan_objects(&wanted, &wanted), []);
        assert_eq!(plan_objects(&wanted, &[]).len(), wanted.len());
        let changed = |at: usize, autoupdate: &str| {
            let mut there = wanted.clone();
            there[at]["spec"]["matchingPrecedence"] = 77.into();
            there[at]["metadata"]["annotations"][objects::AUTOUPDATE] = autoupdate.into();
            there
        };
        let of = |name: &str| wanted.iter().position(|object| object["metadata"]["name"] == name).expect("there");
        let (mandatory, suggested) = (of("exempt"), of("probes"));
        for (at, autoupdate, count) in
            [(mandatory, "false", 1), (mandatory, "true", 1), (suggested, "true", 1), (suggested, "false", 0)]
        {
            let actions = plan_objects(&wanted, &changed(at, autoupdate));
            assert_eq!(actions.len(), count, "{at} {autoupdate}");
            if let Some(Action::Update(_, object)) = actions.first() {
                assert_eq!(*object, wanted[at]);
            }
        }
        let mut there = wanted.clone();
        for (name, autoupdate) in [("old", "true"), ("mine", "false")] {
            there.push(json!({"metadata": {"name": name, "annotations": {objects::AUTOUPDATE: autoupdate}}}));
        }
        assert_eq!(plan_objects(&wanted, &there), [Action::Delete("old".to_owned())]);
    }

    #[test]
    fn schemas_are_told_of_their_level() {
        let mut schema = json!({"status": {"conditions": [{"type": "Other"}]}});
        let status = plan_status(&schema, "l", false).expect("nothing is told yet");
        assert_eq!(
            status["conditions"][1]["message"],
            "This FlowSchema references the PriorityLevelConfiguration object named \"l\" but there is no such object"
        );
        schema["status"] = status;
        assert_eq!(plan_status(&schema, "l", false), None);
        let status = plan_status(&schema, "l", true).expect("it has come");
        assert_eq!(
            (&status["conditions"][1]["status"], status["conditions"].as_array().map(Vec::len)),
            (&json!("False"), Some(2))
        );
    }
}
