//! What crictl's commands are called, and what may be said to each.

use anyhow::{Context, Result, bail};
use jiff::Timestamp;

/// `name short takes-a-value` of each flag.
type Flag = (&'static str, char, bool);

pub struct Verb {
    pub names: &'static [&'static str],
    pub about: &'static str,
    flags: &'static [Flag],
    /// Words that it needs at least, and whether it takes more.
    words: (usize, bool),
}

const NONE: char = '\0';
const OUTPUT: Flag = ("output", 'o', true);
const QUIET: Flag = ("quiet", 'q', false);
const TEMPLATE: Flag = ("template", NONE, true);
const NO_TRUNC: Flag = ("no-trunc", NONE, false);

macro_rules! verbs {
    ($($names:expr, $about:expr, $flags:expr, $words:expr;)*) => {
        &[$(Verb { names: &$names, about: $about, flags: &$flags, words: $words }),*]
    };
}

pub const VERBS: &[Verb] = verbs! {
    ["ps"], "List containers", [("all", 'a', false), ("id", NONE, true), ("image", NONE, true), ("label", NONE, true),
        ("last", 'n', true), ("latest", 'l', false), ("name", NONE, true), ("namespace", NONE, true), NO_TRUNC, OUTPUT,
        ("pod", 'p', true), QUIET, ("resolve-image-path", 'r', false), ("state", 's', true)], (0, false);
    ["pods"], "List pods", [("id", NONE, true), ("label", NONE, true), ("last", 'n', true), ("latest", 'l', false),
        ("name", NONE, true), ("namespace", NONE, true), NO_TRUNC, OUTPUT, QUIET, ("state", 's', true)], (0, false);
    ["images", "image", "img"], "List images", [("digests", NONE, false), NO_TRUNC, OUTPUT, QUIET, ("verbose", 'v', false)], (0, true);
    ["inspect"], "Display the status of one or more containers", [OUTPUT, QUIET, TEMPLATE], (1, true);
    ["inspecti"], "Return the status of one or more images", [OUTPUT, QUIET, TEMPLATE], (1, true);
    ["inspectp"], "Display the status of one or more pods", [OUTPUT, QUIET, TEMPLATE], (1, true);
    ["logs"], "Fetch the logs of a container", [("follow", 'f', false), ("limit-bytes", NONE, true), ("previous", 'p', false),
        ("since", NONE, true), ("tail", NONE, true), ("timestamps", 't', false)], (1, false);
    ["exec"], "Run a command in a running container", [("interactive", 'i', false), ("sync", 's', false),
        ("timeout", NONE, true), ("tty", 't', false)], (2, true);
    ["stats"], "List container(s) resource usage statistics", [("all", 'a', false), ("id", NONE, true), NO_TRUNC,
        ("pod", 'p', true), ("seconds", 's', true)], (0, true);
    ["pull"], "Pull an image from a registry", [("creds", NONE, true)], (1, false);
    ["rmi"], "Remove one or more images", [("all", 'a', false), ("prune", 'q', false)], (0, true);
    ["rm"], "Remove one or more containers", [("all", 'a', false), ("force", 'f', false)], (0, true);
    ["rmp"], "Remove one or more pods", [("all", 'a', false), ("force", 'f', false)], (0, true);
    ["stop"], "Stop one or more running containers", [("timeout", 't', true)], (1, true);
    ["stopp"], "Stop one or more running pods", [], (1, true);
    ["attach"], "Attach to a running container", [("stdin", 'i', false), ("tty", 't', false)], (1, false);
    ["imagefsinfo"], "Return image filesystem info", [OUTPUT], (0, false);
    ["info"], "Display information of the container runtime", [OUTPUT, QUIET], (0, false);
    ["version"], "Display runtime version information", [], (0, false);
};

/// crictl's, and not ours: why.
pub const REFUSED: &[(&[&str], &str)] = &[
    (
        &["checkpoint", "create", "run", "runp", "start", "update"],
        "pods and their containers are made and changed by the node alone (kubectl does what you look for)",
    ),
    (&["config"], "it reads the files of `skiff server`, and there is no endpoint to choose"),
    (&["runtime-config"], "`crictl info` tells of the runtime"),
    (&["statsp", "metricsp"], "`crictl stats` has the numbers of containers, `kubectl top pods` those of pods"),
    (&["events"], "`kubectl get events` tells what happens to pods"),
    (&["port-forward"], "`kubectl port-forward` does it"),
];

/// What was given for a verb.
#[derive(Default)]
pub struct Given {
    flags: Vec<(&'static str, String)>,
    pub words: Vec<String>,
}

impl Given {
    /// Flags stand before, between and behind the words; of `exec` only before the command.
    pub fn parse(verb: &Verb, arguments: &[String]) -> Result<Self> {
        let mut given = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let in_command = verb.names[0] == "exec" && !given.words.is_empty();
            if argument == "--" && !in_command {
                given.words.extend(rest.by_ref().cloned());
            } else if let Some(long) = argument.strip_prefix("--").filter(|_| !in_command) {
                let (name, value) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v.to_owned())));
                let flag = verb.flags.iter().find(|(known, ..)| *known == name);
                let (name, _, takes) = flag.with_context(|| format!("crictl {}: no flag --{name}", verb.names[0]))?;
                let value = match (value, takes) {
                    (Some(value), _) => value,
                    (None, true) => rest.next().with_context(|| format!("--{name} needs a value"))?.clone(),
                    (None, false) => "true".to_owned(),
                };
                given.flags.push((name, value));
            } else if argument.len() > 1 && argument.starts_with('-') && !in_command {
                given.letters(verb, &argument[1..], &mut rest)?;
            } else {
                given.words.push(argument.clone());
            }
        }
        let (least, more) = verb.words;
        if given.words.len() < least || (!more && given.words.len() > least) {
            let needed = match least {
                0 => "no words are taken".to_owned(),
                1 => "1 word is needed".to_owned(),
                several => format!("{several} words are needed"),
            };
            bail!("crictl {}: {needed}{}", verb.names[0], if more { " at least" } else { "" });
        }
        Ok(given)
    }

    fn letters<'a>(&mut self, verb: &Verb, letters: &str, rest: &mut impl Iterator<Item = &'a String>) -> Result<()> {
        for (at, letter) in letters.char_indices() {
            let flag = verb.flags.iter().find(|(_, short, _)| *short == letter && letter != NONE);
            let (name, _, takes) = flag.with_context(|| format!("crictl {}: no flag -{letter}", verb.names[0]))?;
            if *takes {
                let behind = letters[at + letter.len_utf8()..].trim_start_matches('=');
                let value = if behind.is_empty() { rest.next().cloned() } else { Some(behind.to_owned()) };
                self.flags.push((name, value.with_context(|| format!("-{letter} needs a value"))?));
                return Ok(());
            }
            self.flags.push((name, "true".to_owned()));
        }
        Ok(())
    }

    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| value != "false")
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.flags.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    pub fn number(&self, name: &str) -> Result<Option<u64>> {
        let parse = |text: &str| text.parse().with_context(|| format!("--{name}: {text:?} is no number"));
        self.value(name).map(parse).transpose()
    }

    /// Each `--label key=value`, or a key alone.
    pub fn labels_match(&self, labels: &std::collections::BTreeMap<String, String>) -> bool {
        let wanted = self.flags.iter().filter(|(name, _)| *name == "label");
        wanted.into_iter().all(|(_, pair)| match pair.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|held| held == value),
            None => labels.contains_key(pair),
        })
    }

    /// The newest ones, as many as are asked for.
    pub fn newest<T>(&self, mut all: Vec<T>, created: impl Fn(&T) -> Timestamp) -> Result<Vec<T>> {
        all.sort_by_key(|one| std::cmp::Reverse(created(one)));
        let last = if self.has("latest") { Some(1) } else { self.number("last")? };
        all.truncate(last.map_or(usize::MAX, |last| usize::try_from(last).unwrap_or(usize::MAX)));
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Given> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let verb = VERBS.iter().find(|verb| verb.names.contains(&words[0].as_str())).expect("a verb");
        Given::parse(verb, &words[1..])
    }

    #[test]
    fn flags_and_words() {
        let given = parsed("ps -aq --name web --state=Exited -n3").expect("valid");
        assert!(given.has("all") && given.has("quiet") && !given.has("no-trunc"));
        assert_eq!(
            (given.value("name"), given.value("state"), given.value("last")),
            (Some("web"), Some("Exited"), Some("3"))
        );
        let given = parsed("exec -it abc ls -la --color").expect("valid");
        assert!(given.has("tty") && given.has("interactive"));
        assert_eq!(given.words, ["abc", "ls", "-la", "--color"]);
        assert_eq!(parsed("logs abc --tail 5 -f").expect("valid").number("tail").expect("a number"), Some(5));
        for (line, expect) in [
            ("ps abc", "no words are taken"),
            ("attach", "attach: 1 word is needed"),
            ("inspect", "1 word is needed at least"),
            ("exec abc", "2 words are needed at least"),
            ("ps --verbose", "no flag --verbose"),
            ("ps -x", "no flag -x"),
            ("logs --tail", "needs a value"),
        ] {
            let error = parsed(line).err().expect(line).to_string();
            assert!(error.contains(expect), "{line}: {error}");
        }
    }
}
