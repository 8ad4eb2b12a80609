//! Priority and fairness: how many requests are carried out at a time, and whose.
//!
//! A FlowSchema says which priority level a request is of, and what makes one flow of several ([`rules`]). A level has
//! seats; a request that finds none waits in a queue that only a few other flows use, and the queue whose requests took
//! the least time goes first ([`queues`], [`seats`]). So who floods the server waits behind themselves. [`follow`] keeps
//! the objects, their conditions, and what is decided here together.
//!
//! ```text
//! request -> schema, level -> a seat is free ----------------> carried out -> the seat goes to who waits
//!                         |-> queue -> a seat becomes free --->'
//!                         '-> no queue, a full one, or too long in it: 429
//! ```
//!
//! Decisions are pure and under one short lock, which requests of exempt levels never touch. Only requests over the wire
//! are limited; those of the process itself are few by construction.

mod follow;
mod objects;
mod queues;
mod rules;
mod seats;

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::oneshot;

use crate::call::Call;
use crate::reply::Reply;
use crate::request::RequestInfo;

pub(crate) use follow::follow;
use rules::{Config, Matched};
use seats::{Arrival, Place, Seats};

/// Upstream's two limits, added: of requests that change nothing (400), and of those that do (200).
const MAX_IN_FLIGHT: u32 = 600;
/// A quarter of what a request may take altogether.
const WAIT_LIMIT: Duration = Duration::from_secs(15);
const RETRY_AFTER_S: &str = "1";

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

pub(crate) struct Flow {
    config: ArcSwap<Config>,
    seats: Mutex<Seats<oneshot::Sender<Place>>>,
    hashes: RandomState,
}

/// What a request was found to be.
pub(crate) struct Class {
    schema: HeaderValue,
    level: HeaderValue,
    /// `None`: never limited.
    limited: Option<Limited>,
}

struct Limited {
    level: usize,
    flow: u64,
}

/// There is no seat, and there will be none soon.
pub(crate) struct Refused;

/// A seat, given back when this goes.
pub(crate) struct Permit {
    flow: Arc<Flow>,
    place: Place,
    since: Instant,
}

impl Default for Flow {
    /// As it is until the objects are read.
    fn default() -> Self {
        let mut seats = Seats::new(MAX_IN_FLIGHT);
        let config = Config::plan(&[], &[], &mut seats);
        Self { config: ArcSwap::from_pointee(config), seats: Mutex::new(seats), hashes: RandomState::new() }
    }
}

impl Flow {
    pub fn classify(&self, call: &Call) -> Class {
        let config = self.config.load();
        let info = std::cell::OnceCell::new();
        let info = || info.get_or_init(|| RequestInfo::of(call));
        let Matched { schema, level } = config.find(&call.user, &info);
        let limited = level.seats.map(|level| {
            let of = schema.distinguisher.of(&call.user, &info);
            Limited { level, flow: self.hashes.hash_one((&*schema.name, of)) }
        });
        Class { schema: schema.uid.clone(), level: level.uid.clone(), limited }
    }

    /// Waits for a seat, where the request needs one.
    pub async fn admit(self: &Arc<Self>, class: &Class) -> Result<Option<Permit>, Refused> {
        let Some(Limited { level, flow }) = class.limited else { return Ok(None) };
        let permit = |place| Permit { flow: self.clone(), place, since: Instant::now() };
        let (tell, told) = oneshot::channel();
        let arrival = self.lock().arrive(level, flow, tell);
        let ticket = match arrival {
            Arrival::Seated(place) => return Ok(Some(permit(place))),
            Arrival::Refused => return Err(Refused),
            Arrival::Waits(ticket) => ticket,
        };
        // Also where the client goes away.
        let waiting = Waiting { flow: self, ticket, told };
        tokio::time::timeout(WAIT_LIMIT, waiting.seat()).await.map_err(|_| Refused).map(|place| place.map(permit))
    }

    fn lock(&self) -> MutexGuard<'_, Seats<oneshot::Sender<Place>>> {
        self.seats.lock().expect("nothing panics with the seats")
    }

    fn leave(&self, place: Place, took: Duration) {
        let mut freed = vec![(place, took)];
        while let Some((place, took)) = freed.pop() {
            let next = self.lock().leave(place, took.as_secs_f64());
            for (place, waiter) in next {
                if waiter.send(place).is_err() {
                    freed.push((place, Duration::ZERO));
                }
            }
        }
    }
}

/// A place in a queue, given up when this goes.
struct Waiting<'a> {
    flow: &'a Flow,
    ticket: seats::Ticket,
    told: oneshot::Receiver<Place>,
}

impl Waiting<'_> {
    async fn seat(mut self) -> Option<Place> {
        (&mut self.told).await.ok()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.told.close();
        match self.told.try_recv() {
            // It came while nobody waited any more.
            Ok(place) => self.flow.leave(place, Duration::ZERO),
            Err(_) => self.flow.lock().give_up(self.ticket),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.flow.leave(self.place, self.since.elapsed());
    }
}

impl Class {
    /// As upstream, by uid: names are nobody's business.
    pub fn mark(&self, headers: &mut HeaderMap) {
        headers.insert(SCHEMA_UID, self.schema.clone());
        headers.insert(LEVEL_UID, self.level.clone());
    }
}

/// Upstream's answer, which is no `Status`.
pub(crate) fn too_many() -> Reply {
    let mut reply = Reply::text(429, "Too many requests, please try again later.\n");
    reply.set(http::header::RETRY_AFTER, RETRY_AFTER_S);
    reply.set(http::header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    reply
}
