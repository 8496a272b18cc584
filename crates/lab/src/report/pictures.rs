//! Images as data URIs.

use super::load::Pictures;
use crate::evaluate::{grid, png};
use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD};
use heldout_metrics::MEMORIZED_RATIO;
use serde::Serialize;
use tch::Tensor;

/// A sample beside its two nearest training images.
#[derive(Debug, Serialize)]
pub(crate) struct Triple {
    image: String,
    nearest: String,
    second: String,
    d1: String,
    d2: String,
    ratio: String,
    copy: bool,
}

/// One image `[C, H, W]`, u8, as what `src` takes.
pub(crate) fn data_uri(image: &Tensor) -> Result<String> {
    Ok(format!("{URI}{}", STANDARD.encode(png(image)?)))
}

const URI: &str = "data:image/png;base64,";

/// The file that a data URI holds.
pub(super) fn bytes(uri: &str) -> Result<Vec<u8>> {
    Ok(STANDARD.decode(uri.trim_start_matches(URI))?)
}

/// The first images of a set `[n, C, H, W]`, u8, as one picture.
pub(crate) fn sheet(images: &Tensor, most: i64) -> Result<String> {
    data_uri(&grid(&images.narrow(0, 0, images.size()[0].min(most))))
}

/// Which images of a set to show, and how many.
pub(crate) enum Choice {
    /// Those nearest to being copies, the most alike first.
    Lowest(usize),
    /// The first.
    First(usize),
}

/// Rows of samples, or of held-out images, with their neighbours.
pub(crate) fn triples(pictures: &Pictures, held_out: bool, choice: Choice) -> Result<Vec<Triple>> {
    let (names, d1, d2) = if held_out {
        let d = &pictures.distances;
        (
            ["held_out", "held_out_nearest", "held_out_second_nearest"],
            &d.held_out_nearest,
            &d.held_out_second_nearest,
        )
    } else {
        (
            ["samples", "nearest", "second_nearest"],
            &pictures.distances.nearest,
            &pictures.distances.second_nearest,
        )
    };
    let tensors = names.map(|n| &pictures.tensors[n]);
    let n = tensors.iter().map(|t| t.size()[0] as usize).min().unwrap_or(0).min(d1.len()).min(d2.len());
    let mut rows: Vec<usize> = (0..n).collect();
    let most = match choice {
        Choice::First(most) => most,
        Choice::Lowest(most) => {
            rows.sort_by(|a, b| (d1[*a] / d2[*a]).total_cmp(&(d1[*b] / d2[*b])));
            most
        }
    };
    let triple = |i: usize| -> Result<Triple> {
        let [image, nearest, second] = [0, 1, 2].map(|k| data_uri(&tensors[k].get(i as i64)));
        let ratio = d1[i] / d2[i];
        Ok(Triple {
            image: image?,
            nearest: nearest?,
            second: second?,
            d1: format!("{:.2}", d1[i]),
            d2: format!("{:.2}", d2[i]),
            ratio: format!("{ratio:.2}"),
            copy: ratio < MEMORIZED_RATIO,
        })
    };
    rows.into_iter().take(most).map(triple).collect()
}
