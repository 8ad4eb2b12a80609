//! Sets of completion indexes in their short form: `1,3-5,7`.

use std::fmt;

/// Ascending intervals, both ends inclusive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes {
    intervals: Vec<(i32, i32)>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexesError {
    #[error(
        "the fragment {0:?} violates the requirement that an index interval can have at most two parts separated by '-'"
    )]
    Parts(String),
    #[error("cannot convert string to integer for index: {0:?}")]
    Number(String),
    #[error("too large index: {0:?}")]
    TooLarge(String),
    #[error("non-increasing order, previous: {previous}, current: {current}")]
    Order { previous: i32, current: i32 },
}

impl Indexes {
    /// All must be below `completions`.
    pub fn parse(text: &str, completions: i32) -> Result<Self, IndexesError> {
        let mut intervals: Vec<(i32, i32)> = Vec::new();
        let number = |text: &str| -> Result<i32, IndexesError> {
            let number: i32 = text.parse().map_err(|_| IndexesError::Number(text.to_owned()))?;
            if number >= completions { Err(IndexesError::TooLarge(text.to_owned())) } else { Ok(number) }
        };
        for fragment in text.split(',').filter(|_| !text.is_empty()) {
            let parts: Vec<&str> = fragment.split('-').collect();
            if parts.len() > 2 {
                return Err(IndexesError::Parts(fragment.to_owned()));
            }
            let first = number(parts[0])?;
            if let Some((_, previous)) = intervals.last()
                && *previous >= first
            {
                return Err(IndexesError::Order { previous: *previous, current: first });
            }
            let last = match parts.get(1) {
                None => first,
                Some(last) => {
                    let last = number(last)?;
                    if first >= last {
                        return Err(IndexesError::Order { previous: first, current: last });
                    }
                    last
                }
            };
            intervals.push((first, last));
        }
        Ok(Self { intervals })
    }

    /// Of numbers in any order.
    pub fn of(numbers: impl IntoIterator<Item = i32>) -> Self {
        let mut numbers: Vec<i32> = numbers.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut intervals: Vec<(i32, i32)> = Vec::new();
        for number in numbers {
            match intervals.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => intervals.push((number, number)),
            }
        }
        Self { intervals }
    }

    pub fn iter(&self) -> impl Iterator<Item = i32> + '_ {
        self.intervals.iter().flat_map(|(first, last)| *first..=*last)
    }

    pub fn contains(&self, index: i32) -> bool {
        self.intervals.iter().any(|(first, last)| (*first..=*last).contains(&index))
    }

    pub fn count(&self) -> i32 {
        self.intervals.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }
}

impl fmt::Display for Indexes {
    /// Two neighbours are written `1,2`, more `1-3`; as upstream.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.intervals.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match last - first {
                0 => write!(f, "{first}")?,
                1 => write!(f, "{first},{last}")?,
                _ => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        for (text, numbers) in
            [("", vec![]), ("3", vec![3]), ("0,1", vec![0, 1]), ("0-2,5,7-9", vec![0, 1, 2, 5, 7, 8, 9])]
        {
            let indexes = Indexes::parse(text, 10).expect(text);
            assert_eq!(indexes.iter().collect::<Vec<_>>(), numbers);
            assert_eq!(Indexes::of(numbers.iter().rev().copied()).to_string(), text);
            assert_eq!(indexes.count(), i32::try_from(numbers.len()).expect("few"));
        }
        for (text, expect) in [
            ("a", "cannot convert string to integer for index: \"a\""),
            (
                "1-2-3",
                "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
            ),
            ("10", "too large index: \"10\""),
            ("3,2", "non-increasing order, previous: 3, current: 2"),
            ("3-3", "non-increasing order, previous: 3, current: 3"),
        ] {
            assert_eq!(Indexes::parse(text, 10).expect_err(text).to_string(), expect);
        }
    }
}
