//! An adapter's copy of its base.

use heldout_core::{Error, Result};
use tch::nn;

/// Starts the variables of `adapter` as those of the same name in `base` are; those whose names start with one of `own` stay.
///
/// # Errors
/// A variable that `base` does not have, or has in another shape.
pub fn copy_weights(base: &nn::VarStore, adapter: &nn::VarStore, own: &[&str]) -> Result<()> {
    let (from, to) = (base.variables(), adapter.variables());
    let is_own = |name: &str| own.iter().any(|start| name.starts_with(start));
    let mut copied: Vec<_> = to.iter().filter(|(name, _)| !is_own(name)).collect();
    copied.sort_by_key(|(name, _)| *name); // The first that does not fit is named.
    let pairs = copied.into_iter().map(|(name, to)| {
        let fail = |reason: String| Error::config(name, reason);
        let from = from
            .get(name)
            .ok_or_else(|| fail("is not in the base: the adapter was made for another network".to_owned()))?;
        if from.size() != to.size() {
            let (from, to) = (from.size(), to.size());
            return Err(fail(format!(
                "is {from:?} in the base and {to:?} in the adapter, which was made for another network"
            )));
        }
        Ok((from, to))
    });
    let pairs: Vec<_> = pairs.collect::<Result<_>>()?; // Nothing is written unless all fit.
    tch::no_grad(|| pairs.into_iter().for_each(|(from, to)| to.shallow_clone().copy_(from)));
    Ok(())
}
