//! What the numbers come to.

use super::sets::Leak;
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
    /// It cannot be told: the images that should not have been trained on are training images or near copies of them, and the
    /// rate of false alarms hides copies as many.
    HeldOutOverlaps,
    /// Nothing of all that.
    NoCopies,
}

/// From this rate of false alarms on they are none: a twentieth of real images being near copies means that the sets overlap.
const OVERLAP: f64 = 0.05;

/// What a verdict is made of.
pub(super) struct Found<'a> {
    pub(super) network: &'a str,
    /// What the false alarms were counted on.
    pub(super) floor: &'a str,
    pub(super) leak: Leak,
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
        let samples = format!(
            "{} of {} samples are near copies of training images ({})",
            copies.count,
            copies.of,
            percent(&copies)
        );
        let real = format!("{} of {} ({})", floor.count, floor.of, percent(&floor));
        let counted = format!("{samples}; of real images that were not trained on, {real}.");
        if copies.ci[0] > floor.ci[1] {
            return (Finding::Copies, vec![format!("This set copies: {counted}")]);
        }
        let leaked = if self.leak.left_out { 0 } else { self.leak.count };
        if leaked > 0 || floor.ci[0] > OVERLAP {
            let text = format!(
                "It cannot be told whether this set copies: {} of {} {} are near copies of training images themselves, {leaked} \
                 of them equal, so that copies in the samples do not stand out. Name images that were not trained on. {samples}.",
                floor.count, floor.of, self.floor
            );
            return (Finding::HeldOutOverlaps, vec![text]);
        }
        let nearer: Vec<String> = [self.c_t(), self.auth_pct()].into_iter().flatten().collect();
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

    /// C_T where it is far below 0, and below that of real data where there are enough of them for it.
    fn c_t(&self) -> Option<String> {
        let row = self.metric("C_T")?;
        let upper = row.ci?[1];
        let real = row.real_vs_train.zip(row.real_vs_train_ci);
        let below = upper < -3.0 && real.is_none_or(|(_, ci)| upper < ci[0]);
        let of_real = real.map_or(String::new(), |(value, _)| format!(", of real data {value:.1}"));
        below.then(|| format!("C_T {:.1}{of_real}", row.value))
    }

    /// AuthPct where it is below that of real data.
    fn auth_pct(&self) -> Option<String> {
        let row = self.metric("AuthPct")?;
        let (real, ci) = row.real_vs_train.zip(row.real_vs_train_ci)?;
        (row.ci?[1] < ci[0]).then(|| format!("AuthPct {:.1}, of real data {real:.1}", row.value))
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
