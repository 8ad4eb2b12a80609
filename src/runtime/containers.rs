//! Containers, as the agent sees them.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use skiff_linux::cgroup::Limits;
use skiff_linux::security_module::{SecurityModules, app_armor_profiles};
use uuid::Uuid;

use crate::plan::{
    ContainerPlan, asks_for_app_armor, cgroup_path, limits, plan_app_armor, plan_paths, plan_process, plan_se_linux,
    plan_user, pod_limits,
};
use crate::protocol::{Call, now_ns, seal};
use crate::record::{self, ContainerRecord, RECORD, ensure_removed};
use crate::recover::end_group;
use crate::runtime::{Runtime, blocking, io};
use crate::sandboxes::new_id;
use crate::state::ContainerEntry;
use crate::{Container, ContainerConfig, ContainerId, Error, ExecStreams, ImageId, Resources, SandboxId, Stats};

impl Runtime {
    /// Makes everything but runs nothing: the program waits for [`Runtime::start_container`].
    pub async fn create_container(&self, sandbox: &SandboxId, config: ContainerConfig) -> Result<ContainerId, Error> {
        let inner = self.inner.clone();
        let image = inner.images.image(&config.image.0)?.ok_or_else(|| Error::ImageNotFound(config.image.0.clone()))?;
        let layers = inner.images.layers(&image.id)?;
        let sandbox_record = inner.tables().sandboxes.get(&sandbox.0).filter(|record| !record.stopped).cloned();
        let sandbox_record = sandbox_record.ok_or_else(|| Error::SandboxNotFound(sandbox.0.clone()))?;
        let sandbox_plan = inner.sandbox_plan(&sandbox_record);

        let id = new_id();
        let cgroup = format!("{}/{id}", sandbox_record.cgroup);
        let log_path = sandbox_record.config.log_directory.join(&config.log_path);
        let (masked_paths, readonly_paths) = plan_paths(&config.security);
        let privileged = config.security.privileged;
        let modules = SecurityModules::detect();
        let profiles = match modules.app_armor.then(app_armor_profiles).transpose() {
            // As in a container without privileges, whose root may not read them.
            Err(error) if !asks_for_app_armor(&config.security) => {
                tracing::warn!(container = config.name, %error, "AppArmor's profiles can't be listed: it gets none");
                None
            }
            listed => listed.map_err(io("list AppArmor profiles"))?,
        };
        let labels = plan_se_linux(&config.security, modules.se_linux);
        let mut process = plan_process(&config, &image.config, &sandbox_plan)?;
        process.app_armor = plan_app_armor(&config.security, profiles.as_deref())?;
        process.app_armor_optional = !asks_for_app_armor(&config.security);
        process.se_linux = labels.as_ref().map(|labels| labels.0.clone());
        let plan = ContainerPlan {
            id: id.clone(),
            run_directory: inner.layout.container_run(&id),
            state_directory: inner.layout.container_data(&id),
            lower_directories: layers.lower_directories,
            cgroup: cgroup.clone(),
            resources: config.resources.clone(),
            process,
            user: plan_user(&config.security, &image.config)?,
            sandbox: sandbox_plan,
            mounts: config.mounts.clone(),
            image_layers: mounted_images(&config, |id| Ok(inner.images.layers(id)?.lower_directories))?,
            target: config.target.as_ref().map(|target| target.0.clone()),
            devices: privileged.then(|| "/dev".into()).into_iter().chain(config.devices.iter().cloned()).collect(),
            volumes: image.config.volumes.clone(),
            privileged,
            read_only_root: config.security.read_only_root,
            masked_paths,
            readonly_paths,
            file_label: labels.map(|labels| labels.1),
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            log_path: log_path.clone(),
        };
        let record = ContainerRecord {
            id: id.clone(),
            sandbox: sandbox.0.clone(),
            image_ref: image.tags.first().or(image.digests.first()).unwrap_or(&image.id.0).clone(),
            stop_signal: stop_signal(config.stop_signal.as_deref().or(image.config.stop_signal.as_deref())),
            config,
            cgroup,
            log_path,
            created_ns: now_ns(),
        };
        {
            let (inner, record) = (inner.clone(), record.clone());
            blocking(move || {
                // Nobody removes its images before its record says that they are in use.
                let _held = inner.images.hold().map_err(io("lock image store"))?;
                record.config.needs().iter().try_for_each(|id| inner.images.layers(id).map(drop))?;
                let directory = inner.layout.container_data(&record.id);
                std::fs::create_dir_all(&directory).map_err(io("create container directory"))?;
                std::fs::create_dir_all(inner.layout.container_run(&record.id))
                    .map_err(io("create container directory"))?;
                record::write(&directory.join(RECORD), &record).map_err(io("write container record"))
            })
            .await?;
        }
        let sealed = seal(&plan)?;
        // Entered first: its end may be told before the answer is.
        let entry =
            ContainerEntry { record: record.clone(), pid: None, started_ns: None, exit: None, user: None, known: true };
        inner.tables().containers.insert(id.clone(), entry);
        let made = match inner.link() {
            Ok(link) => link.call("create container", Call::Create, &[sealed.as_fd()]).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(known) => {
                if let Some(entry) = inner.tables().containers.get_mut(&id) {
                    entry.pid = known.first().and_then(|known| known.pid);
                    entry.user = known.first().and_then(|known| known.user.clone());
                }
                Ok(ContainerId(id))
            }
            Err(error) => {
                inner.tables().containers.remove(&id);
                if let Err(left) = self.clear(&record).await {
                    let left = skiff_base::chain(&left).to_string();
                    tracing::warn!(container = %id, error = %left, "a failed container leaves something");
                }
                Err(error)
            }
        }
    }

    /// Removes what a container has on the host.
    async fn clear(&self, record: &ContainerRecord) -> Result<(), Error> {
        let (inner, record) = (self.inner.clone(), record.clone());
        blocking(move || {
            end_group(&inner, &record.cgroup).map_err(io("remove container cgroup"))?;
            ensure_removed(&inner.layout.container_run(&record.id)).map_err(io("remove container directory"))?;
            ensure_removed(&inner.layout.container_data(&record.id)).map_err(io("remove container directory"))
        })
        .await
    }

    /// Runs the program. An error that says why it could not be run is also its exit (`StartError`, 128).
    pub async fn start_container(&self, id: &ContainerId) -> Result<(), Error> {
        self.exists(id)?;
        self.inner.link()?.call("start container", Call::Start(id.0.clone()), &[]).await.map(drop)
    }

    fn exists(&self, id: &ContainerId) -> Result<(), Error> {
        let tables = self.inner.tables();
        tables.containers.get(&id.0).map(|_| ()).ok_or_else(|| Error::ContainerNotFound(id.0.clone()))
    }

    pub async fn signal_container(&self, id: &ContainerId, signal: i32) -> Result<(), Error> {
        self.exists(id)?;
        let call = Call::Signal { id: id.0.clone(), signal };
        self.inner.link()?.call("signal container", call, &[]).await.map(drop)
    }

    /// The stop signal of its image, then a wait, then SIGKILL. Nothing if it has ended.
    pub async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), Error> {
        let (signal, over, created) = {
            let tables = self.inner.tables();
            let entry = tables.containers.get(&id.0).ok_or_else(|| Error::ContainerNotFound(id.0.clone()))?;
            (entry.record.stop_signal, entry.exit.is_some() || !entry.known, entry.started_ns.is_none())
        };
        if over {
            return Ok(());
        }
        // What does not run yet handles no signal.
        if !grace.is_zero() && !created {
            match self.signal_container(id, signal).await {
                // It has ended meanwhile, or it ends anyhow.
                Ok(()) | Err(Error::Failed { .. }) => {}
                Err(error) => return Err(error),
            }
            if self.exited(&id.0, Some(grace)).await {
                return Ok(());
            }
        }
        self.kill(&id.0).await
    }

    async fn exited(&self, id: &str, limit: Option<Duration>) -> bool {
        let over = |tables: &mut crate::state::Tables| {
            let entry = tables.containers.get(id);
            entry.is_none_or(|entry| entry.exit.is_some() || !entry.known).then_some(())
        };
        self.eventually(limit, over).await.is_some()
    }

    /// SIGKILL, and a wait for the end.
    pub(crate) async fn kill(&self, id: &str) -> Result<(), Error> {
        let call = Call::Signal { id: id.to_owned(), signal: libc::SIGKILL };
        match self.inner.link()?.call("kill container", call, &[]).await {
            Ok(_) | Err(Error::Failed { .. }) => {}
            Err(error) => return Err(error),
        }
        if self.exited(id, Some(self.inner.options.kill_timeout)).await {
            Ok(())
        } else {
            Err(Error::Timeout("the container does not end after SIGKILL"))
        }
    }

    /// Removes it, running or not; log files stay. Idempotent.
    pub async fn remove_container(&self, id: &ContainerId) -> Result<(), Error> {
        let record = self.inner.tables().containers.get(&id.0).map(|entry| entry.record.clone());
        let Some(record) = record else { return Ok(()) };
        let call = self.inner.link()?;
        let removed = call.call("remove container", Call::Remove(id.0.clone()), &[]);
        match tokio::time::timeout(self.inner.options.kill_timeout, removed).await {
            Ok(result) => result?,
            Err(_) => return Err(Error::Timeout("the container does not end after SIGKILL")),
        };
        self.clear(&record).await?;
        self.inner.tables().containers.remove(&id.0);
        self.inner.changed.notify_waiters();
        Ok(())
    }

    pub async fn container(&self, id: &ContainerId) -> Result<Container, Error> {
        let tables = self.inner.tables();
        let entry = tables.containers.get(&id.0).ok_or_else(|| Error::ContainerNotFound(id.0.clone()))?;
        Ok(entry.container())
    }

    pub async fn containers(&self) -> Result<Vec<Container>, Error> {
        Ok(self.inner.tables().containers.values().map(ContainerEntry::container).collect())
    }

    /// Changes the limits that are given, of a container that has not ended.
    pub async fn update_resources(&self, id: &ContainerId, resources: &Resources) -> Result<(), Error> {
        self.limit(self.cgroup(id)?, limits(resources)).await
    }

    /// What all pods together may have.
    pub async fn limit_pods(&self, resources: &Resources) -> Result<(), Error> {
        let group = cgroup_path(&self.inner.options.cgroup_root, "kubepods");
        self.inner.cgroups.ensure(&group).map_err(io("make the group of all pods"))?;
        self.limit(group, pod_limits(resources)).await
    }

    async fn limit(&self, cgroup: String, limits: Limits) -> Result<(), Error> {
        let inner = self.inner.clone();
        blocking(move || {
            let missing = inner.cgroups.limit(&cgroup, &limits).map_err(io("update resources"))?;
            if missing.is_empty() {
                Ok(())
            } else {
                let why = format!("no cgroup controller for {}", missing.join(", "));
                Err(Error::Failed { operation: "update resources", why })
            }
        })
        .await
    }

    fn cgroup(&self, id: &ContainerId) -> Result<String, Error> {
        let tables = self.inner.tables();
        let entry = tables.containers.get(&id.0).ok_or_else(|| Error::ContainerNotFound(id.0.clone()))?;
        Ok(entry.record.cgroup.clone())
    }

    /// The directory of what a container writes into its own files.
    pub fn writable_layer(&self, id: &ContainerId) -> PathBuf {
        self.inner.layout.container_data(&id.0).join(crate::plan::WRITABLE)
    }

    pub async fn container_stats(&self, id: &ContainerId) -> Result<Stats, Error> {
        let cgroup = self.cgroup(id)?;
        let inner = self.inner.clone();
        blocking(move || {
            let usage = inner.cgroups.usage(&cgroup).map_err(io("read container statistics"))?;
            Ok(Stats {
                cpu_usage_ns: usage.cpu_ns,
                memory_working_set_bytes: usage.memory_working_set_bytes,
                memory_usage_bytes: usage.memory_bytes,
                memory_rss_bytes: usage.memory_rss_bytes,
                memory_cache_bytes: usage.memory_cache_bytes,
                pids: usage.pids,
                cpu_periods: usage.periods,
                cpu_throttled_periods: usage.throttled_periods,
                cpu_throttled_ns: usage.throttled_ns,
                oom_kills: usage.oom_kills,
            })
        })
        .await
    }

    /// Streams of the running container: output from now on, and its stdin if it is asked for and there is one.
    pub async fn attach(&self, id: &ContainerId, stdin: bool) -> Result<ExecStreams, Error> {
        let (tty, stdin) = {
            let tables = self.inner.tables();
            let entry = tables.containers.get(&id.0).ok_or_else(|| Error::ContainerNotFound(id.0.clone()))?;
            (entry.record.config.tty, stdin && entry.record.config.stdin)
        };
        let pipe = || std::io::pipe().map_err(io("create a pipe"));
        let id_of_streams = Uuid::new_v4().to_string();
        let mut streams = ExecStreams { id: id_of_streams, stdin: None, stdout: None, stderr: None, tty: None };
        let mut theirs: Vec<std::os::fd::OwnedFd> = Vec::new();
        if tty {
            let (ours, other) = std::os::unix::net::UnixStream::pair().map_err(io("create a socket"))?;
            streams.tty = Some(ours.into());
            if stdin {
                theirs.push(other.try_clone().map_err(io("duplicate a socket"))?.into());
            }
            theirs.insert(0, other.into());
        } else {
            let (stdout, stdout_theirs) = pipe()?;
            let (stderr, stderr_theirs) = pipe()?;
            theirs.extend([stdout_theirs.into(), stderr_theirs.into()]);
            (streams.stdout, streams.stderr) = (Some(stdout.into()), Some(stderr.into()));
            if stdin {
                let (stdin_theirs, stdin) = pipe()?;
                theirs.push(stdin_theirs.into());
                streams.stdin = Some(stdin.into());
            }
        }
        let fds: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
        self.inner.link()?.call("attach", Call::Attach { id: id.0.clone(), stdin }, &fds).await?;
        Ok(streams)
    }
}

/// The layers of the images that are mounted as such, topmost first.
fn mounted_images(
    config: &ContainerConfig,
    layers: impl Fn(&ImageId) -> Result<Vec<PathBuf>, Error>,
) -> Result<BTreeMap<String, Vec<PathBuf>>, Error> {
    let images = config.mounts.iter().filter_map(|mount| mount.image.as_ref());
    images.map(|id| Ok((id.0.clone(), layers(id)?))).collect()
}

/// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`; SIGTERM where the image says nothing that is known.
fn stop_signal(name: Option<&str>) -> i32 {
    let Some(name) = name.map(str::trim).filter(|name| !name.is_empty()) else { return libc::SIGTERM };
    if let Ok(number) = name.parse::<i32>() {
        return if (1..=64).contains(&number) { number } else { libc::SIGTERM };
    }
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = bare.strip_prefix("RTMIN") {
        return offset.trim_start_matches('+').parse::<i32>().map_or(34, |offset| (34 + offset).min(64));
    }
    format!("SIG{bare}").parse::<nix::sys::signal::Signal>().map_or(libc::SIGTERM, |signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals() {
        for (name, expect) in [
            (None, 15),
            (Some(""), 15),
            (Some("SIGQUIT"), 3),
            (Some("INT"), 2),
            (Some("9"), 9),
            (Some("SIGRTMIN+3"), 37),
            (Some("RTMIN"), 34),
            (Some("NONSENSE"), 15),
            (Some("999"), 15),
        ] {
            assert_eq!(stop_signal(name), expect, "{name:?}");
        }
    }
}
