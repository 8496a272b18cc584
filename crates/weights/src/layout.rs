//! Whose names a file's tensors have.

use crate::{Shapes, adm, dit};

/// A published naming of tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Diffusers' names, or those of a model of one's own.
    Diffusers,
    /// The original DiT: [`dit::from_original`], [`dit::config`].
    OriginalDit,
    /// The original ADM UNet: [`adm::from_original`], [`adm::config`].
    OriginalAdm,
}

impl Layout {
    /// Tells the layout by the names that only one of them has.
    pub fn of(shapes: &Shapes) -> Self {
        if dit::is_original(shapes) {
            Self::OriginalDit
        } else if adm::is_original(shapes) {
            Self::OriginalAdm
        } else {
            Self::Diffusers
        }
    }
}
