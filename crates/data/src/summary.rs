//! What there is to know of a data set.

use crate::ImageSet;
use heldout_core::Result;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// Counts and statistics of an [`ImageSet`].
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Name for people.
    pub title: String,
    /// Source and licence, where known.
    pub origin: Option<String>,
    /// Images.
    pub count: usize,
    /// Whether they are clips.
    pub clips: bool,
    /// What one of them is: size, colour, frames.
    pub form: String,
    /// Images whose content is there already.
    pub duplicates: usize,
    /// Mean of all pixels, 0 to 255.
    pub mean: f64,
    /// Their standard deviation.
    pub std: f64,
    /// Images per class.
    pub classes: Vec<(String, usize)>,
    /// How many texts there are, and how many different ones, where images have texts.
    pub captions: Option<[usize; 2]>,
    /// What was taken for granted, where the files do not say it.
    pub assumed: Vec<String>,
}

impl Summary {
    /// Reads every image once, one at a time.
    pub fn of(set: &ImageSet) -> Result<Self> {
        let (mut seen, mut sum, mut squares) = (HashSet::new(), 0u64, 0u64);
        for i in 0..set.len() {
            let image = set.image(i)?;
            sum += image.iter().map(|v| u64::from(*v)).sum::<u64>();
            squares += image.iter().map(|v| u64::from(*v).pow(2)).sum::<u64>();
            seen.insert(<[u8; 32]>::from(<sha2::Sha256 as sha2::Digest>::digest(&image)));
        }
        let n = (set.len() * set.pixels()) as f64;
        let mean = sum as f64 / n;
        let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
        set.labels.iter().flatten().for_each(|l| *counts.entry(*l).or_default() += 1);
        let class = |l: i64| set.classes.get(l as usize).cloned().unwrap_or_else(|| l.to_string());
        Ok(Self {
            title: set.title.clone(),
            origin: set.origin.clone(),
            count: set.len(),
            clips: set.frames > 1,
            form: set.form(),
            duplicates: set.len() - seen.len(),
            mean,
            std: (squares as f64 / n - mean * mean).max(0.0).sqrt(),
            captions: set.captions.as_ref().map(|captions| {
                let texts = &captions.texts;
                [texts.len(), texts.iter().collect::<HashSet<_>>().len()]
            }),
            classes: counts.into_iter().map(|(l, n)| (class(l), n)).collect(),
            assumed: set.assumed.clone(),
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        if let Some(origin) = &self.origin {
            writeln!(f, "  origin      {origin}")?;
        }
        let what = if self.clips { "clips " } else { "images" };
        writeln!(f, "  {what}      {} of {}", self.count, self.form)?;
        writeln!(f, "  duplicates  {} (equal to the last bit; left out of training)", self.duplicates)?;
        write!(f, "  pixels      mean {:.2}, standard deviation {:.2} (of 0 to 255)", self.mean, self.std)?;
        if let Some([texts, different]) = self.captions {
            write!(f, "\n  captions    {texts}, {different} of them different")?;
        }
        for assumed in &self.assumed {
            write!(f, "\n  assumed     {assumed}")?;
        }
        for (class, n) in &self.classes {
            write!(f, "\n  {n:>8}  {class}")?;
        }
        Ok(())
    }
}
