//! Captions beside the images of a folder.

use heldout_core::{Error, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The file that a folder of images may hold: one JSON object a line, `{"file_name": "a.png", "text": "a cat"}`, as image
/// folders are published on the hub.
const FILE: &str = "metadata.jsonl";

/// A text for every image of a set, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captions {
    /// The file.
    pub path: PathBuf,
    /// In the order of the images.
    pub texts: Vec<String>,
    /// The line of each in the file; the first line is 1.
    pub lines: Vec<usize>,
}

/// What a line must say; further fields are passed over.
#[derive(Deserialize)]
struct Line {
    file_name: String,
    text: String,
}

impl Captions {
    /// Those of the images `images` of `folder`; `None` where the folder has no `metadata.jsonl`.
    ///
    /// # Errors
    /// A line is damaged, names no image of the folder, or one that has a line already; an image has no line.
    pub(crate) fn read(folder: &Path, images: &[PathBuf]) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path)(e)),
        };
        let of_image: HashMap<&Path, usize> =
            images.iter().enumerate().map(|(i, p)| (p.as_path(), i)).collect();
        let mut found: Vec<Option<(String, usize)>> = vec![None; images.len()];
        for (i, bytes) in bytes.split(|b| *b == b'\n').enumerate() {
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            let line = i + 1;
            let fail = |reason: String| Error::file(&path, format!("line {line}: {reason}"));
            let Line { file_name, text } = serde_json::from_slice(bytes).map_err(|e| {
                fail(format!(
                    "{}: a line is {{\"file_name\": \"a.png\", \"text\": \"a cat\"}}",
                    without_place(&e)
                ))
            })?;
            let image = folder.join(plain(&file_name));
            let Some(&image) = of_image.get(image.as_path()) else {
                return Err(fail(format!(
                    "`{file_name}`: no image of this folder: take the line out, or add it"
                )));
            };
            if let Some((_, first)) = &found[image] {
                return Err(fail(format!("`{file_name}`: has a text in line {first} already")));
            }
            found[image] = Some((text, line));
        }
        if let Some(image) = found.iter().position(Option::is_none) {
            let name = images[image].strip_prefix(folder).unwrap_or(&images[image]).display();
            let reason = format!("no line for the image `{name}`: add one, or remove the image");
            return Err(Error::file(path, reason));
        }
        let (texts, lines) = found.into_iter().flatten().unzip();
        Ok(Some(Self { path, texts, lines }))
    }

    /// An error about the text of image `index`, that names its line.
    pub fn error(&self, index: usize, reason: &str) -> Error {
        Error::file(&self.path, format!("line {}: {reason}", self.lines[index]))
    }
}

/// Without `./`.
fn plain(name: &str) -> PathBuf {
    Path::new(name).components().filter(|c| *c != Component::CurDir).collect()
}

/// The message without its own count of lines, which starts anew in every line.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}
