//! The commands that measure what others made: feature matrices and folders of images.

use crate::args::device_here;
use anyhow::Result;
use clap::{Args, ValueEnum};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use heldout_core::Error;
use heldout_data::PixelRange;
use heldout_features::FeaturesConfig;
use heldout_lab::{
    AuditRequest, FeatureMetrics, MetricRow, MetricsRequest, audit, feature_metrics, free_audit_folder,
    network,
};
use heldout_metrics::{FeatureMetric, Inside, MifidOrder, NeighborOptions, Options, Subsets};
use std::path::PathBuf;
use std::process::ExitCode;
use tch::Device;

#[derive(Debug, Args)]
pub(crate) struct Metrics {
    /// Features of the samples, [N, D]: a .npy, .npz or .safetensors file; FILE:NAME says which of several arrays
    #[arg(long, value_name = "FILE")]
    generated: PathBuf,
    /// Features of the training images
    #[arg(long, value_name = "FILE")]
    train: PathBuf,
    /// Features of real images that were not trained on: without them there is no floor
    #[arg(long, value_name = "FILE")]
    held_out: Option<PathBuf>,
    /// Which, as fd; may be given several times; all for every one. By default fd, kid, precision, recall, density,
    /// coverage, auth_pct, c_t, f_mem and vendi
    #[arg(long = "metric", value_name = "NAME")]
    metrics: Vec<String>,
    /// The neighbour whose distance is the radius of a ball, in precision, recall, density, coverage and realism
    #[arg(long, value_name = "K", default_value_t = 5)]
    nearest_k: usize,
    /// Whether a ball holds the points at its radius: less (<, as prdc) or less-or-equal (<=, as Kynkäänniemi et al.)
    #[arg(long, value_enum, default_value = "less")]
    comparison: Comparison,
    /// d1 / d2 below which a sample is a copy in f_mem
    #[arg(long, value_name = "RATIO", default_value_t = heldout_metrics::MEMORIZED_RATIO)]
    memorized_ratio: f64,
    /// Neighbours that normalise Carlini's distance
    #[arg(long, value_name = "K", default_value_t = 50)]
    carlini_k: usize,
    /// Random subsets of kid
    #[arg(long, value_name = "N", default_value_t = 100)]
    kid_subsets: usize,
    /// Rows of a subset, or all: every row, once. Sets that are not larger are compared whole
    #[arg(long, value_name = "N|all", default_value = "1000", value_parser = subset_size)]
    kid_subset_size: SubsetSize,
    /// Cells of c_t
    #[arg(long, value_name = "N", default_value_t = 3)]
    cells: usize,
    /// Whose nearest neighbours mifid takes: generated (the paper) or train (torchmetrics)
    #[arg(long, value_enum, default_value = "generated")]
    mifid_order: Order,
    /// Compare as many generated as held-out rows
    #[arg(long)]
    equal_sizes: bool,
    /// No interval of fd, which costs several times its value
    #[arg(long)]
    fast: bool,
    /// Of subsets, resamples and cells
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One JSON object from name to {value, ci, against_held_out, real_vs_train, ..}; null is what is not known
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Comparison {
    Less,
    LessOrEqual,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Order {
    Generated,
    Train,
}

/// `None`: all rows.
type SubsetSize = Option<usize>;

fn subset_size(text: &str) -> Result<SubsetSize, String> {
    match text {
        "all" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| "is neither a number of rows nor all".to_owned()),
    }
}

impl Metrics {
    fn options(&self) -> Options {
        let inside = match self.comparison {
            Comparison::Less => Inside::Open,
            Comparison::LessOrEqual => Inside::Closed,
        };
        let seed = self.seed;
        Options {
            neighbors: NeighborOptions {
                nearest_k: self.nearest_k,
                inside,
                memorized_ratio: self.memorized_ratio,
                carlini_k: self.carlini_k,
                seed,
                ..NeighborOptions::default()
            },
            kid: match self.kid_subset_size {
                Some(size) => Subsets::Random { count: self.kid_subsets, size, seed },
                None => Subsets::All,
            },
            cells: self.cells,
            mifid: match self.mifid_order {
                Order::Generated => MifidOrder::Generated,
                Order::Train => MifidOrder::Train,
            },
            frechet_intervals: !self.fast,
            seed,
        }
    }

    pub(crate) fn run(&self) -> Result<ExitCode> {
        let metrics: Vec<FeatureMetric> = match self.metrics.iter().any(|m| m == "all") {
            true => FeatureMetric::ALL.to_vec(),
            false => self
                .metrics
                .iter()
                .map(|name| name.parse())
                .collect::<Result<_, _>>()
                .map_err(heldout_core::Error::from)?,
        };
        let found = feature_metrics(&MetricsRequest {
            generated: &self.generated,
            train: &self.train,
            held_out: self.held_out.as_deref(),
            metrics: &metrics,
            options: self.options(),
            equal_sizes: self.equal_sizes,
        })?;
        found.notes.iter().for_each(|note| eprintln!("note: {note}"));
        if self.json {
            println!("{}", serde_json::to_string_pretty(&found.rows)?);
        } else {
            println!("{}", table(&found));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(found: &FeatureMetrics) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header([
        "metric",
        "against train [95 %]",
        "against held out",
        "real data against train",
    ]);
    let number = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{x:.4}"));
    for (name, row) in &found.rows {
        let MetricRow { value, ci, against_held_out, real_vs_train, .. } = row;
        let interval = ci.map_or(String::new(), |[lower, upper]| format!(" [{lower:.4}, {upper:.4}]"));
        table.add_row([
            (*name).to_owned(),
            format!("{value:.4}{interval}"),
            number(*against_held_out),
            number(*real_vs_train),
        ]);
    }
    table
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// The samples: a folder of PNG and JPEG files, an IDX file, or .safetensors, .npy or .npz
    #[arg(long, value_name = "PATH")]
    generated: PathBuf,
    /// What the model was trained on
    #[arg(long, value_name = "PATH")]
    train: PathBuf,
    /// Real images of the same source that it was not trained on; a tenth of the training images, about 1,000 at most, stands in
    /// without them
    #[arg(long, value_name = "PATH")]
    held_out: Option<PathBuf>,
    /// Feature network: efficientnet-lite0, pixels (as they are compared), classifier (trained on the labels of --train), dinov2:PATH, clip:PATH,
    /// inception:PATH or torchscript:PATH
    #[arg(long, value_name = "NAME", default_value = "efficientnet-lite0")]
    features: FeaturesConfig,
    /// Folder for audit.html and audit.json; audit by default, numbered if it is taken
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What floats of arrays mean: unit is [0, 1], signed is [-1, 1]; by default their minimum says it
    #[arg(long, value_name = "RANGE", value_parser = super::args::floats)]
    floats: Option<PixelRange>,
    /// Longer side at which pixels are compared; what is larger is shrunk to it
    #[arg(long, value_name = "PIXELS", default_value_t = 32)]
    compared_side: usize,
    /// Images in memory at a time
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch_size: usize,
    /// Of subsets, resamples and cells
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print the JSON instead of the verdict
    #[arg(long)]
    json: bool,
    /// cpu, cuda or cuda:N; by default cuda where libtorch finds it
    #[arg(long, value_parser = super::args::device)]
    device: Option<Device>,
}

impl Audit {
    pub(crate) fn run(self) -> Result<ExitCode> {
        for (field, n) in [("--compared-side", self.compared_side), ("--batch-size", self.batch_size)] {
            if n == 0 {
                return Err(Error::config(field, "0: at least 1 is needed").into());
            }
        }
        let device = device_here(self.device)?;
        let out = self.out.unwrap_or_else(free_audit_folder);
        let seed = self.seed;
        let request = AuditRequest {
            generated: &self.generated,
            train: &self.train,
            held_out: self.held_out.as_deref(),
            range: self.floats,
            compared_side: self.compared_side,
            batch_size: self.batch_size,
            options: Options {
                neighbors: NeighborOptions { seed, ..NeighborOptions::default() },
                kid: Subsets::Random { count: 100, size: 1000, seed },
                seed,
                ..Options::default()
            },
            device,
        };
        let network = network(&self.features, &self.train, device)?;
        let found = audit(&request, network.as_ref(), &out)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&found)?);
        } else {
            println!("{}", found.verdict);
            found.notes.iter().for_each(|note| println!("note: {note}"));
            println!("{}", out.join("audit.html").display());
        }
        Ok(ExitCode::SUCCESS)
    }
}
