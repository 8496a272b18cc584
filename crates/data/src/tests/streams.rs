//! Streams over folders as people have them, with every kind of bad file.

use super::{datasets, save};
use crate::decode::is_whole;
use crate::{ImageStream, StreamOptions, find};
use flate2::Crc;
use image::{DynamicImage, GrayImage, ImageBuffer, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

fn open(folder: &Path) -> ImageStream {
    ImageStream::open(folder, StreamOptions { batch_size: 3, ..StreamOptions::default() }).unwrap()
}

/// Index and pixels of everything that can be read.
fn all(stream: &mut ImageStream) -> Vec<(usize, Vec<u8>)> {
    let size: usize = stream.shape.iter().product();
    let mut found = Vec::new();
    for batch in stream {
        let batch = batch.unwrap();
        assert!(batch.index.len() <= 3, "a batch of {}", batch.index.len());
        found.extend(batch.index.into_iter().zip(batch.pixels.chunks(size).map(<[u8]>::to_vec)));
    }
    found
}

/// A chunk of PNG.
fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [name, data].concat();
    let mut crc = Crc::new();
    crc.update(&body);
    [&(data.len() as u32).to_be_bytes(), &body[..], &crc.sum().to_be_bytes()].concat()
}

/// A PNG file whose header says this size, with a few bytes of pixels.
fn declared(width: u32, height: u32) -> Vec<u8> {
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let header = [&size[..], &[8, 2, 0, 0, 0]].concat();
    [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &header), &chunk(b"IDAT", &[0; 16]), &chunk(b"IEND", &[])]
        .concat()
}

#[test]
fn a_folder_with_everything_wrong_is_read_as_far_as_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("deep/deeper")).unwrap();
    fs::create_dir(at(".hidden")).unwrap();
    for (name, value) in [("a.png", 10), ("deep/b.png", 20), ("deep/deeper/c.PNG", 30), ("z.png", 40)] {
        save(&at(name), value);
    }
    save(&at(".hidden/h.png"), 1);
    let whole = fs::read(at("a.png")).unwrap();
    fs::write(at("d.png"), &whole[..whole.len() - 20]).unwrap(); // its header is right
    fs::write(at("e.png"), "text").unwrap();
    fs::write(at("f.png"), "").unwrap();
    fs::write(at("g.png"), declared(60_000, 60_000)).unwrap();
    fs::write(at("h.webp"), "RIFF").unwrap();
    fs::write(at("notes.txt"), "no image").unwrap();
    symlink(folder.path(), at("deep/circle")).unwrap();
    symlink(at("nowhere.png"), at("broken.png")).unwrap();
    let mut corrupt = whole;
    let middle = corrupt.len() / 2;
    corrupt[middle..middle + 8].fill(0x55);
    fs::write(at("m.png"), corrupt).unwrap();

    let mut stream = open(folder.path());
    assert_eq!(stream.shape, [1, 3, 4]);
    let found = all(&mut stream);
    let values: Vec<u8> = found.iter().map(|(_, pixels)| pixels[0]).collect();
    assert_eq!(values, [10, 20, 30, 40], "sorted, and through all folders");
    for (index, pixels) in &found {
        assert_eq!(stream.image(*index).unwrap(), *pixels);
    }
    assert_eq!(stream.label_of(found[2].0), "deep/deeper/c.PNG");
    let reading = stream.reading().clone();
    assert_eq!((reading.found, reading.read, reading.unreadable.len()), (11, 4, 7), "{reading:?}");
    assert_eq!(reading.ignored, 3, "a hidden folder, a text and a circle");
    let reason = |name: &str| {
        let of = |u: &&crate::Unreadable| u.path.ends_with(name);
        reading.unreadable.iter().find(of).map(|u| u.reason.clone()).unwrap()
    };
    assert!(reason("g.png").contains("60000 x 60000"), "{}", reason("g.png"));
    assert!(reason("h.webp").contains("PNG and JPEG are read"));
    assert!(reason("d.png").contains("truncated") && reason("m.png").contains("damaged"));
    assert!(reason("e.png").contains("not an image") && !reason("f.png").is_empty());
    assert!(!reason("broken.png").is_empty());
    let said = reading.to_string();
    assert!(said.starts_with("7 of 11 files cannot be read") && said.contains("3 other files"), "{said}");

    stream.rewind();
    assert_eq!(all(&mut stream), found);
    assert_eq!(*stream.reading(), reading, "counted once");

    let strict = StreamOptions { strict: true, ..StreamOptions::default() };
    let error = ImageStream::open(folder.path(), strict.clone()).unwrap_err().to_string();
    assert!(error.contains("broken.png") || error.contains("h.webp"), "{error}");
    for name in ["broken.png", "e.png", "f.png", "g.png", "h.webp"] {
        fs::remove_file(at(name)).unwrap();
    }
    // What only decoding shows ends the stream with an error, once.
    let results: Vec<_> = ImageStream::open(folder.path(), strict).unwrap().collect();
    assert_eq!(results.len(), 1);
    let error = results[0].as_ref().unwrap_err().to_string();
    assert!(error.contains("d.png") && error.contains("truncated"), "{error}");
}

#[test]
fn too_few_images_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let error = |options| ImageStream::open(folder.path(), options).unwrap_err().to_string();
    let default = StreamOptions::default;
    assert!(error(default()).contains("holds no PNG or JPEG file"), "{}", error(default()));
    save(&folder.path().join("a.png"), 1);
    fs::write(folder.path().join("b.png"), "text").unwrap();
    let one = error(default());
    assert!(one.contains("1 readable images: at least 2") && one.contains("b.png"), "{one}");
    let whole = fs::read(folder.path().join("a.png")).unwrap();
    fs::write(folder.path().join("b.png"), &whole[..whole.len() - 20]).unwrap();
    let last = ImageStream::open(folder.path(), default()).unwrap().last().unwrap().unwrap_err().to_string();
    assert!(last.contains("1 readable images") && last.contains("truncated"), "{last}");
    assert!(error(StreamOptions { batch_size: 0, ..default() }).contains("at least 1"));
    assert!(ImageStream::open(&folder.path().join("none"), default()).is_err());
}

#[test]
fn kinds_of_pixels_become_bytes_over_white() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let deep = ImageBuffer::<Luma<u16>, _>::from_pixel(2, 2, Luma([0x80ff]));
    DynamicImage::ImageLuma16(deep).save(at("a16.png")).unwrap();
    GrayImage::from_pixel(2, 2, Luma([7])).save(at("bgrey.png")).unwrap();
    RgbImage::from_pixel(2, 2, Rgb([1, 2, 3])).save(at("crgb.png")).unwrap();
    RgbaImage::from_pixel(2, 2, Rgba([10, 20, 30, 0])).save(at("dclear.png")).unwrap();
    RgbaImage::from_pixel(2, 2, Rgba([10, 20, 30, 255])).save(at("efull.png")).unwrap();
    RgbaImage::from_pixel(2, 2, Rgba([0, 100, 255, 51])).save(at("fhalf.png")).unwrap();
    let mut stream = open(folder.path());
    let found: Vec<[u8; 3]> = all(&mut stream).iter().map(|(_, p)| [p[0], p[4], p[8]]).collect();
    let expected = [[128, 128, 128], [7, 7, 7], [1, 2, 3], [255, 255, 255], [10, 20, 30], [204, 224, 255]];
    assert_eq!(found, expected);
    let reading = stream.reading();
    assert_eq!((reading.blended, reading.deep, reading.grey), (2, 1, 2));
    assert!(reading.to_string().contains("2 images are partly transparent"), "{reading}");
}

#[test]
fn mixed_sizes_are_made_one_without_aliasing() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..3 {
        GrayImage::from_pixel(8, 8, Luma([i])).save(folder.path().join(format!("s{i}.png"))).unwrap();
    }
    // Stripes of one pixel: a filter of the width of the target sees their mean, picking every eighth sees one of them.
    GrayImage::from_fn(64, 64, |x, _| Luma([255 * (x % 2) as u8])).save(folder.path().join("t.png")).unwrap();
    let mut stream = open(folder.path());
    assert_eq!(stream.shape, [1, 8, 8], "the size of most");
    let found = all(&mut stream);
    assert!(found[3].1.iter().all(|v| v.abs_diff(128) < 8), "{:?}", found[3].1);
    assert_eq!(found[2].1, [2; 64], "what has the size is as it was");
    let said = stream.reading().to_string();
    assert!(said.contains("1 images are resized; there are 2 sizes (3 of 8 x 8, 1 of 64 x 64)"), "{said}");
    let options = StreamOptions { size: Some([2, 4]), ..StreamOptions::default() };
    let mut small = ImageStream::open(folder.path(), options).unwrap();
    assert_eq!(small.next().unwrap().unwrap().bytes().size(), [4, 1, 2, 4]);
    let strict = StreamOptions { strict: true, ..StreamOptions::default() };
    let error = ImageStream::open(folder.path(), strict).unwrap_err().to_string();
    assert!(error.contains("2 sizes of images"), "{error}");
}

#[test]
fn a_jpeg_without_its_end_is_not_shown_with_a_grey_rest() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["a.jpg", "b.jpeg", "c.jpg"] {
        RgbImage::from_fn(64, 64, |x, y| Rgb([x as u8, y as u8, (x * y) as u8])).save(at(name)).unwrap();
    }
    let whole = fs::read(at("a.jpg")).unwrap();
    assert!(is_whole(&whole));
    for cut in [1, 2, whole.len() / 3, whole.len() / 2] {
        assert!(!is_whole(&whole[..whole.len() - cut]), "{cut} bytes short");
    }
    // The end of a thumbnail, in a segment, is not the end of the image.
    let mut thumbnail = vec![0xff, 0xd8, 0xff, 0xe1, 0, 6, 0xff, 0xd9, 0, 0];
    thumbnail.extend(&whole[2..whole.len() - 2]);
    assert!(!is_whole(&thumbnail));
    thumbnail.extend([0xff, 0xd9, 0, 0]); // padding behind the end is allowed
    assert!(is_whole(&thumbnail));
    fs::write(at("c.jpg"), &whole[..whole.len() / 2]).unwrap();
    let mut stream = open(folder.path());
    assert_eq!(all(&mut stream).len(), 2);
    assert!(stream.reading().unreadable[0].reason.contains("truncated"));
}

#[test]
fn classes_are_the_folders_below_the_root() {
    let folder = tempfile::tempdir().unwrap();
    for class in ["b", "a/inner"] {
        fs::create_dir_all(folder.path().join(class)).unwrap();
        save(&folder.path().join(class).join("1.png"), 1);
    }
    let stream = open(folder.path());
    assert_eq!((stream.labels.as_deref(), stream.classes.join(",")), (Some(&[0, 1][..]), "a,b".to_owned()));
    save(&folder.path().join("root.png"), 1);
    assert_eq!(open(folder.path()).labels, None);
}

#[test]
fn equal_content_is_told_by_its_digest_whatever_the_file() {
    let folder = tempfile::tempdir().unwrap();
    save(&folder.path().join("a.png"), 1);
    save(&folder.path().join("b.png"), 2);
    fs::copy(folder.path().join("a.png"), folder.path().join("c.png")).unwrap();
    let batch = open(folder.path()).next().unwrap().unwrap();
    assert!(batch.content[0] == batch.content[2] && batch.content[0] != batch.content[1]);
}

#[test]
fn sets_that_ship_are_streams_too() {
    let digits = find("digits", &datasets()).unwrap();
    let mut stream = ImageStream::open(&digits, StreamOptions::default()).unwrap();
    assert_eq!((stream.len(), stream.shape, stream.classes.len()), (1797, [1, 8, 8], 10));
    let n: usize = stream.by_ref().map(|batch| batch.unwrap().index.len()).sum();
    assert_eq!((n, stream.reading().read), (1797, 1797));
    assert_eq!(stream.reading().to_string(), "");
}
