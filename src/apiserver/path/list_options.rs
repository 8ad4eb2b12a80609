//! `metav1.ListOptions`: what a list, a watch and the deletion of a collection are asked with, read and checked as
//! upstream does.

use skiff_api::ApiError;
use skiff_api::field::{Errors, Path};

use super::options::refuse;
use crate::call::{Query, go_number_error};

const EXACT: &str = "Exact";
const NOT_OLDER: &str = "NotOlderThan";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListOptions<'a> {
    /// Empty: not given.
    pub version: &'a str,
    pub is_exact: bool,
    pub is_not_older: bool,
    pub token: &'a str,
    pub limit: Option<usize>,
    pub timeout_s: Option<i64>,
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub initial_events: Option<bool>,
}

impl<'a> ListOptions<'a> {
    pub fn of_list(query: &'a Query) -> Result<Self, ApiError> {
        let (options, matching) = Self::read(query)?;
        let mut errors = Errors::new();
        let field = Path::new("resourceVersionMatch");
        if !matching.is_empty() {
            if options.version.is_empty() {
                errors.forbidden(&field, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !options.token.is_empty() {
                errors.forbidden(&field, "resourceVersionMatch is forbidden when continue is provided");
            }
            if !options.is_exact && !options.is_not_older {
                errors.not_supported(&field, matching, &[EXACT, NOT_OLDER, ""]);
            }
            if options.is_exact && options.version == "0" {
                errors.forbidden(&field, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
        }
        if options.initial_events.is_some() {
            errors.forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
        }
        refuse(errors, "ListOptions")?;
        Ok(options)
    }

    pub fn of_watch(query: &'a Query) -> Result<Self, ApiError> {
        let (mut options, mut matching) = Self::read(query)?;
        // What begins without a revision begins with what there is.
        if options.initial_events.is_none() && matching.is_empty() && matches!(options.version, "" | "0") {
            options.initial_events = Some(true);
            (matching, options.is_not_older) = (NOT_OLDER, true);
        }
        let mut errors = Errors::new();
        let field = Path::new("resourceVersionMatch");
        if options.initial_events.is_some() && !options.is_not_older {
            errors.forbidden(&field, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if !matching.is_empty() {
            if options.initial_events.is_none() {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                errors.forbidden(&field, why);
            }
            if !options.is_not_older {
                errors.not_supported(&field, matching, &[NOT_OLDER]);
            }
            if !options.token.is_empty() {
                errors.forbidden(&field, "resourceVersionMatch is forbidden when continue is provided");
            }
        }
        refuse(errors, "ListOptions")?;
        Ok(options)
    }

    fn read(query: &'a Query) -> Result<(Self, &'a str), ApiError> {
        let matching = query.get("resourceVersionMatch").unwrap_or_default();
        let options = Self {
            version: query.get("resourceVersion").unwrap_or_default(),
            is_exact: matching == EXACT,
            is_not_older: matching == NOT_OLDER,
            token: query.get("continue").unwrap_or_default(),
            limit: query.integer("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0),
            timeout_s: query.integer("timeoutSeconds")?,
            bookmarks: query.flag("allowWatchBookmarks"),
            initial_events: query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents")),
        };
        Ok((options, matching))
    }
}

/// A `resourceVersion`; empty is 0.
pub(crate) fn revision(text: &str) -> Result<u64, ApiError> {
    if text.is_empty() {
        return Ok(0);
    }
    // Rust reads a plus sign, Go does not.
    let number = if text.starts_with('+') { "".parse() } else { text.parse() };
    number.map_err(|error| {
        ApiError::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: {}",
            go_number_error(&error)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, watch: bool, expect: Result<&str, &str>) {
        let parsed = Query::parse(query);
        let read = if watch { ListOptions::of_watch(&parsed) } else { ListOptions::of_list(&parsed) };
        let got = read.map(|o| format!("{:?} {:?} {}", o.limit, o.initial_events, o.is_not_older));
        match (got, expect) {
            (Ok(got), Ok(expect)) => assert_eq!(got, expect, "{query}"),
            (Err(got), Err(expect)) => assert!(got.message.contains(expect), "{query}: {}", got.message),
            (got, expect) => panic!("{query}: {got:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn lists() {
        check("", false, Ok("None None false"));
        check("limit=0", false, Ok("None None false"));
        check("limit=-1", false, Ok("None None false"));
        check("limit=500&resourceVersion=5&resourceVersionMatch=NotOlderThan", false, Ok("Some(500) None true"));
        check("limit=x", false, Err(r#"strconv.ParseInt: parsing "x": invalid syntax"#));
        check("limit=99999999999999999999", false, Err("value out of range"));
        check("timeoutSeconds=1.5", false, Err("invalid syntax"));
        let forbidden = "resourceVersionMatch: Forbidden: resourceVersionMatch";
        check("resourceVersionMatch=Exact", false, Err(&format!("{forbidden} is forbidden unless resourceVersion")));
        check(
            "resourceVersionMatch=Exact&resourceVersion=0",
            false,
            Err(&format!(r#"{forbidden} "exact" is forbidden for resourceVersion "0""#)),
        );
        check(
            "resourceVersionMatch=Odd&resourceVersion=1",
            false,
            Err(r#"Unsupported value: "Odd": supported values: "", "Exact", "NotOlderThan""#),
        );
        check(
            "resourceVersionMatch=Exact&resourceVersion=1&continue=x",
            false,
            Err(&format!("{forbidden} is forbidden when continue is provided")),
        );
        check("sendInitialEvents=false", false, Err("Forbidden: sendInitialEvents is forbidden for list"));
        // All that is wrong is told.
        check("resourceVersionMatch=Odd", false, Err("[resourceVersionMatch: Forbidden"));
    }

    #[test]
    fn watches() {
        check("", true, Ok("None Some(true) true"));
        check("resourceVersion=0", true, Ok("None Some(true) true"));
        check("resourceVersion=7", true, Ok("None None false"));
        let list = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        check(list, true, Ok("None Some(true) true"));
        check(&format!("{list}&resourceVersion=7"), true, Ok("None Some(true) true"));
        check("sendInitialEvents=0&resourceVersionMatch=NotOlderThan", true, Ok("None Some(false) true"));
        check("sendInitialEvents=true", true, Err("requires setting resourceVersionMatch to NotOlderThan"));
        check("resourceVersionMatch=NotOlderThan", true, Err("for watch unless sendInitialEvents is provided"));
        check(
            "sendInitialEvents=true&resourceVersionMatch=Exact",
            true,
            Err(r#"Unsupported value: "Exact": supported values: "NotOlderThan""#),
        );
        check("continue=x", true, Err("is forbidden when continue is provided"));
        check("resourceVersion=7&continue=x&limit=3", true, Ok("Some(3) None false"));
    }

    #[test]
    fn revisions() {
        assert_eq!(
            (revision("").ok(), revision("0").ok(), revision("18446744073709551615").ok()),
            (Some(0), Some(0), Some(u64::MAX))
        );
        for (text, expect) in [
            ("x", "invalid syntax"),
            ("-1", "invalid syntax"),
            ("+1", "invalid syntax"),
            ("18446744073709551616", "value out of range"),
        ] {
            let error = revision(text).expect_err("refused");
            assert!(error.code == 400 && error.message.ends_with(expect), "{text}: {}", error.message);
        }
    }
}
