//! What every adapter asks of a hint.

use heldout_core::{Error, Input, Result};

/// Whether the hint, if there is one, has these channels and sides of `times / per` those of the images.
pub(crate) fn check_hint(input: Input<'_>, channels: i64, times: i64, per: i64) -> Result<()> {
    let Some(hint) = &input.cond.hint else { return Ok(()) };
    let x = input.x.size();
    if x.len() != 4 {
        return Err(Error::config("sample", format!("is of shape {x:?}: [B, C, H, W] is needed")));
    }
    let side = |n: i64| n * times / per;
    let wanted = [x[0], channels, side(x[2]), side(x[3])];
    if hint.size() == wanted {
        return Ok(());
    }
    let reason = format!("is of shape {:?}: images of shape {x:?} need one of {wanted:?}", hint.size());
    Err(Error::config("hint", reason))
}
