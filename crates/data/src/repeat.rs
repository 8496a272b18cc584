//! Training images that stand several times in an epoch.

use heldout_core::{Error, Result};
use serde::{Deserialize, Serialize};
use std::iter::{repeat, repeat_n};

/// Draws of an epoch with repeated images: their places and their order are held in memory, a gigabyte of
/// these.
const MAX_DRAWS: usize = 1 << 26;

/// The next `images` training images, each of which stands `times` times in an epoch: what is there several
/// times is extracted first. Carlini et al. 2023; Somepalli et al. 2023.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RepeatConfig {
    /// How many, after those of the groups before.
    pub images: usize,
    /// How often; 1 for a group that is counted but not repeated.
    pub times: usize,
}

/// Whether `n_train` training images have room for the groups, one behind the other.
///
/// # Errors
/// An empty group, one that stands nowhere, more images than there are, or an epoch that no memory holds; the
/// message names the field, as `repeat[0].times`.
pub fn check_repeat(groups: &[RepeatConfig], n_train: usize) -> Result<()> {
    let (mut images, mut draws) = (0usize, 0usize);
    for (i, group) in groups.iter().enumerate() {
        for (field, n) in [("images", group.images), ("times", group.times)] {
            if n == 0 {
                let reason = "0: at least 1 is needed; images that are not trained on are left to n_train";
                return Err(Error::config(format!("repeat[{i}].{field}"), reason));
            }
        }
        images = images.saturating_add(group.images);
        draws = draws.saturating_add(group.images.saturating_mul(group.times));
        if images > n_train {
            let reason = format!(
                "{}: makes {images} images in groups, where n_train is {n_train}: lower it, or raise n_train",
                group.images
            );
            return Err(Error::config(format!("repeat[{i}].images"), reason));
        }
        check_draws(draws).map_err(|reason| Error::config(format!("repeat[{i}].times"), reason))?;
    }
    Ok(())
}

/// How often each of the first `n` training images stands in an epoch: as its group says, and once outside of
/// all groups.
///
/// Law: nested, the multiplicities of fewer images are the first of those of more.
pub fn multiplicity(groups: &[RepeatConfig], n: usize) -> Vec<usize> {
    let grouped = groups.iter().flat_map(|group| repeat_n(group.times, group.images));
    grouped.chain(repeat(1)).take(n).collect()
}

/// The places of an epoch's draws, each place as often as it is drawn; why not, for too many.
pub(crate) fn places(times: &[usize]) -> std::result::Result<Vec<usize>, String> {
    check_draws(times.iter().fold(0, |sum, n| sum.saturating_add(*n)))?;
    Ok(times.iter().enumerate().flat_map(|(place, n)| repeat_n(place, *n)).collect())
}

fn check_draws(draws: usize) -> std::result::Result<(), String> {
    match draws {
        0..=MAX_DRAWS => Ok(()),
        _ => Err(format!("makes {draws} draws an epoch, more than the {MAX_DRAWS} that fit: repeat less")),
    }
}
