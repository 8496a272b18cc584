//! One PNG or JPEG file: its header, and its pixels.

use heldout_core::{Error, Result};
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::fs;
use std::io::Cursor;
use std::path::Path;

/// Images of more pixels are not decoded: a small file can claim a huge image.
pub(crate) const MOST_PIXELS: u64 = 64 << 20;
/// Files above this are not read.
const MOST_BYTES: u64 = 1 << 29;

/// What a file's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// `[height, width]`.
    pub(crate) size: [usize; 2],
    pub(crate) grey: bool,
    /// 16 bits a channel.
    pub(crate) deep: bool,
}

/// Whether the name ends as those of the files that are read.
pub(crate) fn is_image(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    ["png", "jpg", "jpeg"].contains(&ending.as_str())
}

fn damaged(path: &Path) -> impl FnOnce(image::ImageError) -> Error {
    let path = path.to_owned();
    |e| Error::file(path, format!("damaged, truncated or not an image: {}", one_line(&e.to_string())))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn limited<R: std::io::BufRead + std::io::Seek>(mut reader: ImageReader<R>) -> ImageReader<R> {
    let mut limits = Limits::default();
    // Four channels of 16 bits, and what a decoder needs beside them.
    limits.max_alloc = Some(12 * MOST_PIXELS);
    reader.limits(limits);
    reader
}

/// Reads the header alone; nothing of the size that it declares is taken from memory.
pub(crate) fn head(path: &Path) -> Result<Head> {
    let bytes = fs::metadata(path).map_err(Error::io(path))?.len();
    if bytes > MOST_BYTES {
        return Err(Error::file(
            path,
            format!("{bytes} bytes: more than {MOST_BYTES} are not read as an image"),
        ));
    }
    let reader = ImageReader::open(path).map_err(Error::io(path))?;
    let reader = limited(reader.with_guessed_format().map_err(Error::io(path))?);
    let decoder = reader.into_decoder().map_err(damaged(path))?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 || pixels > MOST_PIXELS {
        let reason = format!("declares {width} x {height} pixels: 1 to {MOST_PIXELS} (64 Mi) are read");
        return Err(Error::file(path, reason));
    }
    let color = decoder.color_type();
    Ok(Head {
        size: [height as usize, width as usize],
        grey: matches!(color, ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16),
        deep: matches!(color, ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16),
    })
}

/// Decodes a file whose header [`head`] has accepted.
pub(crate) fn decode(path: &Path) -> Result<DynamicImage> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let reader = ImageReader::new(Cursor::new(&bytes)).with_guessed_format().map_err(Error::io(path))?;
    let jpeg = reader.format() == Some(ImageFormat::Jpeg);
    let image = limited(reader).decode().map_err(damaged(path))?;
    if jpeg && !is_whole(&bytes) {
        // The decoder would fill the rest with grey.
        return Err(Error::file(path, "truncated: it stops before the end marker of JPEG"));
    }
    Ok(image)
}

/// Whether a JPEG file goes on to its end marker. Those of thumbnails lie within segments, which are passed over.
pub(crate) fn is_whole(jpeg: &[u8]) -> bool {
    let mut at = 0;
    while let Some(&[mark, code]) = jpeg.get(at..at + 2).and_then(|two| <&[u8; 2]>::try_from(two).ok()) {
        at += match (mark, code) {
            (0xff, 0xd9) => return true,
            // Fill bytes, escaped data bytes, restarts and the start: no length follows.
            (0xff, 0xff) => 1,
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => 2,
            (0xff, _) => match jpeg.get(at + 2..at + 4) {
                Some(length) => 2 + usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return false,
            },
            _ => 1,
        };
    }
    false
}

/// Pixels as `[C, H, W]`, grey or RGB, 16 bits rounded to 8 and what is transparent laid over white; and whether anything
/// was.
pub(crate) fn over_white(image: &DynamicImage, channels: usize) -> (Vec<u8>, bool) {
    if !image.color().has_alpha() {
        return (opaque(image, channels), false);
    }
    let rgba = image.to_rgba8();
    if rgba.pixels().all(|p| p.0[3] == 255) {
        return (opaque(image, channels), false);
    }
    let blend = |value: u8, alpha: u8| {
        let (value, alpha) = (u32::from(value), u32::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    // A grey image has the same value in its three channels.
    let planes = (0..channels).flat_map(|c| rgba.pixels().map(move |p| blend(p.0[c], p.0[3])));
    (planes.collect(), true)
}

/// Pixels as `[C, H, W]`, without transparency.
pub(crate) fn opaque(image: &DynamicImage, channels: usize) -> Vec<u8> {
    if channels == 1 {
        return image.to_luma8().into_raw();
    }
    let rgb = image.to_rgb8();
    (0..3).flat_map(|c| rgb.pixels().map(move |p| p.0[c])).collect()
}
