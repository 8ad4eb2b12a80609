//! The one path of all requests on objects: built-in kinds and custom resources, over HTTP and in process.
//!
//! Bottom-up: `options` and `part` say what is asked for; `writes` is what all writes share, `ownership` whose the fields are,
//! `scaled` an object as its Scale; `change` is the loop that every change goes through; above are the verbs and subresources.

mod apply;
pub(crate) mod change;
pub(crate) mod continuation;
mod create;
pub(crate) mod delete;
mod evict;
mod get;
pub(crate) mod list;
pub(crate) mod list_options;
mod node_token;
pub(crate) mod options;
mod owners;
pub(crate) mod ownership;
pub(crate) mod part;
pub(crate) mod patch;
pub(crate) mod scale;
mod scaled;
mod signing;
pub(crate) mod socket;
pub(crate) mod special;
pub(crate) mod update;
mod watch;
mod writes;

use crate::reply::Reply;

/// Upstream's measures, in characters: what all warnings of an answer may take, and each of them once they take more.
const ALL_WARNINGS: usize = 4 * 1024;
const ONE_WARNING: usize = 256;

pub(crate) fn warn_all(reply: &mut Reply, warnings: &[String]) {
    for warning in plan_warnings(warnings) {
        reply.warn(&warning);
    }
}

/// The same sentence once; where all would be too many, they are cut, and the last ones are left out.
fn plan_warnings(warnings: &[String]) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    let mut all = warnings.iter().filter(|warning| !warning.is_empty() && seen.insert(warning.as_str()));
    let fitting: Vec<&String> = all.by_ref().take(ALL_WARNINGS).collect();
    let total: usize = fitting.iter().map(|warning| warning.chars().count()).sum();
    if total <= ALL_WARNINGS && all.next().is_none() {
        return fitting.into_iter().cloned().collect();
    }
    let mut written = 0;
    let cut = fitting.into_iter().map(|warning| warning.chars().take(ONE_WARNING).collect::<String>());
    let room = cut.take_while(|warning| {
        let fits = written < ALL_WARNINGS;
        written += warning.chars().count();
        fits
    });
    room.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_have_a_limit() {
        let check = |warnings: &[&str], expect: (usize, usize)| {
            let warnings: Vec<String> = warnings.iter().map(|warning| (*warning).to_owned()).collect();
            let planned = plan_warnings(&warnings);
            assert_eq!((planned.len(), planned.iter().map(|w| w.chars().count()).sum::<usize>()), expect);
        };
        let (long, longer) = ("é".repeat(4000), "b".repeat(97));
        check(&["a", "b", "a", ""], (2, 2));
        check(&[&long, "x"], (2, 4001));
        check(&[&long, &longer], (2, 256 + 97));
        let many: Vec<String> = (0..50_000).map(|n| format!("{n:0>300}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        check(&many, (16, 4096));
        let short: Vec<String> = (0..50_000).map(|n| n.to_string()).collect();
        let short: Vec<&str> = short.iter().map(String::as_str).collect();
        check(&short, (1302, 4098));
    }
}
