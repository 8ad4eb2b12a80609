//! Sets of CPUs as the kernel writes them: `0-3,8`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CpuSet(pub(super) BTreeSet<u32>);

impl CpuSet {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn without(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }
}

impl FromStr for CpuSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| part.parse::<u32>().map_err(|_| format!("{text:?} is no list of CPUs such as 0-3,8"));
        let mut set = BTreeSet::new();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            // More than any machine has, and nothing that takes long to write down.
            if last < first || last > 1 << 16 {
                return Err(format!("{part:?} is no range of CPUs"));
            }
            set.extend(first..=last);
        }
        Ok(Self(set))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut between = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if_eq(&(last + 1)) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{between}{first}")?,
                _ => write!(f, "{between}{first}-{last}")?,
            }
            between = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_kernel_writes_them() {
        for (text, expect) in [("0-3,8", "0-3,8"), ("3,1,2", "1-3"), ("", ""), ("5\n", "5"), ("0,2,4-5", "0,2,4-5")] {
            assert_eq!(text.parse::<CpuSet>().expect(text).to_string(), expect);
        }
        for bad in ["x", "3-1", "1-", "0-99999999"] {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad}");
        }
    }
}
