//! Feature networks by name.

use crate::{
    Classifier, ClassifierConfig, ClipVision, DinoV2, EfficientNetLite0, Labelled, Pixels, TorchScriptConfig,
};
use heldout_core::{Error, FeatureExtractor, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tch::Device;

/// A feature network, as a recipe writes it: a table with `network` and its fields. On the command line it is a name, with a
/// path behind a colon where it needs one: see [`FeaturesConfig::from_str`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "network", rename_all = "kebab-case", deny_unknown_fields)]
pub enum FeaturesConfig {
    /// [`Pixels`].
    Pixels {},
    /// [`EfficientNetLite0`] as it was fetched.
    EfficientnetLite0 {
        /// Other weights of the same names.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
    },
    /// [`DinoV2`].
    Dinov2 {
        /// A safetensors file or a folder of transformers'.
        path: PathBuf,
        /// Side of the images that it is given; 224 if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<i64>,
    },
    /// [`ClipVision`].
    Clip {
        /// A folder of transformers', or a safetensors file with `config.json` beside it.
        path: PathBuf,
    },
    /// [`TorchScript`](crate::TorchScript).
    Torchscript(TorchScriptConfig),
    /// [`TorchScriptConfig::inception`].
    Inception {
        /// `inception-2015-12-05.pt`; another file is an error, so that FID is nothing else.
        path: PathBuf,
    },
    /// [`Classifier`].
    Classifier(ClassifierConfig),
}

/// What names may be, for messages.
const NAMES: &str =
    "pixels, efficientnet-lite0, classifier, dinov2:PATH, clip:PATH, inception:PATH, torchscript:PATH";

impl FromStr for FeaturesConfig {
    type Err = Error;

    /// `pixels`, `efficientnet-lite0`, `classifier`, `dinov2:PATH`, `clip:PATH`, `inception:PATH` or `torchscript:PATH`; the
    /// rest has its defaults.
    fn from_str(text: &str) -> Result<Self> {
        let (name, path) = match text.split_once(':') {
            Some((name, path)) => (name, Some(PathBuf::from(path)).filter(|p| !p.as_os_str().is_empty())),
            None => (text, None),
        };
        Ok(match (name, path) {
            ("pixels", None) => Self::Pixels {},
            ("efficientnet-lite0", path) => Self::EfficientnetLite0 { path },
            ("classifier", None) => Self::Classifier(ClassifierConfig::default()),
            ("dinov2", Some(path)) => Self::Dinov2 { path, size: None },
            ("clip", Some(path)) => Self::Clip { path },
            ("inception", Some(path)) => Self::Inception { path },
            ("torchscript", Some(path)) => Self::Torchscript(TorchScriptConfig::new(path)),
            ("dinov2" | "clip" | "inception" | "torchscript", None) => {
                return Err(Error::config("features", format!("`{text}`: write {name}:PATH")));
            }
            _ => return Err(Error::config("features", format!("no network `{text}`; known are {NAMES}"))),
        })
    }
}

/// Where networks find what they need.
#[derive(Debug, Clone, Copy)]
pub struct Resources<'a> {
    /// The folder `networks` in Heldout's cache, where fetched weights lie.
    pub networks: Option<&'a Path>,
    /// Labelled data, for [`Classifier`].
    pub labelled: Option<DataSet<'a>>,
    /// Where the network computes.
    pub device: Device,
}

/// A data set with labels.
#[derive(Debug, Clone, Copy)]
pub struct DataSet<'a> {
    /// Its short name.
    pub name: &'a str,
    /// What a classifier is trained on.
    pub train: Labelled<'a>,
    /// What its accuracy is taken on.
    pub held_out: Labelled<'a>,
}

impl Default for Resources<'_> {
    /// Nothing, on the CPU.
    fn default() -> Self {
        Self { networks: None, labelled: None, device: Device::Cpu }
    }
}

impl FeaturesConfig {
    /// Loads the network, or trains the classifier.
    ///
    /// # Errors
    /// A file is missing or is none of this network; there are no labels where they are needed. The message says what to
    /// run or to give.
    pub fn build(&self, resources: Resources<'_>) -> Result<Box<dyn FeatureExtractor>> {
        let device = resources.device;
        Ok(match self {
            Self::Pixels {} => Box::new(Pixels),
            Self::EfficientnetLite0 { path } => {
                let path = efficientnet(path.as_deref(), resources.networks)?;
                Box::new(EfficientNetLite0::open(&path)?.to_device(device))
            }
            Self::Dinov2 { path, size } => {
                let network = DinoV2::open(path, device)?;
                Box::new(match size {
                    Some(side) => network.with_size(*side)?,
                    None => network,
                })
            }
            Self::Clip { path } => Box::new(ClipVision::open(path, device)?),
            Self::Torchscript(config) => Box::new(config.build(device)?),
            Self::Inception { path } => Box::new(TorchScriptConfig::inception(path).build(device)?),
            Self::Classifier(config) => {
                let Some(DataSet { name, train, held_out }) = resources.labelled else {
                    let reason = "classifier: the data has no labels to train it on; take another network";
                    return Err(Error::config("features", reason));
                };
                Box::new(Classifier::train(*config, name, train, held_out, device)?)
            }
        })
    }
}

fn efficientnet(path: Option<&Path>, networks: Option<&Path>) -> Result<PathBuf> {
    const FETCH: &str = "run `cargo xtask datasets fetch efficientnet-lite0`";
    let fetched = networks.map(|folder| folder.join("efficientnet-lite0.safetensors"));
    let path = path.map(Path::to_owned).or(fetched);
    let path = path.ok_or_else(|| {
        let reason = "efficientnet-lite0: no cache folder is known: set HELDOUT_CACHE, or give its path";
        Error::config("features", reason)
    })?;
    if path.is_file() { Ok(path) } else { Err(Error::file(path, format!("is not there: {FETCH}"))) }
}
