//! What a person reads in the terminal.

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use heldout_lab::{Estimate, Progress, RunComparison, Study, StudyResult, Workers};
use heldout_train::StopPrediction;
use std::path::Path;

/// Runs beside the first of them.
pub(crate) fn print_comparison(compared: &RunComparison) {
    for pair in &compared.pairs {
        println!("{} of {} beside {}:", pair.arm, pair.run.display(), compared.baseline.display());
        for [key, ours, theirs] in &pair.changes {
            println!("  {key}: {ours} -> {theirs}");
        }
        let mut table = Table::new();
        let header = ["", "there", "baseline", "difference [95 %]", "p, adjusted", "seeds", "shows"];
        table.load_preset(UTF8_FULL_CONDENSED).set_header(header);
        for e in &pair.effects {
            let d = &e.difference;
            let interval =
                d.interval.map_or_else(String::new, |i| format!(" [{:+.2e}, {:+.2e}]", i.lower, i.upper));
            table.add_row([
                e.outcome.title().to_owned(),
                format!("{:.4}", e.mean),
                format!("{:.4}", e.baseline_mean),
                format!("{:+.2e}{interval}", d.mean),
                e.decision.adjusted_p.map_or_else(String::new, |p| format!("{p:.3}")),
                d.n.to_string(),
                e.decision.evidence.to_string(),
            ]);
        }
        println!("{table}\n");
    }
    compared.notes.iter().for_each(|note| println!("note: {note}"));
}

/// What is left of a study, and what it takes.
pub(crate) fn show_plan(study: &Study, plan: &[Estimate], folder: &Path, workers: Workers) {
    let mut table = Table::new();
    table
        .load_preset(UTF8_FULL_CONDENSED)
        .set_header(["arm", "seed", "state", "steps", "a step", "time", "memory"]);
    for line in plan {
        let state = match line.progress {
            Progress::Done => "done",
            Progress::Begun => "cut, goes on",
            Progress::Missing => "to do",
        };
        let mut cells =
            vec![line.arm.clone(), line.seed.to_string(), state.to_owned(), line.steps.to_string()];
        match line.calibration.as_ref().filter(|_| line.progress != Progress::Done) {
            Some(Ok(c)) => cells.extend([
                format!("{:.0} ms", 1e3 * c.step_seconds),
                format!("{:.0} s", c.seconds),
                format!("{:.0} MB", c.peak_rss_bytes as f64 / 1e6),
            ]),
            Some(Err(_)) => cells.extend(["fails", "", ""].map(str::to_owned)),
            None => cells.extend(["", "", ""].map(str::to_owned)),
        }
        table.add_row(cells);
    }
    let left = plan.iter().filter(|line| line.progress != Progress::Done);
    let measured = left.filter_map(|line| line.calibration.as_ref()?.as_ref().ok());
    let seconds: f64 = measured.map(|calibration| calibration.seconds).sum();
    let Workers { jobs, threads } = workers;
    println!("{table}\n{}", study.question);
    println!(
        "About {:.0} minutes in {}, {jobs} at a time with {threads} threads each; arms that were cut begin where they are.",
        seconds / jobs as f64 / 60.0,
        folder.display()
    );
    let mut told: Vec<&str> = Vec::new();
    for line in plan {
        if let Some(Err(reason)) = &line.calibration
            && !told.contains(&line.arm.as_str())
        {
            eprintln!("error: {}: {reason}", line.arm);
            told.push(&line.arm);
        }
    }
}

/// A table of the arms, their losses by noise level, and the answer.
pub(crate) fn print_result(result: &StudyResult) {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header([
        "arm",
        "seed",
        "train images",
        "f_mem [95 %]",
        "floor",
        "copier",
        "loss: train",
        "held out",
        "gap",
        "time",
    ]);
    for a in &result.arms {
        table.add_row([
            a.name.clone(),
            a.seed.to_string(),
            a.n_train.to_string(),
            format!("{:.3} [{:.3}, {:.3}]", a.f_mem, a.f_mem_ci[0], a.f_mem_ci[1]),
            format!("{:.3}", a.f_mem_floor),
            format!("{:.2}", a.f_mem_copier),
            format!("{:.4}", a.loss_train),
            format!("{:.4}", a.loss_held_out),
            format!("{:+.4}", a.loss_held_out - a.loss_train),
            format!("{:.0} s", a.seconds),
        ]);
    }
    println!("{table}\n\nHeld-out minus training loss, per noise level (log SNR):");
    let mut gaps = Table::new();
    let levels = result.arms.first().map_or(&[][..], |a| &a.gap_by_level);
    let header = ["arm".to_owned(), "seed".to_owned()].into_iter();
    gaps.load_preset(UTF8_FULL_CONDENSED)
        .set_header(header.chain(levels.iter().map(|l| l.log_snr.to_string())));
    for a in &result.arms {
        let cells = a.gap_by_level.iter().map(|l| format!("{:+.4}", l.gap));
        gaps.add_row([a.name.clone(), a.seed.to_string()].into_iter().chain(cells));
    }
    println!("{gaps}\n\n{}", result.verdict);
}

/// When a run begins to memorise.
pub(crate) fn print_stop(p: &StopPrediction, steps: u64) {
    println!(
        "A run on {} images begins to memorise after about {:.0} steps (95 %: {:.0} to {:.0}), {:.1} steps an image.",
        p.n, p.step, p.lower, p.upper, p.steps_by_image
    );
    let error = p.exponent_error.map_or(String::new(), |e| format!(" +- {e:.2}"));
    println!(
        "The onset grew with the number of images to the power {:.2}{error}; the prediction takes 1.",
        p.exponent
    );
    p.warning.iter().for_each(|warning| println!("warning: {warning}"));
    if p.step < steps as f64 {
        println!("Stop there with --set train.stop_after={:.0}", p.step);
    } else {
        println!("Its {steps} steps end before that.");
    }
}
