//! The history of pod templates: ControllerRevisions, of DaemonSets and StatefulSets.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skiff_api::selector::LabelSelector;
use skiff_client::{Client, DeleteOptions, Error, Lister, Result};

use crate::deployment::hash;
use crate::owner;
use crate::pod_control::{self, Owner};

/// The label of pods by which their revision is known.
pub const REVISION_LABEL: &str = "controller-revision-hash";
/// So often another name is tried where a revision of the same name says something else.
const COLLISIONS_MAX: i32 = 100;

/// What a revision keeps of its owner: a patch that replaces the template.
pub fn data_of(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).expect("a template always encodes");
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template that a revision keeps.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    PodTemplateSpec::deserialize(revision.data.as_ref()?.0.get("spec")?.get("template")?).ok()
}

pub fn name_of(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

/// What a set writes on its revisions and how its pods tell theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// The label of the hash, on revisions.
    pub hash_label: &'static str,
}

pub struct History {
    client: Client,
    revisions: Lister<ControllerRevision>,
    style: Style,
}

/// The revisions of an owner, oldest first, with the one that its template is now.
pub struct Revisions {
    pub all: Vec<Arc<ControllerRevision>>,
    pub update: Arc<ControllerRevision>,
    pub collisions: i32,
}

/// What has to be done for the template to have a revision.
#[derive(Debug, PartialEq)]
enum Step {
    /// It is the newest.
    Keep(usize),
    /// It is an older one, which becomes the newest under this number.
    Renew(usize, i64),
    /// It is new, and gets this number.
    Make(i64),
}

fn plan_step(all: &[Arc<ControllerRevision>], data: &Value) -> Step {
    let next = all.last().map_or(1, |last| last.revision + 1);
    match all.iter().rposition(|revision| revision.data.as_ref().is_some_and(|d| d.0 == *data)) {
        Some(at) if at + 1 == all.len() => Step::Keep(at),
        Some(at) => Step::Renew(at, next),
        None => Step::Make(next),
    }
}

/// The oldest revisions that are neither in use nor within the limit.
fn plan_surplus(all: &[Arc<ControllerRevision>], live: &[&str], limit: usize) -> Vec<Arc<ControllerRevision>> {
    let dead: Vec<_> = all.iter().filter(|revision| !live.contains(&name_of(revision))).cloned().collect();
    let surplus = dead.len().saturating_sub(limit);
    dead.into_iter().take(surplus).collect()
}

impl History {
    pub fn new(client: Client, revisions: Lister<ControllerRevision>, style: Style) -> Self {
        pod_control::index(&revisions);
        Self { client, revisions, style }
    }

    pub async fn synced(&self) {
        self.revisions.synced().await;
    }

    /// The owner's revisions, with one for its template now. Those that another owner of the same pods has left behind
    /// are taken over, as the pods are: else these would be of no known revision, and replaced.
    pub async fn ensure<O: Owner + Serialize + DeserializeOwned>(
        &self,
        owner: &O,
        selector: &LabelSelector,
        template: &PodTemplateSpec,
        collisions: i32,
    ) -> Result<Revisions> {
        let meta = owner.metadata();
        let candidates = pod_control::candidates(&self.revisions, owner);
        let mut all = owner::claim(&self.client, owner, selector, candidates).await?;
        all.sort_by_key(|revision| (revision.revision, revision.metadata.creation_timestamp.clone()));
        let data = data_of(template);
        let api = self.client.namespaced::<ControllerRevision>(meta.namespace.as_deref().unwrap_or_default());
        let mut collisions = collisions;
        let update = match plan_step(&all, &data) {
            Step::Keep(at) => all[at].clone(),
            Step::Renew(at, number) => {
                let mut fresh = (*all.remove(at)).clone();
                fresh.revision = number;
                let fresh = Arc::new(api.update(&fresh).await?);
                all.push(fresh.clone());
                fresh
            }
            Step::Make(number) => {
                let made = self.make(owner, selector, template, &data, number, &mut collisions).await?;
                all.push(made.clone());
                made
            }
        };
        Ok(Revisions { all, update, collisions })
    }

    async fn make<O: Owner + Serialize + DeserializeOwned>(
        &self,
        owner: &O,
        selector: &LabelSelector,
        template: &PodTemplateSpec,
        data: &Value,
        number: i64,
        collisions: &mut i32,
    ) -> Result<Arc<ControllerRevision>> {
        let meta = owner.metadata();
        let api = self.client.namespaced::<ControllerRevision>(meta.namespace.as_deref().unwrap_or_default());
        loop {
            let hash = hash::template_hash(template, *collisions);
            let name = format!("{}-{hash}", meta.name.as_deref().unwrap_or_default());
            let mut labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
            labels.insert(self.style.hash_label.to_owned(), hash);
            let revision = ControllerRevision {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    namespace: meta.namespace.clone(),
                    labels: Some(labels),
                    annotations: meta.annotations.clone(),
                    owner_references: Some(vec![owner::reference_to(owner)]),
                    ..ObjectMeta::default()
                },
                data: Some(RawExtension(data.clone())),
                revision: number,
            };
            match api.create(&revision).await {
                Err(error) if error.is_already_exists() && *collisions < COLLISIONS_MAX => {
                    let existing = api.get(&name).await?;
                    if existing.data.as_ref().is_some_and(|d| d.0 == *data) {
                        // The cache lags; it may be left behind too.
                        let is_orphan = owner::controller_uid(&existing).is_empty();
                        let claimed = owner::claim(&self.client, owner, selector, vec![Arc::new(existing)]).await?;
                        if let Some(ours) = claimed.into_iter().next() {
                            return Ok(ours);
                        }
                        if is_orphan {
                            // The owner goes, and leaves it to the next one, who would take a second one for a change.
                            return Err(Error::Config(format!("{name} is nobody's while its owner is deleted")));
                        }
                    }
                    *collisions += 1;
                }
                outcome => return outcome.map(Arc::new),
            }
        }
    }

    /// Removes what is older than the owner wants to keep; `live` are the names in use.
    pub async fn truncate(&self, revisions: &Revisions, live: &[&str], limit: i32) -> Result<()> {
        let limit = usize::try_from(limit).unwrap_or(0);
        for revision in plan_surplus(&revisions.all, live, limit) {
            let api = self
                .client
                .namespaced::<ControllerRevision>(revision.metadata.namespace.as_deref().unwrap_or_default());
            match api.delete(name_of(&revision), &DeleteOptions::default()).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(name: &str, number: i64, data: Value) -> Arc<ControllerRevision> {
        let value = json!({"metadata": {"name": name}, "revision": number, "data": data});
        Arc::new(serde_json::from_value(value).expect("a revision"))
    }

    #[test]
    fn templates_come_back() {
        let all = [revision("a", 1, json!("x")), revision("b", 3, json!("y"))];
        for (data, expect) in
            [(json!("y"), Step::Keep(1)), (json!("x"), Step::Renew(0, 4)), (json!("z"), Step::Make(4))]
        {
            assert_eq!(plan_step(&all, &data), expect, "{data}");
        }
        assert_eq!(plan_step(&[], &json!("x")), Step::Make(1));
        assert_eq!(plan_surplus(&all, &["b"], 0).len(), 1);
        assert_eq!(plan_surplus(&all, &["a"], 1).len(), 0);
    }

    #[test]
    fn a_revision_keeps_the_template() {
        let template: PodTemplateSpec = serde_json::from_value(
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}}),
        )
        .expect("a template");
        let kept = revision("a", 1, data_of(&template));
        assert_eq!(template_of(&kept), Some(template));
    }
}
