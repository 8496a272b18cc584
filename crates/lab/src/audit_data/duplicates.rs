//! Images that are there several times, to the last bit or nearly.

use super::thumbnails::{CONSTANT, Seen, Thumbnail, thumbnail};
use anyhow::Result;
use heldout_data::ImageStream;
use heldout_metrics::versions;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use tch::{Device, Kind, Tensor};

/// Two images are near duplicates if their pixels differ, after the means are taken off, by less than this share of the
/// stronger contrast: a correlation above about 0.995.
pub(crate) const TOLERANCE: f32 = 0.1;
/// And if their means differ by less than this, of 0 to 255.
const BRIGHTNESS: f64 = 12.75;
/// Up to so many images the thumbnails of all versions are compared, and no near duplicate is missed. Above, those of the
/// image and its mirror image, with a wider tolerance that a shift by a pixel stays within where images are large.
pub(crate) const ALL_VERSIONS: usize = 20_000;
const WIDER: f32 = 2.5;
/// Numbers of one block of distances.
const BLOCK: usize = 1 << 24;
/// Candidates of one image that are looked at, the nearest: in a group of more, each has others that lead to the rest.
pub(crate) const MOST: usize = 64;

/// Places in [`Seen`] of images that belong together, the groups in the order of their first images.
pub(crate) type Groups = Vec<Vec<usize>>;

/// Near duplicates, and how many images had more candidates than are looked at.
#[derive(Debug)]
pub(crate) struct Near {
    pub(crate) groups: Groups,
    pub(crate) cut: usize,
}

/// Groups of equal content.
pub(crate) fn exact(seen: &Seen) -> Groups {
    let mut of: HashMap<&[u8; 32], Vec<usize>> = HashMap::new();
    for (place, content) in seen.content.iter().enumerate() {
        of.entry(content).or_default().push(place);
    }
    let mut groups: Groups = of.into_values().filter(|group| group.len() > 1).collect();
    groups.sort();
    groups
}

/// The first of every content.
pub(crate) fn distinct(seen: &Seen) -> Vec<usize> {
    let mut first = HashSet::new();
    (0..seen.content.len()).filter(|place| first.insert(seen.content[*place])).collect()
}

/// Groups of near duplicates among images of distinct content, transitive: flips and shifts by one pixel count as the image.
///
/// Up to `complete` images all versions of thumbnails are compared ([`ALL_VERSIONS`]). Memory is a thumbnail an image and one
/// block of distances: candidates are read again.
pub(crate) fn near(stream: &ImageStream, seen: &Seen, complete: usize) -> Result<Near> {
    let places: Vec<usize> =
        distinct(seen).into_iter().filter(|place| seen.thumbnails[*place].contrast >= CONSTANT).collect();
    if places.len() < 2 {
        return Ok(Near { groups: Vec::new(), cut: 0 });
    }
    let versions = versions(stream.shape);
    let complete = places.len() <= complete;
    // The first of each half is the unshifted image, plain and mirrored.
    let middle = versions.len() / 4;
    let used: Vec<&Vec<usize>> = match complete {
        true => versions.iter().collect(),
        false => vec![&versions[middle], &versions[versions.len() / 2 + middle]],
    };
    let search = Search::new(seen, &places, if complete { 1.0 } else { WIDER });
    let block = (BLOCK / (places.len() * used.len()).max(1)).max(1);
    let (mut groups, mut cut) = (Union::new(places.len()), 0);
    for start in (0..places.len()).step_by(block) {
        let chunk = &places[start..(start + block).min(places.len())];
        let images = read(stream, seen, chunk)?;
        let shown: Vec<Thumbnail> = images
            .par_iter()
            .flat_map_iter(|image| used.iter().map(|v| thumbnail(stream.shape, |p| image[v[p]])))
            .collect();
        let (candidates, cut_here) = search.candidates(&shown, used.len(), start)?;
        cut += cut_here;
        // Each is read once a block, however many it is a candidate of.
        let all = BTreeSet::from_iter(candidates.iter().flatten().copied());
        let all: Vec<usize> = all.into_iter().collect();
        let others = read(stream, seen, &all.iter().map(|i| places[*i]).collect::<Vec<_>>())?;
        let image = |i: &usize| all.binary_search(i).map_or(&[][..], |found| others[found].as_slice());
        let same = |(i, others): (usize, Vec<usize>)| -> Vec<usize> {
            others.into_iter().filter(|other| is_near(&images[i], image(other), &versions)).collect()
        };
        let verified: Vec<Vec<usize>> = candidates.into_par_iter().enumerate().map(same).collect();
        for (i, others) in verified.into_iter().enumerate() {
            others.into_iter().for_each(|other| groups.join(start + i, other));
        }
    }
    let groups = groups.groups().into_iter().map(|group| group.into_iter().map(|i| places[i]).collect());
    Ok(Near { groups: groups.collect(), cut })
}

/// Images by their places in [`Seen`].
fn read(stream: &ImageStream, seen: &Seen, places: &[usize]) -> heldout_core::Result<Vec<Vec<u8>>> {
    places.par_iter().map(|place| stream.image(seen.index[*place])).collect()
}

/// Thumbnails of all images, to be searched.
struct Search {
    /// `[N, cells]`.
    cells: Tensor,
    /// `|cells|^2`, `[N]`.
    norms: Tensor,
    /// Largest squared distance of a candidate, by image.
    reach: Vec<f32>,
}

impl Search {
    fn new(seen: &Seen, places: &[usize], wider: f32) -> Self {
        let thumbnails: Vec<&Thumbnail> = places.iter().map(|place| &seen.thumbnails[*place]).collect();
        let cells = rows(thumbnails.iter().copied());
        let norms = cells.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
        // The contrasts of near duplicates differ by no more than the tolerance, and a little by what a shift moves out; half
        // a grey level is rounding.
        let reach = |t: &&Thumbnail| {
            let distance = wider * 1.1 * TOLERANCE * t.contrast / (1.0 - TOLERANCE) + 0.5;
            distance * distance
        };
        Self { cells, norms, reach: thumbnails.iter().map(reach).collect() }
    }

    /// For each of the images from `start` on, of which `shown` has `versions` thumbnails each, the nearest of the later ones
    /// within reach; and how many had more.
    fn candidates(
        &self,
        shown: &[Thumbnail],
        versions: usize,
        start: usize,
    ) -> Result<(Vec<Vec<usize>>, usize)> {
        let images = shown.len() / versions;
        let queries = rows(shown.iter());
        let later = self.cells.size()[0] - start as i64;
        let (cells, norms) =
            (self.cells.narrow(0, start as i64, later), self.norms.narrow(0, start as i64, later));
        // |r|^2 - 2 q r, to be at most reach - |q|^2.
        let distances = norms.unsqueeze(0) - queries.matmul(&cells.tr()) * 2.0;
        let own = queries.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
        let reach: Vec<f32> = (0..shown.len()).map(|row| self.reach[start + row / versions]).collect();
        let within = distances.le_tensor(&(Tensor::from_slice(&reach) - &own).unsqueeze(1));
        // In the order of the pairs; of one image all have the same norm.
        let squares = Vec::<f32>::try_from(distances.masked_select(&within))?;
        let pairs = Vec::<i64>::try_from(within.nonzero().flatten(0, -1))?;
        let mut found: Vec<HashMap<usize, f32>> = vec![HashMap::new(); images];
        for (pair, square) in pairs.chunks_exact(2).zip(squares) {
            let (row, other) = (pair[0] as usize, pair[1] as usize);
            if other > row / versions {
                let least = found[row / versions].entry(start + other).or_insert(f32::INFINITY);
                *least = least.min(square);
            }
        }
        let cut = found.iter().filter(|others| others.len() > MOST).count();
        let nearest = |others: HashMap<usize, f32>| {
            let mut others: Vec<(f32, usize)> = others.into_iter().map(|(i, square)| (square, i)).collect();
            others.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let mut others: Vec<usize> = others.into_iter().take(MOST).map(|(_, i)| i).collect();
            others.sort_unstable();
            others
        };
        Ok((found.into_iter().map(nearest).collect(), cut))
    }
}

/// Thumbnails as `[n, cells]`.
pub(crate) fn rows<'a>(thumbnails: impl Iterator<Item = &'a Thumbnail>) -> Tensor {
    let (mut flat, mut n) = (Vec::new(), 0);
    for thumbnail in thumbnails {
        flat.extend_from_slice(&thumbnail.cells);
        n += 1;
    }
    Tensor::from_slice(&flat).view([n, -1]).to_device(Device::Cpu)
}

/// Whether a version of `a` is `b` but for brightness and little differences.
fn is_near(a: &[u8], b: &[u8], versions: &[Vec<usize>]) -> bool {
    let n = a.len() as f64;
    let spread = |sum: f64, squares: f64| (squares / n - (sum / n).powi(2)).max(0.0).sqrt();
    let contrast = |image: &[u8]| {
        let (sum, squares) =
            image.iter().map(|v| f64::from(*v)).fold((0.0, 0.0), |(s, q), v| (s + v, q + v * v));
        spread(sum, squares)
    };
    let most = f64::from(TOLERANCE) * contrast(a).max(contrast(b)) + 0.5;
    versions.iter().any(|version| {
        let (mut sum, mut squares) = (0i64, 0i64);
        for (shown, other) in version.iter().map(|p| a[*p]).zip(b) {
            let difference = i64::from(shown) - i64::from(*other);
            sum += difference;
            squares += difference * difference;
        }
        (sum as f64 / n).abs() <= BRIGHTNESS && spread(sum as f64, squares as f64) <= most
    })
}

/// Sets that are joined.
struct Union(Vec<usize>);

impl Union {
    fn new(n: usize) -> Self {
        Self((0..n).collect())
    }

    fn root(&mut self, mut i: usize) -> usize {
        while self.0[i] != i {
            self.0[i] = self.0[self.0[i]];
            i = self.0[i];
        }
        i
    }

    /// The lower of both stays the root.
    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }

    /// Those of more than one.
    fn groups(mut self) -> Groups {
        let mut of: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for i in 0..self.0.len() {
            let root = self.root(i);
            of.entry(root).or_default().push(i);
        }
        of.into_values().filter(|group| group.len() > 1).collect()
    }
}
