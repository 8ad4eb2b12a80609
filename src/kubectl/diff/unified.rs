//! Unified differences of texts (the algorithm of Myers, "An O(ND) Difference Algorithm").

/// Equal lines around what differs.
const CONTEXT: usize = 3;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Edit {
    Keep,
    Remove,
    Add,
}

/// The hunks between two texts; none if they are equal.
pub fn hunks(old: &str, new: &str) -> Option<String> {
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let edits = script(&a, &b);
    if edits.iter().all(|edit| *edit == Edit::Keep) {
        return None;
    }
    let mut out = String::new();
    let (mut at, mut a_at, mut b_at) = (0, 0, 0);
    while let Some(ahead) = edits[at..].iter().position(|edit| *edit != Edit::Keep) {
        let first = at + ahead;
        // A hunk ends where more equal lines follow than two hunks would show.
        let mut end = first;
        let mut equal = 0;
        for (nth, edit) in edits.iter().enumerate().skip(first) {
            equal = if *edit == Edit::Keep { equal + 1 } else { 0 };
            if equal == 0 {
                end = nth + 1;
            } else if equal > 2 * CONTEXT {
                break;
            }
        }
        let start = first.saturating_sub(CONTEXT).max(at);
        (a_at, b_at) = (a_at + start - at, b_at + start - at);
        let stop = (end + CONTEXT).min(edits.len());
        let (from_a, from_b) = (a_at, b_at);
        let mut lines = String::new();
        for edit in &edits[start..stop] {
            let (sign, line) = match edit {
                Edit::Keep => (' ', a[a_at]),
                Edit::Remove => ('-', a[a_at]),
                Edit::Add => ('+', b[b_at]),
            };
            a_at += usize::from(*edit != Edit::Add);
            b_at += usize::from(*edit != Edit::Remove);
            lines.push(sign);
            lines.push_str(line);
            lines.push('\n');
        }
        out.push_str(&format!("@@ -{} +{} @@\n{lines}", range(from_a, a_at), range(from_b, b_at)));
        at = stop;
    }
    Some(out)
}

/// `START,COUNT`; of nothing, the line before it.
fn range(from: usize, to: usize) -> String {
    match to - from {
        0 => format!("{from},0"),
        1 => format!("{}", from + 1),
        count => format!("{},{count}", from + 1),
    }
}

/// The shortest way from `a` to `b`.
fn script(a: &[&str], b: &[&str]) -> Vec<Edit> {
    let most = a.len() + b.len();
    // The furthest x on each diagonal k = x - y, at k + most + 1; one copy for each number of edits.
    let mut furthest = vec![0_usize; 2 * most + 3];
    let mut trace = Vec::new();
    let slot = |k: isize| usize::try_from(k + most as isize + 1).expect("diagonals stay within the texts");
    'search: for d in 0..=most as isize {
        trace.push(furthest.clone());
        for k in (-d..=d).step_by(2) {
            let down = k == -d || k != d && furthest[slot(k - 1)] < furthest[slot(k + 1)];
            let mut x = if down { furthest[slot(k + 1)] } else { furthest[slot(k - 1)] + 1 };
            let mut y = x.wrapping_add_signed(-k);
            while x < a.len() && y < b.len() && a[x] == b[y] {
                (x, y) = (x + 1, y + 1);
            }
            furthest[slot(k)] = x;
            if x >= a.len() && y >= b.len() {
                break 'search;
            }
        }
    }
    let (mut x, mut y) = (a.len(), b.len());
    let mut edits = Vec::with_capacity(most);
    for (d, furthest) in trace.iter().enumerate().rev() {
        let (d, k) = (d as isize, x as isize - y as isize);
        let down = k == -d || k != d && furthest[slot(k - 1)] < furthest[slot(k + 1)];
        let before = if down { k + 1 } else { k - 1 };
        let from_x = if d == 0 { 0 } else { furthest[slot(before)] };
        let from_y = if d == 0 { 0 } else { from_x.wrapping_add_signed(-before) };
        while x > from_x && y > from_y {
            edits.push(Edit::Keep);
            (x, y) = (x - 1, y - 1);
        }
        if d > 0 {
            edits.push(if down { Edit::Add } else { Edit::Remove });
        }
        (x, y) = (from_x, from_y);
    }
    edits.reverse();
    edits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_differ_as_diff_says() {
        let check = |old: &str, new: &str, expect: Option<&str>| {
            assert_eq!(hunks(old, new).as_deref(), expect, "{old:?} {new:?}")
        };
        check("a\nb\n", "a\nb\n", None);
        check("", "a\nb\n", Some("@@ -0,0 +1,2 @@\n+a\n+b\n"));
        check("a\n", "", Some("@@ -1 +0,0 @@\n-a\n"));
        check("a\nb\nc\n", "a\nx\nc\n", Some("@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n"));
        let lines = |changed: &[usize]| {
            (0..20)
                .map(|n| if changed.contains(&n) { format!("new{n}\n") } else { format!("{n}\n") })
                .collect::<String>()
        };
        check(
            &lines(&[]),
            &lines(&[2, 15]),
            Some(
                "@@ -1,6 +1,6 @@\n 0\n 1\n-2\n+new2\n 3\n 4\n 5\n@@ -13,7 +13,7 @@\n 12\n 13\n 14\n-15\n+new15\n 16\n 17\n 18\n",
            ),
        );
        check(
            &lines(&[]),
            &lines(&[5, 12]),
            Some("@@ -3,14 +3,14 @@\n 2\n 3\n 4\n-5\n+new5\n 6\n 7\n 8\n 9\n 10\n 11\n-12\n+new12\n 13\n 14\n 15\n"),
        );
    }
}
