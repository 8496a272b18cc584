//! The score of quality, and the checkpoints that it keeps.

use super::{Memory, parts};
use crate::{Checkpoints, Choice, Event, Loaded, MemorizationMonitor, Quality};
use heldout_core::{Clock, Error, Evaluation, FeatureSets, Measurement, Metric, Observer, Persist};
use heldout_testkit::check_persist;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// Generates images of the value that is next, held-out images are 0 and 2; the distance is that of the means.
fn monitor(next: &Rc<Cell<f64>>, floors: &Rc<Cell<usize>>, memory: &Rc<Memory>) -> MemorizationMonitor {
    let (next, floors) = (next.clone(), floors.clone());
    let full = |n: usize, value: f64| Tensor::full([n as i64, 1, 2, 2], value, (Kind::Float, Device::Cpu));
    let distance = move |x: &Tensor, y: &Tensor| {
        floors.set(floors.get() + usize::from(x.size()[0] == 2)); // half of the held-out images
        Ok((x.mean(Kind::Double) - y.mean(Kind::Double)).abs().double_value(&[]))
    };
    MemorizationMonitor {
        generate: Box::new(move |n| Ok(full(n, next.get()))),
        samples: 5,
        every: 10,
        train: full(3, 0.0),
        held_out: Tensor::cat(&[full(2, 0.0), full(2, 2.0)], 0),
        metrics: Vec::new(),
        quality: Some(Quality::new("distance of means", Box::new(distance))),
        sink: memory.clone(),
        told: BTreeSet::new(),
    }
}

/// Measures nothing, for a reason of the samples.
#[derive(Debug)]
struct Unmeasurable;

impl Metric for Unmeasurable {
    fn evaluate(
        &self,
        _: &FeatureSets<'_>,
    ) -> heldout_core::Result<Vec<(String, heldout_core::Result<Measurement>)>> {
        let same = Error::config("generated", "1 distinct rows where at least 2 are needed");
        Ok(vec![("FD(x)".to_owned(), Err(same))])
    }
}

/// Samples that are all alike are no reason to stop, and are told of once; a failing network is one.
#[test]
fn what_cannot_be_measured_is_noted_once() {
    let (next, floors, memory) = (Rc::default(), Rc::default(), Rc::new(Memory::default()));
    let mut watch = monitor(&next, &floors, &memory);
    watch.metrics.push(Box::new(Unmeasurable));
    watch.quality = Some(Quality::new(
        "energy",
        Box::new(|_, _| Err(Error::config("x", "row 0 has a value that is not finite"))),
    ));
    let (update, _) = parts();
    let evaluation = || Evaluation { loss: Tensor::from(0.0), rows: None, terms: Vec::new() };
    for step in [10, 20] {
        watch.after_step(Clock { step: step - 1, total: 50 }, &evaluation(), &update).unwrap();
    }
    let told: Vec<(u64, String)> =
        memory.0.borrow().iter().map(|(step, e)| (*step, format!("{e:?}"))).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|(step, note)| *step == 10 && note.starts_with("Note")), "{told:?}");
    assert!(told[0].1.contains("FD(x)") && told[0].1.contains("1 distinct"), "{told:?}");
    let file = || Error::file("network", "is damaged");
    watch.quality = Some(Quality::new("energy", Box::new(move |_, _| Err(file()))));
    assert!(watch.after_step(Clock { step: 29, total: 50 }, &evaluation(), &update).is_err());
}

/// Beside the best by generalisation and the last, a run keeps the checkpoint of the best samples; the floor is measured once.
#[test]
fn the_best_samples_have_a_checkpoint() {
    let (next, floors, memory) = (Rc::default(), Rc::default(), Rc::new(Memory::default()));
    let mut watch = monitor(&next, &floors, &memory);
    assert!(watch.score().is_none());
    let (update, _) = parts();
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoints = Checkpoints::new(folder.path(), "x", 10, 1).unwrap();
    for (step, value, generalization) in
        [(10, 4.0, 0.3), (20, 1.5, 0.2), (30, 3.0, 0.1), (40, 5.0, 0.4), (50, 1.0, 0.4)]
    {
        next.set(value);
        let evaluation = Evaluation { loss: Tensor::from(0.0), rows: None, terms: Vec::new() };
        watch.after_step(Clock { step: step - 1, total: 50 }, &evaluation, &update).unwrap();
        let (name, score) = watch.score().unwrap();
        let scores = [(name.to_owned(), score), ("generalization".to_owned(), generalization)].into();
        checkpoints.save(step, &scores, &watch.state()).unwrap();
    }
    let open = |choice| Loaded::open(folder.path(), choice).unwrap().step;
    assert_eq!(
        [open(Choice::Best("quality")), open(Choice::Best("generalization")), open(Choice::Last)],
        [20, 30, 50]
    );
    assert_eq!(floors.get(), 1);
    let events = memory.0.borrow();
    let expected = |step, value| {
        let metric = "distance of means".to_owned();
        (step, Event::Quality { metric, samples: 5, value, floor: 2.0 })
    };
    assert_eq!(*events, [expected(10, 3.0), expected(20, 0.5), expected(30, 2.0), expected(40, 4.0)]);
    let mut fresh = monitor(&next, &floors, &memory);
    check_persist(&watch, &mut fresh);
    assert_eq!(fresh.score(), Some(("quality", 4.0)));
    check_persist(&monitor(&next, &floors, &memory), &mut monitor(&next, &floors, &memory));
}
