//! In which order mutating webhooks are asked, and which of them once more.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_api::ApiError;

use super::{Webhook, ask, is_exempt, mutating};
use crate::admission::request::Request;

/// The mutating webhooks of one request, which are asked one after the other; where any has changed the object, those
/// that want it are asked once more about what others have made of it since: later webhooks, and the server itself between
/// the rounds.
pub(in crate::admission) struct Rounds {
    hooks: Vec<Webhook>,
    /// That were asked and may be once more, of which nothing has changed the object since.
    asked: BTreeSet<usize>,
    /// That are to be asked once more.
    again: BTreeSet<usize>,
    /// The object as the first round has left it.
    left: Option<Value>,
}

impl Rounds {
    pub fn of(request: &Request<'_>) -> Self {
        let hooks = if is_exempt(request.row) { Vec::new() } else { mutating(request) };
        Self { hooks, asked: BTreeSet::new(), again: BTreeSet::new(), left: None }
    }

    /// Whether any has changed the object: then there is a second round.
    pub async fn first(
        &mut self,
        request: &Request<'_>,
        object: &mut Value,
        warnings: &mut Vec<String>,
    ) -> Result<bool, ApiError> {
        let mut held = Some(object.take());
        let changed = self.round(request, &mut held, warnings, 0).await;
        *object = held.unwrap_or_default();
        if matches!(changed, Ok(true)) {
            self.left = Some(object.clone());
        }
        changed
    }

    pub async fn second(
        &mut self,
        request: &Request<'_>,
        object: &mut Value,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        if self.left.take().is_some_and(|left| left != *object) {
            self.again.append(&mut self.asked);
        }
        let mut held = Some(object.take());
        let changed = self.round(request, &mut held, warnings, 1).await;
        *object = held.unwrap_or_default();
        changed.map(drop)
    }

    /// For a request that brings no object, so that there is nothing to change.
    pub async fn without_object(mut self, request: &Request<'_>, warnings: &mut Vec<String>) -> Result<(), ApiError> {
        self.round(request, &mut None, warnings, 0).await.map(drop)
    }

    async fn round(
        &mut self,
        request: &Request<'_>,
        object: &mut Option<Value>,
        warnings: &mut Vec<String>,
        round: usize,
    ) -> Result<bool, ApiError> {
        let mut changed = false;
        for (at, hook) in self.hooks.iter().enumerate() {
            if round > 0 && !self.again.contains(&at) {
                continue;
            }
            let Some(changes) = ask(request, hook, object, warnings, (round, at)).await? else { continue };
            if changes {
                changed = true;
                self.again.append(&mut self.asked);
            }
            if hook.reinvoked {
                self.asked.insert(at);
            }
        }
        Ok(changed)
    }
}
