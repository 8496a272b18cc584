#![doc = include_str!("../README.md")]

mod augment;
mod band;
mod corruption;
mod draws;
mod gradient;
mod noise;
mod penalty;
mod tasks;
mod times;
mod weights;

pub use augment::{
    AdditiveNoise, AugmentTechnique, Augmented, ColorJitter, Crop, Cutout, Erasing, Fill, Flip, GaussianBlur,
    Interpolation, LabelDropout, Mixup, NonLeaky, NullClass, Padding, Rotation, adjust_brightness,
    adjust_contrast, adjust_hue, adjust_saturation, affine, crop, erase, flip, gaussian_blur, rotate,
};
pub use corruption::{Ambient, AmbientConfig, MaskedInput};
pub use gradient::{
    Accumulate, AccumulateConfig, Clip, ClipConfig, GradientNoise, GradientNoiseConfig, GradientTechnique,
    Maml, MamlConfig, MamlOrder, PcGrad, PcGradConfig, Sam, SamConfig, build_gradient,
};
pub use noise::{
    Gaussian, InputPerturbation, InputPerturbationConfig, MultiResolutionNoise, MultiResolutionNoiseConfig,
    NoiseTechnique, OffsetNoise, OffsetNoiseConfig, OptimalAssignment, OptimalAssignmentConfig,
    ScheduleJitter, ScheduleJitterConfig,
};
pub use penalty::{
    Adversarial, AdversarialConfig, AdversarialLoss, ConsistencyConfig, CriticLoss, DeepSupervisionConfig,
    DiffusionConfig, Discriminator, FeatureAlignment, FeatureAlignmentConfig, FrozenFeatures,
    GradientPenaltyConfig, InputGradientConfig, JacobianConfig, LengthDraw, LossGradient, LossGradientConfig,
    PenaltyConfig, PenaltyContext, PenaltyTerm, ProbeVectors, R1Config, TextAlignment, TextAlignmentConfig,
    gradient_penalty, r1,
};
pub use tasks::{TaskKind, TasksConfig};
pub use times::{
    Curriculum, CurriculumConfig, HeldOutLoss, JitterConfig, LevelJitter, Order, Pace, TimesTechnique,
};
pub use weights::{
    AverageConfig, Averaged, BatchStatistics, EmaDecay, Lookahead, LookaheadConfig, PowerDecay,
    PowerEmaConfig, Profile, Reptile, ReptileConfig, SwaConfig, SwaDecay, SwaRate, WeightNormalization,
    WeightNormalizationConfig, WeightsTechnique, build_update, reconstruct,
};

#[cfg(test)]
mod tests;
