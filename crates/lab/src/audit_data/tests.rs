//! The search for near duplicates among many images, which has no set that ships to run on.

use super::duplicates::near;
use super::thumbnails::{look, thumbnail, working_size};
use heldout_data::{ImageStream, StreamOptions, permutation};
use std::path::Path;

const SIDE: usize = 32;
const IMAGES: usize = 60;

/// A smooth image, another for every `i`: a sum of waves.
fn waves(i: usize) -> Vec<u8> {
    let wave = permutation(40, i as u64);
    let value = |p: usize| {
        let (y, x) = ((p / SIDE) as f64, (p % SIDE) as f64);
        let term = |k: usize| {
            let [a, b, phase] = [wave[3 * k], wave[3 * k + 1], wave[3 * k + 2]].map(|n| n as f64);
            ((a - 20.0) * x / 90.0 + (b - 20.0) * y / 90.0 + phase).sin()
        };
        (128.0 + 30.0 * (0..4).map(term).sum::<f64>()).clamp(0.0, 255.0) as u8
    };
    (0..SIDE * SIDE).map(value).collect()
}

fn save(folder: &Path, name: &str, pixels: Vec<u8>) {
    let image = image::GrayImage::from_raw(SIDE as u32, SIDE as u32, pixels).unwrap();
    image.save(folder.join(format!("{name}.png"))).unwrap();
}

#[test]
fn the_quick_search_finds_what_the_complete_one_finds() {
    let folder = tempfile::tempdir().unwrap();
    (0..IMAGES).for_each(|i| save(folder.path(), &format!("a{i:02}"), waves(i)));
    let moved = |i: usize, from: &dyn Fn(usize, usize) -> (usize, usize)| -> Vec<u8> {
        let image = waves(i);
        let at = |p: usize| {
            let (y, x) = from(p / SIDE, p % SIDE);
            image[y * SIDE + x]
        };
        (0..SIDE * SIDE).map(at).collect()
    };
    save(folder.path(), "flip", moved(3, &|y, x| (y, SIDE - 1 - x)));
    save(folder.path(), "shift", moved(7, &|y, x| (y.saturating_sub(1), x.saturating_sub(1))));
    save(folder.path(), "both", moved(9, &|y, x| ((y + 1).min(SIDE - 1), SIDE - 1 - x)));
    let mut stream = ImageStream::open(folder.path(), StreamOptions::default()).unwrap();
    let seen = look(&mut stream).unwrap();
    let names = |complete: usize| -> Vec<Vec<String>> {
        let groups = near(&stream, &seen, complete).unwrap().groups;
        groups.iter().map(|g| g.iter().map(|place| stream.label_of(seen.index[*place])).collect()).collect()
    };
    let found = names(usize::MAX);
    assert_eq!(found, [["a03.png", "flip.png"], ["a07.png", "shift.png"], ["a09.png", "both.png"]]);
    assert_eq!(names(0), found);
}

/// The nearest candidates are looked at, not the first, and that there were more is told.
#[test]
fn a_near_duplicate_is_found_behind_many_candidates() {
    let folder = tempfile::tempdir().unwrap();
    let image = waves(1);
    // The same to a thumbnail, nearly: cells of 4 x 4 pixels keep their means, and none is near to another.
    for i in 0..70usize {
        let signs = permutation(SIDE * SIDE / 2, i as u64);
        let grain = |p: usize| {
            let (pair, odd) = (p / 2, p % 2 == 1);
            let up = signs[pair].is_multiple_of(2) != odd;
            if up { 40i32 } else { -40 }
        };
        let value = |(p, v): (usize, &u8)| {
            let cell = if p / SIDE < 4 && p % SIDE < 4 { 1 + i as i32 % 7 } else { 0 };
            (i32::from(*v) / 2 + 64 + grain(p) + cell) as u8
        };
        save(folder.path(), &format!("b{i:02}"), image.iter().enumerate().map(value).collect());
    }
    let contrast = |v: &u8| (i32::from(*v) / 2 + 64) as u8;
    save(folder.path(), "a", image.iter().map(contrast).collect());
    save(folder.path(), "z", image.iter().map(|v| contrast(v) + 1).collect());
    let mut stream = ImageStream::open(folder.path(), StreamOptions::default()).unwrap();
    let seen = look(&mut stream).unwrap();
    let found = near(&stream, &seen, usize::MAX).unwrap();
    assert!(found.cut > 0);
    let names = |group: &Vec<usize>| -> Vec<String> {
        group.iter().map(|place| stream.label_of(seen.index[*place])).collect()
    };
    assert_eq!(found.groups.iter().map(names).collect::<Vec<_>>(), [["a.png", "z.png"]]);
}

#[test]
fn thumbnails_are_never_further_apart_than_images() {
    // 11 x 13 pixels, which no grid of 8 divides; distances are of images without their means.
    let shape = [1, 11, 13];
    for i in 0..20 {
        let (a, b) = (waves(i), waves(i + 1));
        let of = |image: &[u8]| thumbnail(shape, |p| image[p]);
        let cells = of(&a).cells.into_iter().zip(of(&b).cells);
        let near = cells.map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>();
        let difference: Vec<f64> = (0..143).map(|p| f64::from(a[p]) - f64::from(b[p])).collect();
        let mean = difference.iter().sum::<f64>() / 143.0;
        let far = difference.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 143.0;
        assert!(near <= far * (1.0 + 1e-5), "{near} and {far}");
        assert!(near > 0.1 * far, "{near} and {far}: they see smooth images");
    }
}

#[test]
fn large_images_are_compared_small_and_small_ones_as_they_are() {
    assert_eq!(working_size([28, 28]), [28, 28]);
    assert_eq!(working_size([1024, 512]), [32, 16]);
    assert_eq!(working_size([1, 4096]), [1, 32]);
}
