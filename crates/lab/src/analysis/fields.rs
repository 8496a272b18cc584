//! How far the networks of the arms look.

use super::{Evidence, summary};
use crate::arm::Arm;
use crate::conditions::Side;
use crate::diagnose::{FIELD_IMAGES, FieldSize, fields};
use crate::dirs::project_root;
use crate::result::ArmResult;
use crate::sample::{open, recipe_of};
use crate::weights_choice::WeightsChoice;
use anyhow::Result;
use heldout_core::Error;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::Device;

/// The effective receptive field of every trained network on held-out images, at some noise levels; Luo et al. 2016.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldsConfig {
    /// Noise levels, `ln(alpha^2 / sigma^2)`.
    #[serde(default = "levels")]
    pub log_snr: Vec<f64>,
}

fn levels() -> Vec<f64> {
    vec![-3.0, 0.0, 3.0]
}

/// One arm with one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FieldsPoint {
    /// Its name.
    pub arm: String,
    /// Its seed.
    pub seed: u64,
    /// At each level; none where the output does not depend on the input.
    pub fields: Vec<FieldSize>,
}

/// All arms and seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FieldsAnalysis {
    /// As configured.
    pub log_snr: Vec<f64>,
    /// One per arm and seed.
    pub points: Vec<FieldsPoint>,
}

impl FieldsConfig {
    pub(super) fn check(&self) -> heldout_core::Result<()> {
        if self.log_snr.is_empty() || self.log_snr.iter().any(|l| !l.is_finite()) {
            let reason = format!("{:?}: one finite noise level at least is needed", self.log_snr);
            return Err(Error::config("log_snr", reason));
        }
        Ok(())
    }

    pub(super) fn run(&self, evidence: &Evidence<'_>) -> Result<FieldsAnalysis> {
        let points = evidence.arms.iter().map(|arm| self.point(evidence, arm)).collect::<Result<_>>()?;
        Ok(FieldsAnalysis { log_snr: self.log_snr.clone(), points })
    }

    fn point(&self, evidence: &Evidence<'_>, of: &ArmResult) -> Result<FieldsPoint> {
        let folder = evidence.folder(of);
        let recipe = recipe_of(&folder, &[])?;
        let arm = Arm::open(&of.name, of.seed, &recipe, &project_root().join("datasets"), Device::Cpu)?;
        let opened = open(&folder, &folder, &recipe, &arm.space, &WeightsChoice::default(), Device::Cpu)?;
        let images = arm.told(Side::HeldOut, FIELD_IMAGES.min(arm.held_out.size()[0]))?;
        let schedule = opened.loss.schedule.clone();
        let fields = fields(&opened.model, schedule.as_ref(), &images, &self.log_snr, of.seed);
        Ok(FieldsPoint { arm: of.name.clone(), seed: of.seed, fields })
    }
}

impl FieldsAnalysis {
    /// Names, in the order in which they come.
    pub(crate) fn arms(&self) -> Vec<&str> {
        let mut arms: Vec<&str> = Vec::new();
        for point in &self.points {
            if !arms.contains(&point.arm.as_str()) {
                arms.push(&point.arm);
            }
        }
        arms
    }

    /// Mean, least and largest over the seeds of a number at a level.
    pub(crate) fn over_seeds(&self, arm: &str, log_snr: f64, of: fn(&FieldSize) -> f64) -> Option<[f64; 3]> {
        let points = self.points.iter().filter(|p| p.arm == arm);
        let at = points.filter_map(|p| p.fields.iter().find(|f| f.log_snr == log_snr));
        let values: Vec<f64> = at.map(of).collect();
        (!values.is_empty()).then(|| summary(&values))
    }

    pub(super) fn answer(&self) -> String {
        let middle = self.log_snr[self.log_snr.len() / 2];
        let told = |arm: &&str| {
            let [radius, ..] = self.over_seeds(arm, middle, |f| f.radius)?;
            Some(format!("{arm} {radius:.1}"))
        };
        let all: Vec<String> = self.arms().iter().filter_map(told).collect();
        format!(
            "How far the middle of the output looks at log SNR {middle}, root mean square in pixels: {}.",
            all.join(", ")
        )
    }
}
