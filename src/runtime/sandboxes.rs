//! Pods' sandboxes, as the agent sees them.

use std::os::fd::AsFd;

use skiff_linux::mount;
use uuid::Uuid;

use crate::plan::{SandboxPlan, cgroup_path, pod_limits};
use crate::protocol::{Call, now_ns, seal, timestamp};
use crate::record::{self, RECORD, SandboxRecord, ensure_removed};
use crate::recover::end_group;
use crate::runtime::{Runtime, blocking, io};
use crate::state::Inner;
use crate::{Error, Resources, Sandbox, SandboxConfig, SandboxId, SandboxState};

/// 64 hexadecimal digits, as everybody's container ids are.
pub(crate) fn new_id() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

impl Inner {
    pub(crate) fn sandbox_plan(&self, record: &SandboxRecord) -> SandboxPlan {
        SandboxPlan::new(&record.id, self.layout.sandbox_run(&record.id), record.cgroup.clone(), &record.config)
    }

    fn sandbox(&self, record: &SandboxRecord) -> Sandbox {
        let config = &record.config;
        let netns = self.sandbox_plan(record).namespace("net");
        Sandbox {
            id: SandboxId(record.id.clone()),
            state: if record.stopped { SandboxState::NotReady } else { SandboxState::Ready },
            pod_name: config.pod_name.clone(),
            pod_namespace: config.pod_namespace.clone(),
            pod_uid: config.pod_uid.clone(),
            attempt: config.attempt,
            created: timestamp(record.created_ns),
            netns: (!config.host_network).then_some(netns),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }
    }

    /// Directories, record and cgroup; blocking.
    fn prepare(&self, record: &SandboxRecord) -> Result<SandboxPlan, Error> {
        std::fs::create_dir_all(self.layout.sandbox_data(&record.id)).map_err(io("create sandbox directory"))?;
        std::fs::create_dir_all(self.layout.sandbox_run(&record.id)).map_err(io("create sandbox directory"))?;
        std::fs::create_dir_all(&record.config.log_directory).map_err(io("create log directory"))?;
        // First, so that whatever is made has a record by which it is found.
        record::write(&self.layout.sandbox_data(&record.id).join(RECORD), record)
            .map_err(io("write sandbox record"))?;
        self.cgroups.ensure_ours(&record.cgroup).map_err(io("create pod cgroup"))?;
        let limits = pod_limits(&record.config.resources);
        let missing = self.cgroups.limit(&record.cgroup, &limits).map_err(io("limit pod"))?;
        if !missing.is_empty() {
            tracing::warn!(sandbox = %record.id, ?missing, "cgroup controllers are missing: limits have no effect");
        }
        self.weigh_class(&record.cgroup)?;
        Ok(self.sandbox_plan(record))
    }

    /// The pods of a class have the CPU's time together that each of them asks for: of classes side by side, none gets the
    /// more, the fewer pods are in it.
    fn weigh_class(&self, pod: &str) -> Result<(), Error> {
        match pod.rsplit_once('/') {
            Some((class, _)) if !class.is_empty() && class != cgroup_path(&self.options.cgroup_root, "") => {
                self.cgroups.weigh_by_children(class).map_err(io("weigh pods"))
            }
            _ => Ok(()),
        }
    }

    /// Takes down what a sandbox has on the host; blocking, idempotent.
    fn dismantle(&self, record: &SandboxRecord) -> Result<(), Error> {
        let directory = self.layout.sandbox_run(&record.id);
        // Its process 1, which a supervisor that is gone may have left.
        let plan = self.sandbox_plan(record);
        end_group(self, &plan.init_cgroup()).map_err(io("end sandbox"))?;
        // What all sandboxes of a pod had in common may be that of its next one.
        let shared = self
            .tables()
            .sandboxes
            .values()
            .any(|other| other.id != record.id && other.cgroup == record.cgroup && !other.stopped);
        if !shared {
            end_group(self, &plan.earlier_init_cgroup()).map_err(io("end sandbox"))?;
        }
        mount::ensure_unmounted(&directory).map_err(io("unmount sandbox"))?;
        mount::ensure_unmounted_below(&directory).map_err(io("unmount sandbox"))?;
        ensure_removed(&directory).map_err(io("remove sandbox directory"))
    }
}

impl Runtime {
    /// Makes the pod's cgroup and namespaces.
    pub async fn run_sandbox(&self, config: SandboxConfig) -> Result<Sandbox, Error> {
        let id = new_id();
        let inner = self.inner.clone();
        let cgroup = cgroup_path(&inner.options.cgroup_root, &config.cgroup_parent);
        let record = SandboxRecord { id: id.clone(), config, cgroup, created_ns: now_ns(), stopped: false };
        let prepared = {
            let (inner, record) = (inner.clone(), record.clone());
            blocking(move || inner.prepare(&record))
        };
        let made = async {
            let plan = seal(&prepared.await?)?;
            inner.link()?.call("run sandbox", Call::RunSandbox, &[plan.as_fd()]).await
        };
        if let Err(error) = made.await {
            self.give_up(record).await;
            return Err(error);
        }
        let sandbox = inner.sandbox(&record);
        inner.tables().sandboxes.insert(id, record);
        Ok(sandbox)
    }

    /// Takes away what a sandbox that could not be made has left. Where that fails, it counts as a stopped one, so that it
    /// can be removed later.
    async fn give_up(&self, mut record: SandboxRecord) {
        let id = SandboxId(record.id.clone());
        record.stopped = true;
        self.inner.tables().sandboxes.insert(id.0.clone(), record);
        if let Err(left) = self.remove_sandbox(&id).await {
            tracing::warn!(sandbox = %id.0, error = %skiff_base::chain(&left), "a failed sandbox leaves something");
        }
    }

    /// Kills what is left and unmounts the namespaces; idempotent. Beside an agent, whose sandbox it is, this only kills:
    /// the agent hears of it and takes down the rest.
    pub async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), Error> {
        let inner = self.inner.clone();
        let Some(mut record) = inner.tables().sandboxes.get(&id.0).cloned() else {
            return Err(Error::SandboxNotFound(id.0.clone()));
        };
        let containers: Vec<String> = {
            let tables = inner.tables();
            let of_sandbox = tables.containers.values().filter(|entry| entry.record.sandbox == id.0);
            of_sandbox
                .filter(|entry| entry.exit.is_none() && entry.known)
                .map(|entry| entry.record.id.clone())
                .collect()
        };
        let killing = futures::future::try_join_all(containers.iter().map(|container| self.kill(container)));
        let link = inner.link()?;
        let stopping = link.call("stop sandbox", Call::StopSandbox(id.0.clone()), &[]);
        record.stopped = true;
        if !self.is_owner() {
            // In this order, so that the agent begins no container anew in what goes.
            stopping.await?;
            killing.await?;
            inner.tables().sandboxes.insert(id.0.clone(), record);
            return Ok(());
        }
        killing.await?;
        stopping.await?;
        {
            let (inner, record) = (inner.clone(), record.clone());
            blocking(move || {
                inner.dismantle(&record)?;
                match record::write(&inner.layout.sandbox_data(&record.id).join(RECORD), &record) {
                    // Another process has removed it meanwhile.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                    written => written.map_err(io("write sandbox record")),
                }
            })
            .await?;
        }
        inner.tables().sandboxes.insert(id.0.clone(), record);
        Ok(())
    }

    /// Changes the limits that are given of the pod's own cgroup.
    pub async fn update_sandbox(&self, id: &SandboxId, resources: &Resources) -> Result<(), Error> {
        let record = self.inner.tables().sandboxes.get(&id.0).cloned();
        let cgroup = record.ok_or_else(|| Error::SandboxNotFound(id.0.clone()))?.cgroup;
        let (inner, limits) = (self.inner.clone(), pod_limits(resources));
        blocking(move || {
            inner.cgroups.limit(&cgroup, &limits).map_err(io("update resources"))?;
            inner.weigh_class(&cgroup)
        })
        .await
    }

    /// Removes it with its containers, cgroup and records; log files stay. Idempotent.
    pub async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), Error> {
        let inner = self.inner.clone();
        let Some(record) = inner.tables().sandboxes.get(&id.0).cloned() else { return Ok(()) };
        self.stop_sandbox(id).await?;
        let containers: Vec<crate::ContainerId> = {
            let tables = inner.tables();
            let of_sandbox = tables.containers.values().filter(|entry| entry.record.sandbox == id.0);
            of_sandbox.map(|entry| crate::ContainerId(entry.record.id.clone())).collect()
        };
        for container in &containers {
            self.remove_container(container).await?;
        }
        // A pod whose sandbox is made anew has two for a moment, in one group.
        let shared = inner.tables().sandboxes.values().any(|other| other.id != id.0 && other.cgroup == record.cgroup);
        {
            let inner = inner.clone();
            blocking(move || {
                // An agent may be making the pod's next sandbox in it.
                if !shared && inner.owner.is_some() {
                    end_group(&inner, &record.cgroup).map_err(io("remove pod cgroup"))?;
                    inner.weigh_class(&record.cgroup)?;
                }
                ensure_removed(&inner.layout.sandbox_data(&record.id)).map_err(io("remove sandbox record"))
            })
            .await?;
        }
        inner.tables().sandboxes.remove(&id.0);
        Ok(())
    }

    pub async fn sandboxes(&self) -> Result<Vec<Sandbox>, Error> {
        let tables = self.inner.tables();
        Ok(tables.sandboxes.values().map(|record| self.inner.sandbox(record)).collect())
    }
}
