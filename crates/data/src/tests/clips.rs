//! Clips: frames that are channels.

use super::{datasets, gz, idx};
use crate::manifest::hex;
use crate::{ImageSet, ImageStream, StreamOptions, find};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;

/// A folder of two clips of three frames of 2x4 pixels, with its `dataset.toml`.
fn write(folder: &Path, dims: &[u32], fields: &str) {
    let bytes: Vec<u8> = (0..dims.iter().product::<u32>() as u8).collect();
    let file = gz(&idx(dims, &bytes));
    let sum = hex(&Sha256::digest(&file));
    fs::write(folder.join("c.idx.gz"), file).unwrap();
    let named = "name = \"c\"\ntitle = \"C\"\nsource = \"here\"\nlicense = \"MIT\"\nimages = \"c.idx.gz\"\ncount = 2\n";
    let toml = format!("{named}height = 2\nwidth = 4\n{fields}\n[sha256]\n\"c.idx.gz\" = \"{sum}\"\n");
    fs::write(folder.join("dataset.toml"), toml).unwrap();
}

#[test]
fn frames_are_channels() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[2, 3, 2, 4], "frames = 3\nchannels = 1");
    let set = ImageSet::open(folder.path()).unwrap();
    assert_eq!((set.len(), set.shape, set.frames), (2, [3, 2, 4], 3));
    assert_eq!(set.image(1).unwrap(), Vec::from_iter(24..48));
    assert_eq!(set.form(), "3 frames of 4x2 pixels, grey");
    let stream = ImageStream::open(folder.path(), StreamOptions::default()).unwrap_err().to_string();
    assert!(stream.contains("clips of 3 frames"), "{stream}");
    for (dims, fields, word) in [
        (&[2, 3, 2, 4][..], "frames = 2\nchannels = 1", "[N, 2, H, W]"),
        (&[2, 2, 4], "frames = 2\nchannels = 1", "[N, 2, H, W]"),
        (&[2, 3, 2, 4], "frames = 3\nchannels = 3", "dataset.toml says otherwise"),
        (&[2, 3, 2, 4], "frames = 0\nchannels = 1", "[N, 0, H, W]"),
        (&[2, 8, 2, 4], "channels = 1", "[N, H, W, 3]"),
    ] {
        write(folder.path(), dims, fields);
        let error = ImageSet::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("c.idx.gz") && error.contains(word), "{error}");
    }
}

/// Every digit is whole in every frame, and goes on as it began until it meets a wall.
#[test]
fn digits_move_and_keep_their_shape() {
    let moving = ImageSet::open(&find("moving-digits", &datasets()).unwrap()).unwrap();
    let digits = ImageSet::open(&find("digits", &datasets()).unwrap()).unwrap();
    assert_eq!(moving.labels, digits.labels);
    let ink = |image: &[u8]| image.iter().map(|v| u32::from(*v)).sum::<u32>();
    for i in [0, 700, 1796] {
        let (clip, digit) = (moving.image(i).unwrap(), digits.image(i).unwrap());
        let shows = |frame: &[u8], y: usize, x: usize| {
            (0..8).all(|r| frame[(y + r) * 16 + x..][..8] == digit[r * 8..][..8]) && ink(frame) == ink(&digit)
        };
        let places = |frame: &[u8]| {
            let all = (0..=8).flat_map(|y| (0..=8).map(move |x| [y, x]));
            all.filter(|[y, x]| shows(frame, *y, *x)).collect::<Vec<_>>()
        };
        let path: Vec<[usize; 2]> = clip.chunks_exact(256).map(|frame| places(frame)[0]).collect();
        // By one pixel or none along each axis; it turns round at a wall alone.
        for axis in [0, 1] {
            let walked: Vec<isize> =
                path.windows(2).map(|p| p[1][axis] as isize - p[0][axis] as isize).collect();
            assert!(walked.iter().all(|v| v.abs() == walked[0].abs() && v.abs() <= 1), "{path:?}");
            for (t, pair) in walked.windows(2).enumerate() {
                assert!(pair[0] == pair[1] || [0, 8].contains(&path[t + 1][axis]), "{path:?}");
            }
        }
        assert_ne!(path[0], path[1]);
    }
}
