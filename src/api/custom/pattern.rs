//! Go's regular expressions (RE2 syntax) by the `regex` crate: the same language but for a few letters.

use regex::{Regex, RegexBuilder};

/// Bytes that one compiled expression may take.
const SIZE: usize = 1 << 20;

/// An expression in Go's syntax. The error is a sentence.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(&translate(pattern)).size_limit(SIZE).build().map_err(|e| match e {
        regex::Error::Syntax(text) => {
            let why = text.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
            format!("error parsing regexp: {why}: `{pattern}`")
        }
        _ => format!("error parsing regexp: expression too large: `{pattern}`"),
    })
}

/// Classes are ASCII in Go; a brace that begins no repetition, and brackets, ampersands, dashes and tildes in a class
/// are letters there.
fn translate(pattern: &str) -> String {
    let chars: Vec<char> = pattern.chars().collect();
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut in_class = false;
    let mut at = 0;
    while at < chars.len() {
        let char = chars[at];
        let next = chars.get(at + 1).copied();
        match (char, next) {
            ('\\', Some('Q')) => {
                // Up to `\E` everything is literal.
                let rest: String = chars[at + 2..].iter().collect();
                let end = rest.find("\\E");
                out.push_str(&regex::escape(&rest[..end.unwrap_or(rest.len())]));
                at = end.map_or(chars.len(), |end| at + 2 + rest[..end].chars().count() + 2);
                continue;
            }
            ('\\', Some(named @ ('p' | 'P' | 'x'))) if chars.get(at + 2) == Some(&'{') => {
                // `\p{Greek}`, `\x{10FFFF}`: the braces belong to it.
                let end = chars[at..].iter().position(|c| *c == '}').map_or(chars.len(), |end| at + end + 1);
                out.extend(['\\', named]);
                out.extend(&chars[at + 2..end]);
                at = end;
                continue;
            }
            ('\\', Some(escaped)) => {
                escape(escaped, in_class, &mut out);
                at += 2;
                continue;
            }
            ('[', Some(':')) if in_class => out.push('['),
            ('[', _) if in_class => out.push_str("\\["),
            ('[', _) => {
                in_class = true;
                out.push('[');
                if next == Some('^') {
                    out.push('^');
                    at += 1;
                }
                // A bracket that comes first is a letter.
                if chars.get(at + 1) == Some(&']') {
                    out.push_str("\\]");
                    at += 1;
                }
            }
            (']', _) if in_class => {
                // The end of `[:alpha:]` is not the end of the class.
                in_class = out.ends_with(':') && is_named_class(&out);
                out.push(']');
            }
            ('&' | '~', _) if in_class => {
                out.push('\\');
                out.push(char);
            }
            ('-', Some('-')) if in_class => out.push_str("\\-"),
            ('{', _) if !in_class && !is_repetition(&chars[at + 1..]) => out.push_str("\\{"),
            (char, _) => out.push(char),
        }
        at += 1;
    }
    out
}

fn escape(escaped: char, in_class: bool, out: &mut String) {
    let (plain, class) = match escaped {
        'd' => ("[0-9]", "0-9"),
        'w' => ("[0-9A-Za-z_]", "0-9A-Za-z_"),
        's' => (r"[\t\n\f\r ]", r"\t\n\f\r "),
        'D' => ("[^0-9]", "[^0-9]"),
        'W' => ("[^0-9A-Za-z_]", "[^0-9A-Za-z_]"),
        'S' => (r"[^\t\n\f\r ]", r"[^\t\n\f\r ]"),
        'b' => (r"(?-u:\b)", r"\x08"),
        'B' => (r"(?-u:\B)", r"\B"),
        '<' => ("<", "<"),
        '>' => (">", ">"),
        other => {
            out.push('\\');
            return out.push(other);
        }
    };
    out.push_str(if in_class { class } else { plain });
}

fn is_named_class(out: &str) -> bool {
    out.rfind("[:").is_some_and(|start| out.len() > start + 2 && !out[start + 2..].contains(']'))
}

/// `3}`, `3,}` or `3,5}`.
fn is_repetition(rest: &[char]) -> bool {
    let Some(end) = rest.iter().position(|c| *c == '}') else { return false };
    let inside: String = rest[..end].iter().collect();
    let (from, to) = inside.split_once(',').unwrap_or((&inside, ""));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    !from.is_empty() && digits(from) && digits(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_mean_what_they_mean_in_go() {
        for (pattern, matches, fails) in [
            (r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$", "* * * * */5", "* * * *"),
            (r"^\d$", "5", "٥"),
            (r"^[\w-]+$", "a_b-c", "é"),
            (r"^[^\d]+$", "abc", "a1"),
            (r"^{{.*}}$", "{{x}}", "x"),
            (r"^a{2,3}$", "aaa", "a"),
            (r"^[[:alpha:]]+$", "abc", "1"),
            (r"^[a-z[]+$", "a[b", "A"),
            (r"^[]a]+$", "]a", "b"),
            (r"^[a&&b]+$", "a&b", "c"),
            (r"^\Qa.b\E+$", "a.bbb", "axb"),
            (r"^\p{Lu}.*$", "Éa", "a"),
            (r"^\<a\>$", "<a>", "a"),
            (r"\bfoo\b", "a foo b", "afoo"),
        ] {
            let compiled = compile(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
            assert!(compiled.is_match(matches), "{pattern} {matches}");
            assert!(!compiled.is_match(fails), "{pattern} {fails}");
        }
        for pattern in ["(", "[a", r"(?<x"] {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
    }
}
