//! The audit of a data set for people: on the terminal, and as one HTML page.

use super::duplicates::Groups;
use super::thumbnails::Seen;
use super::{DataAudit, Labels};
use crate::report::{data_uri, render};
use anyhow::Result;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use heldout_data::ImageStream;
use serde::Serialize;
use std::fmt;
use tch::Tensor;

/// Groups that are shown, images of each, and their longest side.
const GROUPS: usize = 24;
const MEMBERS: usize = 8;
const LONGEST: usize = 64;

/// Groups of one kind as pictures.
#[derive(Debug, Serialize)]
pub(crate) struct Pictures {
    title: &'static str,
    /// Groups beyond those that are shown.
    more: usize,
    groups: Vec<Group>,
}

#[derive(Debug, Serialize)]
struct Group {
    more: usize,
    images: Vec<Picture>,
}

#[derive(Debug, Serialize)]
struct Picture {
    name: String,
    image: String,
}

/// Reads the images of the first groups again.
pub(crate) fn pictures(
    stream: &mut ImageStream,
    shape: [usize; 3],
    seen: &Seen,
    kinds: &[(&'static str, &Groups)],
) -> Result<Vec<Pictures>> {
    let longest = shape[1].max(shape[2]).max(LONGEST);
    stream.resize([shape[1], shape[2]].map(|side| side * LONGEST / longest));
    let picture = |place: &usize| -> Result<Picture> {
        let index = seen.index[*place];
        let dims = stream.shape.map(|n| n as i64);
        let image = Tensor::from_slice(&stream.image(index)?).view(dims);
        Ok(Picture { name: stream.label_of(index), image: data_uri(&image)? })
    };
    let group = |places: &Vec<usize>| {
        Ok(Group {
            more: places.len().saturating_sub(MEMBERS),
            images: places.iter().take(MEMBERS).map(picture).collect::<Result<_>>()?,
        })
    };
    let kind = |(title, groups): &(&'static str, &Groups)| {
        Ok(Pictures {
            title,
            more: groups.len().saturating_sub(GROUPS),
            groups: groups.iter().take(GROUPS).map(group).collect::<Result<_>>()?,
        })
    };
    kinds.iter().filter(|(_, groups)| !groups.is_empty()).map(kind).collect()
}

#[derive(Serialize)]
struct Page<'a> {
    verdict: &'a str,
    data: &'a str,
    rows: Vec<[String; 2]>,
    near_rule: &'a str,
    pictures: &'a [Pictures],
    expectations: &'a [super::Expectation],
    unreadable: &'a [String],
    labels: bool,
}

impl DataAudit {
    /// One HTML page that needs nothing else, with pictures of what is there several times.
    pub fn page(&self) -> Result<String> {
        let page = Page {
            verdict: &self.verdict,
            data: &self.data,
            rows: self.rows(),
            near_rule: &self.near_rule,
            pictures: &self.pictures,
            expectations: &self.expectations,
            unreadable: &self.images.first_unreadable,
            labels: self.labels.is_some(),
        };
        render("audit_data.html", include_str!("page.html"), &page)
    }

    /// What was measured, in words.
    fn rows(&self) -> Vec<[String; 2]> {
        let images = &self.images;
        let [channels, height, width] = images.shape;
        let kind = if channels == 1 { "grey" } else { "RGB" };
        let share = |d: &super::Duplicates| {
            format!("{} in {} groups ({:.2} % of the images)", d.extra, d.groups, 100.0 * d.share)
        };
        let mut rows = vec![
            ["images".to_owned(), format!("{} of {width} x {height} pixels, {kind}", images.read)],
            ["exact repetitions".to_owned(), share(&self.exact_duplicates)],
            ["near repetitions".to_owned(), share(&self.near_duplicates)],
            ["of one colour".to_owned(), images.constant.to_string()],
        ];
        if channels == 3 && images.grey > 0 {
            rows.push(["grey though stored as colour".to_owned(), images.grey.to_string()]);
        }
        if !images.notes.is_empty() {
            rows.push(["reading".to_owned(), images.notes.clone()]);
        }
        if let Some(labels) = &self.labels {
            rows.extend(label_rows(labels));
        }
        if let Some(m) = &self.model {
            rows.push([
                m.name.clone(),
                format!(
                    "{} parameters: {:.1} for an image, {:.4} for a number",
                    m.parameters, m.parameters_per_image, m.parameters_per_number
                ),
            ]);
        }
        rows
    }
}

fn label_rows(l: &Labels) -> [[String; 2]; 2] {
    let conflicts = match l.conflicting_groups {
        0 => String::new(),
        n => format!("; {n} groups of equal images have several"),
    };
    [
        [
            "labels".to_owned(),
            format!(
                "{} classes, the smallest of {}; {} images share theirs with none{conflicts}",
                l.classes, l.smallest_class, l.alone
            ),
        ],
        [
            "agreement of neighbours".to_owned(),
            format!(
                "{:.3} of the {} nearest images have the same label; by chance {:.3} [{:.3}, {:.3}]",
                l.agreement, l.neighbours, l.expected_by_chance, l.chance_interval[0], l.chance_interval[1]
            ),
        ],
    ]
}

impl fmt::Display for DataAudit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        for row in self.rows() {
            table.add_row(row);
        }
        writeln!(f, "{}\n\n{table}", self.verdict)?;
        for (kind, found) in [("equal", &self.exact_duplicates), ("near", &self.near_duplicates)] {
            for group in found.first.iter().take(GROUPS_ON_TERMINAL) {
                writeln!(f, "{kind}: {}", group.join(", "))?;
            }
        }
        write!(f, "\nWhat to expect:")?;
        for e in &self.expectations {
            write!(f, "\n- {} ({})", e.text, e.source)?;
        }
        Ok(())
    }
}

/// Groups of each kind on the terminal; the JSON and the page have more.
const GROUPS_ON_TERMINAL: usize = 5;
