//! LPIPS: how different two images look to a classification network.

use crate::images::check_images;
use heldout_core::{Error, Result};
use heldout_weights::WeightFiles;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Mean and deviation that images in `[-1, 1]` are brought to.
const SHIFT: [f64; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f64; 3] = [0.458, 0.448, 0.450];
/// Added to the norm of a position's channels.
const EPS: f64 = 1e-10;

/// A convolution of the trunk, and what comes before it.
#[derive(Debug)]
struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    padding: i64,
    /// Kernel and stride of a maximum before it.
    pool: Option<(i64, i64)>,
    /// The head that looks at its output.
    head: Option<Tensor>,
}

/// The trunk by its convolutions: place among the modules of torchvision's `features`, stride, padding, whether a maximum
/// comes before it, whether its output is looked at.
struct Trunk {
    name: &'static str,
    pool: (i64, i64),
    convs: &'static [(usize, i64, i64, bool, bool)],
}

const ALEX: Trunk = Trunk {
    name: "AlexNet",
    pool: (3, 2),
    convs: &[
        (0, 4, 2, false, true),
        (3, 1, 2, true, true),
        (6, 1, 1, true, true),
        (8, 1, 1, false, true),
        (10, 1, 1, false, true),
    ],
};

const VGG: Trunk = Trunk {
    name: "VGG16",
    pool: (2, 2),
    convs: &[
        (0, 1, 1, false, false),
        (2, 1, 1, false, true),
        (5, 1, 1, true, false),
        (7, 1, 1, false, true),
        (10, 1, 1, true, false),
        (12, 1, 1, false, false),
        (14, 1, 1, false, true),
        (17, 1, 1, true, false),
        (19, 1, 1, false, false),
        (21, 1, 1, false, true),
        (24, 1, 1, true, false),
        (26, 1, 1, false, false),
        (28, 1, 1, false, true),
    ],
};

/// LPIPS 0.1 with given weights: the trunk of AlexNet or VGG16 in torchvision's names (`features.0.weight`, ..), the heads in
/// those of the package `lpips` (`lin0.model.1.weight`, ..), both safetensors.
///
/// Zhang et al. 2018, Eq. 1: squared differences of channel-normalised activations, weighted by the heads, averaged over
/// positions, summed over five layers.
#[derive(Debug)]
pub struct Lpips {
    name: String,
    convs: Vec<Conv>,
}

impl Lpips {
    /// Which trunk it is, the number of its convolutions says.
    ///
    /// # Errors
    /// A file is missing or damaged; a tensor is missing or of another shape.
    pub fn open(trunk: &Path, heads: &Path, device: Device) -> Result<Self> {
        let (trunk, heads) = (WeightFiles::open(trunk, None)?, WeightFiles::open(heads, None)?);
        let layout = if trunk.shape("features.28.weight").is_some() { &VGG } else { &ALEX };
        let read = |files: &WeightFiles, name: String| {
            Ok::<_, Error>(files.read(&name)?.to_kind(Kind::Float).to_device(device))
        };
        let (mut convs, mut width, mut head_count) = (Vec::new(), 3, 0);
        for &(place, stride, padding, pooled, looked_at) in layout.convs {
            let name = format!("features.{place}");
            let weight = read(&trunk, format!("{name}.weight"))?;
            let bias = read(&trunk, format!("{name}.bias"))?;
            let size = weight.size();
            if size.len() != 4 || size[1] != width || bias.size() != [size[0]] {
                let reason = format!(
                    "{name}.weight: {size:?} is no convolution of {width} channels of {}",
                    layout.name
                );
                return Err(Error::file(trunk.path(), reason));
            }
            width = size[0];
            let head = looked_at.then(|| {
                let name = format!("lin{head_count}.model.1.weight");
                let head = read(&heads, name.clone())?;
                if head.size() != [1, width, 1, 1] {
                    let reason = format!(
                        "{name}: {:?} where [1, {width}, 1, 1] is needed for {}",
                        head.size(),
                        layout.name
                    );
                    return Err(Error::file(heads.path(), reason));
                }
                head_count += 1;
                Ok(head)
            });
            let pool = pooled.then_some(layout.pool);
            convs.push(Conv { weight, bias, stride, padding, pool, head: head.transpose()? });
        }
        Ok(Self { name: format!("LPIPS({})", layout.name), convs })
    }

    /// `LPIPS(AlexNet)` or `LPIPS(VGG16)`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Distances `[B]` of images `[B, 3, H, W]` in `[0, 1]`; differentiable in both.
    ///
    /// # Errors
    /// Other shapes, or images that are too small for the trunk.
    pub fn distance(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        check_images(a)?;
        check_images(b)?;
        if a.size() != b.size() {
            return Err(Error::config(
                "images",
                format!("{:?} beside {:?}: both need one shape", a.size(), b.size()),
            ));
        }
        let constant = |values: [f64; 3]| {
            Tensor::from_slice(&values).view([1, 3, 1, 1]).to_kind(a.kind()).to_device(a.device())
        };
        let (shift, scale) = (constant(SHIFT), constant(SCALE));
        let prepare = |x: &Tensor| ((x * 2.0 - 1.0) - &shift) / &scale;
        // Both go through the trunk in one batch.
        let mut x = Tensor::cat(&[prepare(a), prepare(b)], 0);
        let n = a.size()[0];
        let mut total = Tensor::zeros([n], (a.kind(), a.device()));
        for conv in &self.convs {
            if let Some((kernel, stride)) = conv.pool {
                x = x.f_max_pool2d([kernel; 2], [stride; 2], [0, 0], [1, 1], false)?;
            }
            let convolved =
                x.f_conv2d(&conv.weight, Some(&conv.bias), [conv.stride; 2], [conv.padding; 2], [1, 1], 1)?;
            x = convolved.relu();
            if let Some(head) = &conv.head {
                let norm = x.square().sum_dim_intlist(1i64, true, x.kind()).sqrt() + EPS;
                let unit = &x / norm;
                let squared = (unit.narrow(0, 0, n) - unit.narrow(0, n, n)).square();
                total += (squared * head).sum_dim_intlist(1i64, false, x.kind()).mean_dim(
                    [1i64, 2].as_slice(),
                    false,
                    x.kind(),
                );
            }
        }
        Ok(total)
    }
}
