//! One look at all definitions: who has which names, who is served, what their status says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use skiff_api::custom::conditions::{
    self, Claim, Condition, approval_condition, is_true, plan_conditions, plan_names, set_condition,
};
use skiff_api::custom::definition::{Definition, FINALIZER, authority_is_valid};
use skiff_api::{ApiError, Object};
use skiff_base::chain;
use tracing::{info, warn};

use crate::auth::User;
use crate::cache::Cache;
use crate::path::change::Change;
use crate::path::options::WriteOptions;
use crate::path::ownership::Ownership;
use crate::path::part::Part;
use crate::registry::{Defined, Row};
use crate::server::Server;

pub(super) const RETRY_MIN: Duration = Duration::from_millis(50);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(30);

/// What is needed of a definition, without its schemas.
struct Facts {
    claim: Claim,
    created: String,
    established: bool,
    terminating: bool,
    /// With the schemas cut out.
    rest: Value,
}

/// The facts of each definition by name, with the revision that they were read at: a large one is read once.
#[derive(Default)]
pub(super) struct Seen(HashMap<String, (u64, Arc<Facts>)>);

/// A definition, and what shall be of it.
pub(super) struct Planned {
    pub object: Arc<Object>,
    facts: Arc<Facts>,
    names: Value,
    conditions: Vec<Condition>,
    established: bool,
}

pub(super) struct Plan(Vec<Planned>);

impl Facts {
    fn read(object: &Object) -> Self {
        let mut rest = object.value();
        for version in rest.pointer_mut("/spec/versions").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(version) = version.as_object_mut() {
                version.remove("schema");
            }
        }
        let text = |path: &str| rest.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let value = |path: &str| rest.pointer(path).cloned().unwrap_or_default();
        let claim = Claim {
            name: object.meta.name.to_string(),
            group: text("/spec/group"),
            wanted: value("/spec/names"),
            accepted: accepted(&value("/status/acceptedNames")),
        };
        Self {
            claim,
            created: text("/metadata/creationTimestamp"),
            established: is_true(&rest, "Established"),
            terminating: object.meta.deletion_timestamp.is_some(),
            rest,
        }
    }
}

/// Names that are empty are none.
fn accepted(names: &Value) -> Value {
    let mut names = names.clone();
    if let Some(map) = names.as_object_mut() {
        map.retain(|_, name| name.as_str() != Some(""));
    }
    names
}

impl Seen {
    fn facts(&mut self, object: &Object) -> Arc<Facts> {
        let name = &*object.meta.name;
        match self.0.get(name) {
            Some((revision, facts)) if *revision == object.revision => facts.clone(),
            _ => {
                let facts = Arc::new(Facts::read(object));
                self.0.insert(name.to_owned(), (object.revision, facts.clone()));
                facts
            }
        }
    }
}

impl Plan {
    /// Names that were given stay given; new ones go by age, then by name.
    pub fn of(objects: Vec<Arc<Object>>, seen: &mut Seen) -> Self {
        seen.0.retain(|name, _| objects.iter().any(|object| *object.meta.name == **name));
        let mut all: Vec<(Arc<Object>, Arc<Facts>)> =
            objects.into_iter().map(|object| (object.clone(), seen.facts(&object))).collect();
        all.sort_by(|(_, a), (_, b)| (&a.created, &a.claim.name).cmp(&(&b.created, &b.claim.name)));
        let mut claims: Vec<Claim> = all.iter().map(|(_, facts)| facts.claim.clone()).collect();
        let mut planned = Vec::with_capacity(all.len());
        for (index, (object, facts)) in all.into_iter().enumerate() {
            let (names, conflict) = plan_names(&claims, index);
            claims[index].accepted = names.clone();
            let mut conditions = plan_conditions(&facts.rest, conflict, !authority_is_valid(&facts.rest));
            conditions.extend(approval_condition(&facts.rest));
            let established = facts.established
                || conditions.iter().any(|condition| condition.kind == "Established" && condition.status);
            planned.push(Planned { object, facts, names, conditions, established });
        }
        Self(planned)
    }

    pub fn established(&self) -> impl Iterator<Item = &Planned> {
        self.0.iter().filter(|planned| planned.established)
    }
}

impl Planned {
    fn made_from(&self) -> String {
        let meta = &self.object.meta;
        format!("{} {:?} {} {}", meta.uid, meta.generation, self.names, self.facts.terminating)
    }

    /// With rows for objects that were written after `since`.
    pub fn make(&self, cache: &Cache, since: u64) -> Option<Arc<Defined>> {
        let definition = Definition::read(&self.object, &self.names, self.facts.terminating)?;
        super::make(definition, self.made_from(), since, cache)
    }

    /// Whether the status is as planned.
    fn is_told(&self) -> bool {
        self.facts.claim.accepted == self.names
            && self.conditions.iter().all(|condition| conditions::is_told(&self.facts.rest, condition))
    }
}

impl Server {
    /// Serves what is to be served, then says so. `false`: to be tried again.
    pub(super) async fn settle_definitions(&self, row: &Arc<Row>, seen: &mut Seen) -> bool {
        let plan = Plan::of(self.resource(super::STORAGE).all(), seen);
        self.serve(&plan);
        let mut settled = true;
        for planned in &plan.0 {
            if planned.facts.terminating {
                self.finalize_later(row, &planned.object);
                continue;
            }
            if planned.is_told() {
                continue;
            }
            if let Err(error) = self.tell(row, planned).await {
                warn!(definition = %planned.facts.claim.name, error = %chain(&error), "write the status");
                settled = false;
            }
        }
        settled
    }

    /// Swaps the registry where the definitions have changed.
    fn serve(&self, plan: &Plan) {
        let registry = self.registry.load_full();
        let before: HashMap<&str, &Arc<Defined>> =
            registry.definitions().iter().map(|defined| (defined.made_from.as_str(), defined)).collect();
        let wanted: Vec<(&Planned, String)> =
            plan.established().map(|planned| (planned, planned.made_from())).collect();
        for (planned, made_from) in &wanted {
            let custom = before.get(made_from.as_str()).and_then(|defined| defined.home.custom.as_ref());
            custom.into_iter().for_each(|custom| custom.definition.renew(&planned.object));
        }
        if wanted.len() == before.len() && wanted.iter().all(|(_, made_from)| before.contains_key(made_from.as_str())) {
            return;
        }
        // What is committed by now was written by the definition of before.
        let since = self.store.revision().0;
        let make = |(planned, made_from): &(&Planned, String)| match before.get(made_from.as_str()) {
            Some(defined) => Some(Arc::clone(defined)),
            None => planned.make(&self.cache, since.max(planned.object.revision)),
        };
        let mut made: Vec<Arc<Defined>> = wanted.iter().filter_map(make).collect();
        made.sort_by(|a, b| (a.home.group(), a.home.resource()).cmp(&(b.home.group(), b.home.resource())));
        self.registry.store(Arc::new(registry.with_definitions(made)));
        self.aggregation.served.notify_one();
        for (made_from, defined) in before {
            if !wanted.iter().any(|(_, wanted)| wanted == made_from) {
                info!(resource = %defined.home.descriptor.gvr, "the definition changed");
                defined.home.cache.end_watches();
            }
        }
    }

    async fn tell(&self, row: &Arc<Row>, planned: &Planned) -> Result<(), ApiError> {
        let key = planned.object.key();
        let change = Change {
            row,
            key: &key,
            part: Part::Own,
            user: User::server(),
            ownership: Ownership::Keep,
            options: &WriteOptions::default(),
        };
        let now = skiff_base::time::now_rfc3339();
        let seen = planned.object.revision.to_string();
        let told = self
            .change(&change, &mut Vec::new(), |old| {
                let mut new = old.clone();
                // Decided from another state: the next look decides again.
                if old["metadata"]["resourceVersion"] != *seen {
                    return Ok(new);
                }
                new["status"]["acceptedNames"] = planned.names.clone();
                for name in ["plural", "kind"] {
                    if new["status"]["acceptedNames"].get(name).is_none() {
                        new["status"]["acceptedNames"][name] = "".into();
                    }
                }
                planned.conditions.iter().for_each(|condition| set_condition(&mut new, condition, &now));
                Ok(new)
            })
            .await;
        match told {
            Err(error) if error.is_not_found() => Ok(()),
            told => told.map(|_| ()),
        }
    }
}

/// Whether the finalizer of definitions is there.
pub(super) fn has_finalizer(object: &Object) -> bool {
    object.meta.finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}
