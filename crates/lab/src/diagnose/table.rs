//! A diagnosis for people.

use super::Diagnosis;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use heldout_core::Mean;
use heldout_core::Measurement;
use heldout_diagnosis::{LevelGap, ModeCoverage};
use std::fmt;

/// Standard errors from 0 at which a gap counts.
const CLEAR: f64 = 3.0;

fn mean(m: Mean) -> String {
    format!("{:.4} ± {:.4}", m.value, m.standard_error)
}

fn share(m: Option<Mean>) -> String {
    m.map_or("-".to_owned(), |m| format!("{:.3} ± {:.3}", m.value, m.standard_error))
}

impl Diagnosis {
    fn by_level(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED).set_header([
            "log SNR",
            "loss: train",
            "held out",
            "gap",
            "from the copier: train",
            "held out",
            "looks at (95 %)",
        ]);
        for (gap, distance) in self.loss_gap.iter().zip(&self.denoiser_distance) {
            let field = self.receptive_field.iter().find(|f| f.log_snr == gap.log_snr);
            table.add_row([
                format!("{:.2}", gap.log_snr),
                mean(gap.train),
                mean(gap.held_out),
                mean(gap.gap),
                share(distance.train.share),
                share(distance.held_out.share),
                field.map_or("nothing".to_owned(), |f| format!("{0} x {0} of {1} x {1}", f.side, f.support)),
            ]);
        }
        table
    }

    /// The gap in a sentence, from the figures alone.
    fn reading(&self) -> String {
        let clear = |g: &&LevelGap| g.gap.value > CLEAR * g.gap.standard_error;
        let (found, all) = (self.loss_gap.iter().filter(clear).count(), self.loss_gap.len());
        let widest = self.loss_gap.iter().filter(clear).max_by(|a, b| a.share().total_cmp(&b.share()));
        match widest {
            None => format!(
                "At none of {all} levels is the held-out loss above the training loss by {CLEAR} errors."
            ),
            Some(level) => format!(
                "At {found} of {all} levels the held-out loss is above the training loss by {CLEAR} errors; at log SNR {:.2} \
                 by {:.0} % of it.",
                level.log_snr,
                100.0 * level.share()
            ),
        }
    }

    fn of_weights(&self) -> Table {
        let (c, n) = (&self.curvature, &self.noise_scale);
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        let pair = |p: heldout_diagnosis::Eigenpair| format!("{:.4}, residual {:.1e}", p.value, p.residual);
        table.add_row(["largest curvature".to_owned(), pair(c.largest)]);
        table.add_row(["smallest".to_owned(), pair(c.smallest)]);
        let trace =
            format!("{:.3} ± {:.3} over {} weights", c.trace.value, c.trace.standard_error, c.parameters);
        table.add_row(["trace".to_owned(), trace]);
        let scale = match n.noise_scale {
            Some(scale) => {
                format!("{:.1} ± {:.1} images, at least {:.0}", scale.value, scale.standard_error, n.at_least)
            }
            None => format!("at least {:.0} images: its gradient is not to be told from noise", n.at_least),
        };
        table.add_row(["gradient noise scale".to_owned(), scale]);
        if let Some(b) = &self.barrier {
            for (name, of) in [("barrier, training", &b.train), ("barrier, held out", &b.held_out)] {
                let ends = [of.losses[0], of.losses[of.losses.len() - 1]];
                let text = format!(
                    "{} at {:.1}; ends {:.4}, {:.4}",
                    mean(of.barrier),
                    of.position,
                    ends[0],
                    ends[1]
                );
                table.add_row([name.to_owned(), text]);
            }
        }
        table
    }
}

fn modes(m: &ModeCoverage) -> String {
    let beside = |m: &Measurement| {
        let (a, b) = (m.model, m.floor);
        format!(
            "{:.3} [{:.3}, {:.3}], real images {:.3} [{:.3}, {:.3}]",
            a.value, a.lower, a.upper, b.value, b.lower, b.upper
        )
    };
    let missing = match m.missing.len() {
        0 => "none".to_owned(),
        _ => {
            let one =
                |m: &heldout_diagnosis::MissingMode| format!("{} (by chance {:.2})", m.class, m.by_chance);
            m.missing.iter().map(one).collect::<Vec<_>>().join(", ")
        }
    };
    let unjudged: Vec<String> = m.unjudged.iter().map(usize::to_string).collect();
    let unjudged = match unjudged.is_empty() {
        true => String::new(),
        false => format!(" Without a held-out image, and not judged: {}.", unjudged.join(", ")),
    };
    format!(
        "Missing classes: {missing}.{unjudged} Total variation {}; KL {}; p = {:.3}.",
        beside(&m.total_variation),
        beside(&m.kl),
        m.p_value
    )
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let images = format!("{} training images, {} held out", self.n_train, self.n_held_out);
        writeln!(f, "{} after {} steps; {images}", self.model.display(), self.step)?;
        writeln!(f, "{}\n{}", self.by_level(), self.reading())?;
        writeln!(
            f,
            "From the copier: 0 is the denoiser that memorises the training set, 1 as far as x_start."
        )?;
        writeln!(f, "{}", self.of_weights())?;
        match (&self.modes, &self.modes_absent) {
            (Some(found), _) => write!(f, "{}", modes(found)),
            (None, why) => write!(f, "Classes of the samples: {}.", why.as_deref().unwrap_or("not known")),
        }
    }
}
