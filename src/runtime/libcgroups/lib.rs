//! What libcontainer wants of `libcgroups`, on a machine without control groups.
//!
//! Its caller is in the container's groups already, with all limits set, so there is nothing left to do. The real one looks
//! for the hierarchies anyway: it reads the host's table of mounts thirteen times for each container, and that table grows
//! with every pod.
//!
//! Whatever would have to act on a group is refused: nobody here asks libcontainer for it.

/// The names below which libcontainer expects all of it.
pub mod common {
    use std::fmt;
    use std::path::PathBuf;

    use nix::unistd::Pid;
    use oci_spec::runtime::LinuxResources;

    pub const DEFAULT_CGROUP_ROOT: &str = "/sys/fs/cgroup";

    /// This stand-in does not do what was asked.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Unsupported;

    impl fmt::Display for Unsupported {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("libcontainer has no control groups here")
        }
    }

    impl std::error::Error for Unsupported {}

    // Three types, since libcontainer's error has a variant from each.
    macro_rules! error {
        ($name:ident) => {
            #[derive(Debug)]
            pub struct $name(Unsupported);

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    self.0.fmt(f)
                }
            }

            impl std::error::Error for $name {}
        };
    }
    error!(AnyManagerError);
    error!(CreateCgroupSetupError);
    error!(GetCgroupSetupError);

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum CgroupSetup {
        Hybrid,
        Legacy,
        Unified,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum FreezerState {
        Undefined,
        Frozen,
        Thawed,
    }

    #[derive(Debug, Clone)]
    pub struct ControllerOpt<'a> {
        pub resources: &'a LinuxResources,
        pub disable_oom_killer: bool,
        pub oom_score_adj: Option<i32>,
        pub freezer_state: Option<FreezerState>,
    }

    #[derive(Debug, Clone)]
    pub struct CgroupConfig {
        pub cgroup_path: PathBuf,
        pub systemd_cgroup: bool,
        pub container_name: String,
    }

    pub trait CgroupManager {
        type Error;
        fn add_task(&self, pid: Pid) -> Result<(), Self::Error>;
        fn apply(&self, controller_opt: &ControllerOpt<'_>) -> Result<(), Self::Error>;
        fn remove(&self) -> Result<(), Self::Error>;
        fn freeze(&self, state: FreezerState) -> Result<(), Self::Error>;
        fn stats(&self) -> Result<(), Self::Error>;
        fn get_all_pids(&self) -> Result<Vec<Pid>, Self::Error>;
    }

    /// Leaves every process where it is.
    #[derive(Debug)]
    pub struct AnyCgroupManager(());

    impl AnyCgroupManager {
        #[must_use]
        pub fn with_rootless(self, _: bool) -> Self {
            self
        }
    }

    impl CgroupManager for AnyCgroupManager {
        type Error = AnyManagerError;

        /// It is in its group, as what made it was.
        fn add_task(&self, _: Pid) -> Result<(), AnyManagerError> {
            Ok(())
        }

        /// The limits are the group's, which the caller has made.
        fn apply(&self, _: &ControllerOpt<'_>) -> Result<(), AnyManagerError> {
            Ok(())
        }

        /// The group is the caller's to remove.
        fn remove(&self) -> Result<(), AnyManagerError> {
            Ok(())
        }

        fn freeze(&self, _: FreezerState) -> Result<(), AnyManagerError> {
            Err(AnyManagerError(Unsupported))
        }

        fn stats(&self) -> Result<(), AnyManagerError> {
            Err(AnyManagerError(Unsupported))
        }

        fn get_all_pids(&self) -> Result<Vec<Pid>, AnyManagerError> {
            Err(AnyManagerError(Unsupported))
        }
    }

    pub fn create_cgroup_manager(_: CgroupConfig) -> Result<AnyCgroupManager, CreateCgroupSetupError> {
        Ok(AnyCgroupManager(()))
    }

    pub fn get_cgroup_setup() -> Result<CgroupSetup, GetCgroupSetupError> {
        Err(GetCgroupSetupError(Unsupported))
    }
}
