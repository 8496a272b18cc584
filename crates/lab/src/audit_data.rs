//! What in a data set would make a model copy it: repetitions, labels, too few images for the model.

mod duplicates;
mod expect;
mod labels;
mod page;
mod thumbnails;

use crate::dirs::project_root;
use anyhow::Result;
use duplicates::{ALL_VERSIONS, Groups, MOST, Near, TOLERANCE, distinct, exact, near};
use expect::{expectations, model_size};
use heldout_data::{ImageStream, PixelRange, Reading, StreamOptions, find};
use labels::labels;
use serde::Serialize;
use thumbnails::{Seen, look, working_size};

pub use expect::{Expectation, ModelSize};
pub use labels::{LabelKind, Labels};

/// What to look at.
#[derive(Debug, Clone)]
pub struct AuditDataRequest<'a> {
    /// A shipped or fetched set by name, or a path: whatever [`ImageStream`] reads.
    pub data: &'a str,
    /// A preset, a model folder or file, or the folder of a trained arm.
    pub model: Option<&'a str>,
    /// What floats of arrays mean; by default their minimum says it.
    pub range: Option<PixelRange>,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct DataAudit {
    /// In a sentence.
    pub verdict: String,
    /// Whether nothing was found that adds to copying.
    pub clean: bool,
    /// As it was named.
    pub data: String,
    /// The images.
    pub images: Images,
    /// Images that are equal to the last bit.
    pub exact_duplicates: Duplicates,
    /// Images that differ in little, among those that are not equal.
    pub near_duplicates: Duplicates,
    /// How the near ones were told.
    pub near_rule: String,
    /// Where there are any.
    pub labels: Option<Labels>,
    /// Where one was named.
    pub model: Option<ModelSize>,
    /// What the literature leads one to expect.
    pub expectations: Vec<Expectation>,
    #[serde(skip)]
    pictures: Vec<page::Pictures>,
}

/// What the images are like.
#[derive(Debug, Serialize)]
pub struct Images {
    /// Files that should be images.
    pub found: usize,
    /// Those that were read.
    pub read: usize,
    /// Those that were not.
    pub unreadable: usize,
    /// The first of them, and why.
    pub first_unreadable: Vec<String>,
    /// Files that are no images.
    pub ignored: usize,
    /// `[channels, height, width]`, of most images where sizes differ.
    pub shape: [usize; 3],
    /// Images of each size, `[height, width, images]`, the most common first.
    pub sizes: Vec<[usize; 3]>,
    /// Images that show the same in their three channels, or have one.
    pub grey: usize,
    /// Images that show one colour and nothing else.
    pub constant: usize,
    /// Images with transparent pixels, which lie over white.
    pub transparent: usize,
    /// Images of 16 bits a channel.
    pub sixteen_bits: usize,
    /// In words, what was left out, changed or taken for granted; empty if nothing was.
    pub notes: String,
}

/// Groups of images that are there several times.
#[derive(Debug, Serialize)]
pub struct Duplicates {
    /// Groups.
    pub groups: usize,
    /// Images beyond the first of each group.
    pub extra: usize,
    /// Share of the images that these are.
    pub share: f64,
    /// Names of the images of the first groups.
    pub first: Vec<Vec<String>>,
}

/// Groups and images of a group that are named, and files that are named as unreadable.
const GROUPS: usize = 100;
const MEMBERS: usize = 20;
const UNREADABLE: usize = 20;
/// Sizes that are listed.
const SIZES: usize = 20;

/// Looks at a data set.
///
/// Every image is read once, those that may be near duplicates again. Memory is some hundred bytes an image, and does not
/// grow with their size.
///
/// # Errors
/// There is no such data, or fewer than two images can be read; there is no such model.
pub fn audit_data(request: &AuditDataRequest<'_>) -> Result<DataAudit> {
    let path = find(request.data, &project_root().join("datasets"))?;
    let options = StreamOptions { range: request.range, ..StreamOptions::default() };
    let mut stream = ImageStream::open(&path, options)?;
    let shape = stream.shape;
    // A model that is not there is an error before the long part.
    let sized =
        |images| request.model.map(|name| model_size(name, images, shape.iter().product())).transpose();
    sized(stream.len())?;
    stream.resize(working_size([shape[1], shape[2]]));
    let seen = look(&mut stream)?;
    let reading = stream.reading().clone();
    let exact = exact(&seen);
    let Near { groups: near, cut } = near(&stream, &seen, ALL_VERSIONS)?;
    let labels = stream.labels.clone().map(|all| labels(&seen, &exact, &all)).transpose()?;
    let images = distinct(&seen).len();
    let model = sized(images)?;
    let repeated = !(exact.is_empty() && near.is_empty());
    let name = |group: &Vec<usize>| {
        group.iter().take(MEMBERS).map(|place| stream.label_of(seen.index[*place])).collect()
    };
    let described = |groups: &Groups| {
        let extra = groups.iter().map(|g| g.len() - 1).sum();
        Duplicates {
            groups: groups.len(),
            extra,
            share: extra as f64 / seen.index.len() as f64,
            first: groups.iter().take(GROUPS).map(name).collect(),
        }
    };
    let mut audit = DataAudit {
        verdict: String::new(),
        clean: false,
        data: request.data.to_owned(),
        images: images_of(&reading, &seen, shape),
        exact_duplicates: described(&exact),
        near_duplicates: described(&near),
        near_rule: near_rule(images, stream.shape, cut),
        expectations: expectations(images, repeated, labels.as_ref(), model.as_ref()),
        labels,
        model,
        pictures: Vec::new(),
    };
    (audit.verdict, audit.clean) = verdict(&audit);
    audit.pictures = page::pictures(
        &mut stream,
        shape,
        &seen,
        &[("Equal to the last bit", &exact), ("Nearly equal", &near)],
    )?;
    Ok(audit)
}

fn images_of(reading: &Reading, seen: &Seen, shape: [usize; 3]) -> Images {
    let mut sizes: Vec<[usize; 3]> = reading.sizes.iter().map(|([h, w], n)| [*h, *w, *n]).collect();
    sizes.sort_by_key(|[_, _, n]| std::cmp::Reverse(*n));
    sizes.truncate(SIZES);
    // All were resized to be compared; what counts is how many are of another size than most.
    let usual = reading.sizes.get(&[shape[1], shape[2]]).copied().unwrap_or(0);
    let resized = reading.sizes.values().sum::<usize>() - usual;
    let named = reading.unreadable.iter().take(UNREADABLE);
    let mut said = reading.clone();
    said.resized = resized;
    Images {
        found: reading.found,
        read: reading.read,
        unreadable: reading.unreadable.len(),
        first_unreadable: named.map(|u| format!("{}: {}", u.path.display(), u.reason)).collect(),
        ignored: reading.ignored,
        shape,
        sizes,
        grey: if shape[0] == 1 { reading.read } else { seen.grey_in_colour },
        constant: seen.constant(),
        transparent: reading.blended,
        sixteen_bits: reading.deep,
        notes: said.to_string(),
    }
}

fn near_rule(images: usize, [_, height, width]: [usize; 3], cut: usize) -> String {
    let search = match images <= ALL_VERSIONS {
        true => "all pairs were searched",
        false => "pairs were searched by thumbnails that may miss some, as there are many images",
    };
    let cut = match cut {
        0 => String::new(),
        _ => format!(
            " ({cut} images had more than {MOST} candidates, of which the nearest {MOST} were looked at)"
        ),
    };
    format!(
        "At {width} x {height} pixels, flipped or shifted by at most one pixel, with their means taken off, which are less than 5 % of the range \
         apart, they differ by less than {TOLERANCE} of their standard deviation; {search}{cut}; a group holds what is near to any of its members"
    )
}

/// A number with its noun.
fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// The sentence, and whether nothing was found.
fn verdict(audit: &DataAudit) -> (String, bool) {
    let mut problems = Vec::new();
    let mut advice = Vec::new();
    let (exact, near) = (&audit.exact_duplicates, &audit.near_duplicates);
    if exact.extra > 0 {
        problems.push(format!(
            "{} in {}",
            count(exact.extra, "exact repetition", "exact repetitions"),
            count(exact.groups, "group", "groups")
        ));
    }
    if near.extra > 0 {
        problems.push(format!(
            "{} in {}",
            count(near.extra, "near repetition", "near repetitions"),
            count(near.groups, "group", "groups")
        ));
    }
    if !problems.is_empty() {
        advice.push("remove the repetitions");
    }
    if let Some(labels) = &audit.labels {
        let problem = match labels.kind {
            LabelKind::Unique => Some(format!("labels that are nearly unique ({} classes)", labels.classes)),
            LabelKind::Random => Some("labels that cannot be told from random ones".to_owned()),
            LabelKind::Thin => Some(format!("a class of only {} images", labels.smallest_class)),
            LabelKind::Plain | LabelKind::Single => None,
        };
        if let Some(problem) = problem {
            problems.push(problem);
            advice.push("train without the labels");
        }
        if labels.conflicting_groups > 0 {
            let groups = count(labels.conflicting_groups, "group", "groups");
            problems.push(format!("{groups} of equal images with different labels"));
        }
    }
    if audit.images.constant > 0 {
        problems.push(count(audit.images.constant, "image of one colour", "images of one colour"));
        advice.push("look at the images of one colour");
    }
    if audit.images.unreadable > 0 {
        problems.push(count(
            audit.images.unreadable,
            "file that cannot be read",
            "files that cannot be read",
        ));
        advice.push("mend or remove the unreadable files");
    }
    let size = match &audit.model {
        Some(m) if m.can_copy_all => {
            format!(" {} has enough parameters to copy all of it, if it trains for long.", m.name)
        }
        Some(m) => format!(" {} is too small to copy all of it.", m.name),
        None => String::new(),
    };
    let read = audit.images.read;
    if problems.is_empty() {
        return (format!("{read} images, and nothing in them that adds to copying was found.{size}"), true);
    }
    let advice = if advice.is_empty() { String::new() } else { format!(": {}", advice.join(", ")) };
    (format!("{read} images with {}{advice}.{size}", problems.join(", ")), false)
}

#[cfg(test)]
mod tests;
