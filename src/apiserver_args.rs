//! `--kube-apiserver-arg`: upstream's flags of its API server, of which those of the audit log mean something here.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use skiff_apiserver::{AuditOptions, Rotation};

/// The audit log that the arguments ask for. What is no flag known here is an error: it would be ignored.
pub fn audit(arguments: &[String]) -> Result<Option<AuditOptions>> {
    let (mut policy_file, mut log_path, mut rotation) = (None, None, Rotation::default());
    for argument in arguments {
        let (name, value) = argument
            .trim_start_matches("--")
            .split_once('=')
            .with_context(|| format!("--kube-apiserver-arg {argument:?} is not of the form name=value"))?;
        let number =
            || value.parse::<u64>().with_context(|| format!("--kube-apiserver-arg {name}: {value:?} is no number"));
        match name {
            "audit-policy-file" => policy_file = Some(PathBuf::from(value)),
            "audit-log-path" => log_path = Some(PathBuf::from(value)),
            "audit-log-maxage" => rotation.max_age_days = number()?,
            "audit-log-maxbackup" => rotation.max_backups = usize::try_from(number()?)?,
            "audit-log-maxsize" => rotation.max_size_mb = number()?,
            "audit-log-format" if value == "json" => {}
            "audit-log-format" => bail!("--kube-apiserver-arg audit-log-format: only json is written, not {value:?}"),
            other => bail!(
                "--kube-apiserver-arg {other:?} is not known: there are audit-policy-file, audit-log-path, \
                 audit-log-maxage, audit-log-maxbackup, audit-log-maxsize and audit-log-format"
            ),
        }
    }
    match (policy_file, log_path) {
        (None, None) if arguments.is_empty() => Ok(None),
        (Some(policy_file), Some(log_path)) => Ok(Some(AuditOptions { policy_file, log_path, rotation })),
        (Some(_), None) => {
            bail!("--kube-apiserver-arg audit-policy-file needs audit-log-path too: nothing would be written")
        }
        _ => bail!(
            "--kube-apiserver-arg audit-log-path needs audit-policy-file too: without a policy nothing is recorded"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let read = |arguments: &[&str]| audit(&arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
        assert!(read(&[]).expect("nothing").is_none());
        let options =
            read(&["audit-policy-file=/p", "--audit-log-path=/l", "audit-log-maxsize=5", "audit-log-maxbackup=2"]);
        let options = options.expect("valid").expect("a log");
        assert_eq!(options.rotation, Rotation { max_size_mb: 5, max_backups: 2, max_age_days: 0 });
        assert_eq!(options.log_path, PathBuf::from("/l"));
        for (arguments, expect) in [
            (&["audit-policy-file=/p"][..], "needs audit-log-path"),
            (&["audit-log-path=/l"], "needs audit-policy-file"),
            (&["audit-log-maxage=1"], "needs audit-policy-file"),
            (&["audit-log-maxage"], "name=value"),
            (&["audit-log-maxage=x"], "no number"),
            (&["audit-log-format=legacy"], "only json"),
            (&["anonymous-auth=false"], "is not known"),
        ] {
            let error = read(arguments).expect_err("refused");
            assert!(format!("{error:#}").contains(expect), "{arguments:?}: {error:#}");
        }
    }
}
