//! Training and held-out sets as a function of content and seed.

use crate::ImageSet;
use heldout_core::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How to divide a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SplitConfig {
    /// Images that are held out.
    pub held_out: usize,
    /// Training images.
    pub n_train: usize,
    /// Which images go where is a function of this and of their pixels.
    pub seed: u64,
    /// Distinct images between the two that are on neither side: splits with 0 and with `n_train` have
    /// different training images and the same held-out ones; Kadkhodaie et al. 2024, section 2.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skip: usize,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Indices into an [`ImageSet`]; no content is on both sides, none is there twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Training images.
    pub train: Vec<usize>,
    /// Images that training never sees.
    pub held_out: Vec<usize>,
    /// Images that were left out since their content is in the set already.
    pub duplicates: usize,
}

impl Split {
    /// Divides `set`.
    ///
    /// Contents are put in the order of `SHA-256(seed, shape, pixels)`, which is the same on every machine
    /// and whatever the order of the files. The first `held_out` are held out, the next `skip` are left out,
    /// and the next `n_train` train, so that training sets of different sizes are nested and share their
    /// held-out set. Of images that are equal to the last bit only the first counts: a duplicate would tie
    /// its twin to one side, and changes what is memorised.
    ///
    /// # Errors
    /// A side without images, more images than there are distinct ones, or an image that cannot be read.
    pub fn new(set: &ImageSet, config: SplitConfig) -> Result<Self> {
        let mut keys: Vec<([u8; 32], usize)> = (0..set.len())
            .into_par_iter()
            .map(|i| Ok((key(set, i, config.seed)?, i)))
            .collect::<Result<_>>()?;
        keys.sort_unstable();
        keys.dedup_by_key(|(key, _)| *key); // keeps the first index of each content
        let duplicates = set.len() - keys.len();
        let SplitConfig { held_out, n_train, seed: _, skip } = config;
        if held_out == 0 || n_train == 0 {
            let field = if held_out == 0 { "held_out" } else { "n_train" };
            return Err(Error::config(field, "0: at least 1 image is needed on each side"));
        }
        let first = held_out.saturating_add(skip);
        if first.saturating_add(n_train) > keys.len() {
            let (distinct, name) = (keys.len(), &set.name);
            let skipped = if skip > 0 { format!(", {skip} skipped") } else { String::new() };
            let reason = format!(
                "{n_train}{skipped} and {held_out} held out are more than the {distinct} distinct images of {name}: \
                 lower one of them"
            );
            return Err(Error::config("n_train", reason));
        }
        let order: Vec<usize> = keys.into_iter().map(|(_, i)| i).collect();
        Ok(Self {
            held_out: order[..held_out].to_vec(),
            train: order[first..first + n_train].to_vec(),
            duplicates,
        })
    }
}

fn key(set: &ImageSet, index: usize, seed: u64) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    set.shape.iter().for_each(|n| hash.update((*n as u64).to_le_bytes()));
    hash.update(set.image(index)?);
    Ok(hash.finalize().into())
}
