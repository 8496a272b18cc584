//! What is kept of every image, so that memory does not grow with their size: a digest and a thumbnail.

use anyhow::Result;
use heldout_data::ImageStream;
use rayon::prelude::*;

/// Cells of a thumbnail along a side, at most.
const CELLS: usize = 8;
/// Longest side at which images are compared: what is resized away is no difference that a viewer sees.
const LONGEST: usize = 32;
/// Standard deviation, of 0 to 255, below which an image shows nothing.
pub(crate) const CONSTANT: f32 = 1.0;

/// Means over the cells of a grid, scaled so that the squared distance of two thumbnails is the mean squared difference of
/// the images as far as the grid sees it: it is never more than that of the pixels.
#[derive(Debug, Clone)]
pub(crate) struct Thumbnail {
    /// Without the mean of the image.
    pub(crate) cells: Vec<f32>,
    /// Standard deviation of the pixels.
    pub(crate) contrast: f32,
}

/// The thumbnail of an image `[C, H, W]` whose pixel `p` is `pixel(p)`; over all channels.
pub(crate) fn thumbnail([channels, height, width]: [usize; 3], pixel: impl Fn(usize) -> u8) -> Thumbnail {
    let (rows, columns) = (height.min(CELLS), width.min(CELLS));
    let (mut sums, mut counts) = (vec![0.0f64; rows * columns], vec![0.0f64; rows * columns]);
    let mut squares = 0.0;
    for line in 0..channels * height {
        let row = line % height * rows / height;
        for x in 0..width {
            let value = f64::from(pixel(line * width + x));
            let cell = row * columns + x * columns / width;
            sums[cell] += value;
            counts[cell] += 1.0;
            squares += value * value;
        }
    }
    let total = (channels * height * width) as f64;
    let mean = sums.iter().sum::<f64>() / total;
    let cell = |(sum, count): (&f64, &f64)| ((sum - mean * count) / (count * total).sqrt()) as f32;
    Thumbnail {
        cells: sums.iter().zip(&counts).map(cell).collect(),
        contrast: (squares / total - mean * mean).max(0.0).sqrt() as f32,
    }
}

/// Every readable image of a stream.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Its place in the stream.
    pub(crate) index: Vec<usize>,
    /// Digest of its pixels as they were in the file.
    pub(crate) content: Vec<[u8; 32]>,
    pub(crate) thumbnails: Vec<Thumbnail>,
    /// RGB images whose channels are equal.
    pub(crate) grey_in_colour: usize,
}

impl Seen {
    /// Images that show one colour and nothing else.
    pub(crate) fn constant(&self) -> usize {
        self.thumbnails.iter().filter(|t| t.contrast < CONSTANT).count()
    }
}

/// The size at which images of this size are compared.
pub(crate) fn working_size([height, width]: [usize; 2]) -> [usize; 2] {
    let longest = height.max(width).max(LONGEST);
    [height, width].map(|side| (side * LONGEST / longest).max(1))
}

/// Goes through a stream once.
pub(crate) fn look(stream: &mut ImageStream) -> Result<Seen> {
    let shape = stream.shape;
    let (pixels, plane) = (shape.iter().product::<usize>(), shape[1] * shape[2]);
    let mut seen = Seen::default();
    for batch in stream {
        let batch = batch?;
        let of = |image: &[u8]| {
            let grey = shape[0] == 3
                && (0..plane).all(|p| image[p] == image[plane + p] && image[p] == image[2 * plane + p]);
            (thumbnail(shape, |p| image[p]), grey)
        };
        let found: Vec<(Thumbnail, bool)> = batch.pixels.par_chunks_exact(pixels).map(of).collect();
        seen.index.extend(&batch.index);
        seen.content.extend(&batch.content);
        for (thumbnail, grey) in found {
            seen.thumbnails.push(thumbnail);
            seen.grey_in_colour += usize::from(grey);
        }
    }
    Ok(seen)
}
