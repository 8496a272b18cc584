//! What the numbers come to.

use super::{ClassShare, Share};
use crate::feature_metrics::MetricRow;
use heldout_metrics::{FeatureMetric, title};
use serde::Serialize;
use std::collections::BTreeMap;

/// Whether the samples copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// More samples are near copies than real images would be.
    Copies,
    /// Some samples are near copies, though too few to tell from the rate of false alarms: each is worth a look.
    FewCopies,
    /// No more near copies than in real data, but samples lie nearer to training images than real images do.
    Suspicious,
    /// Neither.
    NoCopies,
}

/// What a verdict is made of.
pub(super) struct Found<'a> {
    pub(super) network: &'a str,
    pub(super) copies: Share,
    pub(super) false_positives: Share,
    pub(super) metrics: &'a BTreeMap<String, MetricRow>,
    /// Of training images in the place of samples: against held-out images they are real data of the same size.
    pub(super) copier: &'a BTreeMap<String, MetricRow>,
    pub(super) classes: &'a [ClassShare],
}

impl Found<'_> {
    fn metric(&self, name: &str) -> Option<&MetricRow> {
        self.of(self.metrics, name)
    }

    fn of<'m>(&self, metrics: &'m BTreeMap<String, MetricRow>, name: &str) -> Option<&'m MetricRow> {
        metrics
            .get(&format!("{name}({})", self.network))
            .or_else(|| metrics.iter().find(|(known, _)| name == "FD" && *known == "FID").map(|(_, row)| row))
    }

    /// The finding, and all in sentences. Quality is judged against held-out images alone: against training images a copier is
    /// the best of all.
    pub(super) fn verdict(&self) -> (Finding, String) {
        let (copying, mut text) = self.copying();
        text.extend(self.distance());
        text.extend(self.variety());
        text.extend(self.missing());
        (copying, text.join(" "))
    }

    fn copying(&self) -> (Finding, Vec<String>) {
        let (copies, floor) = (self.copies, self.false_positives);
        let counted = format!(
            "{} of {} samples are near copies of training images ({}); of real images that were not trained on, {} of {} ({}).",
            copies.count,
            copies.of,
            percent(&copies),
            floor.count,
            floor.of,
            percent(&floor)
        );
        if copies.ci[0] > floor.ci[1] {
            return (Finding::Copies, vec![format!("This set copies: {counted}")]);
        }
        let nearer = [("C_T", -3.0), ("AuthPct", 0.0)].into_iter().filter_map(|(name, least)| {
            let row = self.metric(name)?;
            let real = row.real_vs_train_ci?;
            let below = row.ci[1] < real[0] && row.ci[1] < if name == "C_T" { least } else { f64::INFINITY };
            let value = row.real_vs_train?;
            below.then(|| format!("{name} {:.1}, of real data {value:.1}", row.value))
        });
        let nearer: Vec<String> = nearer.collect();
        if nearer.len() == 2 {
            let text = format!(
                "Suspicious: no more near copies than in real data, but in the features of {} samples lie nearer to training \
                 images than real images do ({}). {counted}",
                self.network,
                nearer.join("; ")
            );
            return (Finding::Suspicious, vec![text]);
        }
        if copies.count > 0 && copies.share > floor.share {
            let text = format!(
                "A few near copies, too few to tell from chance by their number: look at them. {counted}"
            );
            return (Finding::FewCopies, vec![text]);
        }
        (Finding::NoCopies, vec![format!("No sign of copying: {counted}")])
    }

    /// A metric against held-out images with its interval, and that of as many training images.
    fn against_held_out(&self, name: &str) -> Option<[(f64, [f64; 2]); 2]> {
        let [model, real] = [self.metric(name)?, self.of(self.copier, name)?]
            .map(|row| row.against_held_out.zip(row.against_held_out_ci));
        Some([model?, real?])
    }

    fn distance(&self) -> Option<String> {
        let [(value, ci), (real, real_ci)] = self.against_held_out("FD")?;
        let name = title(FeatureMetric::Fd, self.network);
        let measured = format!("{name} to held-out images is {value:.3}, of as many real images {real:.3}");
        Some(match ci[0] > real_ci[1] {
            true => format!("{measured}: the samples are not of the data's distribution."),
            false => format!("{measured}: as near as real data."),
        })
    }

    fn variety(&self) -> Option<String> {
        let [(value, ci), (real, real_ci)] = self.against_held_out("coverage")?;
        (ci[1] < real_ci[0]).then(|| {
            format!(
                "They cover {:.0} % of the held-out images, where real data covers {:.0} %.",
                100.0 * value,
                100.0 * real
            )
        })
    }

    fn missing(&self) -> Option<String> {
        let missing: Vec<&str> =
            self.classes.iter().filter(|c| c.missing).map(|c| c.class.as_str()).collect();
        (!missing.is_empty()).then(|| format!("Missing or rare: {}.", missing.join(", ")))
    }
}

/// `1.3 % (0.9 to 1.8)`.
pub(super) fn percent(share: &Share) -> String {
    format!("{:.1} %, 95 %: {:.1} to {:.1}", 100.0 * share.share, 100.0 * share.ci[0], 100.0 * share.ci[1])
}
