//! The labels of a namespace: which level in which version is enforced, recorded and warned of.

use std::collections::BTreeMap;
use std::fmt;

use skiff_api::status::Cause;

const PREFIX: &str = "pod-security.kubernetes.io/";

/// The more, the stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// Of Kubernetes' first major version the minor one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Latest,
    Minor(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LevelVersion {
    pub level: Level,
    pub version: Version,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::Latest => write!(f, "{level}:latest"),
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

const NONE: LevelVersion = LevelVersion { level: Level::Privileged, version: Version::Latest };

impl Policy {
    /// With what is wrong with the labels; a level that can't be read is the strictest where it is enforced, and
    /// none where it only tells.
    pub fn of(labels: &BTreeMap<String, String>) -> (Self, Vec<Cause>) {
        let mut wrong = Vec::new();
        let mut mode = |mode: &str, fallback: Level| {
            let (level_label, version_label) = (format!("{PREFIX}{mode}"), format!("{PREFIX}{mode}-version"));
            let level = labels.get(&level_label).map(|text| {
                level(text).unwrap_or_else(|| {
                    wrong.push(invalid(&level_label, text, "must be one of privileged, baseline, restricted"));
                    fallback
                })
            });
            let version = labels.get(&version_label).map(|text| {
                version(text).unwrap_or_else(|| {
                    wrong.push(invalid(&version_label, text, r#"must be "latest" or "v1.x""#));
                    Version::Latest
                })
            });
            (level, version)
        };
        let of = |(level, version): (Option<Level>, Option<Version>)| LevelVersion {
            level: level.unwrap_or(NONE.level),
            version: version.unwrap_or(NONE.version),
        };
        let enforced = mode("enforce", Level::Restricted);
        let (audited, warned) = (mode("audit", Level::Privileged), mode("warn", Level::Privileged));
        let mut policy = Self { enforce: of(enforced), audit: of(audited), warn: of(warned) };
        // Who enforces and says nothing of warnings is warned of the same.
        let readable = labels.get(&format!("{PREFIX}enforce")).is_some_and(|text| self::level(text).is_some());
        if warned.0.is_none() && readable && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if warned.1.is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, wrong)
    }

    pub fn allows_all(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|mode| mode.level == Level::Privileged)
    }
}

fn level(text: &str) -> Option<Level> {
    match text {
        "privileged" => Some(Level::Privileged),
        "baseline" => Some(Level::Baseline),
        "restricted" => Some(Level::Restricted),
        _ => None,
    }
}

fn version(text: &str) -> Option<Version> {
    if text == "latest" {
        return Some(Version::Latest);
    }
    let minor = text.strip_prefix("v1.")?;
    let plain = minor == "0" || (!minor.starts_with('0') && minor.bytes().all(|b| b.is_ascii_digit()));
    if plain { minor.parse().ok().map(Version::Minor) } else { None }
}

fn invalid(label: &str, value: &str, why: &str) -> Cause {
    Cause {
        reason: "FieldValueInvalid".into(),
        message: format!("Invalid value: {value:?}: {why}"),
        field: format!("metadata.labels[{label}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_make_policies() {
        let check = |labels: &[(&str, &str)], expect: &str, wrong: &[&str]| {
            let labels =
                labels.iter().map(|(label, value)| (format!("{PREFIX}{label}"), (*value).to_owned())).collect();
            let (policy, causes) = Policy::of(&labels);
            assert_eq!(format!("{} {} {}", policy.enforce, policy.audit, policy.warn), expect, "{labels:?}");
            let told: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
            assert_eq!(told, wrong);
        };
        check(&[], "privileged:latest privileged:latest privileged:latest", &[]);
        check(&[("enforce", "baseline")], "baseline:latest privileged:latest baseline:latest", &[]);
        check(
            &[("enforce", "baseline"), ("enforce-version", "v1.20"), ("warn", "privileged")],
            "baseline:v1.20 privileged:latest privileged:latest",
            &[],
        );
        check(
            &[("enforce", "restricted"), ("enforce-version", "v1.20")],
            "restricted:v1.20 privileged:latest restricted:v1.20",
            &[],
        );
        check(
            &[("audit", "restricted"), ("warn-version", "v1.9")],
            "privileged:latest restricted:latest privileged:v1.9",
            &[],
        );
        check(
            &[("enforce", "strict"), ("warn", "lax"), ("warn-version", "v1.09")],
            "restricted:latest privileged:latest privileged:latest",
            &[
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, \
                 baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"lax\": must be one of privileged, \
                 baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v1.09\": must be \"latest\" or \
                 \"v1.x\"",
            ],
        );
    }
}
