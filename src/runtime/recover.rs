//! Bringing records, host and supervisor in line, after whatever ended whoever at whatever moment.
//!
//! Rules: what has no record goes; what has a record and is not known to the supervisor does not run any more, and what
//! is left of it goes; what is known goes on untouched.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use skiff_linux::cgroup::Cgroups;
use skiff_linux::mount;
use tracing::{info, warn};

use crate::link::Link;
use crate::plan::{cgroup_path, sandbox_of_cgroup};
use crate::protocol::{Call, Event, Known, now_ns};
use crate::record::{self, ContainerRecord, EXIT, RECORD, SandboxRecord, ensure_removed, names};
use crate::state::{ContainerEntry, Inner, Tables};
use crate::{Error, record::exit_of_lost, spec};

fn io(operation: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { operation, source }
}

/// Fills the tables; blocking. What the supervisor tells meanwhile goes to `events`.
pub fn recover(inner: &Inner, link: &Link, known: Vec<Known>, events: &mut Vec<Event>) -> Result<(), Error> {
    let mut known: HashMap<String, Known> = known.into_iter().map(|known| (known.id.clone(), known)).collect();
    let mut tables = Tables::default();
    let data = &inner.layout.data;
    for id in names(&data.join("sandboxes")).map_err(io("read sandbox records"))? {
        if let Some(record) = record::read::<SandboxRecord>(&inner.layout.sandbox_data(&id).join(RECORD)) {
            tables.sandboxes.insert(id, record);
        }
    }
    for id in names(&data.join("containers")).map_err(io("read container records"))? {
        let directory = inner.layout.container_data(&id);
        let Some(record) = record::read::<ContainerRecord>(&directory.join(RECORD)) else { continue };
        let mut entry = ContainerEntry {
            record,
            pid: None,
            started_ns: None,
            exit: record::read(&directory.join(EXIT)),
            user: None,
            known: false,
        };
        if let Some(known) = known.remove(&id) {
            Inner::merge(&mut entry, &known);
        }
        tables.containers.insert(id, entry);
    }
    if inner.owner.is_some() {
        for id in known.into_keys() {
            info!(container = %id, "removing a container without a record");
            link.call_alone("remove container", Call::Remove(id), events)?;
        }
        let inits = inits(inner, &tables)?;
        bury(inner, &mut tables, &inits);
        sweep(inner, &tables);
    }
    let mut current = inner.tables();
    // Execs go on where the supervisor does; with a new one, their waiters must hear that they are over.
    tables.execs = std::mem::take(&mut current.execs);
    *current = tables;
    Ok(())
}

/// The sandboxes whose process 1 the supervisor looks after.
fn inits(inner: &Inner, tables: &Tables) -> Result<HashSet<String>, Error> {
    // Over a connection of its own: a supervisor of an earlier version, which still runs after an upgrade, hangs up on a
    // call that it does not know.
    let asked = Link::connect(&inner.layout).map_err(Error::Supervisor);
    let asked = asked.and_then(|link| link.call_alone("list sandboxes", Call::ListSandboxes, &mut Vec::new()));
    match asked {
        Ok(inits) => Ok(inits.into_iter().map(|init| init.id).collect()),
        Err(Error::Supervisor(error)) => {
            info!(%error, "the supervisor does not say which sandboxes it has: those with processes count");
            let lives = |record: &&SandboxRecord| {
                let plan = inner.sandbox_plan(record);
                let groups = [plan.init_cgroup(), plan.earlier_init_cgroup()];
                groups.iter().any(|group| inner.cgroups.processes(group).is_ok_and(|found| !found.is_empty()))
            };
            Ok(tables.sandboxes.values().filter(lives).map(|record| record.id.clone()).collect())
        }
        Err(error) => Err(error),
    }
}

/// Ends what runs without the supervisor's knowledge, and notes how it ended. `inits`: the sandboxes whose process 1
/// the supervisor looks after.
fn bury(inner: &Inner, tables: &mut Tables, inits: &HashSet<String>) {
    for entry in tables.containers.values_mut().filter(|entry| !entry.known && entry.exit.is_none()) {
        let id = &entry.record.id;
        if let Err(error) = end_group(inner, &entry.record.cgroup) {
            warn!(container = %id, %error, "what is left of a container could not be ended");
        }
        let directory = inner.layout.container_data(id);
        entry.exit = exit_of_lost(&directory, now_ns());
        if let Some(exit) = &entry.exit {
            info!(container = %id, "found a container that ended with its supervisor");
            if let Err(error) = record::write(&directory.join(EXIT), exit) {
                warn!(container = %id, %error, "its exit could not be recorded");
            }
        }
    }
    let mounts = mount::mounts_below(&inner.layout.run).unwrap_or_default();
    for record in tables.sandboxes.values_mut().filter(|record| !record.stopped) {
        let plan = inner.sandbox_plan(record);
        // Whoever made it may have come no further than some of them.
        let mut kept = spec::joined_namespaces(&plan).filter(|name| *name != "pid");
        let lost = kept.any(|name| !mounts.contains(&plan.namespace(name)))
            || (plan.ipc && !mounts.contains(&plan.directory.join("shm")))
            // Nobody would hear of the end of a process 1 that is not the supervisor's child.
            || (plan.process && !inits.contains(&record.id));
        if lost {
            info!(sandbox = %record.id, "found a sandbox whose namespaces are gone");
            record.stopped = true;
            if let Err(error) = record::write(&inner.layout.sandbox_data(&record.id).join(RECORD), record) {
                warn!(sandbox = %record.id, %error, "its state could not be recorded");
            }
        }
    }
}

/// Kills everything in a group, waits until it is gone, and removes the group. Blocking.
pub fn end_group(inner: &Inner, cgroup: &str) -> std::io::Result<()> {
    let until = Instant::now() + inner.options.kill_timeout;
    while inner.cgroups.kill(cgroup)? > 0 {
        if Instant::now() > until {
            return Err(std::io::Error::other(format!("processes in {cgroup} do not end")));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // A killed process leaves its group a moment after it left the list.
    loop {
        match inner.cgroups.remove(cgroup) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Removes directories, mounts and groups that belong to nothing.
fn sweep(inner: &Inner, tables: &Tables) {
    let layout = &inner.layout;
    let mut errors = Vec::new();
    for (parent, known) in [
        (layout.run.join("sandboxes"), &tables.sandboxes.keys().collect::<Vec<_>>()),
        (layout.data.join("sandboxes"), &tables.sandboxes.keys().collect::<Vec<_>>()),
        (layout.run.join("containers"), &tables.containers.keys().collect::<Vec<_>>()),
        (layout.data.join("containers"), &tables.containers.keys().collect::<Vec<_>>()),
    ] {
        for name in names(&parent).unwrap_or_default() {
            if !known.contains(&&name) {
                let directory = parent.join(&name);
                info!(directory = %directory.display(), "removing leftovers");
                let removed = mount::ensure_unmounted_below(&directory).and_then(|()| ensure_removed(&directory));
                errors.extend(removed.err());
            }
        }
    }
    let root = cgroup_path(&inner.options.cgroup_root, "kubepods");
    sweep_groups(inner, &root, tables, &mut errors);
    for error in errors {
        warn!(%error, "leftovers stay");
    }
}

/// Pods' groups of ours that nothing is in any more, and such containers' groups in the others. What another kubelet has
/// there is its own, and so is what is inside a container.
fn sweep_groups(inner: &Inner, path: &str, tables: &Tables, errors: &mut Vec<std::io::Error>) {
    let sandboxes = &tables.sandboxes;
    let pods: Vec<&String> = sandboxes.values().map(|record| &record.cgroup).collect();
    let containers: Vec<&String> = tables.containers.values().map(|entry| &entry.record.cgroup).collect();
    for pod in pod_groups(&inner.cgroups, path) {
        let below = format!("{pod}/");
        let mut gone = Vec::new();
        if pods.contains(&&pod) || containers.iter().any(|container| container.starts_with(&below)) {
            let of_nobody = |name: &String| match sandbox_of_cgroup(name) {
                Some(id) => !sandboxes.contains_key(id),
                None => is_container_id(name) && !containers.contains(&&format!("{below}{name}")),
            };
            let all = inner.cgroups.children(&pod).into_iter().filter(of_nobody);
            gone.extend(all.map(|name| format!("{below}{name}")));
        } else {
            gone.push(pod);
        }
        for group in gone {
            info!(cgroup = %group, "removing a group of nobody");
            errors.extend(end_group(inner, &group).err());
        }
    }
}

fn is_container_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Our pods' groups: below the root itself, or below a class of quality of service.
pub fn pod_groups(cgroups: &Cgroups, root: &str) -> Vec<String> {
    let mut found = Vec::new();
    for name in cgroups.children(root) {
        let group = format!("{root}/{name}");
        if cgroups.is_ours(&group) {
            found.push(group);
        } else {
            let below = cgroups.children(&group).into_iter().map(|pod| format!("{group}/{pod}"));
            found.extend(below.filter(|pod| cgroups.is_ours(pod)));
        }
    }
    found
}
