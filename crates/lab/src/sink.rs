//! Where events go: `metrics.jsonl`, TensorBoard, and memory.

use crate::record::Record;
use anyhow::{Context, Result};
use heldout_core::Error;
use heldout_train::{Event, Sink, write_atomically};
use std::cell::RefCell;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tfrecord::{EventMeta, EventWriter};

/// The records of an arm, in its folder.
pub(crate) const RECORDS: &str = "metrics.jsonl";

/// Writes the events of one arm.
pub(crate) struct ArmSink {
    arm: String,
    seed: u64,
    path: PathBuf,
    inner: RefCell<Inner>,
}

struct Inner {
    jsonl: File,
    tensorboard: EventWriter<BufWriter<File>>,
    records: Vec<Record>,
}

impl fmt::Debug for ArmSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArmSink").field("arm", &self.arm).field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// Reads `metrics.jsonl`. A last line without an end is of a process that was killed while it wrote, and is dropped.
pub(crate) fn read_records(path: &Path) -> Result<Vec<Record>> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io(path))?,
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(i, line): (usize, &str)| {
        let reason = |e| Error::file(path, format!("line {}: damaged: {e}", i + 1));
        serde_json::from_str(line).map_err(reason)
    };
    Ok(whole.lines().enumerate().map(parse).collect::<Result<_, _>>()?)
}

/// One JSON object a line.
pub(crate) fn lines(records: &[Record]) -> Result<String> {
    let lines: Vec<String> = records.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    Ok(lines.into_iter().map(|l| l + "\n").collect())
}

impl ArmSink {
    /// Goes on after step `from` of the arm in `folder`: its later records are dropped, since those steps run again.
    pub(crate) fn open(folder: &Path, arm: &str, seed: u64, from: u64) -> Result<Self> {
        let path = folder.join(RECORDS);
        let kept: Vec<Record> = read_records(&path)?.into_iter().filter(|r| r.step <= from).collect();
        write_atomically(&path, lines(&kept)?.as_bytes())?;

        let folder = folder.join("tensorboard");
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(Error::io(&folder))?; // written anew from the records
        }
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        let tensorboard = EventWriter::create(folder.join("events.out.tfevents.heldout"), Default::default())
            .with_context(|| format!("{}", folder.display()))?;
        let jsonl = OpenOptions::new().append(true).open(&path).map_err(Error::io(&path))?;
        let mut inner = Inner { jsonl, tensorboard, records: Vec::new() };
        for record in kept {
            inner.show(&record)?;
            inner.records.push(record);
        }
        Ok(Self { arm: arm.to_owned(), seed, path, inner: RefCell::new(inner) })
    }

    /// Unless it stands there already, from a run that was cut between the evaluation's records and its result.
    pub(crate) fn write_once(&self, step: u64, event: Event) -> heldout_core::Result<()> {
        let known = self.inner.borrow().records.iter().any(|r| r.step == step && r.event == event);
        if known { Ok(()) } else { self.write(step, event) }
    }

    /// Steps done at the last record.
    pub(crate) fn last_step(&self) -> u64 {
        self.inner.borrow().records.iter().map(|r| r.step).max().unwrap_or(0)
    }

    /// The latest validation of the weights that count.
    pub(crate) fn last_validation(&self) -> Option<Event> {
        let inner = self.inner.borrow();
        let validates = |r: &&Record| matches!(r.event, Event::Validation { .. });
        inner.records.iter().rev().find(validates).map(|r| r.event.clone())
    }
}

impl Sink for ArmSink {
    fn write(&self, step: u64, event: Event) -> heldout_core::Result<()> {
        let record = Record { arm: self.arm.clone(), seed: self.seed, step, event };
        let mut line = serde_json::to_string(&record).unwrap_or_default();
        line.push('\n');
        let mut inner = self.inner.borrow_mut();
        inner.jsonl.write_all(line.as_bytes()).map_err(Error::io(&self.path))?;
        inner.show(&record).map_err(|e| Error::file(&self.path, format!("TensorBoard: {e}")))?;
        inner.records.push(record);
        Ok(())
    }
}

impl Inner {
    fn show(&mut self, record: &Record) -> Result<(), tfrecord::Error> {
        let wall_time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        for (tag, value) in scalars(&record.event) {
            self.tensorboard.write_scalar(
                tag,
                EventMeta::new(record.step as i64, wall_time),
                value as f32,
            )?;
        }
        self.tensorboard.flush()
    }
}

fn scalars(event: &Event) -> Vec<(String, f64)> {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len().max(1) as f64;
    match event {
        Event::Train { loss, terms, learning_rate, skipped } => {
            let mut all = vec![
                ("train/loss".to_owned(), *loss),
                ("train/learning_rate".to_owned(), *learning_rate),
                ("train/skipped".to_owned(), *skipped as f64),
            ];
            all.extend(terms.iter().map(|(name, v)| (format!("train/{name}"), *v)));
            all
        }
        Event::Validation { weights, log_snr, train, held_out } => {
            let mut all = vec![
                (format!("validation_{weights}/train"), mean(train)),
                (format!("validation_{weights}/held_out"), mean(held_out)),
            ];
            let gap = |(l, (t, h)): (&f64, (&f64, &f64))| (format!("gap_{weights}/log_snr {l}"), h - t);
            all.extend(log_snr.iter().zip(train.iter().zip(held_out)).map(gap));
            all
        }
        Event::Metric { metric, measurement, .. } => vec![
            (format!("metric/{metric}"), measurement.model.value),
            (format!("metric/{metric}_floor"), measurement.floor.value),
        ],
        Event::Quality { metric, value, floor, .. } => {
            vec![(format!("quality/{metric}"), *value), (format!("quality/{metric}_floor"), *floor)]
        }
        Event::Reconstruction { metric, train, held_out } => vec![
            (format!("reconstruction/{metric}_train"), *train),
            (format!("reconstruction/{metric}_held_out"), *held_out),
        ],
        Event::Note { .. } => Vec::new(),
    }
}
