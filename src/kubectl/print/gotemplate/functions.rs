//! The functions of templates: Go's own, and kubectl's `exists` and `base64decode`.

use std::cmp::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::Val;

type Called = Result<Val, String>;

/// Calls a function other than `and` and `or`, which don't look at all of their arguments. `None`: there is none such.
pub(super) fn call(name: &str, arguments: &[Val]) -> Option<Called> {
    let texts = || arguments.iter().map(shown).collect::<Vec<_>>();
    let one = || match arguments {
        [one] => Ok(one),
        _ => Err(format!("wrong number of args for {name}: want 1 got {}", arguments.len())),
    };
    Some(match name {
        "not" => one().map(|value| boolean(!truth(value))),
        "len" => one().and_then(length),
        "index" => index(arguments),
        "slice" => slice(arguments),
        "exists" => Ok(boolean(index(arguments).is_ok_and(|found| found.is_some()))),
        "print" => Ok(Some(print(arguments).into())),
        "println" => Ok(Some((texts().join(" ") + "\n").into())),
        "printf" => printf(arguments),
        "html" => Ok(Some(html(&print(arguments)).into())),
        "js" => Ok(Some(js(&print(arguments)).into())),
        "urlquery" => Ok(Some(url(&print(arguments)).into())),
        "base64decode" => one().and_then(|text| {
            let text = text.as_ref().and_then(Value::as_str).ok_or("base64decode needs a string")?;
            let bytes = STANDARD.decode(text).map_err(|e| format!("base64 decode failed: {e}"))?;
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned().into()))
        }),
        "eq" => match arguments {
            [] | [_] => Err("missing argument for comparison".into()),
            [first, others @ ..] => Ok(boolean(others.iter().any(|other| equal(first, other)))),
        },
        "ne" => two(name, arguments).map(|(a, b)| boolean(!equal(a, b))),
        "lt" | "le" | "gt" | "ge" => two(name, arguments).and_then(|(a, b)| {
            let order = order(a, b).ok_or("incompatible types for comparison")?;
            Ok(boolean(match name {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            }))
        }),
        _ => return None,
    })
}

fn boolean(value: bool) -> Val {
    Some(value.into())
}

fn two<'a>(name: &str, arguments: &'a [Val]) -> Result<(&'a Val, &'a Val), String> {
    match arguments {
        [a, b] => Ok((a, b)),
        _ => Err(format!("wrong number of args for {name}: want 2 got {}", arguments.len())),
    }
}

pub(super) fn truth(value: &Val) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(value)) => *value,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(entries)) => !entries.is_empty(),
    }
}

/// Numbers compare by size, whether the template or the object has them.
fn order(a: &Val, b: &Val) -> Option<Ordering> {
    match (a.as_ref()?, b.as_ref()?) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn equal(a: &Val, b: &Val) -> bool {
    order(a, b).map_or_else(|| a == b, Ordering::is_eq)
}

fn length(value: &Val) -> Called {
    let length = match value {
        Some(Value::String(text)) => text.len(),
        Some(Value::Array(items)) => items.len(),
        Some(Value::Object(entries)) => entries.len(),
        _ => return Err("error calling len: len of nil pointer".into()),
    };
    Ok(Some(length.into()))
}

fn position(value: &Val, limit: usize) -> Result<usize, String> {
    let number =
        value.as_ref().and_then(Value::as_f64).ok_or("cannot index slice/array with a value that is no number")?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked against the limits first")]
    let at = if number >= 0.0 && number <= limit as f64 { Some(number as usize) } else { None };
    at.ok_or_else(|| format!("error calling index: index out of range: {number}"))
}

fn index(arguments: &[Val]) -> Called {
    let [item, keys @ ..] = arguments else {
        return Err("wrong number of args for index: want at least 1 got 0".into());
    };
    let mut found = item.clone();
    for key in keys {
        found = match &found {
            Some(Value::Object(entries)) => {
                let key = key.as_ref().and_then(Value::as_str).ok_or("value has type that is no string")?;
                entries.get(key).cloned()
            }
            Some(Value::Array(items)) => {
                let at = position(key, items.len())?;
                Some(items.get(at).cloned().ok_or_else(|| format!("error calling index: index out of range: {at}"))?)
            }
            Some(Value::String(text)) => {
                let at = position(key, text.len())?;
                Some(text.as_bytes().get(at).copied().ok_or_else(|| format!("index out of range: {at}"))?.into())
            }
            None | Some(Value::Null) => return Err("error calling index: index of untyped nil".into()),
            Some(other) => return Err(format!("error calling index: can't index item of type {}", kind(other))),
        };
    }
    Ok(found)
}

fn slice(arguments: &[Val]) -> Called {
    let [item, bounds @ ..] = arguments else {
        return Err("wrong number of args for slice: want at least 1 got 0".into());
    };
    let cut = |length: usize| -> Result<(usize, usize), String> {
        let bound = |nth: usize, default: usize| bounds.get(nth).map_or(Ok(default), |bound| position(bound, length));
        let (from, to) = (bound(0, 0)?, bound(1, length)?);
        if from > to { Err(format!("invalid slice index: {from} > {to}")) } else { Ok((from, to)) }
    };
    match item {
        Some(Value::Array(items)) => {
            let (from, to) = cut(items.len())?;
            Ok(Some(items[from..to].to_vec().into()))
        }
        Some(Value::String(text)) => {
            let (from, to) = cut(text.len())?;
            Ok(Some(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned().into()))
        }
        _ => Err("error calling slice: slice of untyped nil".into()),
    }
}

/// Go's `fmt.Sprint`: a blank between two that are no strings.
fn print(arguments: &[Val]) -> String {
    let mut out = String::new();
    let is_text = |value: &Val| matches!(value, Some(Value::String(_)));
    for (nth, value) in arguments.iter().enumerate() {
        if nth > 0 && !is_text(value) && !is_text(&arguments[nth - 1]) {
            out.push(' ');
        }
        out.push_str(&shown(value));
    }
    out
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Go's `%v`.
pub(super) fn shown(value: &Val) -> String {
    match value {
        None | Some(Value::Null) => "<nil>".to_owned(),
        Some(value) => go_value(value),
    }
}

fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) if number.is_f64() => float(number.as_f64().unwrap_or_default()),
        Value::Number(number) => number.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_value).collect::<Vec<_>>().join(" ")),
        Value::Object(entries) => {
            let entries: Vec<String> =
                entries.iter().map(|(key, value)| format!("{key}:{}", go_value(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
    }
}

/// The shortest digits that tell the number, with an exponent where Go's `%v` has one: a million is `1e+06`.
fn float(number: f64) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return number.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn printf(arguments: &[Val]) -> Called {
    let [Some(Value::String(format)), values @ ..] = arguments else {
        return Err("error calling printf: the format is no string".into());
    };
    let (mut out, mut rest, mut values) = (String::new(), format.as_str(), values.iter());
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let end = rest.find(|c: char| !"+-# 0123456789.".contains(c));
        let Some((flags, verb)) = end.and_then(|end| Some((&rest[..end], rest[end..].chars().next()?))) else {
            out.push_str("%!(NOVERB)");
            return Ok(Some(out.into()));
        };
        rest = &rest[flags.len() + verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        match values.next() {
            Some(value) => out.push_str(&padded(flags, &formatted(value, flags, verb))),
            None => out.push_str(&format!("%!{verb}(MISSING)")),
        }
    }
    out.push_str(rest);
    let extra: Vec<String> = values.map(|v| format!("{}={}", v.as_ref().map_or("<nil>", kind), shown(v))).collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    Ok(Some(out.into()))
}

fn formatted(value: &Val, flags: &str, verb: char) -> String {
    let precision = flags.split_once('.').and_then(|(_, precision)| precision.parse::<usize>().ok());
    match (verb, value) {
        ('v', _) => shown(value),
        ('s', Some(Value::String(text))) => match precision {
            Some(length) => text.chars().take(length).collect(),
            None => text.clone(),
        },
        ('s', Some(Value::Array(_) | Value::Object(_))) => shown(value),
        ('q', Some(Value::String(text))) => skiff_api::field::go_quote(text),
        ('t', Some(Value::Bool(value))) => value.to_string(),
        ('d', Some(Value::Number(number))) if !number.is_f64() => number.to_string(),
        ('x', Some(Value::Number(number))) if number.is_i64() => format!("{:x}", number.as_i64().unwrap_or_default()),
        ('x', Some(Value::String(text))) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('f', Some(Value::Number(number))) if number.is_f64() => {
            format!("{:.*}", precision.unwrap_or(6), number.as_f64().unwrap_or_default())
        }
        (verb, None) => format!("%!{verb}(<nil>)"),
        (verb, Some(other)) => format!("%!{verb}({}={})", kind(other), go_value(other)),
    }
}

fn padded(flags: &str, text: &str) -> String {
    let left = flags.contains('-');
    let width = flags.trim_start_matches(['+', '-', '#', ' ']).split('.').next().unwrap_or_default();
    let zeros = !left && width.starts_with('0');
    let missing = width.parse::<usize>().unwrap_or_default().saturating_sub(text.chars().count());
    match (left, zeros) {
        (true, _) => format!("{text}{}", " ".repeat(missing)),
        (_, true) => format!("{}{text}", "0".repeat(missing)),
        _ => format!("{}{text}", " ".repeat(missing)),
    }
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('\'', "&#39;").replace('"', "&#34;").replace('<', "&lt;").replace('>', "&gt;")
}

fn js(text: &str) -> String {
    let mut out = String::new();
    for char in text.chars() {
        match char {
            '\\' | '\'' | '"' => out.extend(['\\', char]),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", u32::from(char))),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            other => out.push(other),
        }
    }
    out
}

fn url(text: &str) -> String {
    skiff_client::percent_encoded(text).replace("%20", "+")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_gos() {
        for (number, expect) in
            [(3.0, "3"), (0.5, "0.5"), (30008.0, "30008"), (1_234_567.0, "1.234567e+06"), (0.000_01, "1e-05")]
        {
            assert_eq!(float(number), expect);
        }
    }
}
