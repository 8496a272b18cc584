//! The memorised fraction, as a metric with its floor.

use crate::{Interval, MEMORIZED_RATIO, NearestPairs, References, bootstrap_mean, transformed_nearest};
use heldout_core::{Error, Estimate, FeatureSets, Measurement, Metric, Result};
use ndarray::Array2;
use std::cell::RefCell;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// What counts as a copy of a training image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// The image as it is.
    Exact,
    /// Flipped horizontally and shifted by a pixel, too.
    Transformed,
}

/// Share of the samples that are copies: nearer to a training image than a third of the distance to the next one.
///
/// Yoon et al. 2023; Gu et al. 2023, Eq. 5. The floor is the same share of held-out real images, and both carry
/// bootstrap intervals. Sets are images `[N, C, H, W]`.
#[derive(Debug, Clone, Copy)]
pub struct MemorizedFraction {
    /// What counts.
    pub copies: Copies,
    /// Seed of the bootstrap.
    pub seed: u64,
}

impl MemorizedFraction {
    /// The two nearest of `train` for each of `queries`, both `[N, C, H, W]`.
    pub fn pairs(&self, queries: &Tensor, train: &Tensor) -> Result<NearestPairs> {
        self.search(queries, &References::new(rows(train)?)?)
    }

    /// `f_mem`, or `f_mem_transformed`.
    pub fn name(&self) -> &'static str {
        match self.copies {
            Copies::Exact => "f_mem",
            Copies::Transformed => "f_mem_transformed",
        }
    }

    /// The share, beside that of held-out images.
    pub fn measure(&self, sets: &FeatureSets<'_>) -> Result<Measurement> {
        let train = References::new(rows(sets.train)?)?;
        Ok(Measurement {
            model: self.of(sets.generated, &train)?,
            against_held_out: None,
            floor: self.of(sets.held_out, &train)?,
        })
    }

    fn of(&self, queries: &Tensor, references: &References<'_, f32>) -> Result<Estimate> {
        Ok(self.estimate(&self.search(queries, references)?))
    }

    fn search(&self, queries: &Tensor, references: &References<'_, f32>) -> Result<NearestPairs> {
        let size = queries.size();
        let queries = rows(queries)?;
        let found = match self.copies {
            Copies::Exact => references.nearest(queries.view()),
            Copies::Transformed => {
                let &[_, channels, height, width] = size.as_slice() else {
                    return Err(Error::config("queries", format!("shape {size:?} is not [N, C, H, W]")));
                };
                let shape = [channels, height, width].map(|n| n as usize);
                transformed_nearest(queries.view(), references.rows(), shape)
            }
        };
        Ok(found?)
    }

    fn estimate(&self, pairs: &NearestPairs) -> Estimate {
        let memorized: Vec<f64> =
            pairs.memorized(MEMORIZED_RATIO).into_iter().map(|copy| f64::from(u8::from(copy))).collect();
        let Interval { value, lower, upper } = bootstrap_mean(&memorized, self.seed);
        Estimate { value, lower, upper }
    }
}

impl Metric for MemorizedFraction {
    fn evaluate(&self, sets: &FeatureSets<'_>) -> Result<Vec<(String, Result<Measurement>)>> {
        Ok(vec![(self.name().to_owned(), self.measure(sets))])
    }
}

/// Both [`MemorizedFraction`]s, look after look at samples of one run: training images are prepared and floors taken once.
#[derive(Debug)]
pub struct CopyWatch {
    seed: u64,
    known: RefCell<Option<Rc<Known>>>,
}

/// What stays the same from look to look.
#[derive(Debug)]
struct Known {
    train: Tensor,
    held_out: Tensor,
    references: References<'static, f32>,
    /// Of exact copies and of transformed ones.
    floors: [Estimate; 2],
}

impl CopyWatch {
    /// `seed` is of the bootstrap.
    pub fn new(seed: u64) -> Self {
        Self { seed, known: RefCell::default() }
    }

    fn fractions(&self) -> [MemorizedFraction; 2] {
        [Copies::Exact, Copies::Transformed].map(|copies| MemorizedFraction { copies, seed: self.seed })
    }

    fn known(&self, train: &Tensor, held_out: &Tensor) -> Result<Rc<Known>> {
        let mut known = self.known.borrow_mut();
        if let Some(known) = known.as_ref().filter(|k| same(&k.train, train) && same(&k.held_out, held_out)) {
            return Ok(known.clone());
        }
        let references = References::new(rows(train)?)?;
        let [exact, transformed] = self.fractions().map(|fraction| fraction.of(held_out, &references));
        let floors = [exact?, transformed?];
        let (train, held_out) = (train.shallow_clone(), held_out.shallow_clone());
        Ok(known.insert(Rc::new(Known { train, held_out, references, floors })).clone())
    }
}

impl Metric for CopyWatch {
    fn evaluate(&self, sets: &FeatureSets<'_>) -> Result<Vec<(String, Result<Measurement>)>> {
        let known = self.known(sets.train, sets.held_out)?;
        let one = |(fraction, floor): (MemorizedFraction, Estimate)| {
            let model = fraction.of(sets.generated, &known.references);
            let found = model.map(|model| Measurement { model, against_held_out: None, floor });
            (fraction.name().to_owned(), found)
        };
        Ok(self.fractions().into_iter().zip(known.floors).map(one).collect())
    }
}

/// One set of images. Where both tensors are held, an address belongs to one of them alone.
pub(crate) fn same(known: &Tensor, images: &Tensor) -> bool {
    known.data_ptr() == images.data_ptr() && known.size() == images.size()
}

/// A tensor `[N, ..]` as rows `[N, D]` on the host, f32.
pub fn rows(t: &Tensor) -> Result<Array2<f32>> {
    let flat =
        t.detach().to_device(Device::Cpu).to_kind(Kind::Float).f_reshape([t.size()[0], -1])?.contiguous();
    let shape = (flat.size()[0] as usize, flat.size()[1] as usize);
    let values = Vec::<f32>::try_from(flat.flatten(0, -1))?;
    Array2::from_shape_vec(shape, values).map_err(|e| Error::config("features", e.to_string()))
}
