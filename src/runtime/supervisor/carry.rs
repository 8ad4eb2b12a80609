//! How what is this process' own is written for the program that follows in it: descriptors and processes keep their
//! numbers, moments are told from now.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::log::Stream;

pub trait Carried: Sized {
    type Form: Serialize + DeserializeOwned;
    fn form(&self) -> Self::Form;
    fn of(form: Self::Form) -> io::Result<Self>;
}

/// For `#[serde(with = "carry")]`.
pub fn serialize<T: Carried, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    value.form().serialize(serializer)
}

pub fn deserialize<'de, T: Carried, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::of(T::Form::deserialize(deserializer)?).map_err(D::Error::custom)
}

impl Carried for OwnedFd {
    type Form = i32;

    fn form(&self) -> i32 {
        self.as_raw_fd()
    }

    fn of(number: i32) -> io::Result<Self> {
        skiff_linux::process::inherited(number)
            .map_err(|error| io::Error::other(format!("the descriptor {number}: {error}")))
    }
}

impl Carried for File {
    type Form = i32;

    fn form(&self) -> i32 {
        self.as_raw_fd()
    }

    fn of(number: i32) -> io::Result<Self> {
        OwnedFd::of(number).map(File::from)
    }
}

impl Carried for Pid {
    type Form = i32;

    fn form(&self) -> i32 {
        self.as_raw()
    }

    fn of(number: i32) -> io::Result<Self> {
        Ok(Self::from_raw(number))
    }
}

/// Milliseconds that are left until then, negative where it has been.
impl Carried for Instant {
    type Form = i64;

    fn form(&self) -> i64 {
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let now = Instant::now();
        if *self >= now { ms(*self - now) } else { -ms(now - *self) }
    }

    fn of(ms: i64) -> io::Result<Self> {
        let (now, distance) = (Instant::now(), Duration::from_millis(ms.unsigned_abs()));
        let moment = if ms < 0 { now.checked_sub(distance) } else { now.checked_add(distance) };
        Ok(moment.unwrap_or(now))
    }
}

macro_rules! as_they_are {
    ($($kind:ty),*) => {$(
        impl Carried for $kind {
            type Form = $kind;

            fn form(&self) -> $kind {
                *self
            }

            fn of(form: $kind) -> io::Result<$kind> {
                Ok(form)
            }
        }
    )*};
}
as_they_are!(u64, Stream);

impl<T: Carried> Carried for Option<T> {
    type Form = Option<T::Form>;

    fn form(&self) -> Self::Form {
        self.as_ref().map(T::form)
    }

    fn of(form: Self::Form) -> io::Result<Self> {
        form.map(T::of).transpose()
    }
}

impl<T: Carried> Carried for Vec<T> {
    type Form = Vec<T::Form>;

    fn form(&self) -> Self::Form {
        self.iter().map(T::form).collect()
    }

    fn of(form: Self::Form) -> io::Result<Self> {
        form.into_iter().map(T::of).collect()
    }
}

impl<T: Carried> Carried for HashMap<u64, T> {
    type Form = Vec<(u64, T::Form)>;

    fn form(&self) -> Self::Form {
        self.iter().map(|(key, value)| (*key, value.form())).collect()
    }

    fn of(form: Self::Form) -> io::Result<Self> {
        form.into_iter().map(|(key, value)| Ok((key, T::of(value)?))).collect()
    }
}

impl<A: Carried, B: Carried> Carried for (A, B) {
    type Form = (A::Form, B::Form);

    fn form(&self) -> Self::Form {
        (self.0.form(), self.1.form())
    }

    fn of((a, b): Self::Form) -> io::Result<Self> {
        Ok((A::of(a)?, B::of(b)?))
    }
}

impl<A: Carried, B: Carried, C: Carried> Carried for (A, B, C) {
    type Form = (A::Form, B::Form, C::Form);

    fn form(&self) -> Self::Form {
        (self.0.form(), self.1.form(), self.2.form())
    }

    fn of((a, b, c): Self::Form) -> io::Result<Self> {
        Ok((A::of(a)?, B::of(b)?, C::of(c)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_keep_their_distance() {
        let now = Instant::now();
        for moment in [now + Duration::from_secs(100), now, now.checked_sub(Duration::from_secs(5)).unwrap_or(now)] {
            let again = Instant::of(moment.form()).expect("a moment");
            let apart = again.max(moment) - again.min(moment);
            assert!(apart < Duration::from_secs(1), "{apart:?}");
        }
    }

    #[test]
    fn a_descriptor_that_is_not_open_is_told() {
        let error = <Option<(u64, File)>>::of(Some((7, 1 << 20))).expect_err("it is not open");
        assert!(error.to_string().contains("1048576"), "{error}");
    }
}
