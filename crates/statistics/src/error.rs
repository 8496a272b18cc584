//! What the inputs can be wrong in.

/// Up to so many values Student's t is right here: statrs stops its continued fraction after 140 terms, enough
/// for nine digits at 9,999 degrees of freedom, for four at 1,000,000.
const MOST: usize = 10_000;

/// Numbers that no statement can be made of.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two lists that do not go together.
    #[error(
        "{field}: {found} values beside {expected} of {other}: give one a seed in both, in the same order"
    )]
    Lengths {
        /// The list.
        field: &'static str,
        /// How many it has.
        found: usize,
        /// The other list.
        other: &'static str,
        /// How many that has.
        expected: usize,
    },
    /// A value that the list cannot hold.
    #[error("{field}[{index}]: {value} is not {needed}")]
    Value {
        /// The list.
        field: &'static str,
        /// The place in it, from 0.
        index: usize,
        /// What stands there.
        value: f64,
        /// What can stand there, and what to do.
        needed: &'static str,
    },
    /// Too few values, or too many.
    #[error("{field}: {found} values where {needed} to {MOST} are needed")]
    Count {
        /// The list.
        field: &'static str,
        /// How many it has.
        found: usize,
        /// The least that it can have.
        needed: usize,
    },
    /// Points of a line that are all in one place.
    #[error(
        "x: all {points} values are {value} to one part in 10^9: a slope needs at least 2 different ones"
    )]
    OneX {
        /// How many points.
        points: usize,
        /// Where.
        value: f64,
    },
    /// A setting that cannot be.
    #[error("{setting}: {found}: at least {needed}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What it is.
        found: usize,
        /// The least that it can be.
        needed: usize,
    },
}

/// The first value that is not `good`, as an error.
pub(crate) fn check(
    field: &'static str,
    values: &[f64],
    needed: &'static str,
    good: impl Fn(f64) -> bool,
) -> Result<(), Error> {
    match values.iter().position(|v| !good(*v)) {
        Some(index) => Err(Error::Value { field, index, value: values[index], needed }),
        None => Ok(()),
    }
}

/// Two lists of one length, which is at least `needed`.
pub(crate) fn check_lengths(
    (other, beside): (&'static str, &[f64]),
    (field, list): (&'static str, &[f64]),
    needed: usize,
) -> Result<(), Error> {
    let (found, expected) = (list.len(), beside.len());
    if found != expected {
        return Err(Error::Lengths { field, found, other, expected });
    }
    if !(needed..=MOST).contains(&found) {
        return Err(Error::Count { field, found, needed });
    }
    Ok(())
}
