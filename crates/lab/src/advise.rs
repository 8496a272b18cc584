//! A recipe for a data set, with its reasons.

use crate::dirs::{find_recipe, project_root};
use crate::recipe::Study;
use anyhow::{Result, anyhow};
use heldout_core::Error;
use heldout_data::{ImageSet, Summary, find};
use heldout_nn::without_storage;
use heldout_unet_names::unet;
use heldout_weights::{ModelConfig, preset};
